//! Settings remembered per tenant, so that a warm send reads nothing.
//!
//! What is remembered is at most [`MAX_AGE`] old before the version is looked up again, which costs
//! one read and no KMS call where it has not moved. That a clinic has no settings is not remembered,
//! so that one that has just saved them does not go on sending through the global account; that there
//! are no global settings is, since every message of every clinic would ask.
//!
//! A tenant's settings are read by one caller at a time, and what comes of a read serves the others
//! who wait: every answer to those who asked before the read began, since it is not older than their
//! question; an error to those as well who asked while it went on, since a store that does not answer
//! would otherwise keep them one after the other. Who finds what is remembered good enough waits for
//! nobody, and neither do callers of different tenants for each other. A caller that goes away in the
//! middle of its read leaves nothing behind: the next one reads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use comms_core::{Clock, Tenant, metric::METRICS};
use jiff::{SignedDuration, Timestamp};
use tracing::info;

use crate::{
    credentials::Credentials,
    store::{Loaded, SettingsStore, StoreError, StoredSettings},
};

/// How old remembered settings may be before their version is looked up.
pub const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Bytes of all remembered settings, about.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Bytes that a provider entry takes without what is counted by itself: its secrets, of which there
/// are two of 1 KB at most, its names and addresses, and what the allocator adds.
const ENTRY_BYTES: usize = 4 * 1024;
/// Bytes of a content template: its name, its id, and its place in a map.
const TEMPLATE_BYTES: usize = 256;

/// What there is of a tenant, and what a caller gets.
type Found = Option<Arc<StoredSettings>>;

/// Remembers the settings of the tenants used last.
pub struct SettingsCache {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
    capacity: usize,
    max_bytes: usize,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_tenant: HashMap<Tenant, Place>,
    uses: u64,
}

/// A tenant's slot, and what decides how long it is kept.
struct Place {
    slot: Arc<Slot>,
    last_use: u64,
    /// What its settings weigh; `None` where nothing is remembered.
    bytes: Option<usize>,
}

/// What is known of one tenant.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// Held by the one who reads.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Counts beginnings and ends of reads: what came before what, whatever the clock shows.
    moment: u64,
    remembered: Option<Remembered>,
    failed: Option<Failed>,
}

/// What the last read that worked has found.
struct Remembered {
    settings: Found,
    began: u64,
    read_at: Timestamp,
}

/// The last read, where it did not work.
struct Failed {
    ended: u64,
    error: StoreError,
}

impl Remembered {
    fn version(&self) -> Option<u64> {
        self.settings
            .as_ref()
            .map(|settings| settings.version.number)
    }

    fn is_young(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.read_at);
        // A clock that went backwards proves nothing about age.
        age >= SignedDuration::ZERO && age < MAX_AGE
    }
}

impl Slot {
    /// Nothing panics while the lock is held; a poisoned lock still guards a whole state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The answer for one who asked at the moment `asked` and takes what is `good_enough`, where no
    /// read is needed for it.
    fn answer(
        &self,
        asked: u64,
        good_enough: impl FnOnce(&Remembered) -> bool,
    ) -> Option<Result<Found, StoreError>> {
        let remembered = self
            .remembered
            .as_ref()
            .filter(|found| found.began > asked || good_enough(found));
        if let Some(found) = remembered {
            return Some(Ok(found.settings.clone()));
        }
        let failed = self.failed.as_ref().filter(|failed| failed.ended > asked)?;
        Some(Err(failed.error.clone()))
    }

    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// Takes in what a read came to that began at `began`, when the clock showed `read_at`.
    fn end(
        &mut self,
        began: u64,
        read_at: Timestamp,
        loaded: Result<Loaded, StoreError>,
    ) -> Result<Found, StoreError> {
        let ended = self.next_moment();
        let settings = match loaded {
            Ok(Loaded::Absent) => None,
            // What was known when the read began: only who reads changes it.
            Ok(Loaded::Unchanged) => self.remembered.take().and_then(|found| found.settings),
            Ok(Loaded::Settings(settings)) => Some(Arc::new(*settings)),
            Err(error) => {
                // What is remembered stays for as long as it is young.
                self.failed = Some(Failed {
                    ended,
                    error: error.clone(),
                });
                return Err(error);
            }
        };
        self.failed = None;
        self.remembered = Some(Remembered {
            settings: settings.clone(),
            began,
            read_at,
        });
        Ok(settings)
    }
}

impl SettingsCache {
    /// Remembers at most `capacity` tenants, at least one, and [`MAX_BYTES`] of their settings.
    pub fn new(store: SettingsStore, clock: Arc<dyn Clock>, capacity: usize) -> Self {
        Self {
            store,
            clock,
            capacity: capacity.max(1),
            max_bytes: MAX_BYTES,
            slots: Mutex::default(),
        }
    }

    /// The same with another bound than [`MAX_BYTES`].
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// The store that is read.
    pub const fn store(&self) -> &SettingsStore {
        &self.store
    }

    /// The tenant's settings, at most [`MAX_AGE`] old. An error is an error, never `None`.
    pub async fn get(&self, tenant: &Tenant) -> Result<Found, StoreError> {
        self.get_if(tenant, |found, now| {
            // Ceilings alone are as good as no settings: the clinic may save some at any time.
            let has_entries =
                |found: &Arc<StoredSettings>| found.settings.entries().next().is_some();
            let is_remembered =
                found.settings.as_ref().is_some_and(has_entries) || *tenant == Tenant::Global;
            is_remembered && found.is_young(now)
        })
        .await
    }

    /// The tenant's settings, read after this was asked unless they have already moved on from version
    /// `seen`. For when the provider refuses the credentials of that version.
    pub async fn newer_than(&self, tenant: &Tenant, seen: u64) -> Result<Found, StoreError> {
        self.get_if(tenant, |found, _| {
            found.version().is_some_and(|known| known > seen)
        })
        .await
    }

    async fn get_if(
        &self,
        tenant: &Tenant,
        good_enough: impl Fn(&Remembered, Timestamp) -> bool,
    ) -> Result<Found, StoreError> {
        let slot = self.slot(tenant);
        let answer = |asked| {
            let now = self.clock.now();
            slot.state()
                .answer(asked, |remembered| good_enough(remembered, now))
        };
        let asked = slot.state().moment;
        if let Some(answer) = answer(asked) {
            return counted(answer);
        }
        let user = SlotUser {
            cache: self,
            tenant,
            slot: &slot,
        };
        let reading = slot.reading.lock().await;
        let result = match answer(asked) {
            Some(answer) => counted(answer),
            None => self.read(tenant, &slot).await,
        };
        drop(reading);
        drop(user);
        result
    }

    /// Reads the tenant's settings. Whoever calls holds [`Slot::reading`].
    async fn read(&self, tenant: &Tenant, slot: &Arc<Slot>) -> Result<Found, StoreError> {
        // Those who are about to ask at this very moment ask before the read begins, and it serves them.
        tokio::task::yield_now().await;
        let (began, known) = {
            let mut state = slot.state();
            let known = state.remembered.as_ref().and_then(Remembered::version);
            (state.next_moment(), known)
        };
        let (stale, missing) = (known.is_some(), known.is_none());
        info!(
            target: METRICS,
            config_cache_stale = stale.then_some(1_u64),
            config_cache_misses = missing.then_some(1_u64),
        );
        let read_at = self.clock.now();
        let loaded = self.store.load_unless(tenant, known).await;
        let found = slot.state().end(began, read_at, loaded)?;
        let bytes = match (&found, tenant) {
            (Some(settings), _) => Some(bytes(settings)),
            (None, Tenant::Global) => Some(0),
            (None, Tenant::Clinic(_)) => None,
        };
        self.weigh(tenant, slot, bytes);
        Ok(found)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while the lock is held; a poisoned lock still guards a whole map.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, tenant: &Tenant) -> Arc<Slot> {
        let mut slots = self.slots();
        slots.uses += 1;
        let uses = slots.uses;
        if let Some(place) = slots.by_tenant.get_mut(tenant) {
            place.last_use = uses;
            return place.slot.clone();
        }
        let slot = Arc::new(Slot::default());
        let place = Place {
            slot: slot.clone(),
            last_use: uses,
            bytes: None,
        };
        slots.by_tenant.insert(tenant.clone(), place);
        slot
    }

    fn weigh(&self, tenant: &Tenant, slot: &Arc<Slot>, bytes: Option<usize>) {
        let mut slots = self.slots();
        if let Some(place) = slots.by_tenant.get_mut(tenant)
            && Arc::ptr_eq(&place.slot, slot)
        {
            place.bytes = bytes;
        }
        slots.evict(self.capacity, self.max_bytes);
    }
}

impl Slots {
    /// Forgets the tenants used least recently until what is left keeps to both bounds. One that
    /// somebody is using is not forgotten: who came next would read beside the one who reads. There
    /// are never more of those than an invocation has deliveries.
    ///
    /// It looks at every place, which are a few hundred and cost microseconds, after a read over the
    /// network, which costs milliseconds.
    fn evict(&mut self, capacity: usize, max_bytes: usize) {
        let weights = self.by_tenant.values().filter_map(|place| place.bytes);
        let (mut count, mut bytes) =
            weights.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        while count > capacity || bytes > max_bytes {
            let oldest = self
                .by_tenant
                .iter()
                .filter(|(_, place)| Arc::strong_count(&place.slot) == 1)
                .filter_map(|(tenant, place)| Some((place.last_use, tenant, place.bytes?)))
                .min_by_key(|(last_use, ..)| *last_use)
                .map(|(_, tenant, bytes)| (tenant.clone(), bytes));
            let Some((tenant, weight)) = oldest else {
                return;
            };
            self.by_tenant.remove(&tenant);
            count -= 1;
            bytes -= weight;
        }
    }
}

/// One who waits for a read or makes it. When it is the last to leave a slot in which nothing is
/// remembered, the slot goes: clinics that do not exist take nobody's place.
struct SlotUser<'a> {
    cache: &'a SettingsCache,
    tenant: &'a Tenant,
    slot: &'a Arc<Slot>,
}

impl Drop for SlotUser<'_> {
    fn drop(&mut self) {
        let mut slots = self.cache.slots();
        let Some(place) = slots.by_tenant.get(self.tenant) else {
            return;
        };
        // The map's and ours; more can only be made under the lock that is held.
        let is_last = Arc::ptr_eq(&place.slot, self.slot) && Arc::strong_count(self.slot) <= 2;
        if is_last && place.bytes.is_none() {
            slots.by_tenant.remove(self.tenant);
        }
    }
}

/// An answer that took no read of one's own.
fn counted(answer: Result<Found, StoreError>) -> Result<Found, StoreError> {
    if answer.is_ok() {
        info!(target: METRICS, config_cache_hits = 1_u64);
    }
    answer
}

/// What settings weigh, about.
fn bytes(stored: &StoredSettings) -> usize {
    let changed = stored.version.changed.iter().map(String::len);
    let entries = stored.settings.entries().map(|(_, entry)| {
        let long = match &entry.credentials {
            Credentials::Smtp(smtp) => smtp.ca_pem.as_ref().map_or(0, String::len),
            Credentials::Twilio(twilio) => twilio.templates.len() * TEMPLATE_BYTES,
            Credentials::AwsSes(_) | Credentials::Sendgrid(_) | Credentials::MetaBusiness(_) => 0,
        };
        ENTRY_BYTES + long
    });
    changed.chain(entries).sum()
}

impl std::fmt::Debug for SettingsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettingsCache")
            .field("capacity", &self.capacity)
            .field("max_bytes", &self.max_bytes)
            .field("tenants", &self.slots().by_tenant.len())
            .finish_non_exhaustive()
    }
}
