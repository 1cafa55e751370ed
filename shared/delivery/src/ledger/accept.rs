//! The acceptance of a request.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    operation::put_item::PutItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use comms_aws::{
    Item, TableError,
    item::{find_text, number, required_text, text},
};
use comms_core::request::PlannedDelivery;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Acceptance, Ledger, Origin, RequestRecord,
    attributes::{ACCEPTED_BY, ACCEPTED_VIA, REQUEST, time_to_live},
    items::planned_deliveries,
};

/// A random number by which the write of an acceptance knows its own item. Items of earlier releases have none.
const ACCEPTANCE: &str = "acceptance";

impl Ledger {
    /// Records the acceptance of a request with its planned deliveries. `part_of` is the payload hash that a message without
    /// a MAC claims.
    pub async fn accept(
        &self,
        request: &RequestRecord,
        planned: &[PlannedDelivery],
        origin: &Origin,
        part_of: Option<&str>,
        now: Timestamp,
    ) -> Result<Acceptance, TableError> {
        let deliveries = planned
            .iter()
            .map(|delivery| {
                AttributeValue::M(HashMap::from([
                    text("id", delivery.id.as_str()),
                    text("channel", delivery.channel.as_str()),
                    text("recipient", delivery.masked()),
                ]))
            })
            .collect();
        let acceptance = AttributeValue::N(Uuid::new_v4().as_u64_pair().1.to_string());
        let mut item = HashMap::from([
            text("pk", request.id.as_str()),
            text("sk", REQUEST),
            text("clinicId", request.tenant.as_str()),
            text("payloadHash", &request.payload_hash),
            text("acceptedAt", &now.to_string()),
            text(ACCEPTED_VIA, origin.via.as_str()),
            ("deliveries".to_owned(), AttributeValue::L(deliveries)),
            number("expiresAt", time_to_live(now)),
            (ACCEPTANCE.to_owned(), acceptance.clone()),
        ]);
        item.extend(request.details.attributes());
        item.extend(origin.by.as_ref().map(|by| text(ACCEPTED_BY, by.as_str())));
        let result = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        let Err(error) = result else {
            return Ok(Acceptance::New);
        };
        let found = if let Some(PutItemError::ConditionalCheckFailedException(failed)) =
            error.as_service_error()
        {
            Some(failed.item().cloned().unwrap_or_default())
        } else {
            None
        };
        match found {
            // Our own write, whose response was lost and which the SDK retried.
            Some(item) if item.get(ACCEPTANCE) == Some(&acceptance) => Ok(Acceptance::New),
            Some(item) if *required_text(&item, "payloadHash")? == request.payload_hash => {
                Ok(Acceptance::Repeated)
            }
            Some(item) => Ok(match part_of {
                Some(claimed) if is_unauthenticated_part(&item, claimed, planned) => {
                    Acceptance::Part {
                        payload_hash: claimed.to_owned(),
                    }
                }
                Some(_) | None => Acceptance::OtherPayload,
            }),
            None => Err(TableError::new("PutItem", &error)),
        }
    }
}

/// Whether a message without a MAC may be a part of an accepted request: a release that made no MACs accepted it (the
/// item does not say by which way it came), under the same payload hash, for the message's recipients among others.
/// That proves nothing of the content, and ends with the items of that release.
fn is_unauthenticated_part(item: &Item, claimed: &str, planned: &[PlannedDelivery]) -> bool {
    let accepted = planned_deliveries(item).unwrap_or_default();
    !item.contains_key(ACCEPTED_VIA)
        && find_text(item, "payloadHash").is_some_and(|hash| hash == claimed)
        && planned
            .iter()
            .all(|part| accepted.iter().any(|whole| whole.id == part.id))
}
