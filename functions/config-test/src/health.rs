//! The effect of a passed test on an entry's health.

use comms_adapters::Deadline;
use comms_core::{Channel, Tenant};
use comms_delivery::health::{PassedTest, SHARE_TIMEOUT};
use tracing::warn;

use crate::Deps;

/// Cancels `down` where the test disproves it. A record that cannot be read or written in time stays as it is.
pub(crate) async fn record(
    deps: &Deps,
    tenant: &Tenant,
    version: u64,
    channel: Channel,
    passed: Vec<PassedTest>,
    deadline: Deadline,
) {
    if passed.is_empty() {
        return;
    }
    let key = match deps.hash_keys.find().await {
        Ok(Some(key)) => key,
        // Without a key no record is authentic.
        Ok(None) => return,
        Err(error) => {
            warn!(clinic_id = %tenant, %error, "a passed test was not recorded");
            return;
        }
    };
    let recorded = deps
        .health
        .record_passed_tests(key, tenant, version, channel, &passed);
    match deadline.bound(SHARE_TIMEOUT, recorded).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(clinic_id = %tenant, %error, "a passed test was not recorded"),
        Err(_) => warn!(clinic_id = %tenant, "a passed test was not recorded in time"),
    }
}
