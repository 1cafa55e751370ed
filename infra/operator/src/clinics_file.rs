//! A file with the settings of many clinics. It is read one clinic at a time, so that only one item is in memory. An item
//! that cannot be read is reported with its line, and the reading goes on.
//!
//! | the file begins with | it is |
//! | --- | --- |
//! | `[` | an array of items |
//! | `{` and a field named `clinicId`, `_id`, `settings` or `communicationSettings` | JSON Lines: an item on every line |
//! | `{` and any other field | an object with an item under every clinic's id |
//!
//! A file whose name ends in `.jsonl` or `.ndjson` is JSON Lines whatever it begins with. In an item, the clinic's id is
//! `clinicId`, else `_id`, as a text or as `MongoDB` exports it (`{"$oid":"…"}`); the settings are
//! `settings.communicationSettings` or `communicationSettings`. Other fields belong to the platform and are ignored.

mod item;
mod scanner;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead};

use comms_core::Problems;

pub use item::{ClinicItem, MAX_ITEM, RefusedItem};
use item::{RawItem, read_item};
use scanner::Scanner;

/// The fields that distinguish an item from an object with an item under every clinic's id.
const ITEM_FIELDS: [&str; 4] = ["clinicId", "_id", "settings", "communicationSettings"];

/// Reads the items of a file one after the other.
#[derive(Debug)]
pub struct ClinicsFile<R> {
    scanner: Scanner<R>,
    expected: Expected,
}

/// The position of the reader in the file's structure.
#[derive(Debug)]
enum Expected {
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

impl<R: BufRead> ClinicsFile<R> {
    /// Begins to read. `lines`: the file's name says JSON Lines.
    pub fn new(reader: R, lines: bool) -> Self {
        Self {
            scanner: Scanner::new(reader),
            expected: if lines {
                Expected::Lines
            } else {
                Expected::Start
            },
        }
    }

    /// Bytes that have been read.
    pub fn position(&self) -> u64 {
        self.scanner.position
    }

    /// The next item; `None` after the last.
    pub fn next_item(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.position == 0 {
            self.scanner.skip_byte_order_mark()?;
        }
        let raw = match std::mem::replace(&mut self.expected, Expected::Broken) {
            Expected::Start => return self.start(),
            Expected::Lines => self.line_item()?,
            Expected::Array => return self.array_item(),
            Expected::ByClinic(clinic) => return self.member(clinic),
            Expected::End => return self.end(),
            Expected::Broken => None,
        };
        Ok(raw.map(read_item))
    }

    fn start(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        match self.scanner.peek_past_blanks()? {
            None => Ok(None),
            Some(b'[') => {
                self.scanner.take()?;
                self.expected = Expected::Array;
                self.next_item()
            }
            Some(b'{') => {
                let line = self.scanner.line;
                self.scanner.take()?;
                match self.scanner.peek_past_blanks()? {
                    Some(b'}') => {
                        self.scanner.take()?;
                        self.expected = Expected::End;
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

    /// Decides by the name of the first field whether the object is an item or contains the items.
    fn first_field(&mut self, line: u64) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        let mut text = RawItem::at(line);
        text.push(b'{');
        self.scanner.string(&mut text)?;
        let name: Option<String> = serde_json::from_slice(&text.text[1..]).ok();
        match name {
            Some(name) if ITEM_FIELDS.contains(&name.as_str()) => {
                self.scanner.rest_of_line(&mut text)?;
                self.expected = Expected::Lines;
                Ok(Some(read_item(text)))
            }
            Some(name) => {
                self.expected = Expected::ByClinic(name);
                self.next_item()
            }
            None => Ok(self.broken(self.scanner.line, "must be the name of a field")),
        }
    }

    /// The next line that is not blank.
    fn line_item(&mut self) -> io::Result<Option<RawItem>> {
        if self.scanner.peek_past_blanks()?.is_none() {
            self.expected = Expected::End;
            return Ok(None);
        }
        let mut text = RawItem::at(self.scanner.line);
        self.scanner.rest_of_line(&mut text)?;
        self.expected = Expected::Lines;
        Ok(Some(text))
    }

    fn array_item(&mut self) -> io::Result<Option<Result<ClinicItem, RefusedItem>>> {
        if self.scanner.peek_past_blanks()? == Some(b']') {
            self.scanner.take()?;
            self.expected = Expected::End;
            return self.next_item();
        }
        let text = self.scanner.value()?;
        match self.scanner.peek_past_blanks()? {
            Some(b',') => {
                self.scanner.take()?;
                self.expected = Expected::Array;
            }
            Some(b']') => self.expected = Expected::Array,
            // The item is cut off or malformed, so the start of the next one is unknown.
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
                self.expected = Expected::End;
            }
            Some(b',') => {
                self.scanner.take()?;
                if self.scanner.peek_past_blanks()? == Some(b'"') {
                    let mut name = RawItem::at(self.scanner.line);
                    self.scanner.string(&mut name)?;
                    if let Ok(name) = serde_json::from_slice(&name.text) {
                        self.expected = Expected::ByClinic(name);
                    }
                }
                if let Expected::Broken = self.expected {
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

    /// Ends the reading: the file is malformed at `line`.
    #[allow(
        clippy::unnecessary_wraps,
        reason = "it is the answer of the functions that call it"
    )]
    fn broken(&mut self, line: u64, detail: &str) -> Option<Result<ClinicItem, RefusedItem>> {
        self.expected = Expected::Broken;
        let detail = format!("{detail}; the file was not read from here on");
        Some(Err(RefusedItem::new(
            line,
            None,
            &Problems::one("", detail),
        )))
    }
}
