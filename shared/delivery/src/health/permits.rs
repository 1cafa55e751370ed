//! Permits for probes of entries whose credentials were refused: one per entry and [`MAX_COOL_DOWN_DURATION`] over all processes.
//!
//! A permit is the time of the last probe, beside the entry's record. It has no MAC: whoever can write it delays probes, as
//! by writing anything else to the table, and a time that lies ahead counts for nothing.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use comms_adapters::{Deadline, ProbePermit, health::MAX_COOL_DOWN_DURATION};
use comms_aws::{
    ConditionalWrite, TableError,
    item::{find_number, number_value},
};
use comms_core::{Channel, EntryId, Tenant};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tracing::warn;

use super::{RETENTION, SHARE_TIMEOUT, SharedHealth, item_key, name};

/// Before an entry's name: when it was probed last, in microseconds since 1970.
const PROBED: &str = "probed#";

impl SharedHealth {
    /// Asks for the permit to probe an entry of `tenant` at `version` of its settings. One write; where DynamoDB does not
    /// answer in [`SHARE_TIMEOUT`], the process goes by what it has seen itself. If the response to a write is lost, the permit
    /// is taken and nobody probes until the next one.
    pub async fn probe_permit(
        &self,
        tenant: &Tenant,
        version: u64,
        channel: Channel,
        entry: &EntryId,
        deadline: Deadline,
    ) -> ProbePermit {
        let name = name(channel, entry);
        let take = Box::pin(self.take_permit(tenant, version, &name));
        match deadline.bound(SHARE_TIMEOUT, take).await {
            Ok(Ok(permit)) => return permit,
            Ok(Err(error)) => {
                warn!(%error, "whether another process probes a provider is not known");
            }
            Err(_) => warn!("whether another process probes a provider was not known in time"),
        }
        ProbePermit::Granted
    }

    async fn take_permit(
        &self,
        tenant: &Tenant,
        version: u64,
        name: &str,
    ) -> Result<ProbePermit, TableError> {
        let attribute = format!("{PROBED}{name}");
        let now = self.clock.now();
        let interval = MAX_COOL_DOWN_DURATION.as_micros();
        let interval = i64::try_from(interval).unwrap_or(i64::MAX);
        let now_micros = now.as_microsecond();
        let ends = now.saturating_add(RETENTION).unwrap_or(Timestamp::MAX);
        let written = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .update_expression("SET #probed = :now, expiresAt = :expiresAt")
            .condition_expression(
                "attribute_not_exists(#probed) OR #probed <= :over OR #probed > :ahead",
            )
            .expression_attribute_names("#probed", &attribute)
            .expression_attribute_values(":now", number_value(now_micros))
            .expression_attribute_values(":over", number_value(now_micros.saturating_sub(interval)))
            .expression_attribute_values(
                ":ahead",
                number_value(now_micros.saturating_add(interval)),
            )
            .expression_attribute_values(":expiresAt", number_value(ends.as_second()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        let item = match ConditionalWrite::of_update(written)? {
            ConditionalWrite::Done(_) => return Ok(ProbePermit::Granted),
            ConditionalWrite::ConditionFailed(item) => item,
        };
        let probed = find_number::<i64>(&item, &attribute);
        let next = probed.unwrap_or(now_micros).saturating_add(interval);
        Ok(ProbePermit::Taken {
            until: Timestamp::from_microsecond(next).unwrap_or(now),
        })
    }
}
