//! Settings that somebody saved while a delivery started: its chain and quota are made anew by them.

use std::{sync::Arc, time::Duration};

use comms_settings::Moment;
use tracing::info;

use super::{
    Pipeline, QuotaSource, Requeue, UrgentQuota,
    start::{Claimed, Work},
    tenant_settings::TenantSettings,
    unreachable,
};

/// A delivery that waits longer for a connection confirms its settings once more before its first attempt.
const LONG_WAIT: Duration = Duration::from_secs(1);

impl Pipeline {
    /// Reads the settings' version again if the delivery waited for a connection meanwhile. Returns the moment that the
    /// settings are valid for.
    pub(super) async fn confirm_after_wait(
        &self,
        claimed: &mut Claimed<'_>,
        work: Work<'_>,
        needs_platform: bool,
        asked: Moment,
    ) -> Moment {
        if claimed.allowance.connection().waited().so_far() < LONG_WAIT {
            return asked;
        }
        let asked = self.settings.moment();
        let (tenant, known) = (&work.record.tenant, &claimed.chain.settings);
        let confirmed = self.confirmed_settings(tenant, known, needs_platform, asked);
        claimed.confirmed = Some(confirmed.await);
        asked
    }

    /// Moves a claimed delivery to the latest settings if it started by older ones. On an error it returns to the queue
    /// unchanged.
    pub(super) async fn go_by_last_settings(
        &self,
        claimed: &mut Claimed<'_>,
        work: Work<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<(), Requeue> {
        if let Some(confirmed) = claimed.confirmed.take() {
            let last = confirmed.map_err(unreachable)?;
            if !last.is_same(&claimed.chain.settings) {
                Box::pin(self.rebuild(claimed, last, work, urgent)).await?;
            }
        }
        // It is about to fail because a limit is used up.
        if claimed.is_refused
            && let Ok(last) = Box::pin(self.newest_settings(&work.record.tenant)).await
            && !last.is_same(&claimed.chain.settings)
        {
            Box::pin(self.rebuild(claimed, last, work, urgent)).await?;
        }
        Ok(())
    }

    /// Rebuilds the chain of a claimed delivery, and takes its quota by the newer limits.
    async fn rebuild(
        &self,
        claimed: &mut Claimed<'_>,
        settings: TenantSettings,
        work: Work<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<(), Requeue> {
        let (limits, tenant, channel) = (work.limits, &work.record.tenant, work.planned.channel);
        let chain = self.chain(tenant, channel, settings, limits.deadline).await;
        let chain = Arc::new(chain.map_err(unreachable)?);
        let version = chain.settings.own().map(|own| own.version.number);
        info!(
            version,
            "a delivery goes by newer settings than those that were remembered"
        );
        claimed.chain = chain.clone();
        let allowance = &mut claimed.allowance;
        allowance.set_global_limit(chain.policy.global_limit);
        if !self.is_to_be_sent(work) {
            return Ok(());
        }
        if let QuotaSource::Taken(_) = limits.quota {
            // The quota of the whole request stays taken.
            return Ok(());
        }
        *urgent = UrgentQuota::default();
        allowance.return_quota();
        let taken = self.urgent_quota(tenant, &chain.settings, limits).await?;
        let Some(taken) = taken else {
            claimed.is_refused = true;
            return Ok(());
        };
        *urgent = taken;
        claimed.is_refused = self.fill(allowance, tenant, &chain.policy, limits).await?;
        Ok(())
    }
}
