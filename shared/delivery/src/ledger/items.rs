//! Items of the ledger as deliveries.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use comms_aws::{
    Item, TableError,
    item::{find_text, flag, optional_text, required_text},
};
use comms_core::{
    Attempt, Channel, Delivery, DeliveryId, DeliveryStatus, FailureReason, ProviderKind, Waiting,
};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    attributes::{DELIVERY_PREFIX, WAITING, time},
    details,
};

pub(super) fn planned_deliveries(item: &Item) -> Result<Vec<Delivery>, TableError> {
    let wrong = || TableError::Corrupt("deliveries");
    let Some(AttributeValue::L(entries)) = item.get("deliveries") else {
        return Err(wrong());
    };
    entries
        .iter()
        .map(|entry| {
            let entry = entry.as_m().map_err(|_| wrong())?;
            let field = |name| find_text(entry, name).ok_or_else(wrong);
            Ok(Delivery::queued(
                DeliveryId::parse(field("id")?).map_err(|_| wrong())?,
                Channel::parse(field("channel")?).ok_or_else(wrong)?,
                field("recipient")?.clone(),
            ))
        })
        .collect()
}

pub(super) fn delivery(item: &Item) -> Result<Delivery, TableError> {
    let field = |name| required_text(item, name);
    let id = field("sk")?
        .strip_prefix(DELIVERY_PREFIX)
        .ok_or(TableError::Corrupt("sk"))?;
    let status = DeliveryStatus::parse(field("status")?).ok_or(TableError::Corrupt("status"))?;
    let mut delivery = Delivery {
        id: DeliveryId::parse(id).map_err(|_| TableError::Corrupt("sk"))?,
        channel: Channel::parse(field("channel")?).ok_or(TableError::Corrupt("channel"))?,
        recipient: field("recipient")?.clone(),
        status,
        provider: optional_text(item, "provider")?
            .map(|text| ProviderKind::parse(text).ok_or(TableError::Corrupt("provider")))
            .transpose()?,
        message_id: optional_text(item, "messageId")?.cloned(),
        reason: optional_text(item, "reason")?
            .map(|text| FailureReason::parse(text).ok_or(TableError::Corrupt("reason")))
            .transpose()?,
        // Only a queued delivery waits.
        waiting: waiting(item)?.filter(|_| status == DeliveryStatus::Queued),
        waited: details::waited(item)?,
        possible_duplicate: flag(item, "possibleDuplicate")?,
        attempts: attempts(item)?,
        via: None,
        ended_at: None,
        skipped: details::skipped(item)?,
        is_recorded: true,
    };
    delivery.via = details::via(item, &delivery)?;
    delivery.ended_at = match delivery.status {
        DeliveryStatus::Queued | DeliveryStatus::Sending => None,
        DeliveryStatus::Sent
        | DeliveryStatus::Failed
        | DeliveryStatus::Unknown
        | DeliveryStatus::Expired => details::timestamp(item, "updatedAt")?,
    };
    Ok(delivery)
}

pub(super) fn waiting(item: &Item) -> Result<Option<Waiting>, TableError> {
    let wrong = || TableError::Corrupt(WAITING);
    let Some(text) = optional_text(item, WAITING)? else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    Waiting::from_json(&value).map(Some).ok_or_else(wrong)
}

pub(super) fn attempts(item: &Item) -> Result<Vec<Attempt>, TableError> {
    let wrong = || TableError::Corrupt("attempts");
    let Some(text) = optional_text(item, "attempts")? else {
        return Ok(Vec::new());
    };
    let values: Vec<Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    values
        .iter()
        .map(|value| Attempt::from_json(value).ok_or_else(wrong))
        .collect()
}

pub(super) fn lease_until(item: &Item) -> Result<Timestamp, TableError> {
    time(item, "leaseUntil")?.ok_or(TableError::Corrupt("leaseUntil"))
}

/// Whether a lease ended longer ago than SQS takes to redeliver a message.
pub(super) fn is_given_up(item: &Item, now: Timestamp) -> Result<bool, TableError> {
    Ok(now > given_up_at(item)?)
}

/// The time after which no worker takes over a delivery whose lease has ended.
pub(super) fn given_up_at(item: &Item) -> Result<Timestamp, TableError> {
    /// The queue's visibility timeout is a little more than three minutes; where the store could not be
    /// reached then, there are a few waits of up to a quarter of an hour more.
    const REDELIVERY: Duration = Duration::from_mins(30);
    let until = lease_until(item)?.saturating_add(REDELIVERY);
    Ok(until.unwrap_or(Timestamp::MAX))
}
