//! Sealing what an earlier version of the service wrote: the one step of the upgrade that reads every item.

use std::{collections::BTreeSet, fmt};

use comms_core::{SystemClock, Tenant};
use comms_settings::{SettingsStore, StoreError};
use serde::Serialize;

use crate::{
    pace::Pace,
    reseal::{FailedItem, Pages, patiently},
};

/// What is to be sealed.
#[derive(Debug)]
pub struct Plan {
    /// The table.
    pub store: SettingsStore,
    /// Whose items; those of all where it is empty.
    pub tenants: Vec<Tenant>,
    /// Clinics a second, at most.
    pub rate: u32,
    /// Whether to count only.
    pub dry_run: bool,
}

/// What became of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Items without a seal before.
    pub unsealed: u64,
    /// Items that have one now.
    pub sealed: u64,
    /// Clinics whose present settings could not be sealed.
    pub failed: Vec<FailedItem>,
    /// Earlier versions that cannot be sealed, and so not be restored. Their clinics' present settings are not affected.
    pub unsealable: Vec<FailedItem>,
    /// Items without a seal afterwards; `None` where the run did not come to its end.
    pub left: Option<u64>,
}

impl Report {
    /// Whether no item without a seal is left.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.left == Some(0)
    }
}

/// The clinics that have items without a seal, and how many items those are.
async fn unsealed(plan: &Plan) -> Result<(BTreeSet<String>, u64), StoreError> {
    let (mut clinics, mut items) = (BTreeSet::new(), 0);
    let mut pages = Pages::new(&plan.store, &plan.tenants);
    while let Some(page) = pages.next().await? {
        for item in page.into_iter().filter(|item| item.is_unsealed) {
            clinics.insert(item.owner);
            items += 1;
        }
    }
    Ok((clinics, items))
}

/// Seals what `plan` names, clinic by clinic, and keeps `report` up to date meanwhile. `on_clinic` hears of every clinic
/// how many are done, and of how many.
pub async fn run(
    plan: &Plan,
    report: &mut Report,
    on_clinic: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let (clinics, items) = unsealed(plan).await?;
    report.unsealed = items;
    if plan.dry_run || items == 0 {
        report.left = Some(items);
        return Ok(());
    }
    let mut pace = Pace::per_second(plan.rate);
    let total = u64::try_from(clinics.len()).unwrap_or(u64::MAX);
    for (done, clinic) in (1..).zip(&clinics) {
        pace.turn().await;
        let sealed = match Tenant::parse(clinic) {
            Ok(tenant) => {
                patiently(async || plan.store.seal_unsealed(&tenant, &SystemClock).await).await
            }
            Err(_) => Err(StoreError::Corrupt("pk")),
        };
        match sealed {
            Ok(upgraded) => {
                report.sealed += upgraded.sealed;
                let versions = upgraded.unsealable.into_iter();
                report
                    .unsealable
                    .extend(versions.map(|(item, error)| FailedItem {
                        clinic_id: clinic.clone(),
                        item,
                        error: error.to_string(),
                    }));
            }
            Err(error) => report.failed.push(FailedItem {
                clinic_id: clinic.clone(),
                item: "settings".to_owned(),
                error: error.to_string(),
            }),
        }
        on_clinic(done, total);
    }
    // What a process of the former version saved meanwhile is found here.
    report.left = Some(unsealed(plan).await?.1);
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} items had no seal", self.unsealed)?;
        write!(f, "{:>8} items sealed", self.sealed)?;
        if let Some(left) = self.left {
            write!(f, "\n{left:>8} items without a seal are left")?;
        }
        crate::reseal::write_failed(f, "failed", &self.failed)?;
        let what = "are earlier versions that cannot be sealed or restored";
        crate::reseal::write_failed(f, what, &self.unsealable)
    }
}
