//! One delivery, as the list shows it.

use comms_core::DeliveryStatus;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// What the list shows of a delivery.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) request_id: String,
    pub(super) delivery_id: String,
    /// Counts the changes of all deliveries.
    pub(super) change: u64,
    pub(super) clinic_id: String,
    pub(super) channel: String,
    pub(super) recipient: String,
    pub(super) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<String>,
    /// The place in the chain of the attempt that was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<String>,
    /// When it was accepted, or first claimed where that is not known.
    pub(super) accepted_at: Option<Timestamp>,
    pub(super) updated_at: Option<Timestamp>,
    /// What it waits for, while it is queued, as the API says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waiting: Option<Value>,
    /// Until when it was deferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<Timestamp>,
    /// Until when its owner may be at work on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease_until: Option<Timestamp>,
    pub(super) deferrals: u64,
    pub(super) possible_duplicate: bool,
    pub(super) attempts: usize,
    /// From acceptance to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) took_ms: Option<i128>,
}

impl Row {
    /// The number of its last change.
    pub(super) fn change(&self) -> u64 {
        self.change
    }

    /// Whether nothing will change any more.
    pub(super) fn has_ended(&self) -> bool {
        match DeliveryStatus::parse(&self.status) {
            Some(DeliveryStatus::Queued | DeliveryStatus::Sending) | None => false,
            Some(
                DeliveryStatus::Sent
                | DeliveryStatus::Failed
                | DeliveryStatus::Unknown
                | DeliveryStatus::Expired,
            ) => true,
        }
    }
}
