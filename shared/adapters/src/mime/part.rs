//! The parts of a message (RFC 2045, RFC 2046): texts, files, and parts of parts.

use comms_core::{
    DeliveryId, ProviderError, attachment::Attachment, media_type::CalendarParameter,
};
use memchr::memmem;

use super::{
    fold::{Field, push_token},
    parameter,
    text::{self, Text},
};
use crate::message::Message;

/// Characters of a line of a message that is not encoded (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;
/// What a file is sent as that has no other type.
const BYTES: &str = "application/octet-stream";

/// Several parts in one (RFC 2046 section 5.1).
pub(super) struct Multipart {
    subtype: &'static str,
    boundary: String,
}

impl Multipart {
    /// No part has the boundary in it: no encoding makes its `=_` (RFC 2045 section 6.7), and no message is sent as it is
    /// that has the id of the delivery in it.
    pub(super) fn new(subtype: &'static str, message: &Message) -> Self {
        Self {
            subtype,
            boundary: format!("=_{subtype}_{}", message.delivery),
        }
    }

    /// Begins the parts; `root` is the type of the first one, which `multipart/related` names (RFC 2387 section 3.1).
    pub(super) fn begin(&self, bytes: &mut Vec<u8>, root: Option<&str>) {
        let Self { subtype, boundary } = self;
        push(bytes, &["Content-Type: multipart/", subtype, ";"]);
        if let Some(root) = root {
            push(bytes, &[" type=\"", root, "\";"]);
        }
        push(bytes, &["\r\n boundary=\"", boundary, "\"\r\n\r\n"]);
    }

    pub(super) fn next(&self, bytes: &mut Vec<u8>) {
        push(bytes, &["--", &self.boundary, "\r\n"]);
    }

    pub(super) fn end(&self, bytes: &mut Vec<u8>) {
        push(bytes, &["--", &self.boundary, "--\r\n"]);
    }
}

pub(super) fn push_text(bytes: &mut Vec<u8>, subtype: &str, text: &Text) {
    let fields = [
        "Content-Type: text/",
        subtype,
        "; charset=utf-8\r\nContent-Transfer-Encoding: ",
        text.encoding.name(),
        "\r\n\r\n",
    ];
    push(bytes, &fields);
    bytes.extend_from_slice(&text.bytes);
    bytes.extend_from_slice(b"\r\n");
}

/// A file in base64, whatever it is: what looks like text may have line feeds alone, which servers refuse, or take for the
/// end of the message. Only a message must not be encoded (RFC 2046 section 5.2.1).
pub(super) fn push_file(
    bytes: &mut Vec<u8>,
    file: &Attachment,
    delivery: &DeliveryId,
) -> Result<(), ProviderError> {
    let essence = file.content_type.essence();
    let message = (essence == "message/rfc822")
        .then(|| message_as_it_is(&file.content, delivery))
        .flatten();
    // What cannot go as it is goes as bytes, under its name.
    let is_hidden = essence.starts_with("message/") && message.is_none();
    let essence = if is_hidden { BYTES } else { essence };

    let mut field = Field::begin(bytes, "Content-Type");
    field.token(essence.as_bytes());
    push_parameters(&mut field, file);
    field.end();
    let mut field = Field::begin(bytes, "Content-Disposition");
    field.token(if file.content_id.is_some() {
        b"inline"
    } else {
        b"attachment"
    });
    parameter::push_filename(&mut field, &file.filename);
    field.end();
    if let Some(id) = &file.content_id {
        push_token(bytes, "Content-ID", &format!("<{}>", id.as_str()));
    }
    let (encoding, body) = match message {
        Some(message) => ("7bit", message),
        None => ("base64", text::base64(file.content.to_vec())?),
    };
    push(
        bytes,
        &["Content-Transfer-Encoding: ", encoding, "\r\n\r\n"],
    );
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"\r\n");
    Ok(())
}

/// The charset of a text, and what a calendar has beside it.
fn push_parameters(field: &mut Field<'_>, file: &Attachment) {
    let content_type = &file.content_type;
    // Without one, a text is US-ASCII (RFC 2046 section 4.1.2). Text that is not UTF-8 has an unknown encoding.
    let is_utf_8 = content_type.essence().starts_with("text/")
        && content_type.parameter(CalendarParameter::Charset).is_none()
        && !file.content.is_ascii()
        && std::str::from_utf8(&file.content).is_ok();
    if is_utf_8 {
        push_charset(field);
    }
    for (name, value) in content_type.parameters() {
        match name {
            CalendarParameter::Charset => push_charset(field),
            CalendarParameter::Method | CalendarParameter::Component => {
                field.append(b";");
                field.token(format!("{}={value}", name.as_str()).as_bytes());
            }
            CalendarParameter::Name => parameter::push(field, name.as_str(), value),
        }
    }
    if let Some(method) = file.method_to_add() {
        field.append(b";");
        field.token(format!("method={method}").as_bytes());
    }
}

fn push_charset(field: &mut Field<'_>) {
    field.append(b";");
    field.token(b"charset=utf-8");
}

/// A message that goes into another as it is, its lines ended by CRLF: one that has a header, is ASCII in lines that are
/// not too long, and has none of the boundaries of this `delivery` in it.
fn message_as_it_is(content: &[u8], delivery: &DeliveryId) -> Option<Vec<u8>> {
    let first = content
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let name = &first[..memchr::memchr(b':', first)?];
    let is_field = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    if !is_field || memmem::find(content, delivery.as_str().as_bytes()).is_some() {
        return None;
    }
    let mut plain = Vec::with_capacity(content.len() + content.len() / 16);
    for line in content
        .strip_suffix(b"\n")
        .unwrap_or(content)
        .split(|byte| *byte == b'\n')
    {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_plain =
            line.len() <= MAX_LINE && line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        if !is_plain {
            return None;
        }
        if !plain.is_empty() {
            plain.extend_from_slice(b"\r\n");
        }
        plain.extend_from_slice(line);
    }
    Some(plain)
}

fn push(bytes: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use comms_core::{attachment::ContentId, media_type::MediaType};

    use super::*;

    fn file(content_type: &str, content: &[u8]) -> Attachment {
        Attachment {
            filename: "a.txt".to_owned(),
            content_type: MediaType::parse(content_type).unwrap(),
            content: content.into(),
            content_id: None,
        }
    }

    fn written(file: &Attachment) -> String {
        let mut bytes = Vec::new();
        push_file(
            &mut bytes,
            file,
            &DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        )
        .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn content_type(file: &Attachment) -> String {
        let part = written(file);
        let end = part.find("\r\nContent-Disposition").unwrap();
        part[..end]
            .trim_start_matches("Content-Type: ")
            .replace("\r\n", "")
    }

    #[test]
    fn a_text_says_its_charset_where_it_is_not_ascii() {
        for (given, content, expected) in [
            ("text/plain", "abc".as_bytes(), "text/plain"),
            ("text/csv", "Größe".as_bytes(), "text/csv; charset=utf-8"),
            ("text/csv", b"Gr\xf6\xdfe".as_slice(), "text/csv"),
            ("application/json", "Größe".as_bytes(), "application/json"),
            (
                "text/calendar; charset=UTF-8",
                "Größe".as_bytes(),
                "text/calendar; charset=utf-8",
            ),
        ] {
            assert_eq!(content_type(&file(given, content)), expected);
        }
    }

    #[test]
    fn a_calendar_says_its_method() {
        let calendar = b"BEGIN:VCALENDAR\r\nMETHOD:CANCEL\r\nBEGIN:VEVENT\r\n".as_slice();
        assert_eq!(
            content_type(&file("text/calendar", calendar)),
            "text/calendar; method=CANCEL"
        );
        let given = "text/calendar; method=CANCEL; component=VEVENT; name=\"über.ics\"";
        assert_eq!(
            content_type(&file(given, calendar)),
            "text/calendar; method=CANCEL; component=VEVENT; name*=UTF-8''%C3%BCber.ics"
        );
    }

    #[test]
    fn a_message_goes_as_it_is_or_as_bytes() {
        let message = "From: a@example.com\nSubject: x\n\n.\nSee you.\r\n";
        assert_eq!(
            written(&file("message/rfc822", message.as_bytes())),
            "Content-Type: message/rfc822\r\nContent-Disposition: attachment; filename=\"a.txt\"\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\nFrom: a@example.com\r\nSubject: x\r\n\r\n.\r\nSee you.\r\n"
        );
        // Boundaries of others, and quoted-printable text, go as they are.
        for other in ["A: b\n\n--=_mixed_abc--\n", "A: b\n\nx=_=3D\n"] {
            let part = written(&file("message/rfc822", other.as_bytes()));
            assert!(part.contains("Content-Type: message/rfc822\r\n"), "{part}");
        }
        for (given, content) in [
            ("message/rfc822", "no header\n".to_owned()),
            ("message/rfc822", "A: ü\n".to_owned()),
            ("message/rfc822", "A: b\rc\n".to_owned()),
            ("message/rfc822", format!("A: {}\n", "x".repeat(MAX_LINE))),
            (
                "message/rfc822",
                format!("A: b\n\n--=_mixed_{}--\n", "ab".repeat(16)),
            ),
            ("message/rfc822", format!("A: b\n\n=_{}\n", "ab".repeat(16))),
            ("message/rfc822", String::new()),
            ("message/partial", message.to_owned()),
            ("message/external-body", message.to_owned()),
        ] {
            let part = written(&file(given, content.as_bytes()));
            assert!(
                part.starts_with("Content-Type: application/octet-stream\r\n"),
                "{content:?}: {part}"
            );
            assert!(
                part.contains("Content-Transfer-Encoding: base64\r\n"),
                "{part}"
            );
        }
    }

    #[test]
    fn parameters_begin_a_line_where_they_do_not_fit() {
        let long = format!("text/{}", "x".repeat(70));
        for (given, content) in [
            (long.as_str(), "Größe"),
            (&format!("text/{}", "x".repeat(127)), "Größe"),
            (
                "text/calendar; component=VEVENT; method=A-METHOD-THAT-IS-AS-LONG; charset=utf-8",
                "METHOD:A-METHOD-THAT-IS-AS-LONG",
            ),
        ] {
            let part = written(&file(given, content.as_bytes()));
            let head = part.split("\r\n\r\n").next().unwrap();
            for line in head.split("\r\n") {
                assert!(
                    line.len() <= 78 || line.split_whitespace().count() == 1,
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn an_inline_image_has_its_id() {
        let mut image = file("image/png", b"x");
        image.content_id = Some(ContentId::parse("logo@clinic.example").unwrap());
        let part = written(&image);
        assert!(part.contains("Content-Disposition: inline; filename=\"a.txt\"\r\nContent-ID: <logo@clinic.example>\r\n"), "{part}");
    }
}
