//! What the worker asks and notes of messages that were received before.

use super::Pipeline;
use crate::ledger::{LedgerError, MessageStart};

impl Pipeline {
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
