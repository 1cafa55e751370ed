//! E-mail messages in MIME form, for the providers that take them so: SMTP, and SES with files.
//!
//! lettre writes the fields of the header, and files. How the parts are put together is written here: lettre's builder
//! reads the header that it has just written twice again, and makes up boundaries one character at a time, which was
//! half of what a message costs.

mod text;

use comms_core::{EmailAddress, Mailbox, ProviderError, request};
use lettre::{
    Address,
    message::{
        Attachment, Body, Mailbox as LettreMailbox, Mailboxes,
        header::{
            Cc, ContentTransferEncoding, ContentType, Date, From, Headers, MessageId, ReplyTo,
            Subject, To,
        },
    },
};

use self::text::Text;
use crate::message::{Message, invalid};

/// A message in its final form.
pub(crate) struct Mail {
    /// Its `Message-ID`, in angle brackets.
    pub(crate) message_id: String,
    /// Header and body. Receivers of blind copies are not in it.
    pub(crate) bytes: Vec<u8>,
}

/// Puts `message` into MIME form (RFC 2045), lines ended by CRLF.
pub(crate) fn build(message: &Message, sender: &Mailbox) -> Result<Mail, ProviderError> {
    build_naming(message, sender, &message.content.cc)
}

/// The same with only these receivers of copies in its header.
pub(crate) fn build_naming<'a>(
    message: &Message,
    sender: &Mailbox,
    copies: impl IntoIterator<Item = &'a EmailAddress>,
) -> Result<Mail, ProviderError> {
    let content = &message.content;
    let texts = [("plain", &content.body), ("html", &content.html)];
    let texts = texts
        .into_iter()
        .filter_map(|(subtype, text)| Some((subtype, text.as_ref()?)));
    let texts = texts
        .map(|(subtype, text)| Ok((subtype, Text::encode(text)?)))
        .collect::<Result<Vec<_>, ProviderError>>()?;
    if texts.is_empty() {
        return Err(invalid("An e-mail needs a body."));
    }
    let message_id = format!("<{}@{}>", message.delivery, sender.address.domain());
    let mut bytes = header(message, sender, copies, &message_id)?;
    bytes.reserve(texts.iter().map(|(_, text)| text.bytes.len() + 256).sum());
    let mixed = Multipart::new("mixed", message);
    let alternative = Multipart::new("alternative", message);
    let (has_files, has_both) = (!content.attachments.is_empty(), texts.len() > 1);
    if has_files {
        mixed.begin(&mut bytes);
        mixed.next(&mut bytes);
    }
    if has_both {
        alternative.begin(&mut bytes);
    }
    for (subtype, text) in &texts {
        if has_both {
            alternative.next(&mut bytes);
        }
        push_text(&mut bytes, subtype, text);
    }
    if has_both {
        alternative.end(&mut bytes);
    }
    for attachment in &content.attachments {
        mixed.next(&mut bytes);
        push_file(&mut bytes, attachment)?;
    }
    if has_files {
        mixed.end(&mut bytes);
    }
    Ok(Mail { message_id, bytes })
}

/// The fields of the header (RFC 5322 section 3.6), up to those that describe the body.
fn header<'a>(
    message: &Message,
    sender: &Mailbox,
    copies: impl IntoIterator<Item = &'a EmailAddress>,
    message_id: &str,
) -> Result<Vec<u8>, ProviderError> {
    let named = |mailbox: &Mailbox| {
        let mailbox = LettreMailbox::new(mailbox.name.clone(), address(&mailbox.address));
        Mailboxes::new().with(mailbox)
    };
    let title = message.content.title.clone().unwrap_or_default();
    let mut fields = Headers::new();
    fields.set(From::from(named(sender)));
    fields.set(To::from(named(message.mailbox()?)));
    fields.set(Subject::from(title));
    fields.set(MessageId::from(message_id.to_owned()));
    fields.set(Date::now());
    let copies = copies
        .into_iter()
        .map(|copy| LettreMailbox::new(None, address(copy)));
    let copies: Mailboxes = copies.collect();
    if copies.iter().next().is_some() {
        fields.set(Cc::from(copies));
    }
    if let Some(reply_to) = &message.reply_to {
        let reply_to = LettreMailbox::new(None, address(reply_to));
        fields.set(ReplyTo::from(Mailboxes::new().with(reply_to)));
    }
    Ok(format!("{fields}MIME-Version: 1.0\r\n").into_bytes())
}

/// Several parts in one (RFC 2046 section 5.1).
struct Multipart {
    subtype: &'static str,
    boundary: String,
}

impl Multipart {
    /// No part has the boundary in it, for the `=_` (RFC 2045 section 6.7): none is sent as it is that has these, and
    /// no encoding makes them.
    fn new(subtype: &'static str, message: &Message) -> Self {
        Self {
            subtype,
            boundary: format!("=_{subtype}_{}", message.delivery),
        }
    }

    fn begin(&self, bytes: &mut Vec<u8>) {
        let Self { subtype, boundary } = self;
        let fields = [
            "Content-Type: multipart/",
            subtype,
            ";\r\n boundary=\"",
            boundary,
            "\"\r\n\r\n",
        ];
        push(bytes, &fields);
    }

    fn next(&self, bytes: &mut Vec<u8>) {
        push(bytes, &["--", &self.boundary, "\r\n"]);
    }

    fn end(&self, bytes: &mut Vec<u8>) {
        push(bytes, &["--", &self.boundary, "--\r\n"]);
    }
}

fn push_text(bytes: &mut Vec<u8>, subtype: &str, text: &Text) {
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

fn push_file(bytes: &mut Vec<u8>, file: &request::Attachment) -> Result<(), ProviderError> {
    let content_type = ContentType::parse(&file.content_type)
        .map_err(|_| invalid("An attachment's content type is none."))?;
    let part = Attachment::new(file.filename.clone()).body(attachment_body(file)?, content_type);
    bytes.extend_from_slice(&part.formatted());
    Ok(())
}

fn push(bytes: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
    }
}

/// A file's bytes in base64, whatever they are. Left to choose, lettre sends bytes that look like text
/// as they are: line feeds alone, which servers refuse, or take for the end of the message.
fn attachment_body(attachment: &request::Attachment) -> Result<Body, ProviderError> {
    Body::new_with_encoding(attachment.content.to_vec(), ContentTransferEncoding::Base64)
        .map_err(|_| invalid("An attachment can not be put into MIME form."))
}

/// The address has been checked by the same rules that lettre has, and stricter ones.
fn address(address: &EmailAddress) -> Address {
    Address::new_dangerous(address.local(), address.domain())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use comms_core::{
        DeliveryId,
        request::{Content, Target},
    };
    use proptest::prelude::*;

    use super::*;

    fn message(title: &str, body: Option<&str>, html: Option<&str>) -> Message {
        Message {
            delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
            target: Target::Email(Mailbox {
                address: EmailAddress::parse("patient@example.com").unwrap(),
                name: Some("A. Patient".into()),
            }),
            content: Arc::new(Content {
                title: Some(title.into()),
                body: body.map(Into::into),
                html: html.map(Into::into),
                ..Content::default()
            }),
            reply_to: Some(EmailAddress::parse("desk@clinic.example").unwrap()),
        }
    }

    fn sender() -> Mailbox {
        Mailbox {
            address: EmailAddress::parse("appointments@clinic.example").unwrap(),
            name: Some("Clinic, \"Name\"".into()),
        }
    }

    fn built(message: &Message) -> String {
        String::from_utf8(build(message, &sender()).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_message_has_the_headers_and_both_bodies_text_first() {
        let text = built(&message(
            "Termin bestätigt",
            Some("See you."),
            Some("<p>See you.</p>"),
        ));
        for line in [
            "From: =?utf-8?b?Q2xpbmljLCAiTmFtZSI=?= <appointments@clinic.example>\r\n",
            "To: \"A. Patient\" <patient@example.com>\r\n",
            "Reply-To: desk@clinic.example\r\n",
            "Message-ID: <abababababababababababababababab@clinic.example>\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: multipart/alternative;",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(text.is_ascii());
        assert!(text.find("text/plain").unwrap() < text.find("text/html").unwrap());
        assert!(text.contains("\r\nDate: "));
    }

    #[test]
    fn a_message_without_html_is_plain_and_one_with_attachments_is_mixed() {
        let plain = built(&message("t", Some("See you."), None));
        assert!(plain.contains("Content-Type: text/plain") && !plain.contains("multipart"));
        let mut with_file = message("t", Some("See you."), Some("<p>x</p>"));
        let mut content = (*with_file.content).clone();
        content.attachments.push(request::Attachment {
            filename: "a.ics".into(),
            content_type: "text/calendar".into(),
            content: b"BEGIN:VCALENDAR".as_slice().into(),
        });
        with_file.content = Arc::new(content);
        let mixed = built(&with_file);
        assert!(mixed.contains("multipart/mixed") && mixed.contains("multipart/alternative"));
        assert!(
            mixed.contains("Content-Disposition: attachment; filename=\"a.ics\""),
            "{mixed}"
        );
    }

    #[test]
    fn no_line_feed_or_carriage_return_goes_out_alone() {
        let smuggled = "text\n.\nMAIL FROM:<x@example.com>\rmore\r\nend\r";
        let mut message = message("t", Some(smuggled), Some(smuggled));
        let mut content = (*message.content).clone();
        content.attachments.push(request::Attachment {
            filename: "a.csv".into(),
            content_type: "text/csv".into(),
            content: smuggled.as_bytes().into(),
        });
        message.content = Arc::new(content);
        let text = built(&message);
        let without_line_ends = text.replace("\r\n", "");
        assert!(!without_line_ends.contains(['\r', '\n']), "{text:?}");
        assert!(text.contains("Content-Transfer-Encoding: base64"));
    }

    proptest! {
        #[test]
        fn no_content_adds_a_header(title in "[^\\p{C}]{1,80}", name in "[^\\p{C}]{0,40}", body in ".{1,80}") {
            let mut message = message(&title, Some(&body), None);
            message.target = Target::Email(Mailbox {
                address: EmailAddress::parse("patient@example.com").unwrap(),
                name: Some(name).filter(|name| !name.is_empty()),
            });
            let text = built(&message);
            let head = text.split("\r\n\r\n").next().unwrap();
            let names: Vec<_> = head
                .split("\r\n")
                .filter(|line| !line.starts_with([' ', '\t']))
                .map(|line| line.split(':').next().unwrap())
                .collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), names.len(), "{}", head);
            prop_assert!(names.iter().all(|name| [
                "From", "To", "Subject", "Message-ID", "Date", "Reply-To", "MIME-Version",
                "Content-Type", "Content-Transfer-Encoding",
            ].contains(name)), "{}", head);
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
        }
    }
}
