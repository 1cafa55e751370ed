//! Reading JSON text within limits, and without repeated fields.

use std::{cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Problems;

/// Levels of arrays and objects inside one another.
pub const MAX_DEPTH: usize = 16;
/// Values of a document: members of objects and elements of arrays, at every depth. A value of two bytes as text takes tens
/// of times that in memory, so a limit on the text's size is not enough. The largest communication has some thousands.
pub const MAX_VALUES: usize = 20_000;

/// Reads a JSON text.
///
/// # Errors
/// A text that is not JSON in UTF-8; an object that has a field twice, because two readers could see two different
/// messages; a text deeper than [`MAX_DEPTH`] or with more than [`MAX_VALUES`] values, where the limit is crossed.
pub fn parse(text: &[u8]) -> Result<Value, Problems> {
    let exceeded = Cell::new(None);
    let whole = Strict {
        levels: MAX_DEPTH,
        // The document itself is neither a member nor an element.
        values: &Cell::new(MAX_VALUES + 1),
        exceeded: &exceeded,
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = whole
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let detail = match exceeded.get() {
            Some(Limit::Depth) => format!("must not be nested deeper than {MAX_DEPTH} levels"),
            Some(Limit::Values) => {
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

/// The limit at which reading stopped.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Depth,
    Values,
}

/// Reads a [`Value`] whose objects have no field twice, within limits.
#[derive(Clone, Copy)]
struct Strict<'l> {
    /// Levels that may still open.
    levels: usize,
    /// Values that may still follow.
    values: &'l Cell<usize>,
    exceeded: &'l Cell<Option<Limit>>,
}

impl Strict<'_> {
    fn exceed<E: de::Error>(self, limit: Limit) -> E {
        self.exceeded.set(Some(limit));
        E::custom("a limit is reached")
    }

    /// The reader of the values inside an array or object that begins here.
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => Err(self.exceed(Limit::Depth)),
        }
    }

    /// Counts a value.
    fn count<E: de::Error>(self) -> Result<(), E> {
        match self.values.get().checked_sub(1) {
            Some(left) => {
                self.values.set(left);
                Ok(())
            }
            None => Err(self.exceed(Limit::Values)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    proptest! {
        #[test]
        fn parsing_agrees_with_serde_json_where_both_accept(text in "[\\[\\]{}\":,a-b0-9 ]{0,40}") {
            let ours = parse(text.as_bytes());
            let theirs = serde_json::from_str::<Value>(&text);
            if let Ok(value) = ours { prop_assert_eq!(Some(value), theirs.ok()); }
        }
    }
}
