//! Outcomes that are recorded late, and who counts them: they may be written from several places, and the first write may
//! have had its effect although nobody heard so.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use comms_aws::{
    ConditionalWrite,
    item::{find_text, text_value},
};
use comms_core::{DeliveryId, RequestId};
use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

use super::{Ledger, LedgerError, Outcome, Owner, attributes::key, writes::Purpose};

/// The owner whose outcome was counted, and a mark of the writer that did.
pub(super) const COUNTED: &str = "countedOf";

impl Ledger {
    /// Records an outcome late. Whether the caller is to count it: the first writer who hears that it is there. An outcome
    /// of which that cannot be found out is recorded, and counted by nobody.
    pub(crate) async fn finish_late(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mark = format!("{}#{}", owner.token, Uuid::new_v4());
        let written = self.write_outcome(request, delivery, owner, outcome, now, Some(&mark));
        let Some(found) = written.await? else {
            return Ok(true);
        };
        match find_text(&found, COUNTED) {
            // Our own write, whose answer was lost and which was made again.
            Some(counted) if *counted == mark => Ok(true),
            Some(counted) if counted.starts_with(&owner.token) => Ok(false),
            Some(_) | None => {
                let taken = self.take_count(request, delivery, owner, &mark).await;
                Ok(taken.unwrap_or_else(|error| {
                    warn!(%error, "an outcome was recorded and is not counted");
                    false
                }))
            }
        }
    }

    /// Marks an outcome that is there as counted by the caller. Whether it was the first.
    async fn take_count(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        mark: &str,
    ) -> Result<bool, LedgerError> {
        let update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(request, delivery)))
            .update_expression("SET #counted = :mark")
            .condition_expression(
                "#owner = :owner AND (attribute_not_exists(#counted) OR NOT begins_with(#counted, :owner))",
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_names("#counted", COUNTED)
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", text_value(&owner.token))
            .expression_attribute_values(":mark", text_value(mark));
        let written = self.write(update, Purpose::Outcome).await;
        Ok(match written.result? {
            ConditionalWrite::Done(_) => true,
            ConditionalWrite::ConditionFailed(item) => {
                find_text(&item, COUNTED).is_some_and(|counted| counted == mark)
            }
        })
    }
}
