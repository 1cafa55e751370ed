//! A message's texts as they go into it: CRLF for line ends, in the transfer encoding that suits them (RFC 2045
//! section 6).
//!
//! lettre does this as well, but looks at each character several times, and moves all that follows for each line feed
//! that gets its carriage return, which makes seconds of a text of many short lines.

use comms_core::ProviderError;
use lettre::message::{Body, header::ContentTransferEncoding};
use memchr::{memchr2, memmem};

use crate::message::invalid;

/// Bytes of an encoded line without its end (RFC 2045 section 6.7, rule 5). A text with longer lines is encoded too.
const LINE: usize = 76;

/// A text as it goes into a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) encoding: Encoding,
    pub(super) bytes: Vec<u8>,
}

/// What was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Nothing.
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    /// As the field Content-Transfer-Encoding has it (RFC 2045 section 6.1).
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

impl Text {
    /// `text` as it is where it is printable ASCII in short lines, else in quoted-printable, or in base64 where that is
    /// shorter. `=_` is in none of them: boundaries have it.
    pub(super) fn encode(text: &str) -> Result<Self, ProviderError> {
        let escapes = count_unprintable(text);
        let fits = || Lines(text.as_bytes()).all(|line| line.len() <= LINE);
        let (encoding, bytes) =
            if escapes == 0 && fits() && memmem::find(text.as_bytes(), b"=_").is_none() {
                (Encoding::SevenBit, plain(text))
            } else if escapes <= text.len() / 6 {
                // Three bytes for each that is escaped; base64 has four for every three.
                (Encoding::QuotedPrintable, quoted_printable(text, escapes))
            } else {
                (Encoding::Base64, base64(plain(text))?)
            };
        Ok(Self { encoding, bytes })
    }
}

/// `bytes` in base64, in lines of 76 characters (RFC 2045 section 6.8), of which the last is not ended.
pub(super) fn base64(bytes: Vec<u8>) -> Result<Vec<u8>, ProviderError> {
    Body::new_with_encoding(bytes, ContentTransferEncoding::Base64)
        .map(Body::into_vec)
        .map_err(|_| invalid("The message cannot be put into MIME form."))
}

/// The lines of a text, without their ends: CRLF, or either of the two alone. One that ends with a line end has an
/// empty last line.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// The next line, and whether it is ended.
    fn cut(&mut self) -> (&'a [u8], bool) {
        let Some(end) = memchr2(b'\r', b'\n', self.0) else {
            return (std::mem::take(&mut self.0), false);
        };
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\r\n").unwrap_or(&rest[1..]);
        (line, true)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        (!self.0.is_empty()).then(|| self.cut().0)
    }
}

fn plain(text: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len() + text.len() / 16);
    let mut lines = Lines(text.as_bytes());
    loop {
        let (line, is_ended) = lines.cut();
        plain.extend_from_slice(line);
        if !is_ended {
            return plain;
        }
        plain.extend_from_slice(b"\r\n");
    }
}

/// RFC 2045 section 6.7. `escapes` is about how many bytes are to be escaped.
fn quoted_printable(text: &str, escapes: usize) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 16 + 2 * escapes);
    let mut lines = Lines(text.as_bytes());
    loop {
        let (line, is_ended) = lines.cut();
        push_line(&mut encoded, line);
        if !is_ended {
            return encoded;
        }
        encoded.extend_from_slice(b"\r\n");
    }
}

fn push_line(encoded: &mut Vec<u8>, line: &[u8]) {
    // Blanks at the end of a line do not survive the way (rule 3).
    let ends_blank = line.last().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let mut rest = &line[..line.len() - usize::from(ends_blank)];
    // What goes into a line in front of the `=` of a soft line break.
    let mut room = LINE - 1;
    while let Some(first) = rest.first() {
        // A dot at the beginning of a line would have to be doubled (RFC 5321 section 4.5.2).
        let is_first = room == LINE - 1;
        if is_first && *first == b'.' {
            push_escaped(encoded, b'.', &mut room);
            rest = &rest[1..];
            continue;
        }
        let (run, after) = rest.split_at(literals(&rest[..rest.len().min(room)]));
        encoded.extend_from_slice(run);
        room -= run.len();
        rest = after;
        if let Some((byte, after)) = rest.split_first()
            && !is_literal(*byte)
        {
            push_escaped(encoded, *byte, &mut room);
            rest = after;
        } else if !rest.is_empty() {
            encoded.extend_from_slice(b"=\r\n");
            room = LINE - 1;
        }
    }
    if let Some(blank) = line.last().filter(|_| ends_blank) {
        push_escaped(encoded, *blank, &mut room);
    }
}

fn push_escaped(encoded: &mut Vec<u8>, byte: u8, room: &mut usize) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if *room < 3 {
        encoded.extend_from_slice(b"=\r\n");
        *room = LINE - 1;
    }
    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
    encoded.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 0xF)]);
    *room -= 3;
}

/// How many bytes of a text are neither printable nor line ends. Counted in parts of which each fits a byte: so the
/// compiler looks at many at a time.
fn count_unprintable(text: &str) -> usize {
    let parts = text.as_bytes().chunks(255);
    let counts = parts.map(|part| {
        let is_odd = |byte: &u8| !(is_printable(*byte) | matches!(*byte, b'\r' | b'\n'));
        part.iter().map(|byte| u8::from(is_odd(byte))).sum::<u8>()
    });
    counts.map(usize::from).sum()
}

/// How many literal bytes `bytes` begins with; looked at many at a time, too.
fn literals(bytes: &[u8]) -> usize {
    let (parts, _) = bytes.as_chunks::<16>();
    let all = |part: &&[u8; 16]| part.iter().fold(true, |all, byte| all & is_literal(*byte));
    let whole = 16 * parts.iter().take_while(all).count();
    let rest = bytes[whole..].iter().take_while(|byte| is_literal(**byte));
    whole + rest.count()
}

/// Whether a byte may be in a text that is not encoded (RFC 2045 section 2.7); line ends are not asked about.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Whether a byte stands for itself in quoted-printable, but at the end of a line (rules 2 and 3).
const fn is_literal(byte: u8) -> bool {
    is_printable(byte) && byte != b'='
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> (String, Encoding) {
        let Text { encoding, bytes } = Text::encode(text).unwrap();
        (String::from_utf8(bytes).unwrap(), encoding)
    }

    /// RFC 2045 section 6.7 backwards.
    fn decoded(encoded: &str) -> Vec<u8> {
        let mut text = Vec::new();
        let joined = encoded.replace("=\r\n", "");
        let mut bytes = joined.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'=' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                text.push(u8::from_str_radix(digits, 16).unwrap());
            } else {
                text.push(byte);
            }
        }
        text
    }

    #[test]
    fn a_short_ascii_text_goes_as_it_is_with_every_line_ended_by_crlf() {
        for (text, expected) in [
            ("", ""),
            ("See you.", "See you."),
            ("a\nb\r\nc\rd\n", "a\r\nb\r\nc\r\nd\r\n"),
            ("\n\r\r\n", "\r\n\r\n\r\n"),
            ("a = b\t \n.", "a = b\t \r\n."),
        ] {
            let as_it_is = (expected.to_owned(), Encoding::SevenBit);
            assert_eq!(encoded(text), as_it_is, "{text:?}");
        }
    }

    #[test]
    fn what_ascii_in_short_lines_cannot_say_is_quoted() {
        let lines = "a printable line that keeps the text from base64\r\n".repeat(2);
        for (text, expected) in [
            ("Grüße", "Gr=C3=BC=C3=9Fe"),
            ("ü=1", "=C3=BC=3D1"),
            ("ü \n\t", "=C3=BC=20\r\n=09"),
            ("ü a", "=C3=BC a"),
            (".ü\n..", "=2E=C3=BC\r\n=2E."),
            ("\0", "=00"),
        ] {
            let quoted = format!("{lines}{expected}");
            let quoted = (quoted, Encoding::QuotedPrintable);
            assert_eq!(encoded(&format!("{lines}{text}")), quoted, "{text:?}");
        }
        let quoted = (
            format!("{}=\r\nxx", "x".repeat(75)),
            Encoding::QuotedPrintable,
        );
        assert_eq!(encoded(&"x".repeat(77)), quoted);
    }

    #[test]
    fn what_may_be_a_boundary_is_quoted() {
        let quoted = ("--=3D_x".to_owned(), Encoding::QuotedPrintable);
        assert_eq!(encoded("--=_x"), quoted);
    }

    #[test]
    fn a_text_that_would_be_quoted_through_goes_in_base64() {
        let (text, encoding) = encoded("Здравствуйте");
        assert_eq!(encoding, Encoding::Base64);
        assert_eq!(text, "0JfQtNGA0LDQstGB0YLQstGD0LnRgtC1");
    }

    proptest! {
        #[test]
        fn quoted_text_is_what_it_was_in_lines_of_76_bytes(
            text in proptest::collection::vec(
                prop_oneof!["[ -~]{0,40}", Just("=".into()), Just(".".into()), Just(" ".into()), Just("\t".into()),
                    Just("\r".into()), Just("\n".into()), "\\PC{0,30}", Just("x".repeat(74))],
                0..12,
            )
        ) {
            let text = text.concat();
            let encoded = String::from_utf8(quoted_printable(&text, 0)).unwrap();
            prop_assert_eq!(decoded(&encoded), plain(&text));
            for line in encoded.split("\r\n") {
                prop_assert!(line.len() <= LINE, "{:?}", line);
                prop_assert!(!line.ends_with([' ', '\t']), "{:?}", line);
                prop_assert!(!line.starts_with('.'), "{:?}", line);
                prop_assert!(line.bytes().all(is_printable), "{:?}", line);
            }
        }
    }
}
