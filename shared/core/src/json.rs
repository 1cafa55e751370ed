//! Reading JSON from outside: field by field, with every problem found reported together, each by
//! its JSON pointer (RFC 6901), and unknown fields refused by name.
//!
//! A problem says what would be right. It never repeats the value that was wrong.

use std::{borrow::Cow, cell::Cell, collections::BTreeMap, fmt};

use serde::{
    Serialize,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::near::{is_near_miss, nearest};

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: a JSON pointer, empty for the whole document.
    pub pointer: String,
    /// What would be right, as a sentence without the value.
    pub detail: String,
    /// Whether the pointer has a name in it that the sender made up.
    #[serde(skip)]
    pub has_foreign_name: bool,
    /// The field that was probably meant by such a name.
    #[serde(skip)]
    pub meant: Option<&'static str>,
}

/// Everything wrong with a document, in the order it was found. At most [`Problems::MOST`] are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// How many problems are kept: a document of a million unknown fields is not worth more.
    pub const MOST: usize = 100;

    /// A list with one problem.
    pub fn one(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.add(pointer, detail);
        problems
    }

    /// Adds a problem.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < Self::MOST {
            self.0.push(Problem {
                pointer: pointer.into(),
                detail: detail.into(),
                has_foreign_name: false,
                meant: None,
            });
        }
    }

    /// Adds a problem with a field whose name the sender made up.
    fn add_foreign(&mut self, pointer: String, detail: impl Into<String>) {
        let before = self.0.len();
        self.add(pointer, detail);
        if let Some(added) = self.0.get_mut(before) {
            added.has_foreign_name = true;
        }
    }

    /// The same where `known` was probably meant by the name.
    fn add_misspelt(&mut self, pointer: String, detail: String, known: &'static str) {
        let before = self.0.len();
        self.add_foreign(pointer, detail);
        if let Some(added) = self.0.get_mut(before) {
            added.meant = Some(known);
        }
    }

    /// The pointers that may be logged, each once. In place of a name of the sender's stands the one that was probably
    /// meant, or the object that it is in.
    pub fn known_pointers(&self) -> Vec<Cow<'_, str>> {
        let mut known = Vec::new();
        for problem in &self.0 {
            let pointer = if problem.has_foreign_name {
                let parent = problem
                    .pointer
                    .rsplit_once('/')
                    .map_or("", |(parent, _)| parent);
                match problem.meant {
                    Some(meant) => Cow::Owned(pointer_to(parent, meant)),
                    None => Cow::Borrowed(parent),
                }
            } else {
                Cow::Borrowed(problem.pointer.as_str())
            };
            if !known.contains(&pointer) {
                known.push(pointer);
            }
        }
        known
    }

    /// The problems.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` where nothing is wrong, else the problems.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            // A reader that gives nothing has said why; should one ever not, it is still an error.
            None if self.is_empty() => Err(Self::one("", "is not readable")),
            Some(_) | None => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {}", problem.pointer, problem.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// How deep arrays and objects may stand in one another.
pub const MAX_DEPTH: usize = 16;
/// Values of a document: members of objects and elements of arrays, at every depth. In memory each takes
/// tens of times the two bytes that it may take as text, so that the size of the text alone bounds
/// nothing. The largest communication has some thousands.
pub const MAX_VALUES: usize = 20_000;

/// Reads a JSON text. An object that has a field twice is refused: two readers of such a text may
/// see two different messages. So are texts deeper than [`MAX_DEPTH`], or of more values than
/// [`MAX_VALUES`], as soon as that is seen.
pub fn parse(text: &[u8]) -> Result<Value, Problems> {
    let refused = Cell::new(None);
    let whole = Strict {
        levels: MAX_DEPTH,
        // The document itself is neither a member nor an element.
        values: &Cell::new(MAX_VALUES + 1),
        refused: &refused,
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = whole
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let detail = match refused.get() {
            Some(Refused::Depth) => format!("must not be nested deeper than {MAX_DEPTH} levels"),
            Some(Refused::Values) => {
                format!("must have at most {MAX_VALUES} members and elements in all")
            }
            // serde_json's own message may repeat a part of the text; its place does not.
            None => format!(
                "must be JSON in UTF-8 without repeated fields (stopped at line {}, column {})",
                error.line(),
                error.column()
            ),
        };
        Problems::one("", detail)
    })
}

/// Why a text that may be JSON is not read any further.
#[derive(Debug, Clone, Copy)]
enum Refused {
    Depth,
    Values,
}

/// Reads a [`Value`] whose objects have no field twice, within limits.
#[derive(Clone, Copy)]
struct Strict<'l> {
    /// Levels that may still be begun.
    levels: usize,
    /// Values that may still come.
    values: &'l Cell<usize>,
    refused: &'l Cell<Option<Refused>>,
}

impl Strict<'_> {
    fn refuse<E: de::Error>(self, why: Refused) -> E {
        self.refused.set(Some(why));
        E::custom("a limit is reached")
    }

    /// For what stands in an array or object that begins here.
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => Err(self.refuse(Refused::Depth)),
        }
    }

    /// Notes that a value comes.
    fn one_more<E: de::Error>(self) -> Result<(), E> {
        match self.values.get().checked_sub(1) {
            Some(left) => {
                self.values.set(left);
                Ok(())
            }
            None => Err(self.refuse(Refused::Values)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.one_more()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(inside)?;
            if fields.insert(name, value).is_some() {
                return Err(de::Error::custom("a field stands twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}

/// An object being read. Call [`Object::finish`] when all known fields are taken.
#[derive(Debug)]
pub struct Object<'p> {
    pointer: String,
    fields: Map<String, Value>,
    /// The names that were asked for.
    known: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'p> Object<'p> {
    /// Starts on `value`, which stands at `pointer`; anything but an object is a problem.
    pub fn new(
        value: Value,
        pointer: impl Into<String>,
        problems: &'p mut Problems,
    ) -> Option<Self> {
        let pointer = pointer.into();
        if let Value::Object(fields) = value {
            Some(Self {
                pointer,
                fields,
                known: Vec::new(),
                problems,
            })
        } else {
            problems.add(pointer, "must be an object");
            None
        }
    }

    /// Where the object stands.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Where its field `name` stands.
    pub fn pointer_to(&self, name: &str) -> String {
        pointer_to(&self.pointer, name)
    }

    /// Takes a field out as it is. `null` is the same as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.fields
            .shift_remove(name)
            .filter(|value| !value.is_null())
    }

    /// Reads a field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(value) = self.take(name) {
            self.read(name, value, read)
        } else {
            self.problem(name, "is required");
            None
        }
    }

    /// Reads a field that may be absent.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(name)?;
        self.read(name, value, read)
    }

    fn read<T>(
        &mut self,
        name: &str,
        value: Value,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        read(value)
            .map_err(|detail| self.problem(name, detail))
            .ok()
    }

    /// Reads an object that may be absent, with `read`.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Object<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let pointer = self.pointer_to(name);
        Object::new(value, pointer, self.problems).and_then(read)
    }

    /// Reads an array of objects that may be absent, at most `most` of them, each with `read`.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        most: usize,
        mut read: impl FnMut(usize, Object<'_>) -> Option<T>,
    ) -> Vec<T> {
        let items = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(items)) if items.len() <= most => items,
            Some(_) => {
                self.problem(name, format!("must be an array of at most {most} objects"));
                return Vec::new();
            }
        };
        let pointer = self.pointer_to(name);
        items
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let item = Object::new(item, format!("{pointer}/{index}"), self.problems)?;
                read(index, item)
            })
            .collect()
    }

    /// Whether the field `name` is absent or `null`.
    pub fn is_missing(&self, name: &str) -> bool {
        self.fields.get(name).is_none_or(Value::is_null)
    }

    /// The length of the array in the field `name`; 0 where there is none.
    pub fn array_length(&self, name: &str) -> usize {
        self.fields
            .get(name)
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    }

    /// Takes all fields that are left, at most `most`, as a map: names that `name_ok` accepts, values
    /// that `read` accepts. A field that does not fit is a problem with `detail`, and so is one whose name is nearly
    /// that of a field that was read before: a misspelt field must not pass for one of the caller's own.
    pub fn rest<T>(
        mut self,
        most: usize,
        name_ok: impl Fn(&str) -> bool,
        read: impl Fn(Value) -> Result<T, String>,
        detail: &str,
    ) -> BTreeMap<String, T> {
        if self.fields.len() > most {
            self.problem_here(format!("must have at most {most} further fields"));
            return BTreeMap::new();
        }
        let mut rest = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.fields) {
            let known = self.known.iter().find(|known| is_near_miss(&name, known));
            if let Some(known) = known {
                let detail =
                    format!("is not {known}; write {known}, or choose a name that is less like it");
                let pointer = self.pointer_to(&name);
                self.problems.add_misspelt(pointer, detail, known);
                continue;
            }
            match read(value) {
                Ok(value) if name_ok(&name) => {
                    rest.insert(name, value);
                }
                Ok(_) | Err(_) => {
                    let pointer = self.pointer_to(&name);
                    self.problems.add_foreign(pointer, detail);
                }
            }
        }
        rest
    }

    /// Notes that the field `name` is missing, unless it has a problem already.
    pub fn missing(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = self.pointer_to(name);
        if !self
            .problems
            .0
            .iter()
            .any(|problem| problem.pointer == pointer)
        {
            self.problems.add(pointer, detail);
        }
    }

    /// Notes a problem with the field `name`.
    pub fn problem(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = self.pointer_to(name);
        self.problems.add(pointer, detail);
    }

    /// Notes a problem with an element of the array in the field `name`.
    pub fn problem_at(&mut self, name: &str, index: usize, detail: impl Into<String>) {
        let pointer = format!("{}/{index}", self.pointer_to(name));
        self.problems.add(pointer, detail);
    }

    /// Notes a problem with the object itself.
    pub fn problem_here(&mut self, detail: impl Into<String>) {
        self.problems.add(self.pointer.clone(), detail);
    }

    /// Refuses a field that was not taken and belongs elsewhere, spelt like one of `names` or nearly so, with `detail`.
    pub fn misplaced(&mut self, names: &[&str], detail: &str) {
        let is_meant = |field: &String| {
            let mut names = names.iter();
            names.any(|name| field == name || is_near_miss(field, name))
        };
        let misplaced: Vec<_> = self
            .fields
            .keys()
            .filter(|name| is_meant(name))
            .cloned()
            .collect();
        for name in misplaced {
            self.fields.shift_remove(&name);
            let pointer = self.pointer_to(&name);
            self.problems.add_foreign(pointer, detail);
        }
    }

    /// Whether a field that was not taken is there and `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    /// Ends the reading: each field that was not taken is unknown, and a problem.
    pub fn finish(self) {
        for name in self.fields.keys() {
            // What is beyond the limit is not kept, and not compared either.
            if self.problems.0.len() >= Problems::MOST {
                return;
            }
            let pointer = pointer_to(&self.pointer, name);
            if let Some(known) = nearest(name, &self.known) {
                let detail = format!("is not a known field; did you mean {known}?");
                self.problems.add_misspelt(pointer, detail, known);
            } else {
                let detail = "is not a known field; remove it";
                self.problems.add_foreign(pointer, detail);
            }
        }
    }
}

/// The pointer to `name` in the object at `pointer`: RFC 6901 section 3 escapes, control characters
/// replaced and the name cut to 64 characters, since it is the caller's.
fn pointer_to(pointer: &str, name: &str) -> String {
    let mut whole = String::with_capacity(pointer.len() + name.len() + 1);
    whole.push_str(pointer);
    whole.push('/');
    for c in name.chars().take(64) {
        match c {
            '~' => whole.push_str("~0"),
            '/' => whole.push_str("~1"),
            c if c.is_control() => whole.push(char::REPLACEMENT_CHARACTER),
            c => whole.push(c),
        }
    }
    whole
}

/// Readers for [`Object::required`] and [`Object::optional`].
pub mod read {
    use std::fmt::Display;

    use serde_json::Value;

    use crate::visible::has_visible;

    /// A string.
    pub fn string(value: Value) -> Result<String, String> {
        if let Value::String(text) = value {
            Ok(text)
        } else {
            Err("must be a string".to_owned())
        }
    }

    /// A string of `least` to `most` characters that shows something.
    pub fn visible_text(least: usize, most: usize) -> impl Fn(Value) -> Result<String, String> {
        move |value| {
            let text = text(least, most)(value)?;
            if has_visible(&text) {
                Ok(text)
            } else {
                Err("must have a visible character".to_owned())
            }
        }
    }

    /// A string of `least` to `most` characters.
    pub fn text(least: usize, most: usize) -> impl Fn(Value) -> Result<String, String> {
        move |value| {
            let text = string(value)?;
            let length = text.chars().count();
            if (least..=most).contains(&length) {
                Ok(text)
            } else {
                Err(format!("must be {least} to {most} characters long"))
            }
        }
    }

    /// A string that `parse` makes something of.
    pub fn parsed<T, E: Display>(
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> impl FnOnce(Value) -> Result<T, String> {
        move |value| parse(&string(value)?).map_err(|error| error.to_string())
    }

    /// One of `names`.
    pub fn one_of<T: Copy>(names: &[(&'static str, T)]) -> impl FnOnce(Value) -> Result<T, String> {
        move |value| {
            let found = value
                .as_str()
                .and_then(|text| names.iter().find(|(name, _)| *name == text))
                .map(|(_, meaning)| *meaning);
            found.ok_or_else(|| {
                let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
                format!("must be one of: {}", names.join(", "))
            })
        }
    }

    /// `true` or `false`, as themselves or as strings.
    #[allow(clippy::needless_pass_by_value, reason = "a reader takes the value")]
    pub fn flag(value: Value) -> Result<bool, String> {
        let flag = match value.as_str() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) | None => value.as_bool(),
        };
        flag.ok_or_else(|| "must be true or false".to_owned())
    }

    /// A whole number of `least` to `most`, as itself or as a string.
    pub fn number(least: u32, most: u32) -> impl FnOnce(Value) -> Result<u32, String> {
        move |value| {
            let number = match value.as_str() {
                Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
                Some(_) => None,
                None => value.as_u64().and_then(|number| u32::try_from(number).ok()),
            };
            number
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("must be a whole number from {least} to {most}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_reported_together_with_its_pointer() {
        let mut problems = Problems::default();
        let mut object = Object::new(
            json!({"port": "x", "flag": 1, "a/b~c": 1, "inner": {"deep": 1}}),
            "/s",
            &mut problems,
        )
        .unwrap();
        object.required("port", read::number(1, 65_535));
        object.optional("flag", read::flag);
        object.required("name", read::string);
        object.object("inner", |inner| {
            inner.finish();
            Some(())
        });
        object.finish();
        let found: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|p| p.pointer.as_str())
            .collect();
        assert_eq!(
            found,
            [
                "/s/port",
                "/s/flag",
                "/s/name",
                "/s/inner/deep",
                "/s/a~1b~0c"
            ]
        );
    }

    #[test]
    fn a_field_that_stands_twice_is_refused_and_nothing_of_it_repeated() {
        let error = parse(br#"{"to":"planted-one","to":"planted-two"}"#).unwrap_err();
        assert!(!error.to_string().contains("planted"), "{error}");
    }

    #[test]
    fn text_after_the_document_and_broken_utf8_are_refused() {
        assert!(parse(b"{} {}").is_err());
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn depth_is_bounded_far_before_the_stack_is() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        // Beyond what serde_json itself reads (128 levels) it is the same limit, in the same words.
        for depth in [MAX_DEPTH + 1, 127, 129, 100_000] {
            let problems = parse(&deep(depth)).unwrap_err();
            assert_eq!(
                problems.to_string(),
                " must not be nested deeper than 16 levels",
                "{depth}"
            );
        }
        let objects = |n: usize| [b"{\"a\":".repeat(n), b"1".to_vec(), vec![b'}'; n]].concat();
        assert!(parse(&objects(MAX_DEPTH)).is_ok());
        assert!(parse(&objects(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn a_document_has_a_number_of_values_however_they_are_spread() {
        let array = |n: usize| format!("[{}0]", "0,".repeat(n - 1));
        let object = |n: usize| {
            let fields: Vec<_> = (0..n).map(|n| format!("\"{n}\":[]")).collect();
            format!("{{{}}}", fields.join(","))
        };
        for text in [array(MAX_VALUES), object(MAX_VALUES)] {
            assert!(parse(text.as_bytes()).is_ok());
        }
        let pairs = format!("[{}[0]]", "[0],".repeat(MAX_VALUES / 2));
        for text in [array(MAX_VALUES + 1), object(MAX_VALUES + 1), pairs] {
            let problems = parse(text.as_bytes()).unwrap_err();
            assert_eq!(
                problems.to_string(),
                " must have at most 20000 members and elements in all"
            );
        }
    }

    #[test]
    fn values_may_come_as_strings_or_as_their_own_types() {
        assert_eq!(read::number(1, 65_535)(json!("587")), Ok(587));
        assert_eq!(read::number(1, 65_535)(json!(587)), Ok(587));
        assert_eq!(read::flag(json!("false")), Ok(false));
        for wrong in [
            json!(""),
            json!("+5"),
            json!(0),
            json!(70_000),
            json!(1.5),
            json!(-1),
            json!("99999999999999999999"),
            json!(true),
        ] {
            assert!(read::number(1, 65_535)(wrong.clone()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parsing_agrees_with_serde_json_where_both_accept(text in "[\\[\\]{}\":,a-b0-9 ]{0,40}") {
            let ours = parse(text.as_bytes());
            let theirs = serde_json::from_str::<Value>(&text);
            if let Ok(value) = ours { prop_assert_eq!(Some(value), theirs.ok()); }
        }
    }
}
