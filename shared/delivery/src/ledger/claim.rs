//! Claims, takeovers, and what a delivery waits for before its claim.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use comms_aws::{
    ConditionalWrite, Item, TableError,
    item::{find_text, flag, number_value, optional_text, required_text, text_value},
};
use comms_core::{
    Delivery, DeliveryId, DeliveryStatus, SentVia, Waiting, request::PlannedDelivery,
};
use futures_util::FutureExt as _;
use jiff::Timestamp;

use super::{
    Claim, DeliveryHistory, Ledger, LedgerError, OUTCOME_GRACE, Owner, RequestRecord,
    attributes::{count, key, time, time_to_live, waiting_value},
    details,
    items::{attempts, delivery, lease_until, waiting},
    writes::{Purpose, Written},
};

impl Ledger {
    /// Claims a delivery that has no owner.
    pub async fn claim(
        &self,
        request: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        owner: &Owner,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let mut set = String::from(
            "SET #status = :sending, #owner = :owner, leaseUntil = :lease, clinicId = :clinic, \
             #channel = :channel, recipient = :recipient, addressHash = :address, \
             payloadHash = :payload, createdAt = if_not_exists(createdAt, :now), \
             updatedAt = :now, expiresAt = :ttl",
        );
        let mut update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, &planned.id)))
            .condition_expression(
                "attribute_not_exists(pk) OR (#status = :queued AND payloadHash = :payload \
                 AND (attribute_not_exists(notBefore) OR notBefore <= :time))",
            )
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#channel", "channel")
            .expression_attribute_values(":sending", text_value(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":queued", text_value(DeliveryStatus::Queued.as_str()))
            .expression_attribute_values(":owner", text_value(&owner.token))
            .expression_attribute_values(":lease", number_value(owner.lease_until.as_millisecond()))
            .expression_attribute_values(":clinic", text_value(request.tenant.as_str()))
            .expression_attribute_values(":channel", text_value(planned.channel.as_str()))
            .expression_attribute_values(":recipient", text_value(planned.masked()))
            .expression_attribute_values(":address", text_value(address_hash))
            .expression_attribute_values(":payload", text_value(&request.payload_hash))
            .expression_attribute_values(":now", text_value(&now.to_string()))
            .expression_attribute_values(":time", number_value(now.as_millisecond()))
            .expression_attribute_values(":ttl", number_value(time_to_live(now)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(next) = &self.next {
            set.push_str(", attemptAt = :now, attemptBy = :next");
            update = update.expression_attribute_values(":next", text_value(&next.to_string()));
        }
        set.push_str(" REMOVE notBefore");
        let update = update.update_expression(set);
        let written = self.write(update, Purpose::Claim).await;
        claimed(written, request, owner, now)
    }

    /// Records what an unclaimed delivery waits for. A delivery that was claimed or waits already stays unchanged.
    pub async fn note_waiting(
        &self,
        request: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Result<(), TableError> {
        let result = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, &planned.id)))
            .update_expression(
                "SET #status = :queued, waiting = :waiting, clinicId = :clinic, \
                 #channel = :channel, recipient = :recipient, addressHash = :address, \
                 payloadHash = :payload, createdAt = :now, updatedAt = :now, expiresAt = :ttl",
            )
            .condition_expression("attribute_not_exists(pk)")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#channel", "channel")
            .expression_attribute_values(":queued", text_value(DeliveryStatus::Queued.as_str()))
            .expression_attribute_values(":waiting", waiting_value(waiting)?)
            .expression_attribute_values(":clinic", text_value(request.tenant.as_str()))
            .expression_attribute_values(":channel", text_value(planned.channel.as_str()))
            .expression_attribute_values(":recipient", text_value(planned.masked()))
            .expression_attribute_values(":address", text_value(address_hash))
            .expression_attribute_values(":payload", text_value(&request.payload_hash))
            .expression_attribute_values(":now", text_value(&now.to_string()))
            .expression_attribute_values(":ttl", number_value(time_to_live(now)))
            .send()
            .boxed()
            .await;
        ConditionalWrite::of_update(result).map(drop)
    }

    /// Takes over a delivery whose owner's lease ended without an outcome, and records that it may have been sent.
    pub async fn take_over(
        &self,
        request: &RequestRecord,
        delivery: &DeliveryId,
        from: &str,
        owner: &Owner,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, delivery)))
            .update_expression(
                "SET #owner = :owner, leaseUntil = :lease, updatedAt = :now, possibleDuplicate = :true \
                 ADD takeovers :one",
            )
            .condition_expression("#status = :sending AND #owner = :from")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":sending", text_value(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":from", text_value(from))
            .expression_attribute_values(":owner", text_value(&owner.token))
            .expression_attribute_values(":lease", number_value(owner.lease_until.as_millisecond()))
            .expression_attribute_values(":now", text_value(&now.to_string()))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":one", number_value(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let written = self.write(update, Purpose::Claim).await;
        claimed(written, request, owner, now)
    }
}

/// The result of a claim or takeover.
fn claimed(
    written: Written,
    request: &RequestRecord,
    owner: &Owner,
    now: Timestamp,
) -> Result<Claim, LedgerError> {
    match written.result {
        Ok(ConditionalWrite::Done(item)) => Ok(owned(&item)?),
        Ok(ConditionalWrite::ConditionFailed(item)) => {
            Ok(claim_refused(&item, request, owner, now)?)
        }
        Err(error) if written.is_uncertain => Err(LedgerError::Uncertain(error)),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn owned(item: &Item) -> Result<Claim, TableError> {
    Ok(Claim::Owned(DeliveryHistory {
        attempts: attempts(item)?,
        possible_duplicate: flag(item, "possibleDuplicate")?,
        deferrals: count(item, "deferrals")?,
        takeovers: count(item, "takeovers")?,
        waiting: waiting(item)?,
        last_attempt: details::timestamp(item, "attemptAt")?
            .zip(optional_text(item, "attemptBy")?.cloned()),
    }))
}

pub(super) fn claim_refused(
    item: &Item,
    request: &RequestRecord,
    owner: &Owner,
    now: Timestamp,
) -> Result<Claim, TableError> {
    if *required_text(item, "payloadHash")? != request.payload_hash {
        return Ok(Claim::OtherPayload);
    }
    let delivery = delivery(item)?;
    match delivery.status {
        DeliveryStatus::Sent
        | DeliveryStatus::Failed
        | DeliveryStatus::Unknown
        | DeliveryStatus::Expired => {
            let may = Delivery::may_be_of_global(delivery.status, &delivery.attempts);
            let cause = request.details.cause_of_global(&request.tenant);
            let via = cause.filter(|_| may).map(SentVia::Global).or(delivery.via);
            Ok(Claim::Ended(Box::new(Delivery { via, ..delivery })))
        }
        // Or it returned to the queue since our write, and may be claimed at once.
        DeliveryStatus::Queued => Ok(Claim::NotYet {
            until: time(item, "notBefore")?.unwrap_or(now),
        }),
        // Our own claim, whose response was lost and which was repeated.
        DeliveryStatus::Sending if find_text(item, "owner") == Some(&owner.token) => owned(item),
        DeliveryStatus::Sending => {
            // Its owner may have put the outcome on the queue, or keep it: that is recorded first.
            let until = lease_until(item)?.saturating_add(OUTCOME_GRACE);
            let until = until.unwrap_or(Timestamp::MAX);
            if now < until {
                return Ok(Claim::Busy { until });
            }
            let owner = find_text(item, "owner").ok_or(TableError::Corrupt("owner"))?;
            Ok(Claim::Abandoned {
                owner: owner.clone(),
            })
        }
    }
}
