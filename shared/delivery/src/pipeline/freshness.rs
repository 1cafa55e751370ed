//! Whether the settings of a delivery that is being sent still are the last ones.
//!
//! Their version was read beside the claim, eventually consistently. So it is looked at once more, consistently, where an
//! entry refuses its tenant and before the delivery fails; and the platform's version when its account is reached
//! (`infra/docs/adr/0022-settings-count-at-once.md`).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use comms_adapters::{
    Deadline,
    chain::{RenewAt, Renewal},
};
use comms_core::{Channel, Tenant};
use comms_settings::{Moment, StoreError};
use tracing::{info, warn};

use super::{Pipeline, chains::ResolvedChain, tenant_settings::TenantSettings};
use crate::allowance::Allowance;

/// What is kept of the deadline for recording an outcome when settings are looked at once more before it.
const RECORDING_LEAST: Duration = Duration::from_millis(700);

/// The chain of a delivery, and what tells whether it still is the last one.
pub(super) struct Freshness<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) tenant: &'a Tenant,
    pub(super) channel: Channel,
    pub(super) deadline: Deadline,
    /// When the delivery began.
    asked: Moment,
    current: Mutex<Arc<ResolvedChain>>,
    /// Whether the platform's version was read beside the claim.
    is_platform_confirmed: AtomicBool,
}

impl<'a> Freshness<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        tenant: &'a Tenant,
        channel: Channel,
        deadline: Deadline,
        asked: Moment,
        chain: Arc<ResolvedChain>,
        is_platform_confirmed: bool,
    ) -> Self {
        Self {
            pipeline,
            tenant,
            channel,
            deadline,
            asked,
            current: Mutex::new(chain),
            is_platform_confirmed: is_platform_confirmed.into(),
        }
    }

    /// The chain that goes by the last settings that are known.
    pub(super) fn current(&self) -> Arc<ResolvedChain> {
        // Nothing panics while the lock is held.
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a running chain is told that asks whether there are newer settings.
    pub(super) async fn renewal(&self, at: RenewAt, allowance: &Allowance<'_>) -> Renewal {
        let current = self.current();
        match at {
            RenewAt::PlatformReached => {
                if self.is_platform_confirmed.swap(true, Ordering::Relaxed) {
                    return Renewal::Unchanged;
                }
                let (known, asked) = (&current.settings, self.asked);
                let found = self
                    .pipeline
                    .confirmed_settings(self.tenant, known, true, asked);
                match found.await {
                    Ok(found) => self.adopt(found, &current, allowance).await,
                    Err(error) => {
                        warn!(%error, "nothing goes out by the platform's account: its settings cannot be read");
                        Renewal::Unreadable
                    }
                }
            }
            RenewAt::Refused { is_global } => {
                let known = &current.settings;
                let found = self.pipeline.newest_of(self.tenant, known, is_global);
                self.looked(found.await, &current, allowance).await
            }
        }
    }

    /// Looks again at the tenant's own settings and the platform's before the delivery fails.
    pub(super) async fn before_failure(&self, allowance: &Allowance<'_>) -> Renewal {
        let current = self.current();
        let found = Box::pin(self.pipeline.newest_settings(self.tenant));
        // What is left after that is for recording what is known.
        let found = self
            .deadline
            .less(RECORDING_LEAST)
            .bound(Duration::MAX, found);
        let Ok(found) = found.await else {
            warn!("the settings were not read again in time before a delivery fails");
            return self.unless_replaced(&current).await;
        };
        self.looked(found, &current, allowance).await
    }

    async fn looked(
        &self,
        found: Result<TenantSettings, StoreError>,
        current: &ResolvedChain,
        allowance: &Allowance<'_>,
    ) -> Renewal {
        match found {
            Ok(found) => self.adopt(found, current, allowance).await,
            Err(error) => {
                warn!(%error, "the settings could not be read again before a delivery fails");
                self.unless_replaced(current).await
            }
        }
    }

    /// What is known to be replaced has to be read; what is not was the last one a moment ago.
    async fn unless_replaced(&self, current: &ResolvedChain) -> Renewal {
        let remembered = self.pipeline.remembered_settings(self.tenant).await;
        if remembered.is_ok_and(|remembered| remembered.is_same(&current.settings)) {
            Renewal::Unchanged
        } else {
            Renewal::Unreadable
        }
    }

    /// Takes `found` for the settings of the delivery, where they are newer than those of `current`.
    async fn adopt(
        &self,
        found: TenantSettings,
        current: &ResolvedChain,
        allowance: &Allowance<'_>,
    ) -> Renewal {
        if found.is_same(&current.settings) {
            return Renewal::Unchanged;
        }
        let chain = self
            .pipeline
            .chain(self.tenant, self.channel, found, self.deadline);
        match chain.await {
            Ok(newer) => {
                info!("a delivery goes on by newer settings than those that it began with");
                allowance.set_global_limit(newer.policy.global_limit);
                let newer = Arc::new(newer);
                let chain = newer.chain.clone();
                // Nothing panics while the lock is held.
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = newer;
                Renewal::Newer(chain)
            }
            Err(error) => {
                warn!(%error, "newer settings cannot be used");
                Renewal::Unreadable
            }
        }
    }
}
