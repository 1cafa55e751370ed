//! Encoded words (RFC 2047), in UTF-8: how a header says what is not printable ASCII.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::fold::Field;

/// Characters of an encoded word (RFC 2047 section 2).
const MAX_WORD: usize = 75;
const Q_PREFIX: &[u8] = b"=?utf-8?Q?";
const B_PREFIX: &[u8] = b"=?utf-8?B?";
const SUFFIX: &[u8] = b"?=";
pub(super) const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";
/// Characters of a word around what it says.
const OVERHEAD: usize = Q_PREFIX.len() + SUFFIX.len();
/// A word takes the rest of a line only where so many characters of it are left: for one character of four bytes, and for
/// some of a text.
const MIN_WORD: usize = OVERHEAD + 12;

/// Whether a reader may take a part of `text` for an encoded word, or a part of one. Many look for them anywhere, quoted
/// strings and the middle of words included.
pub(super) fn is_mistakable(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"=?").is_some()
}

/// Whether `text` is printable ASCII and spaces.
pub(super) fn is_printable(text: &str) -> bool {
    text.bytes()
        .fold(true, |all, byte| all & matches!(byte, b' '..=b'~'))
}

/// Writes `text` as encoded words, spaces between its words included: what is between two encoded words, readers drop
/// (RFC 2047 section 6.2). "Q" where it is not longer than "B", because people can read it.
pub(super) fn push(field: &mut Field<'_>, text: &str) {
    let q_length: usize = text.bytes().map(q_length).sum();
    let in_q = q_length <= text.len().div_ceil(3) * 4;
    let mut rest = text;
    while !rest.is_empty() {
        if field.room() < MIN_WORD {
            field.fold();
        }
        let room = field.room().min(MAX_WORD) - OVERHEAD;
        let (word, after) = rest.split_at(if in_q {
            q_fitting(rest, room)
        } else {
            b_fitting(rest, room)
        });
        let out = field.out();
        out.push(b' ');
        if in_q {
            out.extend_from_slice(Q_PREFIX);
            for byte in word.bytes() {
                push_q(out, byte);
            }
        } else {
            out.extend_from_slice(B_PREFIX);
            push_base64(out, word.as_bytes());
        }
        out.extend_from_slice(SUFFIX);
        rest = after;
    }
}

/// How many bytes of `text`, in whole characters (RFC 2047 section 5), fit into `room` characters of "Q".
fn q_fitting(text: &str, room: usize) -> usize {
    let mut left = room;
    for (at, character) in text.char_indices() {
        let bytes = &text.as_bytes()[at..at + character.len_utf8()];
        let length: usize = bytes.iter().map(|byte| q_length(*byte)).sum();
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    text.len()
}

/// The same of "B".
fn b_fitting(text: &str, room: usize) -> usize {
    text.floor_char_boundary(room / 4 * 3)
}

fn q_length(byte: u8) -> usize {
    if byte == b' ' || stands_for_itself(byte) {
        1
    } else {
        3
    }
}

/// Whether "Q" has the byte as it is, in a phrase too (RFC 2047 section 5, rule 3).
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!*+-/".contains(&byte)
}

fn push_q(out: &mut Vec<u8>, byte: u8) {
    let digit = |nibble: u8| HEX_DIGITS[usize::from(nibble)];
    match byte {
        b' ' => out.push(b'_'),
        byte if stands_for_itself(byte) => out.push(byte),
        byte => out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 0xF)]),
    }
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let length = bytes.len().div_ceil(3) * 4;
    out.resize(start + length, b'=');
    // It has the room: its length was counted.
    let _ = BASE64_STANDARD.encode_slice(bytes, &mut out[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        let mut field = Field::begin(&mut out, "Subject");
        push(&mut field, text);
        field.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_shorter_encoding_is_taken_and_the_readable_one_of_two() {
        for (text, expected) in [
            ("Termin bestätigt", "=?utf-8?Q?Termin_best=C3=A4tigt?="),
            ("José  Ñúñez", "=?utf-8?B?Sm9zw6kgIMORw7rDsWV6?="),
            ("=?utf-8?B?aGk=?=", "=?utf-8?B?PT91dGYtOD9CP2FHaz0/PQ==?="),
            ("Dr. \"A\", é", "=?utf-8?B?RHIuICJBIiwgw6k=?="),
            (" ", "=?utf-8?Q?_?="),
        ] {
            assert_eq!(written(text), format!("Subject: {expected}\r\n"), "{text}");
        }
    }

    #[test]
    fn no_character_is_cut_and_no_line_too_long() {
        for character in ['x', 'é', '€', '😀'] {
            for count in [1, 20, 200] {
                let text = character.to_string().repeat(count);
                let header = written(&text);
                let mut decoded = String::new();
                for line in header.trim_end().split("\r\n") {
                    assert!(line.len() <= 76, "{line:?}");
                    let word = line.rsplit(' ').next().unwrap();
                    assert!(word.len() <= MAX_WORD);
                    if let Some(base64) = word.strip_prefix("=?utf-8?B?") {
                        let bytes = BASE64_STANDARD
                            .decode(base64.strip_suffix("?=").unwrap())
                            .unwrap();
                        decoded.push_str(&String::from_utf8(bytes).unwrap());
                    } else {
                        decoded.push_str(
                            word.strip_prefix("=?utf-8?Q?")
                                .unwrap()
                                .strip_suffix("?=")
                                .unwrap(),
                        );
                    }
                }
                assert_eq!(decoded, text);
            }
        }
    }
}
