//! Strings of structured header fields (RFC 9651 section 3.3.3): `"abc"`.

/// What stands in the quotes; `None` where `text` is no such string, or has parameters after it.
pub fn parse_string(text: &str) -> Option<String> {
    let mut characters = text.strip_prefix('"')?.chars();
    let mut string = String::new();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => string.push(characters.next().filter(|c| matches!(c, '"' | '\\'))?),
            c @ ' '..='~' => string.push(c),
            _ => return None,
        }
    }
    characters.next().is_none().then_some(string)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_are_read_as_rfc_9651_writes_them() {
        for (text, string) in [
            (r#""abc""#, Some("abc")),
            (r#""""#, Some("")),
            (r#""a b""#, Some("a b")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            ("abc", None),
            (r#""abc"#, None),
            (r#"abc""#, None),
            (r#"""#, None),
            (r#""a\""#, None),
            (r#""a\b""#, None),
            (r#""a"b"#, None),
            (r#""a";v=1"#, None),
            (r#""a" "#, None),
            ("\"ä\"", None),
            ("\"a\tb\"", None),
        ] {
            assert_eq!(parse_string(text).as_deref(), string, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_printable_string_reads_back(string in "[ -~]{0,40}") {
            let written = format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(parse_string(&written), Some(string));
        }
    }
}
