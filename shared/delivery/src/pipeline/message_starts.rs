//! What the worker asks and notes of messages that were received before.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_aws::TableError;
use jiff::{SignedDuration, Timestamp};

use super::{Pipeline, time_limits::MIN_START_DURATION};
use crate::ledger::{Ledger, MessageStart};

/// Who has had a message first so recently cannot have ended its process with it: SQS keeps it invisible for 190 s then
/// (`VisibilityTimeout` in `template.yaml`), and returns sooner only what was answered for.
const MIN_CRASH_DURATION: SignedDuration = SignedDuration::from_secs(170);

/// How long the note of a start is tried. The messages of the batch wait for it.
const START_NOTE_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether a message can be begun: its start can be noted, and its deliveries have the time that they need to be
/// started.
pub fn has_time_to_begin(deadline: Deadline) -> bool {
    deadline.remaining() >= MIN_START_DURATION + START_NOTE_TIMEOUT
}

impl Pipeline {
    /// Whether a message that was delivered first at that time, in milliseconds of Unix time, may have ended its process.
    pub fn may_have_crashed(&self, first_received_at: Option<i64>) -> bool {
        let first = first_received_at.and_then(|time| Timestamp::from_millisecond(time).ok());
        first.is_none_or(|first| self.clock.now().duration_since(first) >= MIN_CRASH_DURATION)
    }

    /// Notes that a message of the queue is begun, unless an earlier start of it has not ended. Tried for 500 ms, and not
    /// beyond `deadline`.
    pub async fn begin_message(
        &self,
        message_id: &str,
        deadline: Deadline,
    ) -> Result<MessageStart, TableError> {
        let (ledger, now) = self.starts_by(deadline);
        ledger.begin_message(message_id, now).await
    }

    /// Notes that a message is begun although `unfinished` earlier starts of it have not ended. Tried for 500 ms, and not
    /// beyond `deadline`.
    pub async fn begin_again(
        &self,
        message_id: &str,
        unfinished: u32,
        deadline: Deadline,
    ) -> Result<(), TableError> {
        let (ledger, now) = self.starts_by(deadline);
        ledger.begin_again(message_id, unfinished, now).await
    }

    /// Takes the note of a start back that failed, and may have had its effect. Tried for 500 ms, and not beyond
    /// `deadline`.
    pub async fn withdraw_start(
        &self,
        message_id: &str,
        unfinished: u32,
        deadline: Deadline,
    ) -> Result<(), TableError> {
        let (ledger, now) = self.starts_by(deadline);
        ledger.withdraw_start(message_id, unfinished, now).await
    }

    /// Notes that the handling of a message came to an end. Tried until `deadline`.
    pub async fn end_message(
        &self,
        message_id: &str,
        deadline: Deadline,
    ) -> Result<(), TableError> {
        let ledger = self.ledger.until(deadline);
        ledger.end_message(message_id, self.clock.now()).await
    }

    /// The ledger with the time limit of a note of a start, and the time.
    fn starts_by(&self, deadline: Deadline) -> (Ledger, Timestamp) {
        let until = Deadline::after(START_NOTE_TIMEOUT).min(deadline);
        (self.ledger.until(until), self.clock.now())
    }
}
