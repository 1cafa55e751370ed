//! Outcomes that could not be recorded by the process that had them: they go on the queue, and are recorded from there.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_core::DeadLetterReason;
use comms_delivery::{Accepted, OutcomeMessage, OutcomesOf, PendingOutcomes, RecordedOutcomes};
use comms_runtime::sqs::{MessageResult, SqsMessage};
use tracing::{error, warn};

use crate::{Deps, dead_letter};

/// What outcomes have of the invocation at least for their way to the queue.
const MIN_QUEUE_TIMEOUT: Duration = Duration::from_millis(500);

/// The wait before outcomes are tried again, for as long as the lease of their delivery may last and somewhat longer:
/// nobody takes the delivery over before they were tried.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Receives with that wait: a minute and a half.
const FIRST_RECEIVES: u32 = 18;
/// The wait after them. It is shorter than a delivery that is taken is left alone beyond its lease, so that the outcome
/// comes before another copy of the request.
const LATER_WAIT: Duration = Duration::from_secs(20);
/// From this receive on the message is put on the queue anew: the hundredth would be its last.
const MAX_RECEIVES: u32 = 90;

/// The wait of a message with outcomes that was received `receives` times by now.
fn wait(receives: u32) -> Duration {
    if receives < FIRST_RECEIVES {
        FIRST_WAIT
    } else {
        LATER_WAIT
    }
}

/// Lets a message be tried later: by its next receive, or in place of its last ones as a new message.
async fn again(deps: &Deps, message: &SqsMessage, mac: &str, deadline: Deadline) -> MessageResult {
    let again = MessageResult::Again(wait(message.receive_count()));
    if message.receive_count() < MAX_RECEIVES {
        return again;
    }
    // `send` and the worker give every message with outcomes a group.
    let group = message.attributes.get("MessageGroupId");
    let body = String::from_utf8(message.body.clone());
    let (Some(group), Ok(body)) = (group, body) else {
        return again;
    };
    let mac = mac.to_owned();
    if send(deps, &[OutcomeMessage { body, mac }], group, deadline).await {
        MessageResult::Done
    } else {
        again
    }
}

/// Puts outcomes on the urgent queue. Whether it took them.
async fn send(deps: &Deps, messages: &[OutcomeMessage], group: &str, deadline: Deadline) -> bool {
    let limit = Deadline::after(deadline.remaining().max(MIN_QUEUE_TIMEOUT));
    let sent = deps.queues.send_outcomes(messages, group);
    match limit.bound(Duration::MAX, sent).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error!(%error, "outcomes could not be queued"),
        Err(_) => error!("outcomes could not be queued in time"),
    }
    false
}

/// Records the outcomes that a message carries. Nothing is sent, whatever becomes of that.
pub(crate) async fn record(
    deps: &Deps,
    message: &SqsMessage,
    mac: &str,
    deadline: Deadline,
) -> MessageResult {
    let recorded = deps.pipeline.record_outcomes(&message.body, mac, deadline);
    match recorded.await {
        Ok(RecordedOutcomes::All) => MessageResult::Done,
        Ok(RecordedOutcomes::Some) => again(deps, message, mac, deadline).await,
        // For the rest of its receives, and then as a dead letter, which is an alarm.
        Ok(RecordedOutcomes::Unreadable) => {
            warn!("outcomes were written by another release, and wait for it");
            MessageResult::Again(wait(message.receive_count()))
        }
        Ok(RecordedOutcomes::NotAuthentic) => {
            let reason = DeadLetterReason::NotACommunication;
            dead_letter(deps, message, reason, String::new(), None).await
        }
        Err(error) => {
            warn!(%error, "outcomes cannot be recorded at the moment");
            again(deps, message, mac, deadline).await
        }
    }
}

/// Puts the outcomes of a message's deliveries on the queue that have ended and could not be recorded. The outcomes that are
/// there: their deliveries need the message no more. Where that fails, the message is redelivered as if there were none.
pub(crate) async fn queue(deps: &Deps, accepted: &Accepted, deadline: Deadline) -> PendingOutcomes {
    let (pipeline, which) = (&deps.pipeline, OutcomesOf::EndedDeliveries);
    let pending = pipeline.pending_outcomes(accepted, which);
    if pending.messages().is_empty() {
        return pending;
    }
    if send(deps, pending.messages(), accepted.group(), deadline).await {
        pipeline.note_on_queue(&pending);
        return pending;
    }
    PendingOutcomes::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_tried_often_at_first_and_before_a_copy_later() {
        let waits: Vec<_> = (1..=100).map(wait).collect();
        let first: Duration = waits.iter().take(17).sum();
        assert_eq!(first, Duration::from_secs(85));
        assert_eq!(waits.iter().max(), Some(&LATER_WAIT));
    }
}
