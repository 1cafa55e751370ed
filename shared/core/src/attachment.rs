//! The files of a communication.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::{
    calendar::{self, Method},
    json::{Object, read},
    media_type::{CalendarParameter, MediaType},
    visible::is_file_name,
};

/// Attachments of one request.
pub const MAX_ATTACHMENTS: usize = 20;
/// Bytes of all attachments together, decoded. Lambda takes 6 MB per synchronous invocation
/// (AWS Lambda quotas), of which base64 leaves three quarters.
pub const MAX_ATTACHMENT_BYTES: usize = 4_000_000;
/// Bytes of the name of an attachment or a medium: the limit of file systems.
pub const MAX_FILENAME: usize = 255;
/// Characters of the id of an inline image.
pub const MAX_CONTENT_ID: usize = 128;

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
    /// The content id by which the HTML shows it (`cid:…`), of an inline file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_id: Option<ContentId>,
}

impl Attachment {
    /// The METHOD that a calendar has in its content and not in its media type, which must have the same (RFC 6047 section
    /// 2.4); `None` for other files.
    pub fn method_to_add(&self) -> Option<String> {
        let missing = self.content_type.is_calendar()
            && self
                .content_type
                .parameter(CalendarParameter::Method)
                .is_none();
        missing
            .then(|| calendar::method_of(&self.content))
            .flatten()
    }
}

/// The id of an inline image (RFC 2392): after `cid:` in the HTML, and between angle brackets in Content-ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContentId(String);

/// The text is no id of an inline image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be what stands after cid: in the HTML, such as logo@clinic.example: 1 to {} letters, digits, '.', '_', '-', '+', '=' \
     or '$', and at most one '@'; neither '@' nor '.' at an end or beside another of the two",
    MAX_CONTENT_ID
)]
pub struct ContentIdError;

impl ContentId {
    /// Reads an id: one or two dot-atoms (RFC 5322 section 3.6.4). What would have to be escaped in a URL, or in a header, is in none.
    pub fn parse(text: &str) -> Result<Self, ContentIdError> {
        let is_part = |part: &str| {
            part.split('.').all(|atom| {
                !atom.is_empty()
                    && atom
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"_-+=$".contains(&byte))
            })
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
            let is_image = |known: &MediaType| known.essence().starts_with("image/");
            if content_type.as_ref().is_some_and(|known| !is_image(known)) {
                item.problem(
                    "contentId",
                    "is for images: a file of another type is attached without one",
                );
            }
        }
        if let (Some(content_type), Some(content)) = (&content_type, &content)
            && content_type.is_calendar()
        {
            check_calendar(&mut item, content_type, content);
        }
        item.finish();
        let content = content?;
        total += content.len();
        let filename = filename?;
        Some(Attachment {
            content_type: known_type(&filename, content_type?, &content),
            filename,
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

/// The type of a file, of which some programs only know the name: a calendar with a METHOD has to be sent as one, or no mail
/// program takes it for an invitation (RFC 6047 section 2.4).
fn known_type(filename: &str, posted: MediaType, content: &[u8]) -> MediaType {
    let is_unspecific = matches!(
        posted.essence(),
        "application/octet-stream" | "application/ics"
    );
    let is_named = filename
        .rsplit_once('.')
        .is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("ics"));
    let is_calendar = is_unspecific
        && is_named
        && calendar::method_of(content).is_some()
        && std::str::from_utf8(content).is_ok();
    if is_calendar {
        MediaType::calendar()
    } else {
        posted
    }
}

fn check_calendar(item: &mut Object<'_>, content_type: &MediaType, content: &[u8]) {
    let says = content_type.parameter(CalendarParameter::Method);
    let has = calendar::method_of(content);
    if says.is_some_and(|says| has.is_none_or(|has| !says.eq_ignore_ascii_case(&has))) {
        item.problem(
            "contentType",
            "must have the same method as the calendar's METHOD, and none without it (RFC 5545 section 3.7.2)",
        );
    }
    if matches!(calendar::find_method(content), Method::Unusable) {
        item.problem(
            "content",
            "must have a METHOD of 1 to 64 letters, digits and '-' or none, and its first component within 65,536 bytes",
        );
    }
    if std::str::from_utf8(content).is_err() {
        item.problem(
            "content",
            "must be UTF-8, as calendars are (RFC 5545 section 3.1.4)",
        );
    }
}

pub(crate) fn parse_filename(text: &str) -> Result<String, String> {
    let ok = text.len() <= MAX_FILENAME && is_file_name(text);
    if ok {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be a file name of 1 to {MAX_FILENAME} bytes without '/', '\\', line separators or \
             characters that control or turn text"
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
            submission.request.content.attachments[0].method_to_add()
        };
        assert_eq!(method("text/calendar", REQUEST).as_deref(), Some("REQUEST"));
        assert_eq!(method("text/calendar; method=request", REQUEST), None);
        assert!(
            posted(&json!([{"filename": "a.ics", "contentType": "text/calendar", "content": ""}]))
                .is_ok()
        );
        assert_eq!(method("text/plain", REQUEST), None);
        let in_a_component = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nMETHOD:REQUEST\nEND:VEVENT\n";
        assert_eq!(method("text/calendar", in_a_component), None);
        assert_eq!(
            pointers(&json!([file("text/calendar; method=CANCEL", REQUEST)])),
            ["/attachments/0/contentType"]
        );
    }

    #[test]
    fn a_method_that_the_calendar_has_not_is_refused() {
        for content in [
            "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n",
            "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nMETHOD:REQUEST\r\n",
            "BEGIN:VCALENDAR\r\nMETHOD:CAN\r\n CEL\r\n",
        ] {
            assert_eq!(
                pointers(&json!([file("text/calendar; method=REQUEST", content)])),
                ["/attachments/0/contentType"],
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_calendar_is_in_utf_8() {
        let latin_1 = BASE64_STANDARD.encode(b"BEGIN:VCALENDAR\r\nX-A:Gr\xf6\xdfe\r\n");
        for content_type in ["text/calendar", "text/calendar; charset=utf-8"] {
            assert_eq!(
                pointers(
                    &json!([{"filename": "a.ics", "contentType": content_type, "content": latin_1}])
                ),
                ["/attachments/0/content"],
                "{content_type}"
            );
        }
        assert!(posted(&json!([file("text/calendar; charset=utf-8", "X-A:Größe")])).is_ok());
        assert!(
            posted(&json!([{"filename": "a.csv", "contentType": "text/csv", "content": latin_1}]))
                .is_ok()
        );
    }

    #[test]
    fn names_that_turn_the_text_around_them_are_refused() {
        for odd in [
            "\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}", "\u{2028}", "\u{2029}",
        ] {
            let mut named = file("application/pdf", "x");
            named["filename"] = json!(format!("bill{odd}fdp.exe"));
            assert_eq!(
                pointers(&json!([named])),
                ["/attachments/0/filename"],
                "{odd:?}"
            );
            let content_type = format!("text/calendar; name=\"bill{odd}fdp.exe\"");
            assert_eq!(
                pointers(&json!([file(&content_type, REQUEST)])),
                ["/attachments/0/contentType"]
            );
        }
        for wrong in ["a/b.ics", "a\\\\b.ics"] {
            let content_type = format!("text/calendar; name=\"{wrong}\"");
            assert_eq!(
                pointers(&json!([file(&content_type, REQUEST)])),
                ["/attachments/0/contentType"]
            );
        }
        // Marks that a name in Arabic or Hebrew has, and joiners, turn nothing.
        let mut named = file("application/pdf", "x");
        named["filename"] = json!("חשבון\u{200f} 3.pdf");
        assert!(posted(&json!([named])).is_ok());
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
            "", "<logo>", "a b", "a@b@c", "@a", "a@", "a\r\nb", "ü", "a%20b", "a>b", "..", ".a",
            "a.", "a..b", "a@b.", "a@.b", "a@b..c",
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
