//! Outcomes that could not be written in their own invocation.
//!
//! The process keeps them and writes them before its next deliveries: the claim is still its own until somebody takes
//! it over, which nobody does before its lease has ended. A process that is ended takes them with it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_adapters::Deadline;
use comms_core::{Delivery, DeliveryStatus};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, warn};

use super::Pipeline;
use crate::ledger::{Ledger, LedgerError, Outcome, Owner, RequestRecord};

/// Outcomes that a process keeps; the oldest go first. Each is some hundred bytes.
const MAX_UNRECORDED: usize = 256;
/// The longest that deliveries wait for outcomes of earlier ones.
const LATE_TIMEOUT: Duration = Duration::from_secs(2);
/// Writes at the same time.
const CONCURRENT_WRITES: usize = 8;

/// An outcome that is not in the ledger yet.
#[derive(Debug, Clone)]
pub(super) struct LateOutcome {
    pub(super) request: RequestRecord,
    pub(super) owner: Owner,
    pub(super) outcome: Outcome,
    /// The delivery as the outcome says.
    pub(super) delivery: Delivery,
    pub(super) by_fallback: bool,
    /// When it ended.
    pub(super) at: Timestamp,
}

/// The outcomes that a process keeps.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    kept: Mutex<VecDeque<LateOutcome>>,
    /// Held while they are written: deliveries of another message may be among them, and have to wait for it.
    writing: tokio::sync::Mutex<()>,
}

impl Unrecorded {
    pub(super) fn keep(&self, late: LateOutcome) {
        let mut kept = self.kept();
        if kept.len() >= MAX_UNRECORDED {
            kept.pop_front();
        }
        kept.push_back(late);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<LateOutcome>> {
        // Nothing panics while the lock is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipeline {
    /// Writes the outcomes that earlier invocations of this process could not write. What cannot be written now either
    /// is kept.
    pub(super) async fn record_late(&self, deadline: Deadline) {
        let _writing = self.unrecorded.writing.lock().await;
        let late = std::mem::take(&mut *self.unrecorded.kept());
        if late.is_empty() {
            return;
        }
        let until = Deadline::after(LATE_TIMEOUT).min(deadline);
        let ledger = self.ledger.until(until);
        let mut writes = stream::iter(late)
            .map(|late| async {
                let written = write(&ledger, &late).await;
                (late, written)
            })
            .buffer_unordered(CONCURRENT_WRITES);
        while let Some((late, written)) = writes.next().await {
            let (request, delivery) = (&late.request, &late.delivery);
            let (clinic_id, request_id, delivery_id) = (&request.tenant, &request.id, &delivery.id);
            match written {
                Ok(()) => {
                    let status = delivery.status.as_str();
                    info!(%clinic_id, %request_id, %delivery_id, status, "outcome recorded late");
                    self.count_late(&late);
                }
                Err(error @ LedgerError::Database { .. }) => {
                    warn!(%clinic_id, %request_id, %delivery_id, %error, "an outcome is still not recorded");
                    self.unrecorded.keep(late);
                }
                Err(error @ (LedgerError::OwnershipLost | LedgerError::Corrupt(_))) => {
                    warn!(%clinic_id, %request_id, %delivery_id, %error, "an outcome is given up");
                }
            }
        }
    }

    fn count_late(&self, late: &LateOutcome) {
        let LateOutcome {
            request,
            outcome,
            delivery,
            by_fallback,
            ..
        } = late;
        let (tenant, now) = (&request.tenant, self.clock.now());
        if outcome.status != DeliveryStatus::Queued {
            let category = request.details.category.as_deref();
            self.usage
                .count_ended(tenant, delivery, *by_fallback, category, now);
        } else if outcome.not_before.is_some() && outcome.waiting.is_none() {
            self.usage.count_deferral(tenant, delivery.channel, now);
        }
    }
}

async fn write(ledger: &Ledger, late: &LateOutcome) -> Result<(), LedgerError> {
    let LateOutcome {
        request,
        owner,
        outcome,
        delivery,
        at,
        ..
    } = late;
    ledger
        .finish(&request.id, &delivery.id, owner, outcome, *at)
        .await
}
