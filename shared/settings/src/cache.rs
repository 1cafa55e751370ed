//! Settings remembered per tenant, so that a warm send reads nothing.
//!
//! What is remembered is at most [`MAX_AGE`] old before the version is looked up again, which costs
//! one read and no KMS call where it has not moved. Concurrent callers of one tenant share one load;
//! callers of different tenants do not wait for each other. That a clinic has no settings is not
//! remembered, so that one that has just saved them does not go on sending through the global account;
//! that there are no global settings is, since every message of every clinic would ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use comms_core::{Clock, Tenant};
use jiff::{SignedDuration, Timestamp};

use crate::store::{Loaded, SettingsStore, StoreError, StoredSettings};

/// How old remembered settings may be before their version is looked up.
pub const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Remembers the settings of the tenants used last.
pub struct SettingsCache {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
    capacity: usize,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_tenant: HashMap<Tenant, (Arc<Slot>, u64)>,
    uses: u64,
}

type Slot = tokio::sync::Mutex<Option<Remembered>>;

#[derive(Clone)]
struct Remembered {
    /// `None`: there are none.
    settings: Option<Arc<StoredSettings>>,
    checked_at: Timestamp,
}

impl Remembered {
    fn version(&self) -> Option<u64> {
        self.settings
            .as_ref()
            .map(|settings| settings.version.number)
    }
}

impl SettingsCache {
    /// Remembers at most `capacity` tenants, at least one.
    pub fn new(store: SettingsStore, clock: Arc<dyn Clock>, capacity: usize) -> Self {
        Self {
            store,
            clock,
            capacity: capacity.max(1),
            slots: Mutex::default(),
        }
    }

    /// The tenant's settings, at most [`MAX_AGE`] old. An error is an error, never `None`.
    pub async fn get(&self, tenant: &Tenant) -> Result<Option<Arc<StoredSettings>>, StoreError> {
        self.get_if(tenant, |remembered, now| {
            let age = now.duration_since(remembered.checked_at);
            // A clock that went backwards proves nothing about age.
            age >= SignedDuration::ZERO && age < MAX_AGE
        })
        .await
    }

    /// The tenant's settings, read now unless they have already moved on from version `seen`. For
    /// when the provider refuses the credentials of that version.
    pub async fn newer_than(
        &self,
        tenant: &Tenant,
        seen: u64,
    ) -> Result<Option<Arc<StoredSettings>>, StoreError> {
        self.get_if(tenant, |remembered, _| {
            remembered.version().is_some_and(|known| known > seen)
        })
        .await
    }

    async fn get_if(
        &self,
        tenant: &Tenant,
        fresh: impl Fn(&Remembered, Timestamp) -> bool,
    ) -> Result<Option<Arc<StoredSettings>>, StoreError> {
        let slot = self.slot(tenant);
        let mut remembered = slot.lock().await;
        let now = self.clock.now();
        if let Some(found) = remembered.as_ref().filter(|found| fresh(found, now)) {
            return Ok(found.settings.clone());
        }
        let known = remembered.as_ref().and_then(Remembered::version);
        match self.store.load_unless(tenant, known).await? {
            Loaded::Absent => {
                *remembered = match tenant {
                    Tenant::Clinic(_) => None,
                    Tenant::Global => Some(Remembered {
                        settings: None,
                        checked_at: now,
                    }),
                };
            }
            Loaded::Unchanged => {
                if let Some(found) = remembered.as_mut() {
                    found.checked_at = now;
                }
            }
            Loaded::Settings(settings) => {
                *remembered = Some(Remembered {
                    settings: Some(Arc::new(*settings)),
                    checked_at: now,
                });
            }
        }
        Ok(remembered.as_ref().and_then(|found| found.settings.clone()))
    }

    fn slot(&self, tenant: &Tenant) -> Arc<Slot> {
        // Nothing panics while the lock is held; a poisoned lock still guards a whole map.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.uses += 1;
        let uses = slots.uses;
        if let Some((slot, last_use)) = slots.by_tenant.get_mut(tenant) {
            *last_use = uses;
            return slot.clone();
        }
        if slots.by_tenant.len() >= self.capacity {
            let oldest = slots
                .by_tenant
                .iter()
                .min_by_key(|(_, (_, last_use))| *last_use)
                .map(|(tenant, _)| tenant.clone());
            if let Some(oldest) = oldest {
                slots.by_tenant.remove(&oldest);
            }
        }
        let slot = Arc::new(Slot::default());
        slots.by_tenant.insert(tenant.clone(), (slot.clone(), uses));
        slot
    }
}

impl std::fmt::Debug for SettingsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettingsCache")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
