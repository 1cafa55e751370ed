//! A message that ends its process, again and again, takes no others along.
//!
//! Nobody answers for a batch whose process has ended, so SQS delivers all of it again. A message that is received again
//! notes that it is begun and that it came to an end. One whose last start did not end is a suspect: an invocation
//! handles one of them, when its neighbors are done and deleted and other suspects are on their queue again. After five
//! such starts it is a dead letter.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_core::DeadLetterReason;
use comms_delivery::{MessageStart, OUTCOMES_MAC, Requeue, has_time_to_begin};
use comms_runtime::sqs::{MessageResult, SqsMessage};
use futures_util::future::{join, join_all};
use tracing::{error, warn};

use crate::{Deps, RESPONSE_MARGIN};

/// How often a message may end its process. The first time leaves no note.
pub(crate) const MAX_CRASHES: u32 = 5;

/// How long a suspect waits that is received beside another one, or too late to be begun.
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

    /// Whether it has ended its process as often as it may. It has started once for each receive at most, whatever was
    /// noted.
    fn is_given_up(&self) -> bool {
        self.unfinished + 1 >= MAX_CRASHES && self.message.receive_count() > MAX_CRASHES
    }
}

/// A batch, divided by what is known of its messages' earlier starts.
#[derive(Default)]
pub(crate) struct Divided<'m> {
    /// The messages that are handled together.
    pub(crate) clear: Vec<&'m SqsMessage>,
    /// Those of them whose start was to be noted, and whose end is.
    pub(crate) begun: Vec<&'m SqsMessage>,
    /// The others, those first that were begun least often.
    pub(crate) suspects: Vec<Suspect<'m>>,
}

/// Whether an earlier receive of a message may have ended its process. One that waited for a connection or a permit is
/// redelivered too soon for that, and costs no write. Neither does a message with outcomes: it waits for the table that a start
/// would be noted in, and sends nothing.
fn may_have_crashed(deps: &Deps, message: &SqsMessage) -> bool {
    message.receive_count() > 1
        && message.attribute(OUTCOMES_MAC).is_none()
        && deps.pipeline.may_have_crashed(message.first_received_at())
}

/// Divides a batch, and notes the starts of the messages that were received before.
pub(crate) async fn divide<'m>(
    deps: &Deps,
    messages: &'m [SqsMessage],
    deadline: Deadline,
) -> Divided<'m> {
    let starts = messages.iter().map(|message| async move {
        if !may_have_crashed(deps, message) {
            return (message, None);
        }
        let id = &message.message_id;
        let start = deps.pipeline.begin_message(id, deadline).await;
        let start = start.unwrap_or_else(|error| {
            warn!(%error, sqs_message_id = id, "a message's start was not noted");
            MessageStart::Clear
        });
        (message, Some(start))
    });
    let mut divided = Divided::default();
    for (message, start) in join_all(starts).await {
        match start {
            None => divided.clear.push(message),
            Some(MessageStart::Clear) => {
                divided.clear.push(message);
                divided.begun.push(message);
            }
            Some(MessageStart::Suspect { unfinished }) => divided.suspects.push(Suspect {
                message,
                unfinished,
            }),
        }
    }
    divided.suspects.sort_by_key(|suspect| suspect.unfinished);
    divided
}

/// What became of a suspect that had an invocation's remaining time to itself.
pub(crate) enum Alone {
    /// It was begun, and came to this end.
    Ended(MessageResult),
    /// It was not begun, and its count stays as it is.
    NotBegun(MessageResult),
}

/// Handles a suspect, which must be the only message in its process's hands.
pub(crate) async fn handle_alone(deps: &Deps, suspect: &Suspect<'_>, deadline: Deadline) -> Alone {
    let message = suspect.message;
    if !has_time_to_begin(deadline) {
        return Alone::NotBegun(MessageResult::Again(SUSPECT_WAIT));
    }
    let later = MessageResult::Again(Requeue::Unreachable.wait(message.receive_count()));
    if suspect.is_given_up() {
        let reason = DeadLetterReason::Panicked;
        let letter = crate::dead_letter(deps, message, reason, String::new(), None);
        let result = deadline.bound(Duration::MAX, letter).await;
        return Alone::NotBegun(result.unwrap_or(later));
    }
    if !begin_alone(deps, suspect, deadline).await {
        return Alone::NotBegun(later);
    }
    let handled = crate::handle_together(deps, &[message], deadline).await;
    let result = handled.first().map(|(_, result)| *result);
    Alone::Ended(result.unwrap_or(MessageResult::Panicked))
}

/// Notes that a suspect is begun. `false` where that is not possible.
async fn begin_alone(deps: &Deps, suspect: &Suspect<'_>, deadline: Deadline) -> bool {
    let (id, unfinished) = (&suspect.message.message_id, suspect.unfinished);
    warn!(
        sqs_message_id = id,
        unfinished, "a message whose last start did not end is handled alone"
    );
    let Err(error) = deps.pipeline.begin_again(id, unfinished, deadline).await else {
        return true;
    };
    warn!(%error, sqs_message_id = id, "a message's start was not noted");
    let withdrawn = deps.pipeline.withdraw_start(id, unfinished, deadline);
    if let Err(error) = withdrawn.await {
        warn!(%error, sqs_message_id = id, "a message's start was not withdrawn");
    }
    false
}

/// Notes that messages came to an end. The messages for which that failed; tried for `limit`, and not beyond `answer_by`.
pub(crate) async fn end<'m>(
    deps: &Deps,
    messages: &[&'m SqsMessage],
    answer_by: Deadline,
    limit: Duration,
) -> Vec<&'m SqsMessage> {
    let until = Deadline::after(limit).min(answer_by);
    let ends = messages.iter().map(|message| async move {
        let ended = deps.pipeline.end_message(&message.message_id, until).await;
        let error = ended.err()?;
        warn!(%error, sqs_message_id = message.message_id, "a message's end was not noted");
        Some(*message)
    });
    join_all(ends).await.into_iter().flatten().collect()
}

/// Answers for messages at once, so that whatever happens next does not touch them, and notes the ends of those that were
/// `begun`. The messages whose end was not noted.
pub(crate) async fn settle_now<'m>(
    deps: &Deps,
    results: &[(&'m SqsMessage, MessageResult)],
    begun: &[&'m SqsMessage],
    answer_by: Deadline,
) -> Vec<&'m SqsMessage> {
    let done: Vec<_> = results
        .iter()
        .filter(|(_, result)| *result == MessageResult::Done)
        .map(|(message, _)| *message)
        .collect();
    let waits = crate::waits(results);
    let settled = async {
        let deleted = deps.queues.delete(&done).await;
        let told = deps.queues.change_visibility(&waits).await;
        deleted.and(told)
    };
    let settled = answer_by.bound(RESPONSE_MARGIN / 2, settled);
    let (settled, left) = join(settled, end(deps, begun, answer_by, RESPONSE_MARGIN / 4)).await;
    match settled {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(%error, "messages beside a suspect were not settled"),
        Err(_) => error!("messages beside a suspect were not settled in time"),
    }
    left
}
