//! How much of a quota is used, for the operator who asks.

use comms_aws::{TableError, item::key};
use comms_core::Tenant;
use comms_settings::Period;
use jiff::Timestamp;

use super::{
    Quotas, partition_key,
    windows::{end_of, is_plausible, windows},
    write::SORT_KEY,
};
use crate::counted::Counted;

/// What is used of one limit in its current window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUse {
    /// The limit's period.
    pub period: Period,
    /// Recipients, or deliveries of what is urgent, that were taken. Leases that a process holds and has not used are in it.
    pub used: u64,
    /// When the window ends.
    pub until: Timestamp,
}

impl Quotas {
    /// What is used of `tenant`'s quota, the shortest period first. A window that is over is left out, and so is a period
    /// without a limit. One eventually consistent read.
    pub async fn used(
        &self,
        tenant: &Tenant,
        counted: Counted,
    ) -> Result<Vec<QuotaUse>, TableError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&partition_key(tenant, counted), SORT_KEY)))
            .send()
            .await
            .map_err(|error| TableError::new("GetItem", &error))?;
        let Some(item) = found.item() else {
            return Ok(Vec::new());
        };
        let now = self.clock.now();
        let windows = windows(item)?.into_iter();
        let current = windows.filter(|(period, window)| is_plausible(*period, window.number, now));
        Ok(current
            .map(|(period, window)| QuotaUse {
                period,
                used: u64::try_from(window.used).unwrap_or_default(),
                until: end_of(period, window.number),
            })
            .collect())
    }
}
