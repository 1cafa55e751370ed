//! Fields without a structure, such as the subject (RFC 5322 section 3.6.5).

use super::{
    encoded_word::{self, is_mistakable, is_printable},
    fold::{Field, parts},
};

/// Writes the field so that a reader gets `text` back as it is: each part that is ASCII as it is, the others in encoded
/// words, spaces between them included.
pub(super) fn push(out: &mut Vec<u8>, name: &str, text: &str) {
    let mut field = Field::begin(out, name);
    let mut encoded: Option<std::ops::Range<usize>> = None;
    let is_spaced = text.starts_with(' ') || text.ends_with(' ');
    for (start, part) in parts(text) {
        let end = start + part.len();
        // The first stands beside the name: no reader is given a field that begins with an empty line.
        let room = if start == 0 {
            field.room()
        } else {
            Field::room_of_a_line()
        };
        // A space at an end would be lost.
        let at_an_end = is_spaced && (part.starts_with(' ') || part.ends_with(' '));
        if is_printable(part) && !is_mistakable(part) && part.len() <= room && !at_an_end {
            if let Some(range) = encoded.take() {
                encoded_word::push(&mut field, &text[range]);
            }
            if !part.is_empty() {
                field.token(part.as_bytes());
            }
        } else {
            encoded = Some(encoded.map_or(start, |range| range.start)..end);
        }
    }
    if let Some(range) = encoded {
        encoded_word::push(&mut field, &text[range]);
    }
    field.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> String {
        let mut out = Vec::new();
        push(&mut out, "Subject", text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ascii_goes_as_it_is_and_is_folded_between_words() {
        assert_eq!(subject(""), "Subject:\r\n");
        assert_eq!(
            subject("Your appointment  is booked."),
            "Subject: Your appointment  is booked.\r\n"
        );
        let words = ["appointment"; 10].join(" ");
        let line = ["appointment"; 5].join(" ");
        assert_eq!(subject(&words), format!("Subject: {line}\r\n {line}\r\n"));
    }

    #[test]
    fn only_what_needs_it_is_encoded() {
        for (text, expected) in [
            ("Dear José, see you", "Dear =?utf-8?B?Sm9zw6ks?= see you"),
            ("José  Ñúñez", "=?utf-8?B?Sm9zw6kgIMORw7rDsWV6?="),
            ("José Ñúñez", "=?utf-8?B?Sm9zw6kgw5HDusOxZXo=?="),
            (
                "Code =?utf-8?B?aGk=?= typed",
                "Code =?utf-8?B?PT91dGYtOD9CP2FHaz0/PQ==?= typed",
            ),
            ("a=?b", "=?utf-8?Q?a=3D=3Fb?="),
            (" a b", "=?utf-8?Q?_a?= b"),
            ("a b ", "a =?utf-8?Q?b_?="),
            ("1 + 1 = 2?", "1 + 1 = 2?"),
        ] {
            assert_eq!(subject(text), format!("Subject: {expected}\r\n"), "{text}");
        }
    }

    #[test]
    fn a_word_longer_than_a_line_is_encoded_so_that_it_can_be_folded() {
        let text = subject(&"x".repeat(900));
        assert!(text.starts_with("Subject: =?utf-8?Q?xxx"));
        assert!(text.split("\r\n").all(|line| line.len() <= 76), "{text}");
    }
}
