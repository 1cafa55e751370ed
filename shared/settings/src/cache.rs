//! Settings remembered per tenant, and whether they still are what was saved last.
//!
//! Every change moves the number of the tenant's counter in its own transaction ([`crate::write`]). So one eventually
//! consistent read of that item, half a read unit, says whether remembered settings are the last ones; where it moved
//! they are loaded anew, strongly consistent. Where it cannot be read, remembered settings less than [`MAX_AGE`] old go
//! on being used; older ones have to be loaded. `infra/docs/adr/0022-settings-count-at-once.md` has the reasons.
//!
//! That a clinic has no settings is remembered like settings: its first save moves the counter as well.
//!
//! A tenant is read by one caller at a time, and what comes of a read serves the others
//! who wait: every answer to those who asked before the read began, since it is not older than their
//! question; an error to those as well who asked while it went on, since a store that does not answer
//! would otherwise keep them one after the other. Callers of different tenants do not wait for each other. A caller that
//! goes away in the middle of its read leaves nothing behind: the next one reads.

mod entries;
mod state;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use comms_core::{Clock, Tenant, metric::METRICS};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use self::{
    entries::{EntryUser, TenantEntries, Weight},
    state::{Freshness, KnownVersion, TenantEntry},
};
use crate::{
    counter::CounterNumber,
    store::{SettingsStore, StoreError, StoredSettings},
};

/// How old remembered settings may be that DynamoDB cannot confirm.
pub const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Bytes of all remembered settings, about.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
/// How long the read of a version may take while remembered settings can do without it.
pub const VERSION_READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of a tenant as they were read or confirmed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The settings; `None` where there are none.
    pub settings: Option<Arc<StoredSettings>>,
    /// The number of the tenant's counter; `None` where nothing was ever saved, or nothing was counted.
    pub number: Option<u64>,
    read_at: Timestamp,
}

impl Snapshot {
    /// The version of the settings, where there are some.
    pub fn version(&self) -> Option<u64> {
        self.settings
            .as_ref()
            .map(|settings| settings.version.number)
    }

    /// Whether `other` is of the same version.
    pub fn is_same(&self, other: &Self) -> bool {
        self.number == other.number && self.version() == other.version()
    }
}

/// A point in the order of the cache's questions and reads, whatever the clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Remembers the settings of the tenants used last.
pub struct SettingsCache {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
    capacity: usize,
    max_bytes: usize,
    entries: Mutex<TenantEntries>,
    moments: AtomicU64,
}

impl SettingsCache {
    /// Remembers at most `capacity` tenants with settings, as many without, at least one, and [`MAX_BYTES`] of settings.
    pub fn new(store: SettingsStore, clock: Arc<dyn Clock>, capacity: usize) -> Self {
        Self {
            store,
            clock,
            capacity: capacity.max(1),
            max_bytes: MAX_BYTES,
            entries: Mutex::default(),
            moments: AtomicU64::default(),
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

    /// The present moment: every read that begins from now on is later.
    pub fn moment(&self) -> Moment {
        Moment(self.moments.load(Ordering::SeqCst))
    }

    /// What is remembered of the tenant, however old; loaded where nothing is, or where it is known to be replaced. An
    /// error is an error, never "no settings".
    pub async fn remembered(&self, tenant: &Tenant) -> Result<Snapshot, StoreError> {
        self.find(tenant, self.moment(), Freshness::Remembered)
            .await
    }

    /// The tenant's settings, of which a read that began after `asked` said that they are the last ones. Where no such
    /// read works, they are less than [`MAX_AGE`] old.
    pub async fn confirmed(&self, tenant: &Tenant, asked: Moment) -> Result<Snapshot, StoreError> {
        self.find(tenant, asked, Freshness::Confirmed).await
    }

    /// The same where a strongly consistent read has to say so. For when something is about to fail because of them.
    pub async fn newest(&self, tenant: &Tenant, asked: Moment) -> Result<Snapshot, StoreError> {
        self.find(tenant, asked, Freshness::Newest).await
    }

    /// The tenant's settings as of now.
    pub async fn get(&self, tenant: &Tenant) -> Result<Option<Arc<StoredSettings>>, StoreError> {
        let snapshot = self.confirmed(tenant, self.moment()).await?;
        Ok(snapshot.settings)
    }

    /// What is remembered where it is less than [`MAX_AGE`] old, else what [`SettingsCache::confirmed`] gives.
    pub async fn recent(&self, tenant: &Tenant) -> Result<Snapshot, StoreError> {
        let asked = self.moment();
        let snapshot = self.find(tenant, asked, Freshness::Remembered).await?;
        if self.is_recent(&snapshot) {
            return Ok(snapshot);
        }
        self.confirmed(tenant, asked).await
    }

    /// Whether it was read or confirmed less than [`MAX_AGE`] ago.
    pub fn is_recent(&self, snapshot: &Snapshot) -> bool {
        snapshot.is_young(self.clock.now())
    }

    async fn find(
        &self,
        tenant: &Tenant,
        asked: Moment,
        wanted: Freshness,
    ) -> Result<Snapshot, StoreError> {
        let entry = self.entries().entry(tenant);
        let answer = || entry.state().answer(asked, wanted, self.clock.now());
        if let Some(answer) = answer() {
            count_hit(&answer, wanted);
            return answer;
        }
        let user = EntryUser {
            cache: self,
            tenant,
            entry: &entry,
        };
        let reading = entry.reading.lock().await;
        let result = match answer() {
            Some(answer) => {
                count_hit(&answer, wanted);
                answer
            }
            None => self.read(tenant, &entry, wanted).await,
        };
        drop(reading);
        drop(user);
        result
    }

    /// Reads what the tenant has. Whoever calls holds [`TenantEntry::reading`].
    async fn read(
        &self,
        tenant: &Tenant,
        entry: &Arc<TenantEntry>,
        wanted: Freshness,
    ) -> Result<Snapshot, StoreError> {
        // Those who are about to ask at this very moment ask before the read begins, and it serves them.
        tokio::task::yield_now().await;
        let began = self.next_moment();
        let read_at = self.clock.now();
        let known = entry.state().known(read_at);
        if let Some(known) = known
            && self.is_last(tenant, entry, known, wanted, began).await
            && let Some(answer) = entry.state().answer(Moment(began.0 - 1), wanted, read_at)
        {
            return answer;
        }
        self.load(tenant, entry, began, read_at).await
    }

    /// Whether a read of the tenant's number says that what is remembered is the last version, or leaves it to go by.
    async fn is_last(
        &self,
        tenant: &Tenant,
        entry: &Arc<TenantEntry>,
        known: KnownVersion,
        wanted: Freshness,
        began: Moment,
    ) -> bool {
        let is_newest = wanted == Freshness::Newest;
        let read = self.store.number(tenant, is_newest);
        let read = tokio::time::timeout(VERSION_READ_TIMEOUT, read).await;
        info!(target: METRICS, settings_version_reads = 1_u64);
        let found = match read {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                warn!(clinic_id = %tenant, %error, "the version of settings cannot be read");
                return self.is_usable_unconfirmed(entry, known, wanted);
            }
            Err(_) => {
                warn!(clinic_id = %tenant, "the version of settings was not read in time");
                return self.is_usable_unconfirmed(entry, known, wanted);
            }
        };
        let found = match found {
            CounterNumber::Missing => None,
            CounterNumber::Forged => {
                // Nobody knows what it hides: nothing goes by what is remembered until the counter is right again.
                entry.state().supersede();
                return false;
            }
            CounterNumber::Number(number) => Some(number),
        };
        // An earlier release counts nothing, so that its saves do not move the number.
        if found == known.number && (found.is_some() || !self.store.accepts_unsealed) {
            entry.state().confirm(began, is_newest, self.clock.now());
            return true;
        }
        if found > known.number {
            entry.state().supersede();
            return false;
        }
        // A replica that has not heard of the remembered version yet, or somebody has put an old counter there.
        self.is_usable_unconfirmed(entry, known, wanted)
    }

    /// Whether remembered settings are used that nothing confirms.
    fn is_usable_unconfirmed(
        &self,
        entry: &TenantEntry,
        known: KnownVersion,
        wanted: Freshness,
    ) -> bool {
        let is_usable = known.is_young && wanted == Freshness::Confirmed;
        if is_usable {
            let ended = self.next_moment();
            entry.state().leave_unconfirmed(ended);
        }
        is_usable
    }

    /// Loads the tenant's settings by strongly consistent reads.
    async fn load(
        &self,
        tenant: &Tenant,
        entry: &Arc<TenantEntry>,
        began: Moment,
        read_at: Timestamp,
    ) -> Result<Snapshot, StoreError> {
        let opened = entry.state().opened();
        info!(
            target: METRICS,
            config_cache_stale = opened.is_some().then_some(1_u64),
            config_cache_misses = opened.is_none().then_some(1_u64),
        );
        let loaded = self.store.load_unless(tenant, opened).await;
        let ended = self.next_moment();
        let snapshot = entry.state().observe((began, ended), read_at, loaded)?;
        let is_counted = snapshot.number.is_some() || !self.store.accepts_unsealed;
        let is_kept = snapshot.settings.is_some() || is_counted || *tenant == Tenant::Global;
        let weight = if is_kept {
            Weight::of(&snapshot)
        } else {
            entry.state().forget();
            Weight::Nothing
        };
        let mut entries = self.entries();
        entries.weigh(tenant, entry, weight);
        entries.evict(self.capacity, self.max_bytes);
        Ok(snapshot)
    }

    fn next_moment(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn entries(&self) -> MutexGuard<'_, TenantEntries> {
        // Nothing panics while the lock is held; a poisoned lock still guards a whole map.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an answer that took no read of one's own.
fn count_hit(answer: &Result<Snapshot, StoreError>, wanted: Freshness) {
    if answer.is_ok() && wanted == Freshness::Remembered {
        info!(target: METRICS, config_cache_hits = 1_u64);
    }
}

impl std::fmt::Debug for SettingsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettingsCache")
            .field("capacity", &self.capacity)
            .field("max_bytes", &self.max_bytes)
            .field("tenants", &self.entries().by_tenant.len())
            .finish_non_exhaustive()
    }
}
