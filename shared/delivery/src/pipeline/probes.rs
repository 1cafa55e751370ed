//! The permit that a message needs to probe an entry whose credentials were refused.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_adapters::{
    AccountRateLimit, Admission, Message, ProbePermit, RateLimiter, chain::ChainEntry,
    smtp::ConnectionLimit,
};
use comms_core::EmailAddress;

use super::freshness::Freshness;
use crate::allowance::Allowance;

/// What a delivery may use, and the permits for its probes, which belong to the settings that it goes by.
pub(super) struct ProbeGate<'a, 'b> {
    allowance: &'a Allowance<'b>,
    fresh: &'a Freshness<'a>,
}

impl<'a, 'b> ProbeGate<'a, 'b> {
    pub(super) const fn new(allowance: &'a Allowance<'b>, fresh: &'a Freshness<'a>) -> Self {
        Self { allowance, fresh }
    }
}

#[async_trait]
impl RateLimiter for ProbeGate<'_, '_> {
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission {
        self.allowance.acquire(rate_limit, message).await
    }

    async fn connect(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        self.allowance.connect(limit).await
    }

    async fn connect_again(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        self.allowance.connect_again(limit).await
    }

    fn waits_for_connection(&self) -> bool {
        self.allowance.waits_for_connection()
    }

    async fn may_use_global(&self, message: &Message) -> bool {
        self.allowance.may_use_global(message).await
    }

    async fn may_reply_to(&self, address: &EmailAddress) -> bool {
        self.allowance.may_reply_to(address).await
    }

    async fn may_probe(&self, entry: &ChainEntry) -> ProbePermit {
        let fresh = self.fresh;
        let used = fresh.current();
        let mut parts = used.parts(fresh.tenant);
        let part = parts.find(|(_, _, own)| {
            let mut entries = own.entries.iter();
            entries.any(|known| Arc::ptr_eq(&known.health, &entry.health))
        });
        let Some((tenant, version, _)) = part else {
            // Settings that were replaced meanwhile; their health is unused.
            return ProbePermit::Granted;
        };
        let health = &fresh.pipeline.health;
        let permit = health.probe_permit(tenant, version, fresh.channel, &entry.id, fresh.deadline);
        permit.await
    }
}
