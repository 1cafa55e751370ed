use std::sync::Arc;

use comms_core::{
    DeliveryId,
    attachment::ContentId,
    media_type::MediaType,
    request::{Content, Target},
};

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
    String::from_utf8(build(message, &sender(), Feedback::Named).unwrap().bytes).unwrap()
}

#[test]
fn a_message_has_the_headers_and_both_bodies_text_first() {
    let text = built(&message(
        "Termin bestätigt",
        Some("See you."),
        Some("<p>See you.</p>"),
    ));
    for line in [
        "From: \"Clinic, \\\"Name\\\"\" <appointments@clinic.example>\r\n",
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
    content.attachments.push(Attachment {
        filename: "a.ics".into(),
        content_type: MediaType::parse("text/calendar").unwrap(),
        content: b"BEGIN:VCALENDAR".as_slice().into(),
        content_id: None,
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
fn feedback_id_is_left_to_a_provider_that_writes_it() {
    let message = message("t", Some("See you."), None);
    assert!(built(&message).contains("\r\nFeedback-ID: uncategorized:email:cliniccomms\r\n"));
    let mail = build(&message, &sender(), Feedback::ByProvider).unwrap();
    assert!(
        !String::from_utf8(mail.bytes)
            .unwrap()
            .contains("Feedback-ID")
    );
}

#[test]
fn html_alone_has_a_text_made_from_it() {
    let text = built(&message(
        "t",
        None,
        Some("<style>p{}</style><p>Your code: <b>481&nbsp;516</b></p>"),
    ));
    assert!(text.contains("multipart/alternative"), "{text}");
    assert!(text.contains("\r\n\r\nYour code: 481 516\r\n--"), "{text}");
}

#[test]
fn a_text_of_blanks_alone_is_none() {
    let text = built(&message("t", Some(" \r\n\t"), Some("<p>481516</p>")));
    assert!(text.contains("\r\n\r\n481516\r\n--"), "{text}");
}

#[test]
fn an_inline_image_is_related_to_the_html_and_no_file() {
    let mut message = message("t", Some("See you."), Some("<img src=\"cid:logo\">"));
    let mut content = (*message.content).clone();
    content.attachments.push(Attachment {
        filename: "logo.png".into(),
        content_type: MediaType::parse("image/png").unwrap(),
        content: b"x".as_slice().into(),
        content_id: ContentId::parse("logo").ok(),
    });
    message.content = Arc::new(content);
    let text = built(&message);
    let order = [
        "multipart/alternative",
        "text/plain",
        "multipart/related; type=\"text/html\"",
        "text/html",
        "Content-ID: <logo>",
    ];
    let found: Vec<_> = order.iter().map(|part| text.find(part).unwrap()).collect();
    assert!(found.is_sorted() && !text.contains("mixed"), "{text}");
}

#[test]
fn no_line_feed_or_carriage_return_goes_out_alone() {
    let smuggled = "text\n.\nMAIL FROM:<x@example.com>\rmore\r\nend\r";
    let mut message = message("t", Some(smuggled), Some(smuggled));
    let mut content = (*message.content).clone();
    content.attachments.push(Attachment {
        filename: "a.csv".into(),
        content_type: MediaType::parse("text/csv").unwrap(),
        content: smuggled.as_bytes().into(),
        content_id: None,
    });
    message.content = Arc::new(content);
    let text = built(&message);
    let without_line_ends = text.replace("\r\n", "");
    assert!(!without_line_ends.contains(['\r', '\n']), "{text:?}");
    assert!(text.contains("Content-Transfer-Encoding: base64"));
}
