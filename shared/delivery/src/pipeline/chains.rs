//! Chains from settings: a tenant's own entries, then the platform's.

use std::sync::Arc;

use comms_adapters::{Chain, Deadline};
use comms_core::{Channel, HashKey, Tenant};
use comms_settings::{StoreError, StoredSettings};

use super::{Pipeline, tenant_settings::TenantSettings};
use crate::policy::ChannelPolicy;

/// A chain, and what it was put together from.
#[derive(Debug)]
pub(super) struct ResolvedChain {
    pub(super) chain: Arc<Chain>,
    pub(super) settings: TenantSettings,
    pub(super) policy: ChannelPolicy,
    own: Option<BuiltChain>,
    global: Option<BuiltChain>,
}

/// One tenant's own entries, built from one version of its settings.
#[derive(Debug)]
struct BuiltChain {
    chain: Arc<Chain>,
    version: u64,
}

impl ResolvedChain {
    /// Whose entries are in it, and from which version of their settings.
    pub(super) fn parts<'a>(
        &'a self,
        tenant: &'a Tenant,
    ) -> impl Iterator<Item = (&'a Tenant, u64, &'a Chain)> {
        let own = self.own.iter().map(move |own| (tenant, own));
        let global = self.global.iter().map(|global| (&Tenant::Global, global));
        own.chain(global)
            .map(|(whose, built)| (whose, built.version, &*built.chain))
    }
}

impl Pipeline {
    /// The chain of a tenant: its own entries, then the global account's, unless the tenant opted out or its ceilings
    /// forbid it. Without settings for the channel, the global account's alone.
    pub(super) async fn chain(
        &self,
        tenant: &Tenant,
        channel: Channel,
        settings: TenantSettings,
        deadline: Deadline,
    ) -> Result<ResolvedChain, StoreError> {
        let policy = settings.policy(tenant, channel);
        let hash = self.hash_keys.get().await?;
        let own = match settings.own() {
            Some(stored) => self.built(hash, tenant, channel, stored, deadline).await,
            None => None,
        };
        let global = match settings.platform().filter(|_| policy.may_use_global) {
            Some(stored) => {
                self.built(hash, &Tenant::Global, channel, stored, deadline)
                    .await
            }
            None => None,
        };
        let whole = match (&own, &global) {
            (Some(own), Some(global)) => Arc::new(own.chain.then_global(&global.chain)),
            (Some(own), None) => own.chain.clone(),
            (None, Some(global)) => Arc::new(global.chain.as_global()),
            (None, None) => Arc::new(Chain::empty()),
        };
        Ok(ResolvedChain {
            chain: whole,
            settings,
            policy,
            own,
            global,
        })
    }

    /// A tenant's own entries for a channel, with what other processes know of their health; `None`
    /// without settings for the channel.
    async fn built(
        &self,
        hash: &HashKey,
        tenant: &Tenant,
        channel: Channel,
        stored: &StoredSettings,
        deadline: Deadline,
    ) -> Option<BuiltChain> {
        let settings = stored.settings.channel(channel)?;
        let version = stored.version.number;
        let chain = self
            .factory
            .own_chain(tenant, channel, version, || settings.chain_spec());
        self.health
            .refresh(hash, tenant, version, channel, &chain, deadline)
            .await;
        Some(BuiltChain { chain, version })
    }
}
