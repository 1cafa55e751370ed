//! What the worker asks and notes of messages that were received before.

use jiff::{SignedDuration, Timestamp};

use super::Pipeline;
use crate::ledger::{LedgerError, MessageStart};

/// Who has had a message first so recently cannot have ended its process with it: SQS keeps it invisible for 190 s then
/// (`VisibilityTimeout` in `template.yaml`), and returns sooner only what was answered for.
const MIN_CRASH_TIME: SignedDuration = SignedDuration::from_secs(170);

impl Pipeline {
    /// Whether a message that was delivered first at that time, in milliseconds of Unix time, may have ended its process.
    pub fn may_have_crashed(&self, first_received_at: Option<i64>) -> bool {
        let first = first_received_at.and_then(|time| Timestamp::from_millisecond(time).ok());
        first.is_none_or(|first| self.clock.now().duration_since(first) >= MIN_CRASH_TIME)
    }

    /// Notes that a message of the queue is begun, unless an earlier start of it has not ended.
    pub async fn begin_message(&self, message_id: &str) -> Result<MessageStart, LedgerError> {
        self.ledger
            .begin_message(message_id, self.clock.now())
            .await
    }

    /// Notes that a message is begun although an earlier start of it has not ended.
    pub async fn begin_again(&self, message_id: &str) -> Result<(), LedgerError> {
        self.ledger.begin_again(message_id, self.clock.now()).await
    }

    /// Notes that the handling of a message came to an end.
    pub async fn end_message(&self, message_id: &str) -> Result<(), LedgerError> {
        self.ledger.end_message(message_id, self.clock.now()).await
    }
}
