//! Removing the content of expired and purged versions with their data keys at once, which DynamoDB does within days.
//!
//! A version is due when its own item has expired, or when the counter, whose MAC holds, has a purge of it that is due: a
//! purge that was interrupted has not moved every item's time.

use std::{collections::BTreeMap, fmt};

use comms_core::Tenant;
use comms_settings::{FoundItem, Sealing, StoreError};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    pace::Pace,
    plan::TablePlan,
    reseal::{FailedItem, Pages},
    retry::with_retries,
};

/// The result of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Versions that were due and had content.
    pub due: u64,
    /// Versions whose content was removed.
    pub removed: u64,
    /// Versions whose content could not be removed.
    pub failed: Vec<FailedItem>,
}

impl Report {
    /// True if no version that was due is left.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.removed == self.due
    }
}

/// Removes the content of the versions in `plan` that have expired by `time`. `report` is right whenever the run is stopped.
pub async fn run(plan: &TablePlan, time: Timestamp, report: &mut Report) -> Result<(), StoreError> {
    let now = time.as_second();
    let mut pace = Pace::per_second(plan.rate);
    let mut pages = Pages::new(&plan.store, &plan.tenants);
    // The last purged version of each clinic. A clinic's counter comes before its versions.
    let mut purged: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(items) = pages.next().await? {
        for item in items {
            if item.purge_at.is_some_and(|at| at <= now) {
                match purge_due(plan, time, &item).await {
                    Ok(through) => {
                        purged.extend(through.map(|through| (item.owner.clone(), through)));
                    }
                    Err(error) => report.failed.push(FailedItem::new(&item, error)),
                }
                continue;
            }
            let Some(version) = item.version() else {
                continue;
            };
            let is_expired = item.expires_at.is_some_and(|at| at <= now);
            let is_purged = purged
                .get(&item.owner)
                .is_some_and(|through| version <= *through);
            if !(is_expired || is_purged) || item.sealing == Sealing::None {
                continue;
            }
            report.due += 1;
            if plan.is_dry_run {
                continue;
            }
            pace.wait().await;
            match with_retries(async || plan.store.remove_content(&item, time).await).await {
                Ok(()) => report.removed += 1,
                Err(error) => report.failed.push(FailedItem::new(&item, error)),
            }
        }
    }
    Ok(())
}

async fn purge_due(
    plan: &TablePlan,
    time: Timestamp,
    counter: &FoundItem,
) -> Result<Option<u64>, StoreError> {
    let tenant = Tenant::parse(&counter.owner).map_err(|_| StoreError::corrupt("pk"))?;
    with_retries(async || plan.store.purge_due(&tenant, time).await).await
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} expired versions had content", self.due)?;
        write!(f, "{:>8} of them have none now", self.removed)?;
        crate::reseal::write_failed(f, "failed", &self.failed)
    }
}
