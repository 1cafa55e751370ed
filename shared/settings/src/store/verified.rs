//! Reading a tenant's settings so that nothing counts but what this service wrote last.
//!
//! The present item and the counter are read at the same time. They have to be at the same number, the counter's MAC
//! and the item's seal have to hold, and neither may be missing without the other. A save between the two reads looks
//! like tampering, so a mismatch is read once more. What is refused is an error and never "no settings": nothing goes
//! out by the platform's account because of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use comms_aws::TableError;
use comms_core::{Tenant, metric::METRICS};
use futures_util::future::try_join;
use tracing::info;

use super::SettingsStore;
use crate::{
    counter::{COUNTER, CounterState},
    envelope::EnvelopeError,
    item::{CURRENT, Item, SettingsItem, StoredItem, Tombstone, attribute, version_number},
    store_error::{Refusal, StoreError},
    version::MAX_VERSION,
};

/// The highest number of each tenant that this process has seen. A tenant comes into it by a counter whose MAC holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenVersions(Arc<Mutex<HashMap<Tenant, u64>>>);

impl SeenVersions {
    /// Notes `number`, and says whether nothing higher was seen before.
    pub(crate) fn note(&self, tenant: &Tenant, number: u64) -> bool {
        // Nothing panics while the lock is held; a poisoned lock still guards a whole map.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(highest) = seen.get_mut(tenant) {
            *highest = (*highest).max(number);
            *highest == number
        } else {
            seen.insert(tenant.clone(), number);
            true
        }
    }

    fn has(&self, tenant: &Tenant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains_key(tenant)
    }
}

/// A tenant's items as they were read.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) item: Option<Item>,
    pub(crate) counter_item: Option<Item>,
    pub(crate) counter: CounterState,
}

impl Reading {
    /// The last number that was given, as far as the items say: the counter's, else the present item's.
    pub(crate) fn last_number(&self) -> Option<u64> {
        match self.counter.valid() {
            Some(counter) => Some(counter.number),
            None => version_number(self.item.as_ref()?).ok(),
        }
    }
}

impl SettingsStore {
    /// The last number that was given. Where neither counter nor present item says one that another can follow, it is
    /// that of the newest version, so that settings can be put in the place of what was damaged.
    pub(crate) async fn last_number(
        &self,
        tenant: &Tenant,
        reading: &Reading,
    ) -> Result<Option<u64>, StoreError> {
        let said = reading.last_number();
        let is_usable = said.is_some_and(|number| number < MAX_VERSION);
        let is_empty = reading.item.is_none() && reading.counter_item.is_none();
        if is_usable || is_empty || reading.counter.valid().is_some() {
            return Ok(said);
        }
        let counter = self.count_versions(tenant, 0).await?;
        Ok(Some(counter.number))
    }
}

/// What there is of a tenant. Settings are still to be opened, which is when their seal is checked.
#[derive(Debug)]
pub(crate) enum Verified {
    Nothing,
    Deleted(Tombstone),
    Settings(SettingsItem),
}

impl SettingsStore {
    pub(crate) async fn read(&self, tenant: &Tenant) -> Result<Reading, StoreError> {
        let reads = try_join(self.item(tenant, CURRENT), self.item(tenant, COUNTER));
        let (item, counter_item) = reads.await?;
        let counter = self.counter_state(tenant, counter_item.as_ref()).await?;
        Ok(Reading {
            item,
            counter_item,
            counter,
        })
    }

    pub(crate) async fn counter_state(
        &self,
        tenant: &Tenant,
        item: Option<&Item>,
    ) -> Result<CounterState, StoreError> {
        let key = match item {
            Some(_) => self.existing_hash_key().await?,
            None => None,
        };
        Ok(CounterState::of(item, tenant, key))
    }

    /// Reads what there is of `tenant`, and whether it is to be believed.
    pub(crate) async fn read_verified(
        &self,
        tenant: &Tenant,
    ) -> Result<(Reading, Result<Verified, StoreError>), StoreError> {
        let reading = self.read(tenant).await?;
        match self.verify(tenant, &reading).await {
            Err(StoreError::Refused(refusal)) if refusal.may_be_a_race() => {
                let again = self.read(tenant).await?;
                let verified = self.verify(tenant, &again).await;
                Ok((again, verified))
            }
            verified => Ok((reading, verified)),
        }
    }

    async fn verify(&self, tenant: &Tenant, reading: &Reading) -> Result<Verified, StoreError> {
        let refused = |refusal| Err(StoreError::Refused(refusal));
        let counter = match &reading.counter {
            CounterState::Forged => return refused(Refusal::CounterForged),
            CounterState::Missing => None,
            CounterState::Valid(counter) => Some(counter),
        };
        let is_newest = counter.map_or_else(
            || !self.seen.has(tenant),
            |counter| self.seen.note(tenant, counter.number),
        );
        if !is_newest {
            return refused(Refusal::RolledBack);
        }
        let Some(item) = &reading.item else {
            return match counter {
                None => Ok(Verified::Nothing),
                Some(_) => refused(Refusal::Missing),
            };
        };
        if let Some(counter) = counter
            && version_number(item)? != counter.number
        {
            return refused(Refusal::OtherVersion);
        }
        let stored = StoredItem::from_item(item)?;
        if counter.is_none() && stored.has_seal() {
            return refused(Refusal::CounterMissing);
        }
        // Where there is a counter, what is present was sealed when that was written.
        if !stored.has_seal() && (counter.is_some() || !self.accepts_unsealed) {
            return refused(Refusal::Unsealed);
        }
        match stored {
            StoredItem::Settings(item) => Ok(Verified::Settings(item)),
            StoredItem::Tombstone(tombstone) => {
                self.check_deletion(tenant, &tombstone).await?;
                Ok(Verified::Deleted(tombstone))
            }
            StoredItem::Record(_) => Err(StoreError::corrupt(attribute::DOCUMENT)),
        }
    }

    /// Checks the seal of a deletion that has one.
    async fn check_deletion(
        &self,
        tenant: &Tenant,
        tombstone: &Tombstone,
    ) -> Result<(), StoreError> {
        let Some(seal) = &tombstone.seal else {
            return Ok(());
        };
        let holds = match self.existing_hash_key().await? {
            Some(key) => tombstone.content(tenant).is_deletion_seal(key, seal),
            None => false,
        };
        holds
            .then_some(())
            .ok_or(StoreError::Refused(Refusal::WrongSeal))
    }
}

/// Counts settings that are not as this service wrote them.
pub(crate) fn count_refusal(error: &StoreError) {
    let is_refused = match error {
        StoreError::Refused(_) | StoreError::Table(TableError::Corrupt(_)) => true,
        StoreError::Envelope(error) => match error {
            EnvelopeError::WrongDataKey { .. } | EnvelopeError::WrongEntry => true,
            EnvelopeError::Kms { .. } | EnvelopeError::Sealing => false,
        },
        StoreError::Table(
            TableError::Throttled { .. }
            | TableError::Refused { .. }
            | TableError::Unreachable { .. },
        )
        | StoreError::Conflict
        | StoreError::Invalid(_)
        | StoreError::TooLarge => false,
    };
    if is_refused {
        info!(target: METRICS, settings_refused = 1_u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_remembers_the_highest_number_it_has_seen() {
        let (seen, tenant) = (SeenVersions::default(), Tenant::Global);
        assert!(!seen.has(&tenant));
        let noted = [2, 2, 1, 3, 2].map(|number| seen.note(&tenant, number));
        assert_eq!(noted, [true, true, false, true, false]);
        assert!(seen.has(&tenant));
    }
}
