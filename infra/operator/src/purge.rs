//! Removing the content of what has expired, with its data keys, at once: DynamoDB takes days for that.

use std::fmt;

use comms_core::Tenant;
use comms_settings::{Sealing, SettingsStore, StoreError};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    pace::Pace,
    reseal::{FailedItem, Pages, patiently},
};

/// What is to be removed.
#[derive(Debug)]
pub struct Plan {
    /// The table.
    pub store: SettingsStore,
    /// Whose versions; those of all where it is empty.
    pub tenants: Vec<Tenant>,
    /// Versions a second, at most.
    pub rate: u32,
    /// Whether to count only.
    pub dry_run: bool,
    /// What has expired by then is due.
    pub now: Timestamp,
}

/// What became of a run.
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
    /// Whether nothing that was due is left.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.removed == self.due
    }
}

/// Removes what `plan` names, and keeps `report` up to date meanwhile.
pub async fn run(plan: &Plan, report: &mut Report) -> Result<(), StoreError> {
    let mut pace = Pace::per_second(plan.rate);
    let mut pages = Pages::new(&plan.store, &plan.tenants);
    while let Some(items) = pages.next().await? {
        for item in items {
            let is_due = item.expires_at.is_some_and(|at| at <= plan.now.as_second());
            if !is_due || item.sealing == Sealing::None {
                continue;
            }
            report.due += 1;
            if plan.dry_run {
                continue;
            }
            pace.turn().await;
            match patiently(async || plan.store.remove_expired(&item, plan.now).await).await {
                Ok(true) => report.removed += 1,
                Ok(false) => {}
                Err(error) => report.failed.push(FailedItem::new(&item, error)),
            }
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} expired versions had content", self.due)?;
        write!(f, "{:>8} of them have none now", self.removed)?;
        crate::reseal::write_failed(f, "failed", &self.failed)
    }
}
