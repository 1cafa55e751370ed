//! Media types of attachments (RFC 6838 section 4.2), with the parameters that a calendar's has (RFC 5545 section 8.1).

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::visible::is_file_name;

/// Characters of the type, and of the subtype, of a media type (RFC 6838 section 4.2).
pub const MAX_MEDIA_TYPE_NAME: usize = 127;
/// Characters of the value of a parameter of a media type: a file name is the longest of them.
pub const MAX_MEDIA_TYPE_PARAMETER: usize = 255;

/// Why a text is not the media type of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MediaTypeError {
    /// Not `type/subtype`.
    #[error(
        "must be a media type such as application/pdf, of at most {} characters before and after the '/'",
        MAX_MEDIA_TYPE_NAME
    )]
    Name,
    /// `multipart/…`.
    #[error(
        "must not be multipart: a file is one part; attach each part by itself, or application/octet-stream"
    )]
    Multipart,
    /// A parameter of another type than `text/calendar`.
    #[error("must be without parameters: only text/calendar has some")]
    Parameters,
    /// A parameter that is not one of a calendar's, is there twice, or has no value of its form.
    #[error(
        "must have, for text/calendar, only the parameters charset (utf-8), method and component (letters, digits and '-') \
         and name (a file name of at most {} characters), each once",
        MAX_MEDIA_TYPE_PARAMETER
    )]
    Parameter,
}

/// A media type that an attachment may have, in lower case. `multipart/…` is none: its parts would need a boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    parameters: Vec<(CalendarParameter, String)>,
}

/// A parameter of `text/calendar` (RFC 5545 section 8.1), and `name`, which is older than Content-Disposition and still written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarParameter {
    /// UTF-8, which is what a calendar has without one as well.
    Charset,
    /// What the recipient is to do with it, such as `REQUEST`.
    Method,
    /// What it has in it, such as `VEVENT`.
    Component,
    /// The name of the file.
    Name,
}

impl CalendarParameter {
    const ALL: [Self; 4] = [Self::Charset, Self::Method, Self::Component, Self::Name];

    /// The name in a header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charset => "charset",
            Self::Method => "method",
            Self::Component => "component",
            Self::Name => "name",
        }
    }

    fn takes(self, value: &str) -> bool {
        match self {
            Self::Charset => value.eq_ignore_ascii_case("utf-8"),
            Self::Method | Self::Component => {
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
                (1..=MAX_MEDIA_TYPE_NAME).contains(&value.len()) && value.bytes().all(is_token)
            }
            Self::Name => {
                let length = value.chars().count();
                (1..=MAX_MEDIA_TYPE_PARAMETER).contains(&length) && is_file_name(value)
            }
        }
    }
}

impl MediaType {
    /// Reads a media type.
    pub fn parse(text: &str) -> Result<Self, MediaTypeError> {
        let (essence, rest) = text
            .split_once(';')
            .map_or((text, None), |(essence, rest)| (essence, Some(rest)));
        // A blank stands before the semicolon in no example of RFC 2045, and in some programs' output.
        let essence = if rest.is_some() {
            essence.trim_end()
        } else {
            essence
        };
        let is_name = |part: &str| {
            (1..=MAX_MEDIA_TYPE_NAME).contains(&part.len())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        let is_type = essence
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype));
        if !is_type {
            return Err(MediaTypeError::Name);
        }
        let essence = essence.to_ascii_lowercase();
        if essence.starts_with("multipart/") {
            return Err(MediaTypeError::Multipart);
        }
        let parameters = match rest {
            None => Vec::new(),
            Some(_) if essence != CALENDAR => return Err(MediaTypeError::Parameters),
            Some(rest) => parse_parameters(rest).ok_or(MediaTypeError::Parameter)?,
        };
        Ok(Self {
            essence,
            parameters,
        })
    }

    /// `text/calendar` without parameters.
    pub(crate) fn calendar() -> Self {
        Self {
            essence: CALENDAR.to_owned(),
            parameters: Vec::new(),
        }
    }

    /// `type/subtype` in lower case.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// Whether it is `text/calendar`.
    pub fn is_calendar(&self) -> bool {
        self.essence == CALENDAR
    }

    /// What stands behind it, in the order in which it was given.
    pub fn parameters(&self) -> impl Iterator<Item = (CalendarParameter, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: CalendarParameter) -> Option<&str> {
        self.parameters()
            .find_map(|(found, value)| (found == name).then_some(value))
    }
}

const CALENDAR: &str = "text/calendar";

/// Reads `name=value; name="value"`; `None` for anything else.
fn parse_parameters(text: &str) -> Option<Vec<(CalendarParameter, String)>> {
    let mut parameters: Vec<(CalendarParameter, String)> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let mut names = CalendarParameter::ALL.into_iter();
        let name = names.find(|known| known.as_str().eq_ignore_ascii_case(name.trim()))?;
        let (value, after) = parse_value(after)?;
        if !name.takes(&value) || parameters.iter().any(|(earlier, _)| *earlier == name) {
            return None;
        }
        parameters.push((name, value));
        rest = match after.trim_start() {
            "" => "",
            after => after.strip_prefix(';')?.trim_start(),
        };
    }
    Some(parameters)
}

/// A quoted string, or the text before the next semicolon, and the rest.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(';').unwrap_or(text.len()));
        let value = value.trim_end();
        let is_token = !value.is_empty()
            && !value.contains([
                '"', '\\', ' ', '\t', '=', ',', '(', ')', '<', '>', '@', '/', '?', ':', '[', ']',
            ]);
        return is_token.then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            character => value.push(character),
        }
    }
    None
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.essence)?;
        for (name, value) in self.parameters() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(f, "; {}=\"{value}\"", name.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_type_is_two_names_in_any_case() {
        assert_eq!(
            MediaType::parse("Application/PDF").unwrap().essence(),
            "application/pdf"
        );
        for text in [
            "",
            "text",
            "text/",
            "/plain",
            "te xt/plain",
            "text/plain ",
            "a/b/c",
            "text/pl\r\nain",
        ] {
            assert_eq!(
                MediaType::parse(text),
                Err(MediaTypeError::Name),
                "{text:?}"
            );
        }
        for text in [
            "multipart/mixed",
            "Multipart/Related",
            "multipart/mixed; boundary=x",
        ] {
            assert_eq!(
                MediaType::parse(text),
                Err(MediaTypeError::Multipart),
                "{text}"
            );
        }
    }

    #[test]
    fn only_a_calendar_has_parameters_and_only_its_own() {
        let calendar = MediaType::parse("text/calendar; charset=UTF-8; Method=REQUEST;component=VEVENT; name=\"a; \\\"b\\\".ics\"").unwrap();
        assert_eq!(
            calendar.parameter(CalendarParameter::Method),
            Some("REQUEST")
        );
        assert_eq!(
            calendar.parameter(CalendarParameter::Name),
            Some("a; \"b\".ics")
        );
        assert!(calendar.is_calendar());
        for text in [
            "text/html; charset=utf-8",
            "text/plain;",
            "application/pdf; name=a.pdf",
        ] {
            assert_eq!(
                MediaType::parse(text),
                Err(MediaTypeError::Parameters),
                "{text}"
            );
        }
        for text in [
            "text/calendar; charset=latin1",
            "text/calendar; method",
            "text/calendar; method=",
            "text/calendar; method=A B",
            "text/calendar; method=A; method=B",
            "text/calendar; boundary=x",
            "text/calendar; name=\"a",
            "text/calendar; name=\"a\r\nBcc: x\"",
            "text/calendar; name=\"a/b.ics\"",
            "text/calendar; name=\"a\u{202e}b.ics\"",
            "text/calendar; method=\"A\" x",
            "text/calendar; method=RÉQUEST",
        ] {
            assert_eq!(
                MediaType::parse(text),
                Err(MediaTypeError::Parameter),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_again_as_the_same(text in "text/calendar(; ?(charset=utf-8|method=[A-Z]{1,8}|component=\"VEVENT\"|name=\"[^\\p{C}\"\\\\]{1,20}\")){0,3}|[a-z]{1,5}/[a-z+.]{1,9}|.{0,30}") {
            if let Ok(media_type) = MediaType::parse(&text) {
                prop_assert_eq!(MediaType::parse(&media_type.to_string()), Ok(media_type));
            }
        }
    }
}
