//! The message attributes of a dead letter: what the worker says of it, and what its sender said, with its types.

use std::collections::BTreeMap;

use aws_sdk_sqs::{error::BuildError, primitives::Blob, types::MessageAttributeValue};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use comms_core::dead_letter::{
    CLINIC_ID, DEAD_AT, DROPPED, FIELDS, MAX_ATTRIBUTES, REASON, SOURCE_MESSAGE_ID, SOURCE_QUEUE,
};
use comms_delivery::{
    OUTCOMES_MAC,
    queue_claim::{ACCEPTANCE_MAC, ACCEPTED_AS, ENDED_DELIVERIES, PAYLOAD_HASH},
};
use comms_runtime::sqs::{MessageAttribute, SqsMessage};

use crate::dead_letter::{DeadLetter, source_message_id};

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    /// `String`, `Number` or `Binary`, with or without a label after a dot.
    data_type: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

impl Attribute {
    fn text(value: impl Into<String>) -> Self {
        Self {
            data_type: "String".to_owned(),
            value: Value::Text(value.into()),
        }
    }

    /// An attribute of an event. `None` where it has no value that SQS would take.
    fn of_sender(attribute: &MessageAttribute) -> Option<Self> {
        let value = match (&attribute.string_value, &attribute.binary_value) {
            (Some(text), _) if !text.is_empty() => Value::Text(text.clone()),
            (_, Some(encoded)) => Value::Bytes(BASE64_STANDARD.decode(encoded).ok()?),
            (Some(_) | None, None) => return None,
        };
        Some(Self {
            data_type: attribute.data_type.clone(),
            value,
        })
    }

    /// Bytes of its type and its value, which SQS counts as part of the message.
    pub(crate) fn size(&self) -> usize {
        let value = match &self.value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        };
        self.data_type.len() + value
    }

    pub(crate) fn build(self) -> Result<MessageAttributeValue, BuildError> {
        let built = MessageAttributeValue::builder().data_type(self.data_type);
        match self.value {
            Value::Text(text) => built.string_value(text),
            Value::Bytes(bytes) => built.binary_value(Blob::new(bytes)),
        }
        .build()
    }
}

/// What is said of a dead letter, and what its sender said of it, [`MAX_ATTRIBUTES`] at most. Those of the sender for which
/// there is no room are named in [`DROPPED`]. What `send` gave a message comes first: without it, a message that is put back
/// would be another one.
pub(crate) fn of_dead_letter(
    message: &SqsMessage,
    letter: &DeadLetter<'_>,
) -> BTreeMap<String, Attribute> {
    let own = [
        (REASON, letter.reason.as_str().to_owned()),
        (FIELDS, letter.fields.clone()),
        (
            CLINIC_ID,
            letter.clinic.map(ToString::to_string).unwrap_or_default(),
        ),
        (SOURCE_QUEUE, message.queue().to_owned()),
        (SOURCE_MESSAGE_ID, source_message_id(message).to_owned()),
        (DEAD_AT, letter.at.to_string()),
    ];
    let mut attributes: BTreeMap<_, _> = own
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), Attribute::text(value)))
        .collect();
    let ours = [
        ACCEPTED_AS,
        PAYLOAD_HASH,
        ACCEPTANCE_MAC,
        ENDED_DELIVERIES,
        OUTCOMES_MAC,
    ];
    let mut of_sender: Vec<_> = message
        .message_attributes
        .iter()
        .filter(|(name, _)| !attributes.contains_key(*name) && *name != DROPPED)
        .filter_map(|(name, attribute)| Some((name, Attribute::of_sender(attribute)?)))
        .collect();
    of_sender.sort_by_key(|(name, _)| (!ours.contains(&name.as_str()), *name));
    let mut room = MAX_ATTRIBUTES.saturating_sub(attributes.len());
    if of_sender.len() > room {
        // One for the names.
        room = room.saturating_sub(1);
    }
    let dropped = of_sender.split_off(room.min(of_sender.len()));
    attributes.extend(
        of_sender
            .into_iter()
            .map(|(name, attribute)| (name.clone(), attribute)),
    );
    if !dropped.is_empty() {
        let names: Vec<_> = dropped.iter().map(|(name, _)| name.as_str()).collect();
        attributes.insert(DROPPED.to_owned(), Attribute::text(names.join(" ")));
    }
    attributes
}
