//! Sealing the items of an earlier version of the service: the only step of the upgrade that reads every item.

use std::{collections::BTreeSet, fmt};

use comms_core::{SystemClock, Tenant};
use comms_settings::StoreError;
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
async fn unsealed(plan: &TablePlan) -> Result<(BTreeSet<String>, u64), StoreError> {
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

/// Seals the items of `plan`, clinic by clinic. `report` is right whenever the run is stopped. `on_clinic` gets the number of
/// clinics done and of all, after each clinic.
pub async fn run(
    plan: &TablePlan,
    report: &mut Report,
    on_clinic: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let (clinics, items) = unsealed(plan).await?;
    report.unsealed = items;
    if plan.is_dry_run || items == 0 {
        report.left = Some(items);
        return Ok(());
    }
    let mut pace = Pace::per_second(plan.rate);
    let total = u64::try_from(clinics.len()).unwrap_or(u64::MAX);
    for (done, clinic) in (1..).zip(&clinics) {
        pace.wait().await;
        let sealed = match Tenant::parse(clinic) {
            Ok(tenant) => {
                with_retries(async || plan.store.seal_unsealed(&tenant, &SystemClock).await).await
            }
            Err(_) => Err(StoreError::corrupt("pk")),
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
    // This finds items that a process of the former version has saved meanwhile.
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
