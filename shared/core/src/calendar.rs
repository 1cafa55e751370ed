//! What a calendar (RFC 5545) says of itself.

use std::borrow::Cow;

/// Bytes of a calendar in which its METHOD is looked for. It is a property of the calendar itself (RFC 5545 section 3.7.2),
/// which stands before the first component.
const MAX_METHOD_BYTES: usize = 65_536;
/// Characters of a METHOD that is taken over.
const MAX_METHOD: usize = 64;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The METHOD of a calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Method {
    /// There is none.
    Absent,
    /// It has the form that RFC 5545 section 3.7.2 gives it.
    Usable(String),
    /// It has another form, or none of the calendar's components was reached where it is looked for.
    Unusable,
}

/// The METHOD of a calendar, if it has one of the form that RFC 5545 section 3.7.2 gives it.
pub(crate) fn method_of(content: &[u8]) -> Option<String> {
    match find_method(content) {
        Method::Usable(method) => Some(method),
        Method::Absent | Method::Unusable => None,
    }
}

/// Looks for the METHOD of a calendar.
pub(crate) fn find_method(content: &[u8]) -> Method {
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
    let mut depth = 0;
    for line in unfolded(&content[..content.len().min(MAX_METHOD_BYTES)]) {
        if value_of(&line, b"BEGIN").is_some() {
            depth += 1;
        }
        if depth > 1 {
            return Method::Absent;
        }
        if let Some(value) = value_of(&line, b"METHOD") {
            let value = std::str::from_utf8(value).unwrap_or_default().trim();
            let is_token = (1..=MAX_METHOD).contains(&value.len())
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            return if is_token {
                Method::Usable(value.to_owned())
            } else {
                Method::Unusable
            };
        }
    }
    if depth > 0 && content.len() > MAX_METHOD_BYTES {
        return Method::Unusable;
    }
    Method::Absent
}

/// The content lines: a line that begins with a space or a tab continues the one before (RFC 5545 section 3.1).
fn unfolded(content: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut lines = content
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .peekable();
    std::iter::from_fn(move || {
        let mut line = Cow::Borrowed(lines.next()?);
        while let Some(more) =
            lines.next_if(|next| next.starts_with(b" ") || next.starts_with(b"\t"))
        {
            line.to_mut().extend_from_slice(&more[1..]);
        }
        Some(line)
    })
}

/// The value of a line of this name, behind its parameters, whose quoted values may have colons in them.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let is_named =
        start.eq_ignore_ascii_case(name) && rest.first().is_some_and(|byte| b":;".contains(byte));
    if !is_named {
        return None;
    }
    let mut is_quoted = false;
    let colon = rest.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b':' && !is_quoted
    })?;
    Some(&rest[colon + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendars_method_is_found_where_rfc_5545_lets_it_stand() {
        for (content, expected) in [
            (
                "BEGIN:VCALENDAR\r\nMETHOD:REQ\r\n UEST\r\n",
                Some("REQUEST"),
            ),
            (
                "BEGIN:VCALENDAR\r\nMET\r\n\tHOD:REQUEST\r\n",
                Some("REQUEST"),
            ),
            ("BEGIN:VCALENDAR\nMETHOD;X-A=1:REQUEST\n", Some("REQUEST")),
            (
                "BEGIN:VCALENDAR\nMETHOD;X-A=\"b:c;d\":REQUEST\n",
                Some("REQUEST"),
            ),
            (
                "\u{feff}BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\n",
                Some("REQUEST"),
            ),
            (
                "\u{feff}BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nMETHOD:REQUEST\r\n",
                None,
            ),
            ("BEGIN:VCALENDAR\nBEG\n IN:VEVENT\nMETHOD:REQUEST\n", None),
            ("BEGIN:VCALENDAR\nMETHODS:REQUEST\n", None),
            ("BEGIN:VCALENDAR\nMETHOD;X-A=1\n", None),
            (
                "BEGIN:VCALENDAR\nX-LONG:\u{fc}\n \u{fc}\nMETHOD:REQUEST\n",
                Some("REQUEST"),
            ),
        ] {
            assert_eq!(
                method_of(content.as_bytes()).as_deref(),
                expected,
                "{content:?}"
            );
        }
        let long = format!(
            "BEGIN:VCALENDAR\nX-A:{}\nMETHOD:REQUEST\n",
            "x\n ".repeat(MAX_METHOD_BYTES / 3)
        );
        assert_eq!(method_of(long.as_bytes()), None);
    }
}
