//! A message that ends its process, again and again, takes no others along.
//!
//! Nobody answers for a batch whose process has ended, so SQS delivers all of it again. A message that is received again
//! notes that it is begun and that it came to an end. One whose last start did not end is a suspect: an invocation
//! handles one of them, when its neighbors are done and deleted and other suspects are on their queue again. After five
//! such starts it is a dead letter.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_delivery::MessageStart;
use comms_runtime::sqs::{MessageResult, SqsMessage};
use futures_util::future::join_all;
use tracing::{error, warn};

use crate::{ANSWER_TIME, Deps};

/// How often a message may end its process. The first time leaves no note.
pub(crate) const MAX_CRASHES: u32 = 5;

/// How long a suspect waits that is received beside another one.
const SUSPECT_WAIT: Duration = Duration::from_secs(1);

/// A message and how often it was begun without an end.
pub(crate) struct Suspect<'m> {
    pub(crate) message: &'m SqsMessage,
    pub(crate) unfinished: u32,
}

impl<'m> Suspect<'m> {
    /// The message as one that waits for an invocation of its own.
    pub(crate) const fn returned(&self) -> (&'m SqsMessage, MessageResult) {
        (self.message, MessageResult::Again(SUSPECT_WAIT))
    }

    /// Whether it has ended its process as often as it may.
    pub(crate) const fn is_given_up(&self) -> bool {
        self.unfinished + 1 >= MAX_CRASHES
    }
}

/// Whether an earlier receive of a message may have ended its process. What a connection or a turn is waited for comes
/// again too soon for that, and costs no write.
fn may_have_crashed(deps: &Deps, message: &SqsMessage) -> bool {
    message.receive_count() > 1 && deps.pipeline.may_have_crashed(message.first_received_at())
}

/// Divides a batch into the messages that are handled together and the suspects, those first that were begun least often.
pub(crate) async fn divide<'m>(
    deps: &Deps,
    messages: &'m [SqsMessage],
) -> (Vec<&'m SqsMessage>, Vec<Suspect<'m>>) {
    let starts = messages.iter().map(|message| async move {
        if !may_have_crashed(deps, message) {
            return (message, MessageStart::Clear);
        }
        let begun = deps.pipeline.begin_message(&message.message_id).await;
        let start = begun.unwrap_or_else(|error| {
            warn!(%error, sqs_message_id = message.message_id, "a message's start was not noted");
            MessageStart::Clear
        });
        (message, start)
    });
    let (mut clear, mut suspects) = (Vec::new(), Vec::new());
    for (message, start) in join_all(starts).await {
        match start {
            MessageStart::Clear => clear.push(message),
            MessageStart::Suspect { unfinished } => suspects.push(Suspect {
                message,
                unfinished,
            }),
        }
    }
    suspects.sort_by_key(|suspect| suspect.unfinished);
    (clear, suspects)
}

/// Notes that a suspect is begun. `false` where that is not possible: then it waits.
pub(crate) async fn begin_alone(deps: &Deps, suspect: &Suspect<'_>) -> bool {
    let (id, unfinished) = (&suspect.message.message_id, suspect.unfinished);
    warn!(
        sqs_message_id = id,
        unfinished, "a message whose last start did not end is handled alone"
    );
    let begun = deps.pipeline.begin_again(id).await;
    if let Err(error) = &begun {
        warn!(%error, sqs_message_id = id, "a message's start was not noted");
    }
    begun.is_ok()
}

/// Notes that messages came to an end.
pub(crate) async fn end(deps: &Deps, messages: &[&SqsMessage], answer_by: Deadline) {
    let received = messages
        .iter()
        .filter(|message| may_have_crashed(deps, message));
    let ends = received.map(|message| async move {
        let ended = deps.pipeline.end_message(&message.message_id);
        match answer_by.bound(ANSWER_TIME / 4, ended).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(%error, sqs_message_id = message.message_id, "a message's end was not noted");
            }
            Err(_) => {
                warn!(
                    sqs_message_id = message.message_id,
                    "a message's end was not noted in time"
                );
            }
        }
    });
    join_all(ends).await;
}

/// Answers for messages at once, so that whatever happens next does not touch them.
pub(crate) async fn settle_now(
    deps: &Deps,
    results: &[(&SqsMessage, MessageResult)],
    answer_by: Deadline,
) {
    let done: Vec<_> = results
        .iter()
        .filter(|(_, result)| *result == MessageResult::Done)
        .map(|(message, _)| *message)
        .collect();
    let waits = crate::waits(results);
    let settled = async {
        let deleted = deps.queues.delete(&done).await;
        let told = deps.queues.let_wait(&waits).await;
        deleted.and(told)
    };
    match answer_by.bound(ANSWER_TIME / 2, settled).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(%error, "messages beside a suspect were not settled"),
        Err(_) => error!("messages beside a suspect were not settled in time"),
    }
}
