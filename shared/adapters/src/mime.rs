//! E-mail messages in MIME form, for the providers that take them so: SMTP, and SES with files.

mod text;

use comms_core::{EmailAddress, Mailbox, ProviderError, request};
use lettre::{
    Address,
    address::Envelope,
    message::{
        Attachment, Body, Mailbox as LettreMailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType},
    },
};

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
    let recipient = message.mailbox()?;
    let malformed = "The message can not be put into MIME form.";
    let (from, to) = (address(&sender.address), address(&recipient.address));
    // It goes nowhere; without one lettre reads the header again, to make one.
    let envelope = Envelope::new(Some(from.clone()), vec![to.clone()]);
    let message_id = format!("<{}@{}>", message.delivery, sender.address.domain());
    let mut builder = lettre::Message::builder()
        .envelope(envelope.map_err(|_| invalid(malformed))?)
        .from(LettreMailbox::new(sender.name.clone(), from))
        .to(LettreMailbox::new(recipient.name.clone(), to))
        .subject(message.content.title.clone().unwrap_or_default())
        .message_id(Some(message_id.clone()))
        .date_now();
    for copy in copies {
        builder = builder.cc(LettreMailbox::new(None, address(copy)));
    }
    if let Some(reply_to) = &message.reply_to {
        builder = builder.reply_to(LettreMailbox::new(None, address(reply_to)));
    }
    let content = &message.content;
    let body = match (&content.body, &content.html) {
        (Some(plain), Some(html)) => Part::Multi(
            MultiPart::alternative()
                .singlepart(SinglePart::plain(text::body(plain)?))
                .singlepart(SinglePart::html(text::body(html)?)),
        ),
        (Some(plain), None) => Part::Single(SinglePart::plain(text::body(plain)?)),
        (None, Some(html)) => Part::Single(SinglePart::html(text::body(html)?)),
        (None, None) => return Err(invalid("An e-mail needs a body.")),
    };
    let whole = if content.attachments.is_empty() {
        match body {
            Part::Multi(part) => builder.multipart(part),
            Part::Single(part) => builder.singlepart(part),
        }
    } else {
        let mixed = MultiPart::mixed();
        let mut mixed = match body {
            Part::Multi(part) => mixed.multipart(part),
            Part::Single(part) => mixed.singlepart(part),
        };
        for attachment in &content.attachments {
            let content_type = ContentType::parse(&attachment.content_type)
                .map_err(|_| invalid("An attachment's content type is none."))?;
            mixed = mixed.singlepart(
                Attachment::new(attachment.filename.clone())
                    .body(attachment_body(attachment)?, content_type),
            );
        }
        builder.multipart(mixed)
    };
    let bytes = whole.map_err(|_| invalid(malformed))?.formatted();
    Ok(Mail { message_id, bytes })
}

/// A file's bytes in base64, whatever they are. Left to choose, lettre sends bytes that look like text
/// as they are: line feeds alone, which servers refuse, or take for the end of the message.
fn attachment_body(attachment: &request::Attachment) -> Result<Body, ProviderError> {
    Body::new_with_encoding(attachment.content.to_vec(), ContentTransferEncoding::Base64)
        .map_err(|_| invalid("An attachment can not be put into MIME form."))
}

enum Part {
    Multi(MultiPart),
    Single(SinglePart),
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
