//! Re-sealing the settings table: the walk over it, and the report.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use comms_core::Tenant;
use comms_settings::{
    FoundItem, ItemPage, Resealed, Sealing, SettingsStore, StoreError, reseal::PageStart,
};
use serde::Serialize;

use crate::{pace::Pace, plan::TablePlan, retry::with_retries};

/// How many items are sealed under which key.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Items by the ARN of their KMS key.
    pub items_by_key: BTreeMap<String, u64>,
    /// Items with nothing sealed in them.
    pub without_seal: u64,
    /// Items of settings that have no seal over the whole of them (`comms-operator seal`).
    pub unsealed: u64,
    /// Items that do not say under which key they are.
    pub unreadable: Vec<FailedItem>,
}

/// The result of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What there was before; `None` where the counting did not come to its end.
    pub before: Option<Count>,
    /// Items that are under the key now and were not before.
    pub resealed: u64,
    /// Items that somebody saved or deleted in between; nothing was written.
    pub changed_meanwhile: u64,
    /// Items that could not be re-sealed.
    pub failed: Vec<FailedItem>,
    /// What there is afterwards; `None` where nothing was to be done or the run did not come to its end.
    pub after: Option<Count>,
}

/// An item that a command failed to process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedItem {
    /// Its owner.
    pub clinic_id: String,
    /// Its name among the owner's items.
    pub item: String,
    /// The error: an operation and a code, or an attribute.
    pub error: String,
}

impl FailedItem {
    pub(crate) fn new(item: &FoundItem, error: impl fmt::Display) -> Self {
        Self {
            clinic_id: item.owner.clone(),
            item: item.name.clone(),
            error: error.to_string(),
        }
    }
}

impl Count {
    /// Items under another key than `key_arn`.
    pub fn elsewhere(&self, key_arn: &str) -> u64 {
        let others = self.items_by_key.iter().filter(|(key, _)| *key != key_arn);
        others.map(|(_, items)| items).sum()
    }

    /// True if no item names another key than `key_arn`, and every item names one.
    pub fn is_all_under(&self, key_arn: &str) -> bool {
        self.elsewhere(key_arn) == 0 && self.unreadable.is_empty()
    }
}

impl Report {
    /// True if no item is left under another key than `key_arn`.
    pub fn is_complete(&self, key_arn: &str) -> bool {
        let last = self.after.as_ref().or(self.before.as_ref());
        self.failed.is_empty() && last.is_some_and(|count| count.is_all_under(key_arn))
    }
}

/// Counts the items of `tenants`, or all items, by the key under which they are sealed.
pub async fn count(store: &SettingsStore, tenants: &[Tenant]) -> Result<Count, StoreError> {
    let mut count = Count::default();
    let mut pages = Pages::new(store, tenants);
    while let Some(items) = pages.next().await? {
        for item in items {
            count.unsealed += u64::from(item.is_unsealed);
            match &item.sealing {
                Sealing::None => count.without_seal += 1,
                Sealing::Under(data_key) => {
                    *count
                        .items_by_key
                        .entry(data_key.key_arn.clone())
                        .or_default() += 1;
                }
                Sealing::Unreadable(attribute) => {
                    count
                        .unreadable
                        .push(FailedItem::new(&item, StoreError::corrupt(attribute)));
                }
            }
        }
    }
    Ok(count)
}

/// The owners of all items of the table: tenants, and the names of items that are no tenant's.
pub(crate) async fn owners(store: &SettingsStore) -> Result<BTreeSet<String>, StoreError> {
    let mut owners = BTreeSet::new();
    let mut pages = Pages::new(store, &[]);
    while let Some(items) = pages.next().await? {
        owners.extend(items.into_iter().map(|item| item.owner));
    }
    Ok(owners)
}

/// Re-seals the items of `plan` under the store's KMS key, whose ARN is `key_arn`. `report` is right whenever the run is
/// stopped. `on_item` gets the number of items done and of all, after each item.
pub async fn run(
    plan: &TablePlan,
    key_arn: &str,
    report: &mut Report,
    on_item: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let before = count(&plan.store, &plan.tenants).await?;
    let total = before.elsewhere(key_arn);
    report.before = Some(before);
    if plan.is_dry_run || total == 0 {
        return Ok(());
    }
    let mut done = 0;
    let mut pace = Pace::per_second(plan.rate);
    let mut pages = Pages::new(&plan.store, &plan.tenants);
    while let Some(items) = pages.next().await? {
        for item in items {
            let Sealing::Under(data_key) = &item.sealing else {
                continue;
            };
            if data_key.key_arn == key_arn {
                continue;
            }
            pace.wait().await;
            match with_retries(async || plan.store.reseal(&item, data_key).await).await {
                Ok(Resealed::Done) => report.resealed += 1,
                Ok(Resealed::ChangedMeanwhile) => report.changed_meanwhile += 1,
                Err(error) => report.failed.push(FailedItem::new(&item, error)),
            }
            done += 1;
            on_item(done, total.max(done));
        }
    }
    // This finds items that a function with the former key has saved meanwhile.
    report.after = Some(count(&plan.store, &plan.tenants).await?);
    Ok(())
}

/// The pages of a walk over the items of some tenants, or of all.
pub(crate) struct Pages<'a> {
    store: &'a SettingsStore,
    rest: VecDeque<Option<&'a Tenant>>,
    from: Option<PageStart>,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(store: &'a SettingsStore, tenants: &'a [Tenant]) -> Self {
        let rest = if tenants.is_empty() {
            VecDeque::from([None])
        } else {
            tenants.iter().map(Some).collect()
        };
        Self {
            store,
            rest,
            from: None,
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Vec<FoundItem>>, StoreError> {
        let Some(&of) = self.rest.front() else {
            return Ok(None);
        };
        let ItemPage { items, next } =
            with_retries(async || self.store.sealed_items(of, self.from.clone()).await).await?;
        self.from = next;
        if self.from.is_none() {
            self.rest.pop_front();
        }
        Ok(Some(items))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, items) in &self.items_by_key {
            writeln!(f, "{items:>8} items under {key}")?;
        }
        writeln!(f, "{:>8} items with nothing sealed", self.without_seal)?;
        write!(
            f,
            "{:>8} items of settings without a seal over the whole",
            self.unsealed
        )?;
        write_failed(f, "do not say under which key they are", &self.unreadable)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = &self.before {
            writeln!(f, "before:\n{before}")?;
        }
        writeln!(f, "{:>8} items re-sealed", self.resealed)?;
        write!(
            f,
            "{:>8} items changed by somebody else meanwhile",
            self.changed_meanwhile
        )?;
        write_failed(f, "failed", &self.failed)?;
        if let Some(after) = &self.after {
            write!(f, "\nafter:\n{after}")?;
        }
        Ok(())
    }
}

pub(crate) fn write_failed(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    items: &[FailedItem],
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n{:>8} items {what}:", items.len())?;
    for item in items {
        let FailedItem {
            clinic_id,
            item,
            error,
        } = item;
        write!(f, "\n         {clinic_id} {item}: {error}")?;
    }
    Ok(())
}
