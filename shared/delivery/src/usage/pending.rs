//! Counts that wait to be written.

use std::collections::{BTreeSet, HashMap};

use comms_core::Tenant;
use jiff::civil::Date;
use uuid::Uuid;

use super::{
    categories::{Categories, NewNames},
    counts::Counts,
};

/// Days of tenants that wait to be written, in one process. What is counted beyond them is dropped.
pub(super) const MAX_WAITING: usize = 1_000;
/// Days that are written at the end of one invocation. A batch has ten messages.
pub(super) const WRITTEN_AT_ONCE: usize = 32;

#[derive(Default)]
pub(super) struct PendingCounts {
    pub(super) days: HashMap<(Tenant, Date), Waiting>,
    pub(super) categories: Categories,
    /// Outcomes that were dropped because [`MAX_WAITING`] was reached.
    pub(super) dropped: u64,
}

/// Counts that wait to be added to an item.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) counts: Counts,
    /// The last write, until it is confirmed.
    pub(super) unconfirmed: Option<Write>,
}

/// One write. It stays the same when it is repeated.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) token: u64,
    pub(super) counts: Counts,
}

impl PendingCounts {
    pub(super) fn count(&mut self, tenant: &Tenant, day: Date, count: impl FnOnce(&mut Counts)) {
        let key = (tenant.clone(), day);
        if self.days.len() >= MAX_WAITING && !self.days.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        count(&mut self.days.entry(key).or_default().counts);
    }

    /// The days to write now. Unconfirmed ones come last, since they may fail for a reason of their own.
    pub(super) fn next_days(&self) -> Vec<(Tenant, Date)> {
        let mut days: Vec<_> = self.days.iter().collect();
        days.sort_by_key(|(_, waiting)| waiting.unconfirmed.is_some());
        days.truncate(WRITTEN_AT_ONCE);
        days.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// The next write of a day: the unconfirmed one, or else a new one with all counts since.
    pub(super) fn next_write(&mut self, key: &(Tenant, Date)) -> Option<Write> {
        let waiting = self.days.get_mut(key)?;
        if waiting.unconfirmed.is_none() && waiting.counts != Counts::default() {
            waiting.unconfirmed = Some(Write {
                token: Uuid::new_v4().as_u64_pair().1,
                counts: std::mem::take(&mut waiting.counts),
            });
        }
        waiting.unconfirmed.clone()
    }

    /// Takes in the categories of an item, and counts what is not written by those that fit.
    pub(super) fn learn_categories(&mut self, key: &(Tenant, Date), in_item: BTreeSet<String>) {
        let names = self.categories.learn(key, in_item);
        if let Some(waiting) = self.days.get_mut(key) {
            let counts = [
                Some(&mut waiting.counts),
                waiting.unconfirmed.as_mut().map(|write| &mut write.counts),
            ];
            for counts in counts.into_iter().flatten() {
                *counts = std::mem::take(counts).with_categories(names);
            }
        }
    }

    pub(super) fn confirm(&mut self, key: &(Tenant, Date), new_names: NewNames) {
        self.categories.are_written(key, new_names);
        if let Some(waiting) = self.days.get_mut(key) {
            waiting.unconfirmed = None;
            if waiting.counts == Counts::default() {
                self.days.remove(key);
            }
        }
    }
}
