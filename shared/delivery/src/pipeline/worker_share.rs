//! The share of a queue's workers that a clinic's slow deliveries may hold.

use comms_core::{Channel, Tenant};

use super::{Limits, Pipeline, Requeue, UrgentQuota, tenant_settings::TenantSettings};
use crate::{
    connections::WaitedTime,
    slow_workers::{self, Working},
};

/// Whether a delivery may begin.
pub(super) enum Start<'a> {
    /// It may, with its urgent quota; where it came from a queue, its worker is watched.
    Now(Option<Working<'a>>, UrgentQuota),
    /// It waited for a worker, or for urgent quota, for so long that it has failed.
    WaitedEnough,
}

impl Pipeline {
    /// Learns what other workers know of the clinic.
    pub(super) async fn look_at_workers(&self, tenant: &Tenant, limits: Limits<'_>) {
        if let Some(queue) = limits.queue {
            self.shares.slow.look(queue, tenant, limits.deadline).await;
        }
    }

    /// Lets a delivery begin, or returns it to the queue untouched.
    pub(super) async fn start(
        &self,
        tenant: &Tenant,
        channel: Channel,
        settings: &TenantSettings,
        limits: Limits<'_>,
    ) -> Result<Start<'_>, Requeue> {
        let Some(urgent) = self.urgent_quota(tenant, settings, limits).await? else {
            return Ok(Start::WaitedEnough);
        };
        let Some(queue) = limits.queue else {
            return Ok(Start::Now(None, urgent));
        };
        let slow = &self.shares.slow;
        let begun = slow.begin(queue, tenant, channel, limits.deadline);
        if let Ok(working) = begun.await {
            return Ok(Start::Now(Some(working), urgent));
        }
        let after = slow_workers::wait(limits.receives());
        let after = self.before_expiry(after, limits);
        if self.has_waited_enough(after, limits) {
            return Ok(Start::WaitedEnough);
        }
        Err(Requeue::ShareTaken { after })
    }

    /// Waits for a delivery, and registers its worker while it is slow.
    pub(super) async fn watch<'a, F: Future>(
        &'a self,
        working: Option<&mut Working<'a>>,
        limits: Limits<'_>,
        waited: &WaitedTime,
        work: F,
    ) -> F::Output {
        match working {
            Some(working) => {
                let slow = &self.shares.slow;
                let before = waited.so_far();
                let waited = || waited.so_far().saturating_sub(before);
                slow.watch(working, limits.deadline, waited, work).await
            }
            None => work.await,
        }
    }
}
