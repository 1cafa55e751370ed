//! Builds providers from what settings say, and keeps them: one set per tenant and settings version.
//!
//! A chain is built from a [`ChainSpec`], in which every entry carries its own credentials; there is
//! no place where one entry's could be used for another's.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use aws_config::SdkConfig;
use comms_core::{Channel, Clock, EmailAddress, EntryId, Mailbox, Position, Recent, Tenant};
use tracing::warn;

use crate::{
    account_rate_limit::{AccountRateLimit, AskedRates},
    adapter::{BuildError, Parts},
    chain::{AmbiguityPolicy, Chain, ChainEntry},
    config::ProviderConfig,
    health::Health,
    layers::retry::RetryPolicy,
    net::{egress::EgressGuard, sockets::Sockets, tls::TlsConfigs},
    provider::Provider,
    registry,
};

/// One entry of a chain to be built.
#[derive(Debug, Clone)]
pub struct EntrySpec {
    /// Its id.
    pub id: EntryId,
    /// Its place.
    pub position: Position,
    /// Its own configuration.
    pub config: Arc<dyn ProviderConfig>,
    /// Who its e-mail is from: its own sender, else the channel's.
    pub sender: Option<Mailbox>,
    /// Retries after the first attempt.
    pub retries: u8,
    /// Messages in a second, in place of what its provider takes by default.
    pub max_per_second: Option<NonZeroU32>,
}

/// A tenant's own entries for one channel, disabled ones left out.
#[derive(Debug, Clone)]
pub struct ChainSpec {
    /// The entries in order.
    pub entries: Vec<EntrySpec>,
    /// What to do when it is not known whether a message went out.
    pub on_ambiguous: AmbiguityPolicy,
    /// Where answers go when the global account sends for this tenant.
    pub reply_to: Option<EmailAddress>,
}

impl ChainSpec {
    /// What the built chain weighs, roughly.
    fn bytes(&self) -> usize {
        let entries = self
            .entries
            .iter()
            .map(|entry| entry.config.provider_bytes());
        entries.sum::<usize>() + CHAIN_BYTES
    }
}

/// Bytes of a chain beside its providers, rounded up from what 400 of them added to the resident memory of a process.
const CHAIN_BYTES: usize = 1_000;

/// Bytes of the providers that are remembered, roughly, open connections not counted.
pub const MAX_BYTES: usize = 32 << 20;

/// Builds providers and remembers them.
pub struct ProviderFactory {
    parts: Parts,
    rates: AskedRates,
    capacity: usize,
    built: Mutex<Built>,
}

/// The chains that are remembered.
type Built = Recent<(Tenant, Channel), CachedChain>;

struct CachedChain {
    version: u64,
    /// Empty while the first who asked builds it.
    chain: Arc<OnceLock<Arc<Chain>>>,
    bytes: usize,
}

/// Forgets the chains used longest ago until the bounds are kept, but not `newest`.
fn shrink(built: &mut Built, capacity: usize, newest: &(Tenant, Channel)) {
    let mut bytes: usize = built.values().map(|kept| kept.bytes).sum();
    while built.len() > capacity || bytes > MAX_BYTES {
        let mut others = built.oldest_first().filter(|(key, _)| *key != newest);
        let oldest = others.next().map(|(key, _)| key.clone());
        drop(others);
        let Some(oldest) = oldest else {
            return;
        };
        if let Some(dropped) = built.remove(&oldest) {
            bytes -= dropped.bytes;
        }
    }
}

impl ProviderFactory {
    /// Remembers the providers of at most `capacity` tenants and channels, at least one, and no more
    /// than weigh [`MAX_BYTES`]. What is of AWS is made from `sdk`: its HTTP client, and the platform's
    /// own credentials.
    pub fn new(
        tls: TlsConfigs,
        egress: EgressGuard,
        sdk: SdkConfig,
        clock: Arc<dyn Clock>,
        capacity: usize,
    ) -> Self {
        Self {
            rates: AskedRates::new(clock.clone()),
            parts: Parts::new(tls, egress, sdk, clock),
            capacity: capacity.max(1),
            built: Mutex::default(),
        }
    }

    /// The chain of a tenant's own entries at one settings version: the one that was built before,
    /// with its connections, or a new one. However many ask at once, it is built once, and nobody
    /// else's is held up by it. An older version's chain is dropped, and its connections close when
    /// the messages on them are done.
    pub fn own_chain(
        &self,
        tenant: &Tenant,
        channel: Channel,
        version: u64,
        spec: impl FnOnce() -> ChainSpec,
    ) -> Arc<Chain> {
        let key = (tenant.clone(), channel);
        let Some(cell) = self.cell(&key, version) else {
            // Somebody who has not yet seen the newer settings does not take their place.
            return Arc::new(self.build(tenant, spec()));
        };
        let mut weighs = None;
        let chain = cell.get_or_init(|| {
            let spec = spec();
            weighs = Some(spec.bytes());
            Arc::new(self.build(tenant, spec))
        });
        if let Some(bytes) = weighs {
            let mut built = self.lock();
            if let Some(kept) = built.peek_mut(&key)
                && kept.version == version
            {
                kept.bytes = bytes;
            }
            shrink(&mut built, self.capacity, &key);
        }
        chain.clone()
    }

    /// Where the chain of this version is, or is to be; `None` where a newer one is there.
    fn cell(&self, key: &(Tenant, Channel), version: u64) -> Option<Arc<OnceLock<Arc<Chain>>>> {
        let mut built = self.lock();
        if let Some(kept) = built.get_mut(key)
            && kept.version >= version
        {
            return (kept.version == version).then(|| kept.chain.clone());
        }
        let chain = Arc::<OnceLock<Arc<Chain>>>::default();
        let kept = CachedChain {
            version,
            chain: chain.clone(),
            bytes: 0,
        };
        built.insert(key.clone(), kept);
        Some(chain)
    }

    fn lock(&self) -> MutexGuard<'_, Built> {
        // Nothing panics while the lock is held.
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, tenant: &Tenant, spec: ChainSpec) -> Chain {
        let mut entries = Vec::with_capacity(spec.entries.len());
        for entry in spec.entries {
            let EntrySpec {
                id,
                position,
                config,
                sender,
                retries,
                max_per_second,
            } = entry;
            let rate_limit = AccountRateLimit::of(&*config, max_per_second, &self.rates);
            match self.provider(&*config, sender) {
                Ok(provider) => entries.push(ChainEntry {
                    id,
                    position,
                    provider,
                    retry: RetryPolicy { retries },
                    health: Health::new(self.parts.clock.clone()),
                    rate_limit,
                }),
                // Saving checks for this; an entry saved before the check was there is passed over.
                Err(error) => {
                    warn!(clinic_id = %tenant, entry = %id, %error, "a provider entry cannot be used");
                }
            }
        }
        Chain {
            entries,
            on_ambiguous: spec.on_ambiguous,
            clinic_reply_to: spec.reply_to,
        }
    }

    /// The open sockets of every provider that this has built.
    pub const fn sockets(&self) -> &Sockets {
        &self.parts.sockets
    }

    /// A provider that is not remembered: for testing settings.
    pub fn provider(
        &self,
        config: &dyn ProviderConfig,
        sender: Option<Mailbox>,
    ) -> Result<Arc<dyn Provider>, BuildError> {
        registry::build(config, sender, &self.parts)
    }
}

impl std::fmt::Debug for ProviderFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderFactory")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
