//! Whether the settings of a delivery that is being sent still are the last ones.
//!
//! Their version was read beside the claim, eventually consistently. It is read again before every further attempt, since
//! somebody may have saved meanwhile; strongly consistently where an entry refused its tenant and before the delivery fails.
//! The platform's version is read when its account is reached (`infra/docs/adr/0022-settings-count-at-once.md`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    /// When the delivery began, or its settings were looked at last.
    asked: Mutex<Moment>,
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
            asked: Mutex::new(asked),
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

    /// Since when the settings have to be known to be the last ones.
    fn asked(&self) -> MutexGuard<'_, Moment> {
        // Nothing panics while the lock is held.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a running chain is told that asks whether there are newer settings.
    pub(super) async fn renewal(&self, at: RenewAt, allowance: &Allowance<'_>) -> Renewal {
        let current = self.current();
        match at {
            RenewAt::PlatformReached => {
                if self.is_platform_confirmed.swap(true, Ordering::Relaxed) {
                    return Renewal::Unchanged;
                }
                let (known, asked) = (&current.settings, *self.asked());
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
            RenewAt::NextAttempt { is_global } => {
                let asked = self.ask_again();
                let known = &current.settings;
                let found = self
                    .pipeline
                    .confirmed_settings(self.tenant, known, is_global, asked);
                self.in_time(found, &current, allowance).await
            }
            RenewAt::Refused { is_global } => {
                self.ask_again();
                let known = &current.settings;
                let found = self.pipeline.newest_of(self.tenant, known, is_global);
                self.in_time(found, &current, allowance).await
            }
        }
    }

    /// Looks again at the tenant's own settings and the platform's before the delivery fails.
    pub(super) async fn before_failure(&self, allowance: &Allowance<'_>) -> Renewal {
        let current = self.current();
        let found = self.pipeline.newest_settings(self.tenant);
        self.in_time(found, &current, allowance).await
    }

    fn ask_again(&self) -> Moment {
        let now = self.pipeline.settings.moment();
        *self.asked() = now;
        now
    }

    /// Goes by what is `found`, where that is in time.
    async fn in_time(
        &self,
        found: impl Future<Output = Result<TenantSettings, StoreError>>,
        current: &ResolvedChain,
        allowance: &Allowance<'_>,
    ) -> Renewal {
        // What is left after that is for recording what is known.
        let deadline = self.deadline.less(RECORDING_LEAST);
        match deadline.bound(Duration::MAX, Box::pin(found)).await {
            Ok(Ok(found)) => self.adopt(found, current, allowance).await,
            Ok(Err(error)) => {
                warn!(%error, "the settings of a delivery under way cannot be read again");
                self.unless_replaced(current).await
            }
            Err(_) => {
                warn!("the settings of a delivery under way were not read again in time");
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
