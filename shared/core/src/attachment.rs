//! The files of a communication.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::{
    json::{Object, read},
    media_type::{CalendarParameter, MediaType},
};

/// Attachments of one request.
pub const MAX_ATTACHMENTS: usize = 20;
/// Bytes of all attachments together, decoded. Lambda takes 6 MB per synchronous invocation
/// (AWS Lambda quotas), of which base64 leaves three quarters.
pub const MAX_ATTACHMENT_BYTES: usize = 4_000_000;
/// Bytes of the name of an attachment, or of a medium: what file systems take.
pub const MAX_FILENAME: usize = 255;
/// Characters of the id of an inline image.
pub const MAX_CONTENT_ID: usize = 128;
/// Lines of a calendar in which its METHOD is looked for. It is a property of the calendar itself (RFC 5545 section 3.7.2),
/// which stands before the first component.
const MAX_METHOD_LINES: usize = 1_000;

/// A file that goes with an e-mail.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The name under which the recipient sees it.
    pub filename: String,
    /// Its media type.
    pub content_type: MediaType,
    /// The bytes.
    #[serde(serialize_with = "as_base64")]
    pub content: Arc<[u8]>,
    /// By what the HTML shows it (`cid:…`), of a file that is shown in the HTML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_id: Option<ContentId>,
}

impl Attachment {
    /// The METHOD that a calendar has in its content and not in its media type, which must have the same (RFC 6047 section
    /// 2.4); `None` for other files.
    pub fn method_to_add(&self) -> Option<&str> {
        let missing = self.content_type.is_calendar()
            && self
                .content_type
                .parameter(CalendarParameter::Method)
                .is_none();
        missing.then(|| method_of(&self.content)).flatten()
    }
}

/// The id of an inline image (RFC 2392): what stands after `cid:` in the HTML, and in Content-ID between angle brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContentId(String);

/// The text is no id of an inline image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be what stands after cid: in the HTML, such as logo@clinic.example: 1 to {} letters, digits, '.', '_', '-', '+', '=' \
     or '$', and at most one '@', not at an end",
    MAX_CONTENT_ID
)]
pub struct ContentIdError;

impl ContentId {
    /// Reads an id. What would have to be escaped in a URL, or in a header, is in none.
    pub fn parse(text: &str) -> Result<Self, ContentIdError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-+=$".contains(&byte))
        };
        let is_id = text.split_once('@').map_or_else(
            || is_part(text),
            |(left, right)| is_part(left) && is_part(right),
        );
        if is_id && text.len() <= MAX_CONTENT_ID {
            Ok(Self(text.to_owned()))
        } else {
            Err(ContentIdError)
        }
    }

    /// The id, without `cid:` and angle brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The METHOD of a calendar, if it has one of the form that RFC 5545 section 3.7.2 gives it.
fn method_of(content: &[u8]) -> Option<&str> {
    let mut depth = 0;
    for line in content.split(|byte| *byte == b'\n').take(MAX_METHOD_LINES) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let begins = line
            .get(..6)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"BEGIN:"));
        depth += usize::from(begins);
        if depth > 1 {
            return None;
        }
        if line
            .get(..7)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"METHOD:"))
        {
            let value = std::str::from_utf8(&line[7..]).ok()?.trim();
            let is_token = !value.is_empty()
                && value.len() <= 64
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            return is_token.then_some(value);
        }
    }
    None
}

/// Reads `attachments`; `has_html` is whether there is HTML in which an image can be shown.
pub(crate) fn read_attachments(object: &mut Object<'_>, has_html: bool) -> Vec<Attachment> {
    let mut total = 0_usize;
    let mut ids: Vec<ContentId> = Vec::new();
    let attachments = object.objects("attachments", MAX_ATTACHMENTS, |_, mut item| {
        let filename = item.required("filename", read::parsed(parse_filename));
        let content_type = item.required("contentType", read::parsed(MediaType::parse));
        let content = item.required("content", |value| {
            BASE64_STANDARD
                .decode(read::string(value)?)
                .map_err(|_| "must be base64 (RFC 4648 section 4, with padding)".to_owned())
        });
        let content_id = item.optional("contentId", read::parsed(ContentId::parse));
        if let Some(id) = &content_id {
            if !has_html {
                item.problem(
                    "contentId",
                    "needs html in which the image is shown, as <img src=\"cid:…\">",
                );
            } else if ids.contains(id) {
                item.problem(
                    "contentId",
                    "is the id of an earlier attachment; give each its own",
                );
            }
            ids.push(id.clone());
        }
        if let (Some(content_type), Some(content)) = (&content_type, &content) {
            let says = content_type.parameter(CalendarParameter::Method);
            let has = method_of(content);
            if let (Some(says), Some(has)) = (says, has)
                && !says.eq_ignore_ascii_case(has)
            {
                item.problem(
                    "contentType",
                    "must have the same method as the calendar's METHOD (RFC 6047 section 2.4)",
                );
            }
        }
        item.finish();
        let content = content?;
        total += content.len();
        Some(Attachment {
            filename: filename?,
            content_type: content_type?,
            content: content.into(),
            content_id,
        })
    });
    if total > MAX_ATTACHMENT_BYTES {
        object.problem(
            "attachments",
            format!("must be at most {MAX_ATTACHMENT_BYTES} bytes together, decoded"),
        );
    }
    attachments
}

pub(crate) fn parse_filename(text: &str) -> Result<String, String> {
    let ok = (1..=MAX_FILENAME).contains(&text.len())
        && !text
            .chars()
            .any(|c| c.is_control() || c == '/' || c == '\\');
    if ok {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be a file name of 1 to {MAX_FILENAME} bytes without '/', '\\' or control characters"
        ))
    }
}

fn as_base64<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Problems, request::Submission};

    fn posted(attachments: &Value) -> Result<Submission, Problems> {
        let request = json!({"title": "t", "html": "<img src=\"cid:logo\">", "channels": ["email"],
            "recipients": [{"email": "a@example.com"}], "attachments": attachments});
        Submission::parse(request.to_string().as_bytes())
    }

    fn file(content_type: &str, content: &str) -> Value {
        json!({"filename": "a.ics", "contentType": content_type, "content": BASE64_STANDARD.encode(content)})
    }

    fn pointers(attachments: &Value) -> Vec<String> {
        let problems = posted(attachments).unwrap_err();
        problems
            .as_slice()
            .iter()
            .map(|problem| problem.pointer.clone())
            .collect()
    }

    const REQUEST: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nmethod:REQUEST\r\nBEGIN:VEVENT\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

    #[test]
    fn multipart_and_parameters_of_other_types_are_refused() {
        for content_type in [
            "multipart/mixed",
            "text/html; charset=utf-8",
            "text/calendar; boundary=x",
        ] {
            assert_eq!(
                pointers(&json!([file(content_type, "x")])),
                ["/attachments/0/contentType"],
                "{content_type}"
            );
        }
    }

    #[test]
    fn a_calendars_method_is_that_of_its_content() {
        let method = |content_type: &str, content: &str| {
            let submission = posted(&json!([file(content_type, content)])).unwrap();
            submission.request.content.attachments[0]
                .method_to_add()
                .map(str::to_owned)
        };
        assert_eq!(method("text/calendar", REQUEST).as_deref(), Some("REQUEST"));
        assert_eq!(method("text/calendar; method=request", REQUEST), None);
        assert_eq!(method("text/plain", REQUEST), None);
        let in_a_component = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nMETHOD:REQUEST\nEND:VEVENT\n";
        assert_eq!(method("text/calendar", in_a_component), None);
        assert_eq!(method("text/calendar", "METHOD:RE QUEST\r\nBcc: x"), None);
        assert_eq!(
            pointers(&json!([file("text/calendar; method=CANCEL", REQUEST)])),
            ["/attachments/0/contentType"]
        );
    }

    #[test]
    fn an_inline_image_needs_html_and_an_id_of_its_own() {
        let inline = |id: &str| {
            let mut file = file("image/png", "x");
            file["contentId"] = json!(id);
            file
        };
        assert!(posted(&json!([inline("logo"), inline("logo@clinic.example")])).is_ok());
        assert_eq!(
            pointers(&json!([inline("logo"), inline("logo")])),
            ["/attachments/1/contentId"]
        );
        for wrong in [
            "", "<logo>", "a b", "a@b@c", "@a", "a@", "a\r\nb", "ü", "a%20b", "a>b",
        ] {
            assert_eq!(
                pointers(&json!([inline(wrong)])),
                ["/attachments/0/contentId"],
                "{wrong:?}"
            );
        }
        let text_only = json!({"title": "t", "body": "b", "channels": ["email"],
            "recipients": [{"email": "a@example.com"}], "attachments": [inline("logo")]});
        let problems = Submission::parse(text_only.to_string().as_bytes()).unwrap_err();
        assert_eq!(problems.as_slice()[0].pointer, "/attachments/0/contentId");
    }

    #[test]
    fn what_is_accepted_survives_the_queue() {
        let mut image = file("image/png", "x");
        image["contentId"] = json!("logo");
        let submission = posted(&json!([
            file("text/calendar; method=REQUEST; name=\"a b.ics\"", REQUEST),
            image
        ]))
        .unwrap();
        let again = Submission::parse(submission.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(again, submission);
    }
}
