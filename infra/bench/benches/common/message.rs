//! The message of the benchmarks of providers: 2.2 KB of text and HTML.

use std::sync::Arc;

use comms_adapters::Message;
use comms_core::{
    DeliveryId, EmailAddress, Mailbox,
    request::{Content, Target},
};

/// The sender of every message.
pub(crate) fn clinic() -> Mailbox {
    mailbox("appointments@clinic.example", "Clinic")
}

/// The content of every message.
pub(crate) fn appointment() -> Arc<Content> {
    let line = "Your appointment with Dr. Müller is on Monday, 7 December, at 10:00 in room 4. ";
    let html = format!("<html><body><p>{}</p></body></html>", line.repeat(12));
    Arc::new(Content {
        title: Some("Appointment confirmed".into()),
        body: Some(line.repeat(10)),
        html: Some(html),
        ..Content::default()
    })
}

/// The message with this number.
pub(crate) fn message(number: usize, content: &Arc<Content>) -> Message {
    Message {
        delivery: DeliveryId::parse(&format!("{number:032x}")).unwrap(),
        target: Target::Email(mailbox("patient@example.com", "A. Patient")),
        content: content.clone(),
        reply_to: None,
    }
}

fn mailbox(address: &str, name: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: Some(name.into()),
    }
}
