//! What bounds the work on one delivery.

use std::sync::atomic::AtomicBool;

use comms_adapters::Deadline;
use comms_core::request::Priority;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{OnExhausted, QuotaSource};
use crate::slow_workers::WorkQueue;

/// What bounds the work on a delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) expires_at: Option<Timestamp>,
    pub(super) priority: Priority,
    pub(super) deadline: Deadline,
    pub(super) on_exhausted: OnExhausted,
    pub(super) quota: &'a QuotaSource,
    pub(super) queue: Option<WorkQueue>,
    /// Whether it is the only delivery of its invocation.
    pub(super) is_alone: bool,
    /// Whether each delivery takes its own urgent quota.
    pub(super) counts_as_urgent: bool,
    /// Whether quota was returned that another delivery can use.
    pub(super) was_given_back: &'a AtomicBool,
}

impl Limits<'_> {
    pub(super) const fn receives(&self) -> u32 {
        match self.quota {
            QuotaSource::Deliveries { receives, .. } => *receives,
            QuotaSource::Taken(_) => 1,
        }
    }
}

/// A delivery whose attempts have begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started<'a> {
    pub(super) at: Instant,
    pub(super) limits: Limits<'a>,
    /// Whether the last attempt used an entry after the first of the chain.
    pub(super) by_fallback: bool,
}
