//! A line as it is written: a JSON object, member by member.

use serde::Serialize;

use super::fields::Said;

/// Bytes that there is room for at first; most lines are shorter.
const CAPACITY: usize = 768;

/// A log line that is being written. The caller must not write a member twice.
pub(super) struct LogLine(Vec<u8>);

impl LogLine {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.push(b'{');
        Self(bytes)
    }

    /// A member whose name is no field's.
    pub(super) fn member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.name(name.chars());
        self.value(value);
    }

    /// The first field of each name in a line, without the names in `taken`.
    pub(super) fn fields<'f>(
        &mut self,
        fields: &(impl Iterator<Item = (&'static str, &'f Said)> + Clone),
        taken: &[&str],
    ) {
        for (place, (field, said)) in fields.clone().enumerate() {
            let is_here = |other: &str| name_in_line(other).eq(name_in_line(field));
            let is_taken = taken
                .iter()
                .any(|taken| taken.chars().eq(name_in_line(field)));
            if !is_taken && !fields.clone().take(place).any(|(other, _)| is_here(other)) {
                self.name(name_in_line(field));
                self.value(said);
            }
        }
    }

    /// A name, to be followed by its value.
    pub(super) fn name(&mut self, name: impl Iterator<Item = char>) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.letters(name);
        self.0.extend_from_slice(b"\":");
    }

    /// Letters of a name. Names stand in the code, and none has what JSON would escape.
    pub(super) fn letters(&mut self, letters: impl Iterator<Item = char>) {
        let plain = letters.filter(|letter| !letter.is_control() && !"\"\\".contains(*letter));
        for letter in plain {
            self.0
                .extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// JSON as it is.
    pub(super) fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// Each of `items` as `write` writes it, with commas between.
    pub(super) fn items<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.0.push(b',');
            }
            write(self, item);
        }
    }

    /// A value. A vector takes all that it is given, and nothing that is written here cannot be JSON.
    pub(super) fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        let begin = self.0.len();
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(begin);
            self.raw("null");
        }
    }

    /// The line with its end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }
}

/// The name of a field in a line: as in the HTTP API, in camel case.
pub(super) fn name_in_line(field: &str) -> impl Iterator<Item = char> {
    let mut is_start = false;
    field.chars().filter_map(move |letter| {
        if letter == '_' {
            is_start = true;
            None
        } else if std::mem::take(&mut is_start) {
            Some(letter.to_ascii_uppercase())
        } else {
            Some(letter)
        }
    })
}
