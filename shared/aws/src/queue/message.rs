//! A message on its way to a queue.

use std::collections::HashMap;

use aws_sdk_sqs::{
    error::BuildError,
    types::{
        MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    },
};

use super::QueueError;

/// A message to send.
#[derive(Debug, Clone, Default)]
pub struct OutgoingMessage {
    pub(super) body: String,
    pub(super) group: Option<String>,
    pub(super) attributes: HashMap<String, MessageAttributeValue>,
    pub(super) trace: Option<String>,
}

pub(super) type SystemAttributes =
    HashMap<MessageSystemAttributeNameForSends, MessageSystemAttributeValue>;

impl OutgoingMessage {
    /// A message with this body.
    pub fn new(body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// Sets the message group: on a fair queue, the tenant.
    #[must_use]
    pub fn with_group(mut self, group: Option<impl Into<String>>) -> Self {
        self.group = group.map(Into::into);
        self
    }

    /// Sets the X-Ray trace header.
    #[must_use]
    pub fn with_trace(mut self, trace: Option<impl ToString>) -> Self {
        self.trace = trace.map(|trace| trace.to_string());
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: &str, value: MessageAttributeValue) -> Self {
        self.attributes.insert(name.to_owned(), value);
        self
    }

    /// Bytes of the body, which SQS counts together with the attributes.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The attributes; `None` for none, which SQS takes in no other form.
    pub(super) fn non_empty_attributes(&self) -> Option<HashMap<String, MessageAttributeValue>> {
        Some(self.attributes.clone()).filter(|attributes| !attributes.is_empty())
    }

    /// The attributes of the system that it is sent with.
    pub(super) fn system_attributes(&self) -> Result<Option<SystemAttributes>, BuildError> {
        let Some(trace) = &self.trace else {
            return Ok(None);
        };
        // It takes precedence over the header of the HTTP request (X-Ray developer guide, "Amazon SQS and AWS X-Ray").
        let value = MessageSystemAttributeValue::builder()
            .data_type("String")
            .string_value(trace)
            .build()?;
        let name = MessageSystemAttributeNameForSends::AwsTraceHeader;
        Ok(Some(HashMap::from([(name, value)])))
    }
}

/// A message attribute of type `String`.
pub fn text_attribute(value: &str) -> Result<MessageAttributeValue, QueueError> {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
        .map_err(|_| QueueError::not_built(super::SEND))
}
