//! Which tenants are remembered, and who is forgotten for others.

use std::sync::Arc;

use comms_core::{Recent, Tenant};

use super::{SettingsCache, Snapshot, state::TenantEntry};
use crate::store::StoredSettings;

/// Bytes that a provider entry takes without what is counted by itself: its secrets, of which there
/// are two of 1 KB at most, its names and addresses, and what the allocator adds.
const ENTRY_BYTES: usize = 4 * 1024;

#[derive(Default)]
pub(super) struct TenantEntries {
    pub(super) by_tenant: Recent<Tenant, WeighedEntry>,
}

/// A tenant's entry, and what decides how long it is kept.
pub(super) struct WeighedEntry {
    entry: Arc<TenantEntry>,
    weight: Weight,
}

/// What is remembered of a tenant. Tenants without settings compete with each other only: clinics that do not exist take
/// no place of one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Nothing.
    Nothing,
    /// That there are no settings.
    Absent,
    /// Settings of so many bytes.
    Settings(usize),
}

impl Weight {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        snapshot
            .settings
            .as_deref()
            .map_or(Self::Absent, |stored| Self::Settings(bytes(stored)))
    }

    const fn settings(self) -> Option<usize> {
        match self {
            Self::Nothing | Self::Absent => None,
            Self::Settings(bytes) => Some(bytes),
        }
    }

    const fn is_absent(self) -> bool {
        match self {
            Self::Absent => true,
            Self::Nothing | Self::Settings(_) => false,
        }
    }
}

impl TenantEntries {
    /// The tenant's entry, which is made where there is none.
    pub(super) fn entry(&mut self, tenant: &Tenant) -> Arc<TenantEntry> {
        if let Some(weighed) = self.by_tenant.get_mut(tenant) {
            return weighed.entry.clone();
        }
        let entry = Arc::new(TenantEntry::default());
        let weighed = WeighedEntry {
            entry: entry.clone(),
            weight: Weight::Nothing,
        };
        self.by_tenant.insert(tenant.clone(), weighed);
        entry
    }

    pub(super) fn weigh(&mut self, tenant: &Tenant, entry: &Arc<TenantEntry>, weight: Weight) {
        if let Some(weighed) = self.by_tenant.peek_mut(tenant)
            && Arc::ptr_eq(&weighed.entry, entry)
        {
            weighed.weight = weight;
        }
    }

    /// Forgets the tenants used least recently until the others keep to both bounds, and of those without settings all
    /// but `capacity`. An entry in use stays: the next caller would read beside the one who reads. There are never more of
    /// those than an invocation has deliveries.
    ///
    /// It looks at every entry, which are a few hundred and cost microseconds, after a read over the
    /// network, which costs milliseconds.
    pub(super) fn evict(&mut self, capacity: usize, max_bytes: usize) {
        let absent = self.by_tenant.values();
        let mut absent = absent.filter(|weighed| weighed.weight.is_absent()).count();
        while absent > capacity && self.forget_oldest(Weight::is_absent).is_some() {
            absent -= 1;
        }
        let weights = self.by_tenant.values();
        let weights = weights.filter_map(|weighed| weighed.weight.settings());
        let (mut count, mut bytes) =
            weights.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        while count > capacity || bytes > max_bytes {
            let forgotten = self.forget_oldest(|weight| weight.settings().is_some());
            let Some(weight) = forgotten.and_then(Weight::settings) else {
                return;
            };
            count -= 1;
            bytes -= weight;
        }
    }

    /// Forgets the chosen tenant that was used least recently, and says what it weighed; `None` where all of them are in
    /// use.
    fn forget_oldest(&mut self, is_chosen: impl Fn(Weight) -> bool) -> Option<Weight> {
        let is_idle = |weighed: &WeighedEntry| {
            Arc::strong_count(&weighed.entry) == 1 && is_chosen(weighed.weight)
        };
        let mut idle = self.by_tenant.oldest_first();
        let oldest = idle.find(|(_, weighed)| is_idle(weighed));
        let oldest = oldest.map(|(tenant, _)| tenant.clone());
        drop(idle);
        let forgotten = self.by_tenant.remove(&oldest?)?;
        Some(forgotten.weight)
    }
}

/// A caller that waits for a read or makes it. When it is the last to leave an entry in which nothing is
/// remembered, the entry goes.
pub(super) struct EntryUser<'a> {
    pub(super) cache: &'a SettingsCache,
    pub(super) tenant: &'a Tenant,
    pub(super) entry: &'a Arc<TenantEntry>,
}

impl Drop for EntryUser<'_> {
    fn drop(&mut self) {
        let mut entries = self.cache.entries();
        let Some(weighed) = entries.by_tenant.peek(self.tenant) else {
            return;
        };
        // The map's and ours; more can only be made under the lock that is held.
        let is_last = Arc::ptr_eq(&weighed.entry, self.entry) && Arc::strong_count(self.entry) <= 2;
        if is_last && weighed.weight == Weight::Nothing {
            entries.by_tenant.remove(self.tenant);
        }
    }
}

/// What settings weigh, about.
fn bytes(stored: &StoredSettings) -> usize {
    let changed = stored.version.changed.iter().map(String::len);
    let entries = stored
        .settings
        .entries()
        .map(|(_, entry)| ENTRY_BYTES + entry.config.settings_bytes());
    changed.chain(entries).sum()
}
