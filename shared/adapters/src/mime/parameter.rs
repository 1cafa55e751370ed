//! Parameters of Content-Type and Content-Disposition (RFC 2045 section 5.1, RFC 2183), and in their extended form
//! (RFC 2231) where plain ASCII cannot say them.

use super::{
    encoded_word::{HEX_DIGITS, is_mistakable, is_printable},
    fold::Field,
};

/// Characters of a value that goes as one quoted string: so many have room on a line beside the longest of our names.
const MAX_QUOTED: usize = 60;
/// Characters of one section of an extended value, on its line beside `filename*10*=UTF-8''` and a semicolon.
const SECTION: usize = 50;

/// Writes `; name="value"`. A value that is not short printable ASCII is written in the extended form, in sections where
/// it is long.
pub(super) fn push(field: &mut Field<'_>, name: &str, value: &str) {
    if is_plain(value) {
        push_quoted(field, name, value);
    } else {
        push_extended(field, name, value);
    }
}

/// Writes a file name: where it is not short printable ASCII, in the extended form, and in ASCII for readers who do not
/// know that one (RFC 6266 appendix D advises both). The extended form comes first, because some readers take the first.
pub(super) fn push_filename(field: &mut Field<'_>, filename: &str) {
    push(field, "filename", filename);
    if !is_plain(filename) {
        push_quoted(field, "filename", &fallback(filename));
    }
}

/// Whether a quoted string can say it so that every reader understands: none with escapes in it.
fn is_plain(value: &str) -> bool {
    value.len() <= MAX_QUOTED
        && is_printable(value)
        && !is_mistakable(value)
        && !value.contains(['"', '\\'])
}

fn push_quoted(field: &mut Field<'_>, name: &str, value: &str) {
    field.append(b";");
    field.token(format!("{name}=\"{value}\"").as_bytes());
}

/// RFC 2231 section 4.1: `name*0*=UTF-8''…; name*1*=…`, or `name*=UTF-8''…` where one section is enough.
fn push_extended(field: &mut Field<'_>, name: &str, value: &str) {
    let encoded: String = value.chars().map(percent_encoded).collect();
    if encoded.len() <= SECTION {
        field.append(b";");
        field.token(format!("{name}*=UTF-8''{encoded}").as_bytes());
        return;
    }
    let mut sections = Vec::new();
    for character in value.chars().map(percent_encoded) {
        match sections.last_mut() {
            Some(section) if String::len(section) + character.len() <= SECTION => {
                section.push_str(&character);
            }
            Some(_) | None => sections.push(character),
        }
    }
    for (number, section) in sections.iter().enumerate() {
        let charset = if number == 0 { "UTF-8''" } else { "" };
        field.append(b";");
        field.token(format!("{name}*{number}*={charset}{section}").as_bytes());
    }
}

/// A character as it is where it is an `attribute-char` of RFC 2231 that every reader takes (RFC 5987's `attr-char`),
/// else its bytes.
fn percent_encoded(character: char) -> String {
    if character.is_ascii_alphanumeric() || "!#$&+-.^_`|~".contains(character) {
        return character.to_string();
    }
    let mut bytes = [0; 4];
    let mut encoded = String::with_capacity(12);
    for byte in character.encode_utf8(&mut bytes).bytes() {
        encoded.push('%');
        for nibble in [byte >> 4, byte & 0xF] {
            encoded.push(char::from(HEX_DIGITS[usize::from(nibble)]));
        }
    }
    encoded
}

/// The name in ASCII: `_` for every run of other characters. Whole, however long: two names that differ at their ends have to
/// differ for these readers too, and at most 255 characters have room on a line, if not on one of 78.
fn fallback(filename: &str) -> String {
    let mut ascii = String::with_capacity(filename.len());
    for character in filename.chars() {
        let is_kept = matches!(character, ' '..='~') && !"\"\\%=?".contains(character);
        if is_kept {
            ascii.push(character);
        } else if !ascii.ends_with('_') {
            ascii.push('_');
        }
    }
    ascii.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(filename: &str) -> String {
        let mut out = Vec::new();
        let mut field = Field::begin(&mut out, "Content-Disposition");
        field.token(b"attachment");
        push_filename(&mut field, filename);
        field.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_short_ascii_name_is_a_quoted_string_alone() {
        assert_eq!(
            disposition("a b.pdf"),
            "Content-Disposition: attachment; filename=\"a b.pdf\"\r\n"
        );
        assert_eq!(
            disposition("a\"b.pdf"),
            "Content-Disposition: attachment; filename*=UTF-8''a%22b.pdf;\r\n filename=\"a_b.pdf\"\r\n"
        );
    }

    #[test]
    fn any_other_name_has_a_fallback_in_ascii() {
        assert_eq!(
            disposition("Überweisung für Müller.pdf"),
            "Content-Disposition: attachment;\r\n filename*=UTF-8''%C3%9Cberweisung%20f%C3%BCr%20M%C3%BCller.pdf;\r\n \
             filename=\"_berweisung f_r M_ller.pdf\"\r\n"
        );
        let lookalike = disposition("=?utf-8?Q?a?=.pdf");
        assert!(
            lookalike.contains("filename*=UTF-8''%3D%3Futf-8%3FQ%3Fa%3F%3D.pdf;"),
            "{lookalike}"
        );
        assert!(
            lookalike.contains("filename=\"_utf-8_Q_a_.pdf\""),
            "{lookalike}"
        );
    }

    #[test]
    fn a_name_that_is_ascii_is_whole_in_its_fallback() {
        let name = |end: &str| format!("{}{end}.pdf", "x".repeat(80));
        for end in ["1", "2"] {
            let header = disposition(&name(end));
            assert!(
                header.contains(&format!("filename=\"{}\"", name(end))),
                "{header}"
            );
        }
        let longest = disposition(&format!("{}.pdf", "x y ".repeat(62)));
        assert!(longest.split("\r\n").all(|line| line.len() <= 998));
    }

    #[test]
    fn a_long_name_is_in_sections_that_cut_no_character() {
        for name in [
            "ü".repeat(126) + ".pdf",
            "x".repeat(251) + ".pdf",
            "😀".repeat(63),
        ] {
            let header = disposition(&name);
            assert!(
                header
                    .split("\r\n")
                    .all(|line| line.len() <= 78 || line.starts_with(" filename=\"")),
                "{header}"
            );
            let mut encoded = String::new();
            for parameter in header.split(';').skip(1) {
                let (attribute, value) = parameter.trim().split_once('=').unwrap();
                if attribute.ends_with('*') {
                    encoded.push_str(value.trim_start_matches("UTF-8''"));
                }
            }
            let decoded: String = percent_decoded(&encoded);
            assert_eq!(decoded, name);
        }
    }

    fn percent_decoded(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            if *first == b'%' {
                let digits = std::str::from_utf8(&after[..2]).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &after[2..];
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}
