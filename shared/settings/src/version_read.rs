//! The number of a tenant's counter, read by itself: the cheapest answer to whether settings were changed.
//!
//! The item is small (`kept` has at most [`crate::counter::MAX_KEPT_VERSIONS`] versions, some 2 KB), whatever the size of
//! the settings. Every save, restore, deletion and purge moves the number in the transaction that changes the settings, so
//! who has seen the new settings anywhere finds the new number by a strongly consistent read.

use std::time::Duration;

use comms_core::Tenant;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{
    counter::{COUNTER, CounterNumber},
    store::{SettingsStore, StoreError},
};

/// Reads of one round, all of which have to find a saved number before the save is answered.
const VISIBILITY_READS: usize = 8;
/// The time between two rounds.
const VISIBILITY_INTERVAL: Duration = Duration::from_millis(25);
/// The longest that a save waits for its number to be found.
const MAX_VISIBILITY_DURATION: Duration = Duration::from_secs(1);

impl SettingsStore {
    /// The number of the tenant's counter. Half a read unit, or one where the read has to be consistent.
    pub(crate) async fn number(
        &self,
        tenant: &Tenant,
        is_consistent: bool,
    ) -> Result<CounterNumber, StoreError> {
        let item = self
            .get_item(tenant.as_str(), COUNTER, is_consistent)
            .await?;
        let state = self.counter_state(tenant, item.as_ref()).await?;
        Ok(CounterNumber::from(&state))
    }

    /// Waits until eventually consistent reads find `number`, the one that was just written.
    ///
    /// Each read asks one of DynamoDB's three replicas. A round of [`VISIBILITY_READS`] that all find the number misses a
    /// replica that lags behind with a probability of four in a hundred. A read that fails ends the wait: the save has
    /// been written, and a send that is about to fail reads consistently.
    pub(crate) async fn wait_until_visible(&self, tenant: &Tenant, number: u64) {
        let started = Instant::now();
        while started.elapsed() < MAX_VISIBILITY_DURATION {
            let reads = (0..VISIBILITY_READS).map(|_| self.number(tenant, false));
            let left = MAX_VISIBILITY_DURATION.saturating_sub(started.elapsed());
            let Ok(found) = tokio::time::timeout(left, join_all(reads)).await else {
                break;
            };
            let is_visible = |found: &Result<CounterNumber, StoreError>| match found {
                Ok(CounterNumber::Number(found)) => *found >= number,
                Ok(CounterNumber::Missing | CounterNumber::Forged) => false,
                Err(_) => true,
            };
            if found.iter().all(is_visible) {
                return;
            }
            info!(clinic_id = %tenant, version = number, "a replica does not have the saved settings yet");
            sleep(VISIBILITY_INTERVAL).await;
        }
        warn!(clinic_id = %tenant, version = number, "not every replica was found to have the saved settings");
    }
}
