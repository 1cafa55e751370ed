//! Pacing: who is asked for leave before a message is given to a provider.
//!
//! A provider limits an *account*: a phone number, a login, an AWS account in a region. Several entries, and
//! several clinics, may stand for one, and so may several processes. What the limits are is in [`crate::rate`]; that
//! they are kept among all processes is [`RateLimiter`]'s concern, of which the chain knows no more than that it
//! may ask.
//!
//! Being paced says nothing of the provider's health: it was not asked.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_core::EmailAddress;
use jiff::Timestamp;

use crate::{
    account_rate_limit::AccountRateLimit, chain::entry::ChainEntry, message::Message,
    smtp::connection_limit::ConnectionLimit,
};

/// The longest that a message waits in its process for its turn. What would wait for longer goes back to
/// where it came from, and does not hold up others.
pub const MAX_WAIT_DURATION: Duration = Duration::from_secs(2);

/// Gives leave to send.
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// When `message` may be given to an entry that is paced so. A turn is kept for it where it comes within
    /// [`MAX_WAIT_DURATION`].
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission;

    /// Reserves a connection of a login that all processes share. Otherwise: the time after which asking again makes
    /// sense.
    async fn connect(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Ok(())
    }

    /// The same after the server refused one for their number.
    async fn connect_again(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Err(MAX_WAIT_DURATION)
    }

    /// Whether a message for which there is no connection waits for one, rather than going by the next provider.
    fn waits_for_connection(&self) -> bool {
        false
    }

    /// Whether `message` may go out by the platform's account. Asked before the first attempt at one of its
    /// entries; the answer holds for all of them.
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

/// When a message may be given to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// After so long, which may be nothing: its turn is kept.
    After(Duration),
    /// Not soon; asking again makes sense after so long.
    NotBefore(Duration),
}

impl Admission {
    /// At once.
    pub const NOW: Self = Self::After(Duration::ZERO);
}

/// Lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

#[async_trait]
impl RateLimiter for Unlimited {
    async fn acquire(&self, _: &AccountRateLimit, _: &Message) -> Admission {
        Admission::NOW
    }
}
