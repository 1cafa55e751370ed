//! If-Match and If-None-Match (RFC 9110 section 13.1): a change is made to what its author has seen, or
//! not at all.

use comms_runtime::HttpProblem;
use lambda_http::http::{HeaderMap, HeaderName, StatusCode, header};

/// The conditions of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// Which condition does not hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The settings are at another version, or there are none.
    IfMatch,
    /// The settings are at this version, or there are some.
    IfNoneMatch,
}

impl From<Failed> for HttpProblem {
    fn from(failed: Failed) -> Self {
        let detail = match failed {
            Failed::IfMatch => {
                "If-Match names another version than the present one: somebody has changed or deleted the settings since. Read them again, and make the change to what they are now."
            }
            Failed::IfNoneMatch => {
                "If-None-Match names what is there: the settings exist already. Read them, and change them with If-Match."
            }
        };
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "The settings are at another version",
            detail,
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever is there.
    Any,
    /// One of these.
    These(Vec<EntityTag>),
}

#[derive(Debug, PartialEq, Eq)]
struct EntityTag {
    weak: bool,
    opaque: Vec<u8>,
}

impl Preconditions {
    /// Reads the conditions. One that cannot be read is 400: to pass over it would be to make a change
    /// that was not to be made.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, HttpProblem> {
        Ok(Self {
            if_match: tags(headers, &header::IF_MATCH)?,
            if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Whether they hold for the settings of version `present`; `None` where there are none. In the
    /// order of RFC 9110 section 13.2.2.
    pub(crate) fn check(&self, present: Option<u64>) -> Result<(), Failed> {
        let present = present.map(|number| number.to_string());
        let names_present = |tags: &Tags, weak_counts: bool| match (tags, &present) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(tags), Some(present)) => tags.iter().any(|tag| {
                (weak_counts || !tag.weak) && tag.opaque.as_slice() == present.as_bytes()
            }),
        };
        // Strong comparison for If-Match, weak for If-None-Match (sections 13.1.1 and 13.1.2).
        if let Some(tags) = &self.if_match
            && !names_present(tags, false)
        {
            return Err(Failed::IfMatch);
        }
        if let Some(tags) = &self.if_none_match
            && names_present(tags, true)
        {
            return Err(Failed::IfNoneMatch);
        }
        Ok(())
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, HttpProblem> {
    // Lines of one name are one list (RFC 9110 section 5.3).
    let lines: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(lambda_http::http::HeaderValue::as_bytes)
        .collect();
    if lines.is_empty() {
        return Ok(None);
    }
    parse(&lines.join(&b',')).map(Some).ok_or_else(|| {
        HttpProblem::new(
            StatusCode::BAD_REQUEST,
            "malformed_header",
            "A header cannot be read",
            format!(
                "{name} must be * or a list of entity tags as they came in ETag, with their quotation marks: \"3\""
            ),
        )
    })
}

/// Reads `*` or a list of entity tags (RFC 9110 section 8.8.3; empty elements as in section 5.6.1.2).
fn parse(value: &[u8]) -> Option<Tags> {
    if value.trim_ascii() == b"*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(Tags::These(tags));
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let text = quoted.strip_prefix(b"\"")?;
        let end = text.iter().position(|byte| *byte == b'"')?;
        let (opaque, after) = text.split_at(end);
        if !opaque
            .iter()
            .all(|byte| matches!(byte, 0x21..=0x7e | 0x80..))
        {
            return None;
        }
        tags.push(EntityTag {
            weak,
            opaque: opaque.to_vec(),
        });
        rest = after.strip_prefix(b"\"")?.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use lambda_http::http::HeaderValue;

    use super::*;

    fn conditions(lines: &[(HeaderName, &str)]) -> Result<Preconditions, HttpProblem> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Preconditions::of(&headers)
    }

    #[test]
    fn a_condition_holds_for_the_version_that_it_names() {
        // The condition, and whether it holds for no settings, version 1, version 3.
        for (name, value, holds) in [
            (header::IF_MATCH, "*", [false, true, true]),
            (header::IF_MATCH, "\"3\"", [false, false, true]),
            (header::IF_MATCH, "\"1\", \"3\"", [false, true, true]),
            (header::IF_MATCH, " ,\"1\",, \"7\" ,", [false, true, false]),
            (header::IF_MATCH, "W/\"3\"", [false, false, false]),
            (header::IF_MATCH, "W/\"3\", \"3\"", [false, false, true]),
            (header::IF_MATCH, "\"1,3\"", [false, false, false]),
            (header::IF_MATCH, "\"03\"", [false, false, false]),
            (header::IF_MATCH, "\"\"", [false, false, false]),
            (header::IF_NONE_MATCH, "*", [true, false, false]),
            (header::IF_NONE_MATCH, "\"3\"", [true, true, false]),
            (header::IF_NONE_MATCH, "W/\"3\"", [true, true, false]),
        ] {
            let conditions = conditions(&[(name.clone(), value)]).unwrap();
            let held = [None, Some(1), Some(3)].map(|present| conditions.check(present).is_ok());
            assert_eq!(held, holds, "{name}: {value}");
        }
        assert_eq!(conditions(&[]).unwrap().check(None), Ok(()));
    }

    #[test]
    fn lines_of_one_name_are_one_list_and_both_conditions_count() {
        let two = conditions(&[(header::IF_MATCH, "\"1\""), (header::IF_MATCH, "\"3\"")]).unwrap();
        assert_eq!(two.check(Some(3)), Ok(()));
        let both = conditions(&[
            (header::IF_MATCH, "\"1\""),
            (header::IF_NONE_MATCH, "\"3\""),
        ])
        .unwrap();
        assert_eq!(both.check(Some(3)), Err(Failed::IfMatch));
        assert_eq!(both.check(Some(1)), Ok(()));
    }

    #[test]
    fn what_is_no_list_of_entity_tags_is_refused() {
        for value in [
            "",
            " ",
            ",",
            "3",
            "\"3",
            "3\"",
            "w/\"3\"",
            "W/ \"3\"",
            "\"3\" \"4\"",
            "\"3\"x",
            "*, \"3\"",
            "\"a b\"",
            "**",
        ] {
            let error = conditions(&[(header::IF_MATCH, value)]).unwrap_err();
            assert_eq!(error.status(), 400, "{value}");
        }
    }
}
