//! Builds providers from what settings say, and keeps them: one set per tenant and settings version.
//!
//! A chain is built from a [`ChainSpec`], in which every entry carries its own credentials; there is
//! no place where one entry's could be used for another's.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use aws_config::SdkConfig;
use comms_core::{Channel, Clock, EmailAddress, EntryId, Position, ProviderKind, Tenant};
use tracing::warn;

use crate::{
    chain::{AmbiguityPolicy, Chain, ChainEntry},
    egress::EgressGuard,
    health::Health,
    http::HttpClients,
    meta::{MetaProvider, MetaSettings},
    pacing::{AskedRates, Pace},
    provider::Provider,
    retry::RetryPolicy,
    sendgrid::{SendgridProvider, SendgridSettings},
    ses::{SesProvider, SesSettings},
    smtp::{SmtpProvider, SmtpSettings},
    sockets::Sockets,
    tls::{TlsConfigs, TlsError},
    twilio::{TwilioProvider, TwilioSettings},
};

/// What one provider entry needs.
#[derive(Debug, Clone)]
pub enum ProviderSettings {
    /// A mail server.
    Smtp(SmtpSettings),
    /// Amazon SES.
    AwsSes(SesSettings),
    /// SendGrid.
    Sendgrid(SendgridSettings),
    /// Meta's Cloud API.
    MetaBusiness(MetaSettings),
    /// Twilio.
    Twilio(TwilioSettings),
}

impl ProviderSettings {
    /// The provider they are for.
    pub const fn kind(&self) -> ProviderKind {
        match self {
            Self::Smtp(_) => ProviderKind::Smtp,
            Self::AwsSes(_) => ProviderKind::AwsSes,
            Self::Sendgrid(_) => ProviderKind::Sendgrid,
            Self::MetaBusiness(_) => ProviderKind::MetaBusiness,
            Self::Twilio(_) => ProviderKind::Twilio,
        }
    }
}

/// One entry of a chain to be built.
#[derive(Debug, Clone)]
pub struct EntrySpec {
    /// Its id.
    pub id: EntryId,
    /// Its place.
    pub position: Position,
    /// Its own settings.
    pub settings: ProviderSettings,
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
        let entries = self.entries.iter().map(|entry| match &entry.settings {
            // Trust roots of its own make a TLS configuration of its own, which holds all the public
            // ones besides.
            ProviderSettings::Smtp(smtp) => match &smtp.ca_pem {
                Some(pem) => SMTP_BYTES + OWN_ROOTS_BYTES + pem.len(),
                None => SMTP_BYTES,
            },
            ProviderSettings::AwsSes(_) => SES_BYTES,
            ProviderSettings::Sendgrid(_)
            | ProviderSettings::MetaBusiness(_)
            | ProviderSettings::Twilio(_) => API_BYTES,
        });
        entries.sum::<usize>() + CHAIN_BYTES
    }
}

// Rounded up from what 400 of each added to the resident memory of a process: 1.2 kB, 24 kB, 14 kB,
// 0.2 kB.
const SMTP_BYTES: usize = 2_000;
const OWN_ROOTS_BYTES: usize = 30_000;
const SES_BYTES: usize = 20_000;
const API_BYTES: usize = 1_000;
const CHAIN_BYTES: usize = 1_000;

/// Bytes of the providers that are remembered, roughly, open connections not counted.
pub const MAX_BYTES: usize = 32 << 20;

/// Builds providers and remembers them.
pub struct ProviderFactory {
    tls: TlsConfigs,
    egress: EgressGuard,
    http: HttpClients,
    sockets: Sockets,
    sdk: SdkConfig,
    clock: Arc<dyn Clock>,
    rates: AskedRates,
    capacity: usize,
    built: Mutex<Built>,
}

#[derive(Default)]
struct Built {
    chains: HashMap<(Tenant, Channel), Kept>,
    uses: u64,
}

struct Kept {
    version: u64,
    /// Empty while the first who asked builds it.
    chain: Arc<OnceLock<Arc<Chain>>>,
    bytes: usize,
    last_use: u64,
}

impl Built {
    /// Drops those used last longest ago until the bounds are kept, but not `newest`.
    fn shrink(&mut self, capacity: usize, newest: &(Tenant, Channel)) {
        let mut bytes: usize = self.chains.values().map(|kept| kept.bytes).sum();
        while self.chains.len() > capacity || bytes > MAX_BYTES {
            let others = self.chains.iter().filter(|(key, _)| *key != newest);
            let oldest = others.min_by_key(|(_, kept)| kept.last_use);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            if let Some(dropped) = self.chains.remove(&oldest) {
                bytes -= dropped.bytes;
            }
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
        let sockets = Sockets::default();
        Self {
            http: HttpClients::new(tls.clone(), egress.clone(), sockets.clone(), clock.clone()),
            sockets,
            tls,
            egress,
            sdk,
            rates: AskedRates::new(clock.clone()),
            clock,
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
            if let Some(kept) = built.chains.get_mut(&key)
                && kept.version == version
            {
                kept.bytes = bytes;
            }
            built.shrink(self.capacity, &key);
        }
        chain.clone()
    }

    /// Where the chain of this version is, or is to be; `None` where a newer one is there.
    fn cell(&self, key: &(Tenant, Channel), version: u64) -> Option<Arc<OnceLock<Arc<Chain>>>> {
        let mut built = self.lock();
        built.uses += 1;
        let last_use = built.uses;
        if let Some(kept) = built.chains.get_mut(key)
            && kept.version >= version
        {
            kept.last_use = last_use;
            return (kept.version == version).then(|| kept.chain.clone());
        }
        let chain = Arc::<OnceLock<Arc<Chain>>>::default();
        let kept = Kept {
            version,
            chain: chain.clone(),
            bytes: 0,
            last_use,
        };
        built.chains.insert(key.clone(), kept);
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
                settings,
                retries,
                max_per_second,
            } = entry;
            let pace = Pace::of(&settings, max_per_second, &self.rates);
            match self.provider(settings) {
                Ok(provider) => entries.push(ChainEntry {
                    id,
                    position,
                    provider,
                    retry: RetryPolicy { retries },
                    health: Health::new(self.clock.clone()),
                    pace,
                }),
                // Saving checks for this; an entry saved before the check was there is passed over.
                Err(error) => {
                    warn!(clinic_id = %tenant, entry = %id, %error, "a provider entry can not be used");
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
        &self.sockets
    }

    /// A provider that is not remembered: for testing settings.
    pub fn provider(&self, settings: ProviderSettings) -> Result<Arc<dyn Provider>, TlsError> {
        match settings {
            ProviderSettings::Smtp(settings) => {
                let provider = SmtpProvider::new(
                    settings,
                    &self.tls,
                    self.egress.clone(),
                    self.sockets.clone(),
                    self.clock.clone(),
                )?;
                Ok(Arc::new(provider))
            }
            ProviderSettings::AwsSes(settings) => {
                Ok(Arc::new(SesProvider::new(settings, &self.sdk)))
            }
            ProviderSettings::Sendgrid(settings) => {
                Ok(Arc::new(SendgridProvider::new(settings, self.http.clone())))
            }
            ProviderSettings::MetaBusiness(settings) => {
                Ok(Arc::new(MetaProvider::new(settings, self.http.clone())))
            }
            ProviderSettings::Twilio(settings) => {
                Ok(Arc::new(TwilioProvider::new(settings, self.http.clone())))
            }
        }
    }
}

impl std::fmt::Debug for ProviderFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderFactory")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
