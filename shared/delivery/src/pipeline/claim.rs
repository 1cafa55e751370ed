//! Claiming a delivery in the ledger.

use std::time::Duration;

use comms_core::{Delivery, request::PlannedDelivery};
use tracing::warn;

use super::{HandBack, Pipeline, unreachable};
use crate::ledger::{Claim, Owner, Past, RequestRecord};

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
    ) -> Result<Past, NotOurs> {
        let ledger = &self.ledger;
        let mut claim = ledger
            .claim(record, planned, address_hash, owner, self.clock.now())
            .await
            .map_err(unreachable)?;
        if let Claim::Abandoned { owner: from } = &claim {
            claim = ledger
                .take_over(record, &planned.id, from, owner, self.clock.now())
                .await
                .map_err(unreachable)?;
            if let Claim::Owned(Past { takeovers, .. }) = &claim {
                warn!(
                    takeovers,
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
