//! Re-sealing all that is stored: the walk over the table, its pace, its patience, its report.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use comms_core::Tenant;
use comms_settings::{
    FoundItem, ItemPage, Resealed, Sealing, SettingsStore, StoreError, envelope::EnvelopeError,
    reseal::PageStart,
};
use serde::Serialize;
use tokio::time::sleep;

use crate::pace::Pace;

/// What is to be re-sealed.
#[derive(Debug)]
pub struct Plan {
    /// The table, with the key that everything is to be under.
    pub store: SettingsStore,
    /// The ARN of that key.
    pub key_arn: String,
    /// Whose items; those of all, and the hash key's, where it is empty.
    pub tenants: Vec<Tenant>,
    /// Items a second, at most.
    pub rate: u32,
    /// Whether to count only.
    pub dry_run: bool,
}

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

/// What became of a run.
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

/// An item with which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedItem {
    /// Whose it is.
    pub clinic_id: String,
    /// Which of that clinic's.
    pub item: String,
    /// What is wrong: an operation and a code, or an attribute.
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

    /// Whether nothing is left under another key than `key_arn`, as far as the items say.
    pub fn is_all_under(&self, key_arn: &str) -> bool {
        self.elsewhere(key_arn) == 0 && self.unreadable.is_empty()
    }
}

impl Report {
    /// Whether nothing is left under another key than `key_arn`.
    pub fn is_complete(&self, key_arn: &str) -> bool {
        let last = self.after.as_ref().or(self.before.as_ref());
        self.failed.is_empty() && last.is_some_and(|count| count.is_all_under(key_arn))
    }
}

/// Counts what is sealed under which key: the items of `tenants`, or all.
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
                        .push(FailedItem::new(&item, StoreError::Corrupt(attribute)));
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

/// Re-seals what `plan` names, and keeps `report` up to date meanwhile, so that it is right whenever the run is stopped.
/// `on_item` hears of every item how many are done, and of how many.
pub async fn run(
    plan: &Plan,
    report: &mut Report,
    on_item: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let before = count(&plan.store, &plan.tenants).await?;
    let total = before.elsewhere(&plan.key_arn);
    report.before = Some(before);
    if plan.dry_run || total == 0 {
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
            if data_key.key_arn == plan.key_arn {
                continue;
            }
            pace.turn().await;
            match patiently(async || plan.store.reseal(&item, data_key).await).await {
                Ok(Resealed::Done) => report.resealed += 1,
                Ok(Resealed::ChangedMeanwhile) => report.changed_meanwhile += 1,
                Err(error) => report.failed.push(FailedItem::new(&item, error)),
            }
            done += 1;
            on_item(done, total.max(done));
        }
    }
    // What was saved meanwhile by a function that still has the other key is found here.
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
            patiently(async || self.store.sealed_items(of, self.from.clone()).await).await?;
        self.from = next;
        if self.from.is_none() {
            self.rest.pop_front();
        }
        Ok(Some(items))
    }
}

/// Waits between the tries of what the SDK gave up on after its own three.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

/// Codes of what passes by itself. `DynamoDB`: "Error handling with DynamoDB" in its developer guide, and
/// `TransactionConflictException` of `UpdateItem`, while a save of the same item is under way. KMS: the retryable ones of
/// its API reference's common errors and of `ReEncrypt`. The rest is what kept a request from being answered.
const PASSING: [&str; 12] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
    "InternalServerError",
    "ServiceUnavailable",
    "TransactionConflictException",
    "KMSInternalException",
    "KeyUnavailableException",
    "DependencyTimeoutException",
    "Timeout",
    "DispatchFailure",
    "ResponseError",
];

/// Makes `call` again, later and later, while what it fails with passes by itself.
pub(crate) async fn patiently<T>(
    call: impl AsyncFn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    for wait in WAITS {
        match call().await {
            Err(error) if passes(&error) => sleep(wait).await,
            answer => return answer,
        }
    }
    call().await
}

fn passes(error: &StoreError) -> bool {
    match error {
        StoreError::Database { code, .. }
        | StoreError::Envelope(EnvelopeError::Kms { code, .. }) => PASSING.contains(&code.as_str()),
        StoreError::Envelope(
            EnvelopeError::WrongDataKey { .. } | EnvelopeError::WrongEntry | EnvelopeError::Sealing,
        )
        | StoreError::Conflict
        | StoreError::Corrupt(_)
        | StoreError::Refused(_)
        | StoreError::Invalid(_)
        | StoreError::TooLarge => false,
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    fn failure(code: &str) -> StoreError {
        StoreError::Envelope(EnvelopeError::Kms {
            operation: "ReEncrypt",
            code: code.to_owned(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_throttled_is_tried_again_later_and_later_and_not_for_ever() {
        for (failures, made, waited) in [(0, 1, 0), (1, 2, 1), (3, 4, 7), (5, 6, 31), (9, 6, 31)] {
            let (start, calls) = (Instant::now(), Cell::new(0));
            let answer = patiently(async || {
                calls.set(calls.get() + 1);
                if calls.get() > failures {
                    Ok(())
                } else {
                    Err(failure("ThrottlingException"))
                }
            })
            .await;
            assert_eq!(answer.is_ok(), failures < 6, "{failures}");
            assert_eq!(calls.get(), made, "{failures}");
            assert_eq!(
                start.elapsed(),
                Duration::from_secs(waited),
                "after {failures}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_by_itself_is_not_tried_again() {
        for error in [
            failure("AccessDeniedException"),
            failure("DisabledException"),
            failure("IncompleteAnswer"),
            StoreError::Corrupt("keyArn"),
        ] {
            let calls = Cell::new(0);
            let answer: Result<(), _> = patiently(async || {
                calls.set(calls.get() + 1);
                Err(error.clone())
            })
            .await;
            assert_eq!((answer, calls.get()), (Err(error), 1));
        }
    }
}
