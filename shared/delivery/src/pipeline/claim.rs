//! Claiming a delivery in the ledger.

use std::time::Duration;

use comms_adapters::{Deadline, chain::ChainEntry};
use comms_core::{Delivery, request::PlannedDelivery};
use tracing::warn;

use super::{HandBack, Limits, Pipeline, STARTING_TIME, unreachable};
use crate::ledger::{Claim, NextAttempt, Owner, Past, RequestRecord};

/// The longest that a claim is tried.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a delivery is not ours to make.
pub(super) enum NotOurs {
    /// It has ended.
    Ended(Box<Delivery>),
    /// It is somebody else's, or its time has not come.
    HandBack(HandBack),
}

impl From<HandBack> for NotOurs {
    fn from(reason: HandBack) -> Self {
        Self::HandBack(reason)
    }
}

impl Pipeline {
    /// Makes a delivery ours, if it is nobody's or its owner did not say how it ended.
    pub(super) async fn claim(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        owner: &Owner,
        limits: Limits<'_>,
        first: Option<&ChainEntry>,
    ) -> Result<Past, NotOurs> {
        // No longer than a message has time to be sent afterwards, and no worker waits long for a table that is down.
        let until = limits.deadline.less(STARTING_TIME);
        let first = first.map(|entry| NextAttempt {
            entry: entry.id.clone(),
            provider: entry.provider.kind(),
        });
        let until = until.min(Deadline::after(CLAIM_TIMEOUT));
        let ledger = self.ledger.until(until).before(first);
        let mut claim = ledger
            .claim(record, planned, address_hash, owner, self.clock.now())
            .await
            .map_err(unreachable)?;
        if let Claim::Abandoned { owner: from } = &claim {
            claim = ledger
                .take_over(record, &planned.id, from, owner, self.clock.now())
                .await
                .map_err(unreachable)?;
            if let Claim::Owned(Past {
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
            Claim::Owned(past) => Ok(past),
            Claim::Ended(delivery) => Err(NotOurs::Ended(delivery)),
            Claim::Busy { until } => Err(NotOurs::HandBack(HandBack::Busy {
                after: self.time_until(until),
            })),
            // Somebody else takes it over, and is faster.
            Claim::Abandoned { .. } => Err(NotOurs::HandBack(HandBack::Busy {
                after: Duration::ZERO,
            })),
            Claim::NotYet { until } => Err(NotOurs::HandBack(HandBack::Deferred {
                after: self.time_until(until),
            })),
            Claim::OtherPayload => Err(NotOurs::HandBack(HandBack::KeyConflict)),
        }
    }
}
