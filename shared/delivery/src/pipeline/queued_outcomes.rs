//! Outcomes on the queue: those that a process puts there, and those that it receives.

use std::collections::HashSet;

use comms_adapters::Deadline;
use comms_core::{DeliveryId, DeliveryStatus, metric::METRICS};
use futures_util::{StreamExt, stream};
use tracing::info;

use super::{
    Accepted, OutcomeMessage, Pipeline, PipelineError,
    outcome_message::{self, Read},
    time_limits::ANSWER_MARGIN,
    unrecorded::{CONCURRENT_WRITES, LATE_TIMEOUT, Late, LateOutcome},
};

/// Which outcomes of a communication are to go on the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomesOf {
    /// Those of deliveries that have ended. A message that is redelivered brings the others to their end.
    EndedDeliveries,
    /// Those as well of deliveries that are given back, which another process can then claim at once.
    AllDeliveries,
}

/// Outcomes of a communication that could not be recorded, and that no message carries yet.
#[derive(Debug, Default)]
pub struct PendingOutcomes {
    messages: Vec<OutcomeMessage>,
    owners: Vec<String>,
    ended: HashSet<DeliveryId>,
}

impl PendingOutcomes {
    /// They as messages for the urgent queue.
    pub fn messages(&self) -> &[OutcomeMessage] {
        &self.messages
    }

    /// Whether the process knows that this delivery ended and must not be sent again.
    pub fn has_ended(&self, delivery: &DeliveryId) -> bool {
        self.ended.contains(delivery)
    }
}

/// What became of the outcomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedOutcomes {
    /// Each is recorded, or can never be.
    All,
    /// At least one is not, and is to be tried again.
    Some,
    /// Those that this release can read are recorded. Another release of this deployment wrote the rest.
    Unreadable,
    /// No function of this deployment wrote the message.
    NotAuthentic,
}

impl Pipeline {
    /// The outcomes of a communication that this process keeps and that are on no queue.
    pub fn pending_outcomes(&self, accepted: &Accepted, which: OutcomesOf) -> PendingOutcomes {
        let record = &accepted.record;
        let is_of_request = |late: &&LateOutcome| {
            late.request.id == record.id && late.request.payload_hash == record.payload_hash
        };
        let has_ended = |late: &&LateOutcome| late.outcome.status != DeliveryStatus::Queued;
        let kept = self.unrecorded.kept();
        let kept: Vec<_> = kept.iter().filter(is_of_request).cloned().collect();
        let is_pending = |late: &&LateOutcome| {
            !late.is_on_queue && (which == OutcomesOf::AllDeliveries || has_ended(late))
        };
        let late: Vec<_> = kept.iter().filter(is_pending).cloned().collect();
        PendingOutcomes {
            messages: outcome_message::messages(&accepted.hash_key, &late),
            owners: late.iter().map(|late| late.owner.token.clone()).collect(),
            // Those as well that an earlier message carries.
            ended: kept
                .iter()
                .filter(has_ended)
                .map(|late| late.delivery.id.clone())
                .collect(),
        }
    }

    /// Notes that outcomes are on the queue. This process answers by them still.
    pub fn note_on_queue(&self, outcomes: &PendingOutcomes) {
        for late in self.unrecorded.kept().iter_mut() {
            late.is_on_queue |= outcomes.owners.contains(&late.owner.token);
        }
    }

    /// Records the outcomes of a queue message with this [`super::OUTCOMES_MAC`]. An error where the key of the MAC cannot be
    /// read now.
    pub async fn record_outcomes(
        &self,
        body: &[u8],
        mac: &str,
        deadline: Deadline,
    ) -> Result<RecordedOutcomes, PipelineError> {
        let key = self.hash_keys.get().await?;
        let (late, is_readable) = match outcome_message::read(key, body, mac) {
            Read::Outcomes(late) => (late, true),
            Read::Partly(late) => (late, false),
            Read::NotAuthentic => {
                info!(target: METRICS, queue_claims_refused = 1_u64);
                return Ok(RecordedOutcomes::NotAuthentic);
            }
        };
        let until = Deadline::after(LATE_TIMEOUT).min(deadline.less(ANSWER_MARGIN));
        let mut writes = stream::iter(late)
            .map(|late| async move { self.write_late(&late, until).await })
            .buffer_unordered(CONCURRENT_WRITES);
        let mut are_all_written = true;
        while let Some(written) = writes.next().await {
            are_all_written &= !matches!(written, Late::Unwritten);
        }
        Ok(match (are_all_written, is_readable) {
            (true, true) => RecordedOutcomes::All,
            (false, _) => RecordedOutcomes::Some,
            (true, false) => RecordedOutcomes::Unreadable,
        })
    }
}
