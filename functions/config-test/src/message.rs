//! The message that a test sends: fixed texts, marked as a test. Nothing of it but the address and a
//! `WhatsApp` template is the caller's, so that it is of no use for saying something to somebody.

use std::sync::Arc;

use comms_adapters::Message;
use comms_core::{
    DeliveryId,
    request::{Content, Target, Template},
};
use uuid::Uuid;

/// What is sent through each entry, each time as a delivery of its own.
pub(crate) struct TestMessage {
    to: Target,
    content: Arc<Content>,
}

impl TestMessage {
    /// A message to `to`: on `WhatsApp` the template, where there is one.
    pub(crate) fn new(to: Target, template: Option<Template>) -> Self {
        let content = Content {
            title: Some("[TEST] clinic-comms settings".to_owned()),
            body: Some(
                "This is a test message. It was sent because somebody with access to the clinic's \
                 communication settings tested them. The settings work. No answer is needed."
                    .to_owned(),
            ),
            html: Some(
                "<p><strong>This is a test message.</strong></p><p>It was sent because somebody with \
                 access to the clinic's communication settings tested them. The settings work. No \
                 answer is needed.</p>"
                    .to_owned(),
            ),
            template,
            ..Content::default()
        };
        Self {
            to,
            content: Arc::new(content),
        }
    }

    /// The message as a delivery that no other entry has sent.
    pub(crate) fn for_one_entry(&self) -> Message {
        Message {
            delivery: DeliveryId::of_uuid(Uuid::new_v4()),
            target: self.to.clone(),
            content: self.content.clone(),
            reply_to: None,
        }
    }
}
