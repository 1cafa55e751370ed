//! A file with the settings of many clinics, read one clinic at a time: however large the file, one item of it is in
//! memory. What cannot be read is reported with its line and does not stop the rest.
//!
//! | the file begins with | it is |
//! | --- | --- |
//! | `[` | an array of items |
//! | `{` and a field named `clinicId`, `_id`, `settings` or `communicationSettings` | JSON Lines: an item on every line |
//! | `{` and any other field | an object with an item under every clinic's id |
//!
//! A file whose name ends in `.jsonl` or `.ndjson` is JSON Lines whatever it begins with. In an item, the clinic's id is
//! `clinicId`, else `_id`, as a text or as `MongoDB` exports it (`{"$oid":"…"}`); the settings are
//! `settings.communicationSettings` or `communicationSettings`. What stands beside them is the platform's own affair and
//! is not looked at.

use std::io::{self, BufRead};

use comms_core::{
    Problems, Tenant,
    json::{self, Problem},
};
use comms_settings::document::MAX_DOCUMENT_BYTES;
use serde::Serialize;
use serde_json::{Map, Value};

/// The largest item, in bytes: as much as the API takes, which is more than can be stored, since an exported item has
/// more in it than its settings.
pub const MAX_ITEM: usize = MAX_DOCUMENT_BYTES;

/// The fields by which an item is told from an object with an item under every clinic's id.
const ITEM_FIELDS: [&str; 4] = ["clinicId", "_id", "settings", "communicationSettings"];

/// A clinic as the file has it.
#[derive(Clone)]
pub struct ClinicItem {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The clinic.
    pub tenant: Tenant,
    /// Its `communicationSettings`, not looked at so far.
    pub document: Value,
}

/// It has secrets in it.
impl std::fmt::Debug for ClinicItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClinicItem({}, …)", self.tenant)
    }
}

/// An item that is not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedItem {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The clinic, where its id could be read.
    pub clinic_id: Option<String>,
    /// What is wrong, by JSON pointer. Nothing in it repeats a value.
    pub problems: Vec<Problem>,
}

impl RefusedItem {
    pub(crate) fn new(line: u64, tenant: Option<&Tenant>, problems: &Problems) -> Self {
        Self {
            line,
            clinic_id: tenant.map(ToString::to_string),
            problems: problems.as_slice().to_vec(),
        }
    }
}

/// Reads the items of a file one after the other.
#[derive(Debug)]
pub struct ClinicsFile<R> {
    scanner: Scanner<R>,
    state: State,
}

/// Where in the file the reader is.
#[derive(Debug)]
enum State {
    /// Before everything.
    Start,
    /// At the beginning of a line.
    Lines,
    /// Before an item of an array.
    Array,
    /// After the name of a field, which is a clinic's id.
    ByClinic(String),
    /// After the last item.
    End,
    /// The file cannot be read any further.
    Broken,
}

/// An item's text, and the clinic under whose id it stands if it does.
struct RawItem {
    line: u64,
    clinic: Option<String>,
    text: Vec<u8>,
    too_long: bool,
}

impl<R: BufRead> ClinicsFile<R> {
    /// Begins to read. `lines`: it is JSON Lines by its name.
    pub fn new(reader: R, lines: bool) -> Self {
        Self {
            scanner: Scanner {
                reader,
                line: 1,
                position: 0,
            },
            state: if lines { State::Lines } else { State::Start },
        }
    }

    /// Bytes that have been read.
    pub fn position(&self) -> u64 {
        self.scanner.position
    }

    /// The next item; `None` after the last. An item that cannot be read is a refused one.
    pub fn next_item(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.position == 0 {
            self.scanner.skip_byte_order_mark()?;
        }
        let raw = match std::mem::replace(&mut self.state, State::Broken) {
            State::Start => return self.start(),
            State::Lines => self.line_item()?,
            State::Array => return self.array_item(),
            State::ByClinic(clinic) => return self.member(clinic),
            State::End => return self.end(),
            State::Broken => None,
        };
        Ok(raw.map(read_item))
    }

    fn start(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        match self.scanner.peek_past_blanks()? {
            None => Ok(None),
            Some(b'[') => {
                self.scanner.take()?;
                self.state = State::Array;
                self.next_item()
            }
            Some(b'{') => {
                let line = self.scanner.line;
                self.scanner.take()?;
                match self.scanner.peek_past_blanks()? {
                    Some(b'}') => {
                        self.scanner.take()?;
                        self.state = State::End;
                        self.next_item()
                    }
                    Some(b'"') => self.first_field(line),
                    Some(_) | None => {
                        Ok(self.broken(self.scanner.line, "must be the name of a field"))
                    }
                }
            }
            Some(_) => Ok(self.broken(
                self.scanner.line,
                "must be an array, an object, or an object on every line",
            )),
        }
    }

    /// By the first field of an object, whether it is an item or has the items.
    fn first_field(&mut self, line: u64) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        let mut text = RawItem::at(line);
        text.push(b'{');
        self.scanner.string(&mut text)?;
        let name: Option<String> = serde_json::from_slice(&text.text[1..]).ok();
        match name {
            Some(name) if ITEM_FIELDS.contains(&name.as_str()) => {
                self.scanner.rest_of_line(&mut text)?;
                self.state = State::Lines;
                Ok(Some(read_item(text)))
            }
            Some(name) => {
                self.state = State::ByClinic(name);
                self.next_item()
            }
            None => Ok(self.broken(self.scanner.line, "must be the name of a field")),
        }
    }

    /// The next line that is not blank.
    fn line_item(&mut self) -> io::Result<Option<RawItem>> {
        if self.scanner.peek_past_blanks()?.is_none() {
            self.state = State::End;
            return Ok(None);
        }
        let mut text = RawItem::at(self.scanner.line);
        self.scanner.rest_of_line(&mut text)?;
        self.state = State::Lines;
        Ok(Some(text))
    }

    fn array_item(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.peek_past_blanks()? == Some(b']') {
            self.scanner.take()?;
            self.state = State::End;
            return self.next_item();
        }
        let text = self.scanner.value()?;
        match self.scanner.peek_past_blanks()? {
            Some(b',') => {
                self.scanner.take()?;
                self.state = State::Array;
            }
            Some(b']') => self.state = State::Array,
            // The item is cut off, or is none; there is no telling where the next one begins.
            Some(_) | None => {
                return Ok(self.broken(
                    text.line,
                    "must be an item of the array, and then ',' or ']'",
                ));
            }
        }
        Ok(Some(read_item(text)))
    }

    fn member(&mut self, clinic: String) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.peek_past_blanks()? != Some(b':') {
            return Ok(self.broken(self.scanner.line, "must be ':' after the clinic's id"));
        }
        self.scanner.take()?;
        self.scanner.peek_past_blanks()?;
        let mut text = self.scanner.value()?;
        text.clinic = Some(clinic);
        match self.scanner.peek_past_blanks()? {
            Some(b'}') => {
                self.scanner.take()?;
                self.state = State::End;
            }
            Some(b',') => {
                self.scanner.take()?;
                if self.scanner.peek_past_blanks()? == Some(b'"') {
                    let mut name = RawItem::at(self.scanner.line);
                    self.scanner.string(&mut name)?;
                    if let Ok(name) = serde_json::from_slice(&name.text) {
                        self.state = State::ByClinic(name);
                    }
                }
                if let State::Broken = self.state {
                    return Ok(self.broken(self.scanner.line, "must be the next clinic's id"));
                }
            }
            Some(_) | None => {
                return Ok(self.broken(
                    text.line,
                    "must be an item under the clinic's id, and then ',' or '}'",
                ));
            }
        }
        Ok(Some(read_item(text)))
    }

    fn end(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.peek_past_blanks()?.is_some() {
            return Ok(self.broken(self.scanner.line, "must be the end of the file"));
        }
        Ok(None)
    }

    /// What stands here makes the rest unreadable.
    #[allow(
        clippy::unnecessary_wraps,
        reason = "it is the answer of the functions that call it"
    )]
    fn broken(&mut self, line: u64, detail: &str) -> Option<Result<ClinicItem, RefusedItem>> {
        self.state = State::Broken;
        let detail = format!("{detail}; the file was not read from here on");
        Some(Err(RefusedItem::new(
            line,
            None,
            &Problems::one("", detail),
        )))
    }
}

impl RawItem {
    fn at(line: u64) -> Self {
        Self {
            line,
            clinic: None,
            text: Vec::new(),
            too_long: false,
        }
    }

    fn push(&mut self, byte: u8) {
        if self.text.len() < MAX_ITEM {
            self.text.push(byte);
        } else {
            self.too_long = true;
        }
    }
}

/// The text of a file by bytes, with the line it is at.
#[derive(Debug)]
struct Scanner<R> {
    reader: R,
    line: u64,
    position: u64,
}

impl<R: BufRead> Scanner<R> {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn take(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.reader.consume(1);
            self.position += 1;
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    /// Windows programs like to begin a file with one (RFC 8259 section 8.1 lets a reader ignore it).
    fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        for mark in [0xef, 0xbb, 0xbf] {
            if self.peek()? == Some(mark) {
                self.take()?;
            }
        }
        Ok(())
    }

    /// The next byte that is not blank (RFC 8259 section 2), which is not taken.
    fn peek_past_blanks(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.take()?,
                other => return Ok(other),
            };
        }
    }

    /// The string that begins here, quotes included.
    fn string(&mut self, text: &mut RawItem) -> io::Result<()> {
        let mut quotes = 0;
        while quotes < 2 {
            let Some(byte) = self.take()? else { break };
            text.push(byte);
            if byte == b'\\' {
                if let Some(escaped) = self.take()? {
                    text.push(escaped);
                }
            } else if byte == b'"' {
                quotes += 1;
            }
        }
        Ok(())
    }

    /// The value that begins here, up to the ',' or bracket that does not belong to it.
    fn value(&mut self) -> io::Result<RawItem> {
        let mut text = RawItem::at(self.line);
        let mut depth = 0_u64;
        while let Some(byte) = self.peek()? {
            match byte {
                b'"' => {
                    self.string(&mut text)?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b'}' | b']' | b',' if depth == 0 => break,
                _ => {}
            }
            self.take()?;
            text.push(byte);
        }
        Ok(text)
    }

    /// What is left of the line.
    fn rest_of_line(&mut self, text: &mut RawItem) -> io::Result<()> {
        while let Some(byte) = self.take()? {
            if byte == b'\n' {
                break;
            }
            text.push(byte);
        }
        Ok(())
    }
}

fn read_item(raw: RawItem) -> Result<ClinicItem, RefusedItem> {
    let line = raw.line;
    let refused = |tenant: Option<&Tenant>, problems: &Problems| {
        Err(RefusedItem::new(line, tenant, problems))
    };
    if raw.too_long {
        let detail = format!("must not be longer than {MAX_ITEM} bytes");
        return refused(None, &Problems::one("", detail));
    }
    let mut fields = match json::parse(&raw.text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return refused(None, &Problems::one("", "must be an object")),
        Err(problems) => return refused(None, &problems),
    };
    let mut problems = Problems::default();
    let tenant = read_tenant(raw.clinic, &mut fields, &mut problems);
    let document = read_document(&mut fields, &mut problems);
    match (tenant, document) {
        (Some(tenant), Some(document)) if problems.is_empty() => Ok(ClinicItem {
            line,
            tenant,
            document,
        }),
        (tenant, _) => refused(tenant.as_ref(), &problems),
    }
}

/// Whose item it is. An id that is none is not repeated: it may be anything that got into the wrong place.
fn read_tenant(
    over_it: Option<String>,
    fields: &mut Map<String, Value>,
    problems: &mut Problems,
) -> Option<Tenant> {
    let mut field = |name: &'static str| {
        let value = fields.remove(name).filter(|value| !value.is_null())?;
        let id = match &value {
            Value::String(id) => Some(id.clone()),
            Value::Object(id) => id.get("$oid").and_then(Value::as_str).map(str::to_owned),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        };
        Some((name, id))
    };
    let (clinic_id, object_id) = (field("clinicId"), field("_id"));
    let (pointer, id) = match (over_it, clinic_id, object_id) {
        (Some(name), Some((at, id)), _) if id.as_ref() != Some(&name) => {
            problems.add(
                format!("/{at}"),
                "must be the id under which the item stands",
            );
            return None;
        }
        (Some(name), _, _) => (String::new(), Some(name)),
        (None, Some((at, id)), _) | (None, None, Some((at, id))) => (format!("/{at}"), id),
        (None, None, None) => {
            problems.add("/clinicId", "is required");
            return None;
        }
    };
    let tenant = id.as_deref().map(Tenant::parse);
    match tenant {
        Some(Ok(tenant)) => Some(tenant),
        Some(Err(error)) => {
            problems.add(pointer, format!("the clinic's id {error}"));
            None
        }
        None => {
            problems.add(pointer, "must be the clinic's id, as a string");
            None
        }
    }
}

fn read_document(fields: &mut Map<String, Value>, problems: &mut Problems) -> Option<Value> {
    const NAME: &str = "communicationSettings";
    let present = |value: &Value| !value.is_null();
    let inner = fields
        .get_mut("settings")
        .and_then(Value::as_object_mut)
        .and_then(|settings| settings.remove(NAME))
        .filter(present);
    let outer = fields.remove(NAME).filter(present);
    match (inner, outer) {
        (Some(document), None) | (None, Some(document)) => Some(document),
        (None, None) => {
            problems.add(format!("/settings/{NAME}"), "is required");
            None
        }
        (Some(_), Some(_)) => {
            problems.add(
                format!("/{NAME}"),
                "stands in settings too; which of the two is meant?",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Every item: `line clinic document`, or `line ! clinic pointer detail`.
    fn read(text: &str, lines: bool) -> Vec<String> {
        // A buffer of a few bytes, as if the file were large.
        let reader = io::BufReader::with_capacity(3, text.as_bytes());
        let mut file = ClinicsFile::new(reader, lines);
        let mut found = Vec::new();
        while let Some(item) = file.next_item().unwrap() {
            found.push(match item {
                Ok(item) => format!("{} {} {}", item.line, item.tenant, item.document),
                Err(refused) => {
                    let clinic = refused.clinic_id.unwrap_or_default();
                    let problem = &refused.problems[0];
                    format!(
                        "{} ! {clinic} {} {}",
                        refused.line, problem.pointer, problem.detail
                    )
                }
            });
            assert!(found.len() < 1_000, "it does not end");
        }
        found
    }

    #[test]
    fn an_array_an_object_by_clinic_and_json_lines_are_the_same_clinics() {
        let (a, b) = (
            r#"{"clinicId":"a","settings":{"communicationSettings":{"email":1},"theme":"dark"}}"#,
            r#"{"clinicId":"b","name":"B","communicationSettings":{"email":"[{,\"\\"}}"#,
        );
        let two = ["1 a {\"email\":1}", "2 b {\"email\":\"[{,\\\"\\\\\"}"];
        assert_eq!(read(&format!("[{a},\n{b}]\n"), false), two);
        assert_eq!(read(&format!("{a}\n{b}\n"), false), two);
        assert_eq!(read(&format!("{a}\r\n{b}"), true), two);
        assert_eq!(read(&format!("\u{feff}{a}\n{b}"), false), two);
        let by_clinic = |item: &str| item.replacen(r#""clinicId":"#, r#""id":"#, 1);
        let map = format!("{{\"a\":{},\n\"b\" : {}}}", by_clinic(a), by_clinic(b));
        assert_eq!(read(&map, false), two);
        let map = format!("{{\"a\":{a},\n\"b\" : {b}}}");
        assert_eq!(read(&map, false), two);
    }

    #[test]
    fn an_id_may_be_as_mongo_exports_it() {
        let items = r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"communicationSettings":{}}
            {"_id":"clinic-1","communicationSettings":{}}
            {"_id":{"$oid":"507f1f77bcf86cd799439011"},"clinicId":"clinic-2","communicationSettings":{}}"#;
        assert_eq!(
            read(items, false),
            [
                "1 507f1f77bcf86cd799439011 {}",
                "2 clinic-1 {}",
                "3 clinic-2 {}"
            ]
        );
    }

    #[test]
    fn a_line_that_can_not_be_read_does_not_stop_the_rest_and_nothing_of_it_is_repeated() {
        let lines = [
            r#"{"clinicId":"a","communicationSettings":{}}"#,
            r#"{"clinicId":"planted","communicationSettings":{"password":"planted"#,
            "planted",
            "",
            r#"["planted"]"#,
            r#"{"clinicId":"planted id","communicationSettings":{}}"#,
            r#"{"clinicId":{"planted":1},"communicationSettings":{}}"#,
            r#"{"communicationSettings":{}}"#,
            r#"{"clinicId":"b"}"#,
            r#"{"clinicId":"b","settings":{"communicationSettings":null}}"#,
            r#"{"clinicId":"b","settings":{"communicationSettings":{}},"communicationSettings":{}}"#,
            r#"{"clinicId":"b","clinicId":"planted","communicationSettings":{}}"#,
            r#"{"clinicId":"c","communicationSettings":{}}"#,
        ];
        let found = read(&lines.join("\n"), false);
        let kinds: Vec<_> = found
            .iter()
            .map(|item| item.split(' ').take(4).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            kinds,
            [
                "1 a {}",
                "2 !  ",
                "3 !  ",
                "5 !  ",
                "6 !  /clinicId",
                "7 !  /clinicId",
                "8 !  /clinicId",
                "9 ! b /settings/communicationSettings",
                "10 ! b /settings/communicationSettings",
                "11 ! b /communicationSettings",
                "12 !  ",
                "13 c {}",
            ]
        );
        assert!(!found.join("\n").contains("planted"), "{found:#?}");
    }

    #[test]
    fn an_item_of_an_array_that_can_not_be_read_does_not_stop_the_rest() {
        let found = read(
            "[{\"clinicId\":\"a\",\"communicationSettings\":{}},\n nonsense,\n 1,\n\
             {\"clinicId\":\"b\",\"communicationSettings\":{}}]",
            false,
        );
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[1].starts_with("2 !  "), "{found:#?}");
        assert!(found[2].starts_with("3 !  "), "{found:#?}");
        assert_eq!(found[3], "4 b {}");
    }

    #[test]
    fn a_file_that_is_cut_off_says_so_after_what_it_has() {
        let item = r#"{"clinicId":"a","communicationSettings":{}}"#;
        for whole in [
            format!("[{item},{item}]"),
            format!(r#"{{"a":{item},"a":{item}}}"#),
        ] {
            for cut in 1..whole.len() {
                let found = read(&whole[..cut], false);
                let last = found.last().unwrap();
                assert!(last.contains("was not read from here on"), "{cut} {last}");
                let good = found.iter().filter(|item| item.ends_with(" a {}")).count();
                assert_eq!(good, found.len() - 1, "{cut} {found:?}");
            }
        }
        let found = read(&format!("[{item}] x"), false);
        assert!(
            found[1].contains("must be the end of the file"),
            "{found:?}"
        );
    }

    #[test]
    fn an_item_that_is_too_long_is_passed_over_without_being_kept() {
        let long = json!({"clinicId": "a", "communicationSettings": "x".repeat(MAX_ITEM)});
        let good = json!({"clinicId": "b", "communicationSettings": {}});
        for text in [format!("[{long},{good}]"), format!("{long}\n{good}")] {
            let reader = io::BufReader::new(text.as_bytes());
            let mut file = ClinicsFile::new(reader, false);
            let refused = file.next_item().unwrap().unwrap().unwrap_err();
            assert!(refused.problems[0].detail.contains("longer than"));
            assert!(file.next_item().unwrap().unwrap().is_ok());
            assert!(file.next_item().unwrap().is_none());
            assert_eq!(file.position(), u64::try_from(text.len()).unwrap());
        }
    }

    #[test]
    fn an_item_shows_nothing_of_its_settings_when_it_is_printed() {
        let item = ClinicItem {
            line: 1,
            tenant: Tenant::parse("clinic-1").unwrap(),
            document: json!({"password": "planted"}),
        };
        assert_eq!(format!("{item:?}"), "ClinicItem(clinic-1, …)");
    }

    proptest! {
        #[test]
        fn reading_anything_ends_and_never_panics(text in "[\\[\\]{}\",:a-c\\\\ \n]{0,60}", lines: bool) {
            read(&text, lines);
        }
    }
}
