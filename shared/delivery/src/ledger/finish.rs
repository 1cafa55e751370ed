//! The outcome of a delivery.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use comms_aws::{
    ConditionalWrite, Item, TableError,
    item::{find_text, number_value, text_value},
};
use comms_core::{Attempt, DeliveryId, DeliveryStatus, RequestId, SentVia};
use jiff::Timestamp;

use super::{
    Ledger, LedgerError, Outcome, Owner,
    attributes::{key, waiting_value},
    details,
    late::COUNTED,
    writes::Purpose,
};

impl Ledger {
    /// Records the outcome of a delivery, or requeues it, if the owner still holds it. An outcome may be written from several
    /// places: all but the first find it there.
    pub async fn finish(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let written = self.write_outcome(request, delivery, owner, outcome, now, None);
        written.await.map(drop)
    }

    /// The same, with a `mark` that says who counts it. The item as it was where the outcome was there already.
    pub(super) async fn write_outcome(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        outcome: &Outcome,
        now: Timestamp,
        mark: Option<&str>,
    ) -> Result<Option<Item>, LedgerError> {
        let attempts =
            Attempt::to_stored(&outcome.attempts).map_err(|_| TableError::Corrupt("attempts"))?;
        let mut update = String::from("SET #status = :status, updatedAt = :now");
        let mut request_builder = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(request, delivery)))
            .condition_expression("#status = :sending AND #owner = :owner")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":sending", text_value(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":owner", text_value(&owner.token))
            .expression_attribute_values(":status", text_value(outcome.status.as_str()))
            .expression_attribute_values(":now", text_value(&now.to_string()));
        if let Some(mark) = mark {
            update.push_str(", #counted = :mark");
            request_builder = request_builder
                .expression_attribute_names("#counted", COUNTED)
                .expression_attribute_values(":mark", text_value(mark));
        }
        // A claim whose response was lost does not know these attributes.
        if !outcome.is_untouched {
            update.push_str(", attempts = :attempts, possibleDuplicate = :duplicate");
            let is_duplicate = AttributeValue::Bool(outcome.possible_duplicate);
            request_builder = request_builder
                .expression_attribute_values(":attempts", text_value(&attempts))
                .expression_attribute_values(":duplicate", is_duplicate);
        }
        if let Some((provider, message_id)) = &outcome.receipt {
            update.push_str(", provider = :provider, messageId = :message");
            request_builder = request_builder
                .expression_attribute_values(":provider", text_value(provider.as_str()))
                .expression_attribute_values(":message", text_value(message_id));
        }
        if let Some(reason) = outcome.reason {
            update.push_str(", reason = :reason");
            request_builder =
                request_builder.expression_attribute_values(":reason", text_value(reason.as_str()));
        }
        // Without a clinic, the platform's account sends in any case.
        if let Some(cause) = outcome.via.and_then(SentVia::because) {
            update.push_str(", because = :because");
            request_builder =
                request_builder.expression_attribute_values(":because", text_value(cause.as_str()));
        }
        let skipped = outcome.skipped.as_ref();
        if let Some(skipped) = skipped.filter(|skipped| !skipped.is_empty()) {
            let skipped =
                serde_json::to_string(skipped).map_err(|_| TableError::Corrupt("skipped"))?;
            update.push_str(", skipped = :skipped");
            request_builder =
                request_builder.expression_attribute_values(":skipped", text_value(&skipped));
        }
        if let Some(not_before) = outcome.not_before {
            update.push_str(", notBefore = :before");
            request_builder = request_builder
                .expression_attribute_values(":before", number_value(not_before.as_millisecond()));
        }
        if let Some(waiting) = &outcome.waiting {
            update.push_str(", waiting = :waiting");
            request_builder =
                request_builder.expression_attribute_values(":waiting", waiting_value(waiting)?);
        }
        if let Some(waited) = &outcome.waited {
            update.push_str(", waited = :waited");
            request_builder = request_builder
                .expression_attribute_values(":waited", details::waited_value(waited)?);
        }
        update.push_str(" REMOVE leaseUntil");
        for (name, is_outdated) in details::outdated(outcome) {
            if is_outdated {
                update.push_str(", ");
                update.push_str(name);
            }
        }
        if outcome.not_before.is_some() && outcome.waiting.is_none() {
            update.push_str(" ADD deferrals :one");
            request_builder = request_builder.expression_attribute_values(":one", number_value(1));
        }
        let update = request_builder.update_expression(update);
        let written = self.write(update, Purpose::Outcome).await;
        match written.result? {
            ConditionalWrite::Done(_) => Ok(None),
            // Our own write, whose response was lost and which was repeated, or that of another process.
            ConditionalWrite::ConditionFailed(item)
                if find_text(&item, "owner") == Some(&owner.token)
                    && find_text(&item, "status").map(String::as_str)
                        == Some(outcome.status.as_str()) =>
            {
                Ok(Some(item))
            }
            ConditionalWrite::ConditionFailed(_) => Err(LedgerError::OwnershipLost),
        }
    }
}
