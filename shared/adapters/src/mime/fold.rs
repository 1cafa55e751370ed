//! A field of a header, folded as it is written (RFC 5322 section 2.2.3).

/// Characters of a line. RFC 5322 section 2.1.1 recommends 78; RFC 2047 section 2 allows 76 where the line has an encoded
/// word, which a line may get after it was begun.
pub(super) const LINE: usize = 76;

/// A field that is being written.
pub(super) struct Field<'a> {
    out: &'a mut Vec<u8>,
    /// Where the present line begins.
    line: usize,
}

impl<'a> Field<'a> {
    /// Writes the field's name and its colon.
    pub(super) fn begin(out: &'a mut Vec<u8>, name: &str) -> Self {
        let line = out.len();
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self { out, line }
    }

    /// Characters that a token may have to stand on the present line, after its space.
    pub(super) fn room(&self) -> usize {
        LINE.saturating_sub(self.out.len() - self.line + 1)
    }

    /// Characters that a token may have to stand on a line of its own.
    pub(super) const fn room_of_a_line() -> usize {
        LINE - 1
    }

    /// Begins a new line. The space that the next token brings is its indent.
    pub(super) fn fold(&mut self) {
        self.out.extend_from_slice(b"\r\n");
        self.line = self.out.len();
    }

    /// Writes a space and `token`, which has no place to break: on a new line where it does not fit into the present one.
    /// A token that fits into no line makes a long one.
    pub(super) fn token(&mut self, token: &[u8]) {
        let is_indented = self.out.len() == self.line;
        if token.len() > self.room() && !is_indented {
            self.fold();
        }
        self.out.push(b' ');
        self.out.extend_from_slice(token);
    }

    /// Writes `text` directly after the last token.
    pub(super) fn append(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
    }

    /// The bytes that are written to, for one who knows that they fit.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Ends the field.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A field with one token for its value.
pub(super) fn push_token(out: &mut Vec<u8>, name: &str, token: &str) {
    let mut field = Field::begin(out, name);
    field.token(token.as_bytes());
    field.end();
}

/// The parts of `text` between single spaces, with their positions. A run of several spaces, or a space at either end, is
/// inside a part: it must not become a place to fold, where readers may lose a part of it.
pub(super) fn parts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let bytes = text.as_bytes();
        let is_separator = |at: usize| {
            let neighbor = |at: Option<usize>| {
                at.and_then(|at| bytes.get(at))
                    .is_some_and(|byte| *byte != b' ')
            };
            bytes[at] == b' ' && neighbor(at.checked_sub(1)) && neighbor(Some(at + 1))
        };
        let mut from = start;
        let end = loop {
            let Some(space) = memchr::memchr(b' ', &bytes[from..]) else {
                break bytes.len();
            };
            if is_separator(from + space) {
                break from + space;
            }
            from += space + 1;
        };
        next = (end < bytes.len()).then_some(end + 1);
        Some((start, &text[start..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_does_not_fit_begins_a_line() {
        let mut out = Vec::new();
        let mut field = Field::begin(&mut out, "To");
        let long = "x".repeat(60);
        for token in ["a", &long, "bcdefghij", "k"] {
            field.token(token.as_bytes());
        }
        field.end();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("To: a {long} bcdefghij\r\n k\r\n"));
    }

    #[test]
    fn a_token_longer_than_a_line_has_a_line_of_its_own() {
        let mut out = Vec::new();
        let long = "x".repeat(100);
        push_token(&mut out, "To", &long);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("To:\r\n {long}\r\n")
        );
    }

    #[test]
    fn only_a_single_space_is_a_place_to_fold() {
        for (text, expected) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            ("a b", vec!["a", "b"]),
            ("a  b c", vec!["a  b", "c"]),
            (" a b ", vec![" a", "b "]),
            ("  ", vec!["  "]),
            ("ä ö", vec!["ä", "ö"]),
        ] {
            let found: Vec<_> = parts(text)
                .map(|(at, part)| {
                    assert_eq!(&text[at..at + part.len()], part);
                    part
                })
                .collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
