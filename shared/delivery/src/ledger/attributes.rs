//! Attributes of the ledger's items: written, and read with an error that names the attribute.

use aws_sdk_dynamodb::types::AttributeValue;
use comms_aws::{
    Item, TableError,
    item::{self, optional_number},
};
use comms_core::{DeliveryId, RequestId, Waiting};
use jiff::Timestamp;

use super::RETENTION;

pub(super) const REQUEST: &str = "request";
/// Attributes of a request's item: the way it came by, and its caller. Items of earlier releases have neither.
pub(super) const ACCEPTED_VIA: &str = "acceptedVia";
pub(super) const ACCEPTED_BY: &str = "acceptedBy";
pub(super) const DELIVERY_PREFIX: &str = "delivery#";
/// The attribute of what a delivery waits for.
pub(super) const WAITING: &str = "waiting";

pub(super) fn key(request: &RequestId, delivery: &DeliveryId) -> Item {
    item::key(request.as_str(), &format!("{DELIVERY_PREFIX}{delivery}"))
}

pub(super) fn time_to_live(now: Timestamp) -> i64 {
    now.as_second().saturating_add_unsigned(RETENTION.as_secs())
}

/// A time in milliseconds of Unix time, if present.
pub(super) fn time(item: &Item, name: &'static str) -> Result<Option<Timestamp>, TableError> {
    let milliseconds = optional_number(item, name)?;
    milliseconds
        .map(|time| Timestamp::from_millisecond(time).map_err(|_| TableError::Corrupt(name)))
        .transpose()
}

/// A counter; an absent one is 0.
pub(super) fn count(item: &Item, name: &'static str) -> Result<u32, TableError> {
    Ok(optional_number(item, name)?.unwrap_or_default())
}

pub(super) fn waiting_value(waiting: &Waiting) -> Result<AttributeValue, TableError> {
    let json = serde_json::to_string(waiting).map_err(|_| TableError::Corrupt(WAITING))?;
    Ok(item::text_value(&json))
}
