//! Claiming a delivery in the ledger.

use std::time::Duration;

use comms_adapters::{Deadline, chain::ChainEntry};
use comms_core::{Delivery, DeliveryStatus, request::PlannedDelivery};
use tracing::warn;

use super::{
    Limits, Pipeline, Requeue,
    time_limits::{ANSWER_MARGIN, CLAIM_TIMEOUT, MIN_START_DURATION},
    unreachable,
    unrecorded::{Late, LateOutcome},
};
use crate::ledger::{
    Claim, DeliveryHistory, LedgerError, NextAttempt, OUTCOME_GRACE, Outcome, Owner, RequestRecord,
};

/// The timeout of a claim's withdrawal in its own invocation, which has at least four seconds left.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a delivery could not be claimed.
pub(super) enum NotClaimed {
    /// It has ended.
    Ended(Box<Delivery>),
    /// Another worker holds it, or its time has not come.
    Requeue(Requeue),
}

impl From<Requeue> for NotClaimed {
    fn from(reason: Requeue) -> Self {
        Self::Requeue(reason)
    }
}

impl Pipeline {
    /// Claims a delivery that has no owner, or whose owner's lease ended without an outcome.
    pub(super) async fn claim(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        owner: &Owner,
        limits: Limits<'_>,
        first: Option<&ChainEntry>,
    ) -> Result<DeliveryHistory, NotClaimed> {
        // Leave time to send the message, and do not wait long for a table that is down.
        let until = limits.deadline.less(MIN_START_DURATION);
        let first = first.map(|entry| NextAttempt {
            entry: entry.id.clone(),
            provider: entry.provider.kind(),
        });
        let until = until.min(Deadline::after(CLAIM_TIMEOUT));
        let ledger = self.ledger.until(until).before(first);
        let claimed = ledger
            .claim(record, planned, address_hash, owner, self.clock.now())
            .await;
        let mut claim = match claimed {
            Ok(claim) => claim,
            Err(error) => return Err(self.withdraw(error, record, planned, owner, limits).await),
        };
        if let Claim::Abandoned { owner: from } = &claim {
            let taken = ledger
                .take_over(record, &planned.id, from, owner, self.clock.now())
                .await;
            claim = match taken {
                Ok(claim) => claim,
                Err(error) => {
                    return Err(self.withdraw(error, record, planned, owner, limits).await);
                }
            };
            if let Claim::Owned(DeliveryHistory {
                takeovers,
                last_attempt,
                ..
            }) = &claim
            {
                let last = last_attempt.as_ref();
                warn!(
                    takeovers,
                    claimed_at = last.map(|(at, _)| at.to_string()),
                    first_entry = last.map(|(_, entry)| entry.as_str()),
                    "took over a delivery whose owner did not record its outcome"
                );
            }
        }
        match claim {
            Claim::Owned(history) => Ok(history),
            Claim::Ended(delivery) => Err(NotClaimed::Ended(delivery)),
            Claim::Busy { until } => Err(NotClaimed::Requeue(Requeue::Busy {
                after: self.time_until(until),
            })),
            // Another worker takes it over first.
            Claim::Abandoned { .. } => Err(NotClaimed::Requeue(Requeue::Busy {
                after: OUTCOME_GRACE,
            })),
            Claim::NotYet { until } => Err(NotClaimed::Requeue(Requeue::Deferred {
                after: self.time_until(until),
            })),
            Claim::OtherPayload => Err(NotClaimed::Requeue(Requeue::KeyConflict)),
        }
    }

    /// Gives up a failed claim. A claim whose response was lost is withdrawn: nothing was sent, and other workers would
    /// otherwise take it over as possibly sent.
    async fn withdraw(
        &self,
        error: LedgerError,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        owner: &Owner,
        limits: Limits<'_>,
    ) -> NotClaimed {
        match &error {
            LedgerError::Uncertain(_) => {}
            LedgerError::Table(_) | LedgerError::OwnershipLost => {
                return unreachable(error).into();
            }
        }
        let recipient = planned.masked().to_owned();
        let late = LateOutcome {
            request: record.clone(),
            owner: owner.clone(),
            outcome: Outcome {
                is_untouched: true,
                ..Outcome::new(DeliveryStatus::Queued)
            },
            delivery: Delivery {
                is_recorded: false,
                ..Delivery::queued(planned.id.clone(), planned.channel, recipient)
            },
            by_fallback: false,
            at: self.clock.now(),
            is_on_queue: false,
        };
        self.unrecorded.keep(late.clone());
        let until = Deadline::after(WITHDRAWAL_TIMEOUT).min(limits.deadline.less(ANSWER_MARGIN));
        match self.write_late(&late, until).await {
            Late::Written | Late::GivenUp => unreachable(error).into(),
            // This process may withdraw it later, before anybody takes it over.
            Late::Unwritten => Requeue::NotRecorded {
                after: self.time_until(owner.lease_until),
            }
            .into(),
        }
    }
}
