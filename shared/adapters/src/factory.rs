//! Builds providers from what settings say, and keeps them: one set per tenant and settings version.
//!
//! A chain is built from a [`ChainSpec`], in which every entry carries its own credentials; there is
//! no place where one entry's could be used for another's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_config::SdkConfig;
use comms_core::{Channel, Clock, EmailAddress, EntryId, Position, ProviderKind, Tenant};
use tracing::warn;

use crate::{
    chain::{AmbiguityPolicy, Chain, ChainEntry},
    egress::EgressGuard,
    http::HttpClients,
    meta::{MetaProvider, MetaSettings},
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

/// Builds providers and remembers them.
pub struct ProviderFactory {
    tls: TlsConfigs,
    egress: EgressGuard,
    http: HttpClients,
    sockets: Sockets,
    sdk: SdkConfig,
    clock: Arc<dyn Clock>,
    capacity: usize,
    built: Mutex<Built>,
}

#[derive(Default)]
struct Built {
    chains: HashMap<(Tenant, Channel), (u64, Arc<Chain>, u64)>,
    uses: u64,
}

impl ProviderFactory {
    /// Remembers the providers of at most `capacity` tenants and channels, at least one. What is of
    /// AWS is made from `sdk`: its HTTP client, and the platform's own credentials.
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
            clock,
            capacity: capacity.max(1),
            built: Mutex::default(),
        }
    }

    /// The chain of a tenant's own entries at one settings version: the one that was built before,
    /// with its connections, or a new one. An older version's chain is dropped, and its connections
    /// close when the messages on them are done.
    pub fn own_chain(
        &self,
        tenant: &Tenant,
        channel: Channel,
        version: u64,
        spec: impl FnOnce() -> ChainSpec,
    ) -> Arc<Chain> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        built.uses += 1;
        let uses = built.uses;
        let key = (tenant.clone(), channel);
        if let Some((known, chain, last_use)) = built.chains.get_mut(&key)
            && *known == version
        {
            *last_use = uses;
            return chain.clone();
        }
        // Building connects to nothing and takes microseconds: it is done under the lock, so that
        // concurrent callers get one chain and not one each.
        let chain = Arc::new(self.build(tenant, spec()));
        // Somebody who has not yet seen the newer settings does not take their place.
        if built
            .chains
            .get(&key)
            .is_some_and(|(known, ..)| *known > version)
        {
            return chain;
        }
        if built.chains.len() >= self.capacity && !built.chains.contains_key(&key) {
            let oldest = built
                .chains
                .iter()
                .min_by_key(|(_, (_, _, last_use))| *last_use)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                built.chains.remove(&oldest);
            }
        }
        built.chains.insert(key, (version, chain.clone(), uses));
        chain
    }

    fn build(&self, tenant: &Tenant, spec: ChainSpec) -> Chain {
        let mut entries = Vec::with_capacity(spec.entries.len());
        for entry in spec.entries {
            let EntrySpec {
                id,
                position,
                settings,
                retries,
            } = entry;
            match self.provider(settings) {
                Ok(provider) => entries.push(ChainEntry {
                    id,
                    position,
                    provider,
                    retry: RetryPolicy { retries },
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
