//! Lists of addresses, with the names that are shown beside them (RFC 5322 section 3.4).

use comms_core::{EmailAddress, Mailbox};

use super::{
    encoded_word::{self, is_mistakable, is_printable},
    fold::{Field, parts},
};

/// An address, with its name if it has one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: Option<&'a str>,
    /// Without spaces, quotes or control characters.
    pub(super) address: &'a str,
}

impl<'a> Entry<'a> {
    /// The mailbox with its name.
    pub(super) fn of(mailbox: &'a Mailbox) -> Self {
        Self {
            name: mailbox.name.as_deref(),
            address: mailbox.address.as_str(),
        }
    }

    /// The address alone.
    pub(super) fn bare(address: &'a EmailAddress) -> Self {
        Self {
            name: None,
            address: address.as_str(),
        }
    }
}

/// Writes a field with `entries`, of which there is at least one.
pub(super) fn push<'a>(
    out: &mut Vec<u8>,
    name: &str,
    entries: impl IntoIterator<Item = Entry<'a>>,
) {
    let mut field = Field::begin(out, name);
    let mut entries = entries.into_iter().peekable();
    let mut token = Vec::with_capacity(64);
    while let Some(Entry { name, address }) = entries.next() {
        token.clear();
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            push_phrase(&mut field, name);
            token.push(b'<');
            token.extend_from_slice(address.as_bytes());
            token.push(b'>');
        } else {
            token.extend_from_slice(address.as_bytes());
        }
        if entries.peek().is_some() {
            token.push(b',');
        }
        field.token(&token);
    }
    field.end();
}

/// A mailbox as one text, in ASCII where the address is: as an API takes it that writes the header itself.
pub(super) fn mailbox(entry: Entry<'_>) -> String {
    let mut out = Vec::new();
    push(&mut out, "", [entry]);
    let text = String::from_utf8(out).unwrap_or_default();
    let value = text.trim_start_matches(':').trim();
    value.replace("\r\n", "")
}

/// Writes a name (RFC 5322 section 3.2.5): words as they are, or a quoted string (section 3.2.4), or encoded words.
fn push_phrase(field: &mut Field<'_>, name: &str) {
    if !is_printable(name) || is_mistakable(name) || parts(name).any(|(_, part)| !fits(part)) {
        encoded_word::push(field, name);
    } else if parts(name).all(|(_, part)| part.bytes().all(is_atext)) {
        for (_, part) in parts(name) {
            field.token(part.as_bytes());
        }
    } else {
        push_quoted(field, name);
    }
}

/// Whether a part has room on a line, between quotes and before an address.
fn fits(part: &str) -> bool {
    let escaped = part.bytes().filter(|byte| needs_escape(*byte)).count();
    part.len() + escaped + 2 <= Field::room_of_a_line()
}

/// A quoted string, which may be folded where it has a single space: the space is a part of it (RFC 5322 section 3.2.4).
fn push_quoted(field: &mut Field<'_>, name: &str) {
    let mut token = Vec::with_capacity(name.len() + 8);
    for (start, part) in parts(name) {
        token.clear();
        if start == 0 {
            token.push(b'"');
        }
        for byte in part.bytes() {
            if needs_escape(byte) {
                token.push(b'\\');
            }
            token.push(byte);
        }
        if start + part.len() == name.len() {
            token.push(b'"');
        }
        field.token(&token);
    }
}

const fn needs_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// `atext` of RFC 5322 section 3.2.3.
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(name: &str) -> String {
        let mut out = Vec::new();
        let entry = Entry {
            name: Some(name),
            address: "a@example.com",
        };
        push(&mut out, "To", [entry]);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ascii_names_are_words_or_quoted_strings_and_never_encoded() {
        for (name, expected) in [
            ("Anna Miller", "Anna Miller"),
            ("A. Patient", "\"A. Patient\""),
            ("Clinic, \"Name\"", "\"Clinic, \\\"Name\\\"\""),
            ("Team (A) [x] <y>; z:", "\"Team (A) [x] <y>; z:\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("two  spaces", "\"two  spaces\""),
            ("O'Brien-Smith", "O'Brien-Smith"),
            ("a@b", "\"a@b\""),
        ] {
            assert_eq!(
                to(name),
                format!("To: {expected} <a@example.com>\r\n"),
                "{name}"
            );
        }
    }

    #[test]
    fn other_names_are_encoded_words_and_so_are_their_lookalikes() {
        for (name, expected) in [
            ("José  Ñúñez", "=?utf-8?B?Sm9zw6kgIMORw7rDsWV6?="),
            ("Jörg", "=?utf-8?B?SsO2cmc=?="),
            ("=?utf-8?B?aGk=?=", "=?utf-8?B?PT91dGYtOD9CP2FHaz0/PQ==?="),
        ] {
            assert_eq!(
                to(name),
                format!("To: {expected} <a@example.com>\r\n"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_long_quoted_string_is_folded_at_its_spaces() {
        let name = ["Dr."; 30].join(" ");
        let text = to(&name);
        assert!(text.split("\r\n").all(|line| line.len() <= 76), "{text}");
        let unfolded = text.replace("\r\n ", " ");
        assert_eq!(
            unfolded.trim_end(),
            format!("To: \"{name}\" <a@example.com>")
        );
    }

    #[test]
    fn a_list_is_folded_between_its_addresses() {
        let addresses: Vec<_> = (0..500)
            .map(|n| format!("family.member{n}@mail.clinic.example"))
            .collect();
        let mut out = Vec::new();
        let entries = addresses.iter().map(|address| Entry {
            name: None,
            address,
        });
        push(&mut out, "Cc", entries);
        let text = String::from_utf8(out).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
        let unfolded = text.replace("\r\n ", " ");
        assert_eq!(unfolded.trim_end(), format!("Cc: {}", addresses.join(", ")));
    }

    #[test]
    fn the_longest_address_has_a_line_of_its_own() {
        let address = format!("{}@{}.example", "l".repeat(64), "d".repeat(180));
        let mut out = Vec::new();
        push(
            &mut out,
            "Reply-To",
            [Entry {
                name: Some("A B"),
                address: &address,
            }],
        );
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("Reply-To: A B\r\n <{address}>\r\n"));
    }

    #[test]
    fn a_mailbox_for_an_api_is_one_line() {
        let entry = |name| Entry {
            name,
            address: "a@example.com",
        };
        assert_eq!(mailbox(entry(None)), "a@example.com");
        assert_eq!(mailbox(entry(Some("A, B"))), "\"A, B\" <a@example.com>");
        let long = mailbox(entry(Some(&"Ä".repeat(128))));
        assert!(
            !long.contains(['\r', '\n']) && long.ends_with("?= <a@example.com>"),
            "{long}"
        );
    }
}
