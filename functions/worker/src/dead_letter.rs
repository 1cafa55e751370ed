//! What is said of a message that goes to the dead-letter queue.

use comms_core::{
    ClinicId, DeadLetterReason,
    dead_letter::{SOURCE_MESSAGE_ID, is_message_id},
};
use comms_runtime::sqs::SqsMessage;
use jiff::Timestamp;

/// What is known of a message that moves to the dead-letter queue, without its content.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    /// Why.
    pub reason: DeadLetterReason,
    /// The fields that are wrong, as JSON pointers made of known names.
    pub fields: String,
    /// Whose it is.
    pub clinic: Option<&'a ClinicId>,
    /// The time.
    pub at: Timestamp,
}

/// SQS's id of a message, or of the message that it was before it was a dead letter.
pub(crate) fn source_message_id(message: &SqsMessage) -> &str {
    message
        .attribute(SOURCE_MESSAGE_ID)
        .filter(|id| is_message_id(id))
        .unwrap_or(&message.message_id)
}
