//! The outcome of a whole communication: one word, and its HTTP status.

use comms_core::{Delivery, DeliveryStatus};
use lambda_http::http::StatusCode;

/// The outcome of all deliveries of a communication together (`CommunicationOutcome` in `infra/openapi.yaml`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommunicationOutcome {
    /// Every delivery will be sent from the queue.
    Queued,
    /// A provider accepted every delivery.
    Sent,
    /// Some deliveries were sent or are queued, and others not.
    Partial,
    /// No delivery was sent, and none will be.
    Failed,
    /// No delivery was certainly sent, and a provider may have accepted one. Sending it again risks a second copy.
    Unknown,
}

impl CommunicationOutcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Sent,
        Self::Partial,
        Self::Failed,
        Self::Unknown,
    ];

    /// The outcome of `deliveries`, of which `queued` go on in the queue.
    pub(crate) fn of(deliveries: &[Delivery], queued: usize) -> Self {
        let count = |status| {
            let with_status = deliveries.iter().filter(|one| one.status == status);
            with_status.count()
        };
        let sent = count(DeliveryStatus::Sent);
        if queued == deliveries.len() {
            Self::Queued
        } else if sent == deliveries.len() {
            Self::Sent
        } else if sent > 0 || queued > 0 {
            Self::Partial
        } else if count(DeliveryStatus::Unknown) > 0 {
            Self::Unknown
        } else {
            Self::Failed
        }
    }

    /// The name in an answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// A 5xx would make HTTP clients and proxies repeat a request whose message may have arrived, and generated clients
    /// throw away the type of the answer (ADR 28).
    pub(crate) const fn http_status(self) -> StatusCode {
        match self {
            Self::Queued => StatusCode::ACCEPTED,
            Self::Sent => StatusCode::OK,
            Self::Partial | Self::Failed | Self::Unknown => StatusCode::MULTI_STATUS,
        }
    }
}
