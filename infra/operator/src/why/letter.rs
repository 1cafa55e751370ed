//! A request's message on the dead-letter queue, with the command that sees to it.

use comms_core::DeadLetterReason;
use jiff::SignedDuration;
use serde::Serialize;

use crate::{
    dead_letters::FoundLetter,
    layout::{Layout, Tone},
    moments::duration,
};

/// A dead letter.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    message_id: String,
    source_message_id: String,
    reason: DeadLetterReason,
    /// Where the body is wrong.
    fields: Vec<String>,
    source_queue: Option<String>,
    age_seconds: u64,
    /// What to do about it.
    next_step: &'static str,
    /// Ready to be run.
    command: String,
}

impl Letter {
    /// `queue`: the URL of the dead-letter queue.
    pub(super) fn new(letter: &FoundLetter, queue: Option<&str>) -> Self {
        let (next_step, command) = step(letter.reason);
        let queue = queue.unwrap_or("URL");
        let id = &letter.message_id;
        let command = match command {
            Command::Redrive => format!(
                "comms-operator dead-letters redrive --dead-letter-queue {queue} --queue \"$QUEUE\" --urgent-queue \"$URGENT\" \
                 --message {id}"
            ),
            Command::Delete => format!(
                "comms-operator dead-letters delete --dead-letter-queue {queue} --message {id} --yes"
            ),
        };
        Self {
            message_id: id.clone(),
            source_message_id: letter.source_message_id.clone(),
            reason: letter.reason,
            fields: letter.fields.clone(),
            source_queue: letter.source_queue.clone(),
            age_seconds: letter.age.as_secs(),
            next_step,
            command,
        }
    }

    pub(super) fn text(&self, layout: Layout, label: usize) -> String {
        let age = duration(SignedDuration::from_secs(
            i64::try_from(self.age_seconds).unwrap_or(i64::MAX),
        ));
        let fields = if self.fields.is_empty() {
            String::new()
        } else {
            format!(", wrong: {}", self.fields.join(" "))
        };
        let from = self.source_queue.as_deref();
        let from = from.map_or_else(String::new, |from| format!(" of {from}"));
        let what = format!(
            "a message{from} lies in the dead-letter queue for {age}: {}{fields}",
            self.reason.as_str()
        );
        let mut text = layout.labelled("dead letter", label, Tone::Bad, &what);
        text.push_str(&layout.labelled("what to do", label, Tone::Plain, self.next_step));
        text.push_str(&layout.labelled("", label, Tone::Strong, &self.command));
        text
    }
}

/// What is done with a dead letter when its cause has ended.
enum Command {
    Redrive,
    Delete,
}

/// By OPERATIONS.md, "Dead letters".
const fn step(reason: DeadLetterReason) -> (&'static str, Command) {
    match reason {
        DeadLetterReason::NotACommunication => (
            "Have its sender correct the fields and send it again; then delete this one:",
            Command::Delete,
        ),
        DeadLetterReason::KeyConflict => (
            "Its key stands for another communication: have its sender send it under another key; then delete this one:",
            Command::Delete,
        ),
        DeadLetterReason::NoKey => (
            "SQS gave it no id, which does not happen: look into the worker's log; then delete it:",
            Command::Delete,
        ),
        DeadLetterReason::Panicked => (
            "The worker's code ends over it: deploy what mends that, then put it back (QUEUE, URGENT: the stack's outputs \
             QueueUrl, UrgentQueueUrl):",
            Command::Redrive,
        ),
        DeadLetterReason::ReceivesExhausted => (
            "It was received a hundred times: end the cause (a store that was away, a worker that was taken down), then put it \
             back (QUEUE, URGENT: the stack's outputs QueueUrl, UrgentQueueUrl):",
            Command::Redrive,
        ),
        DeadLetterReason::Unknown => (
            "A later version gave this reason: take that version's comms-operator. To put it back:",
            Command::Redrive,
        ),
    }
}
