//! Rate limits that all processes share: the chain acquires a permit before it gives a message to a provider.
//!
//! A provider limits an *account*: a phone number, a login, an AWS account in a region. Several entries, clinics and
//! processes may use the same account. [`crate::rate`] has the limits; an implementation of [`RateLimiter`] keeps them
//! over all processes.
//!
//! A message that waits for a permit says nothing about the provider's health.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_core::EmailAddress;
use jiff::Timestamp;

use crate::{
    account_rate_limit::AccountRateLimit, chain::entry::ChainEntry, message::Message,
    smtp::connection_limit::ConnectionLimit,
};

/// The longest that a message waits in its process for a permit. A message that would wait longer returns to its queue.
pub const MAX_WAIT_DURATION: Duration = Duration::from_secs(2);

/// Grants permits to send.
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// Acquires a permit of an account for `message`. A permit that is free within [`MAX_WAIT_DURATION`] is reserved.
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission;

    /// Reserves a connection of a login that all processes share. An error is the time to wait before the next try.
    async fn connect(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Ok(())
    }

    /// Reserves a connection after the server refused one because it had too many.
    async fn connect_again(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Err(MAX_WAIT_DURATION)
    }

    /// True if a message without a connection waits for one. Otherwise the next provider is tried.
    fn waits_for_connection(&self) -> bool {
        false
    }

    /// True if `message` may be sent by the platform's account. Asked once, before the first attempt at one of its entries.
    async fn may_use_global(&self, _message: &Message) -> bool {
        true
    }

    /// Whether a message that goes out by the platform's account may name this address for replies.
    async fn may_reply_to(&self, _address: &EmailAddress) -> bool {
        true
    }

    /// Whether a message may be the probe of an entry that refuses its credentials. Asked directly before the attempt.
    async fn may_probe(&self, _entry: &ChainEntry) -> ProbePermit {
        ProbePermit::Granted
    }
}

/// Whether a process may probe an entry that refuses its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbePermit {
    /// It may, and no other process for [`MAX_COOL_DOWN_DURATION`](crate::health::MAX_COOL_DOWN_DURATION).
    Granted,
    /// Another process has.
    Taken {
        /// When the next permit can be had.
        until: Timestamp,
    },
}

/// When a message may be sent to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// After this time, which may be zero. The permit is reserved.
    After(Duration),
    /// No permit is free soon. Ask again after this time.
    NotBefore(Duration),
}

impl Admission {
    /// At once.
    pub const NOW: Self = Self::After(Duration::ZERO);
}

/// Grants every permit at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

#[async_trait]
impl RateLimiter for Unlimited {
    async fn acquire(&self, _: &AccountRateLimit, _: &Message) -> Admission {
        Admission::NOW
    }
}
