//! Who counts an outcome that was recorded late: it may be written from several places, and its first write may have had
//! its effect although nobody heard so.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use comms_core::{DeliveryId, RequestId};

use super::{
    Ledger, LedgerError, Owner,
    attributes::{database, key, refused_item, s, string},
    writes::Purpose,
};

/// The owner whose outcome was counted.
const COUNTED: &str = "countedOf";

impl Ledger {
    /// Whether the caller is to count this owner's outcome: the first who asks, and nobody where somebody else has the
    /// delivery by now.
    pub(crate) async fn take_count(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
    ) -> Result<bool, LedgerError> {
        let update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(request, delivery)))
            .update_expression("SET #counted = :owner")
            .condition_expression(
                "#owner = :owner AND (attribute_not_exists(#counted) OR #counted <> :owner)",
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_names("#counted", COUNTED)
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", s(&owner.token));
        let written = self.write(update, Purpose::Outcome).await;
        match written.result {
            Ok(_) => Ok(true),
            Err(error) => match refused_item(&error) {
                // Our own write, whose answer was lost on the way and which was made again.
                Some(item) => Ok(written.is_uncertain
                    && string(&item, COUNTED).is_some_and(|counted| *counted == owner.token)),
                None => Err(database("UpdateItem", &error)),
            },
        }
    }
}
