//! Attributes of the ledger's items: written, and read with an error that names the attribute.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::UpdateItemError,
    types::AttributeValue,
};
use comms_core::{DeliveryId, RequestId, Waiting};
use comms_settings::error_code;
use jiff::Timestamp;

use super::{Item, LedgerError, RETENTION};

pub(super) const REQUEST: &str = "request";
/// Attributes of a request's item: the way it came by, and its caller. Items of earlier releases have neither.
pub(super) const ACCEPTED_VIA: &str = "acceptedVia";
pub(super) const ACCEPTED_BY: &str = "acceptedBy";
pub(super) const DELIVERY_PREFIX: &str = "delivery#";
/// The attribute of what a delivery waits for.
pub(super) const WAITING: &str = "waiting";

pub(super) fn key(request: &RequestId, delivery: &DeliveryId) -> Item {
    HashMap::from([
        text("pk", request.as_str()),
        text("sk", &format!("{DELIVERY_PREFIX}{delivery}")),
    ])
}

pub(super) fn time_to_live(now: Timestamp) -> i64 {
    now.as_second().saturating_add_unsigned(RETENTION.as_secs())
}

pub(super) fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub(super) fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn text(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), s(value))
}

pub(super) fn number(name: &str, value: i64) -> (String, AttributeValue) {
    (name.to_owned(), n(value))
}

pub(super) fn string<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

pub(super) fn required<'a>(item: &'a Item, name: &'static str) -> Result<&'a String, LedgerError> {
    string(item, name).ok_or(LedgerError::Corrupt(name))
}

/// A text that may be absent. A value of another type is an error.
pub(super) fn optional<'a>(
    item: &'a Item,
    name: &'static str,
) -> Result<Option<&'a String>, LedgerError> {
    item.contains_key(name)
        .then(|| required(item, name))
        .transpose()
}

/// A flag; an absent one is false.
pub(super) fn flag(item: &Item, name: &'static str) -> Result<bool, LedgerError> {
    match item.get(name) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .copied()
            .map_err(|_| LedgerError::Corrupt(name)),
    }
}

/// A time in milliseconds of Unix time, if present.
pub(super) fn time(item: &Item, name: &'static str) -> Result<Option<Timestamp>, LedgerError> {
    let Some(value) = item.get(name) else {
        return Ok(None);
    };
    value
        .as_n()
        .ok()
        .and_then(|text| Timestamp::from_millisecond(text.parse().ok()?).ok())
        .map(Some)
        .ok_or(LedgerError::Corrupt(name))
}

/// A counter; an absent one is 0.
pub(super) fn count(item: &Item, name: &'static str) -> Result<u32, LedgerError> {
    let Some(value) = item.get(name) else {
        return Ok(0);
    };
    let count = value.as_n().ok().and_then(|text| text.parse().ok());
    count.ok_or(LedgerError::Corrupt(name))
}

pub(super) fn waiting_value(waiting: &Waiting) -> Result<AttributeValue, LedgerError> {
    let json = serde_json::to_string(waiting).map_err(|_| LedgerError::Corrupt(WAITING))?;
    Ok(s(&json))
}

/// The item that made the condition fail; `None` for other errors.
pub(super) fn refused_item<R>(error: &SdkError<UpdateItemError, R>) -> Option<Item> {
    if let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error()
    {
        Some(failed.item().cloned().unwrap_or_default())
    } else {
        None
    }
}

pub(super) fn database<E: ProvideErrorMetadata, R>(
    operation: &'static str,
    error: &SdkError<E, R>,
) -> LedgerError {
    LedgerError::Database {
        operation,
        code: error_code(error),
    }
}
