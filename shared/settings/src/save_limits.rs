//! How often a clinic's settings may be changed: each change is a version that is kept.

use std::{sync::Arc, time::Duration};

use comms_core::{Clock, Tenant};

use crate::{
    gcra::{Rate, Reached, Withdrawal},
    store::{SettingsStore, StoreError},
};

/// Changes of a clinic's settings at once.
pub const MAX_SAVES_AT_ONCE: u32 = 10;
/// The interval of changes after those.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// What the partition keys of the limits begin with. No tenant's id can begin so, and the permission to
/// write is given for this beginning.
const PK_PREFIX: &str = "_save-limit#";

/// Whose limit a change is taken from. The platform has one of its own for each clinic: the clinic's people cannot use up
/// what the platform needs to lower a ceiling or to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saver {
    /// The clinic's own people.
    Clinic,
    /// The platform's administrators.
    Platform,
}

/// The limits of changes.
pub struct SaveLimits {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
    rate: Rate,
}

impl SaveLimits {
    /// Keeps the limits in `store`'s table.
    pub const fn new(store: SettingsStore, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            rate: Rate {
                burst: MAX_SAVES_AT_ONCE,
                interval: SAVE_INTERVAL,
            },
        }
    }

    /// The same with another number of changes at once.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        self.rate.burst = burst;
        self
    }

    /// Takes one change of the settings of `tenant`, or gives how long it has to wait: more than zero.
    pub async fn take(
        &self,
        tenant: &Tenant,
        saver: Saver,
    ) -> Result<Result<(), Duration>, StoreError> {
        // No clinic's id has a # in it.
        let pk = match saver {
            Saver::Clinic => format!("{PK_PREFIX}{tenant}"),
            Saver::Platform => format!("{PK_PREFIX}platform#{tenant}"),
        };
        let mut withdrawal = [Withdrawal::new(pk, "saves", self.rate, 1)];
        let taken = self.store.take(&mut withdrawal, &*self.clock).await?;
        Ok(taken.map_err(|Reached { retry_after, .. }| retry_after))
    }
}

impl std::fmt::Debug for SaveLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaveLimits")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}
