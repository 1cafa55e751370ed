//! How an adapter is built from a configuration.

use std::{fmt, sync::Arc};

use aws_config::SdkConfig;
use comms_core::{Clock, Mailbox, ProviderKind};
use thiserror::Error;

use crate::{
    config::{ProviderConfig, ReadConfig},
    net::{
        egress::EgressGuard,
        http::HttpClients,
        sockets::Sockets,
        tls::{TlsConfigs, TlsError},
    },
    provider::{Capabilities, Provider},
};

/// What the adapters of one process share.
pub struct Parts {
    /// TLS for mail servers.
    pub tls: TlsConfigs,
    /// Where connections may go.
    pub egress: EgressGuard,
    /// The client of the APIs over HTTP.
    pub http: HttpClients,
    /// The ceiling of open sockets.
    pub sockets: Sockets,
    /// What AWS's clients are made from: their HTTP client, and the platform's own credentials.
    pub sdk: SdkConfig,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Parts {
    /// Makes what is shared beyond the arguments.
    pub fn new(
        tls: TlsConfigs,
        egress: EgressGuard,
        sdk: SdkConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let sockets = Sockets::default();
        Self {
            http: HttpClients::new(tls.clone(), egress.clone(), sockets.clone(), clock.clone()),
            tls,
            egress,
            sockets,
            sdk,
            clock,
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts(…)")
    }
}

/// Why an entry has no adapter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BuildError {
    /// Its trust roots cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It sends e-mail, and no sender is set.
    #[error("no sender is set for the entry")]
    NoSender,
    /// The usual URL of the provider's API is none: a fault of the adapter's.
    #[error("the provider's own URL is none")]
    Url,
    /// The registry has no adapter for it.
    #[error("there is no adapter for this provider")]
    Unknown,
}

/// A provider that is built from a configuration.
pub trait Adapter: Provider + Sized + 'static {
    /// The type of its configuration.
    type Config: ReadConfig;
    /// What it can carry.
    const CAPABILITIES: Capabilities;

    /// Builds it; nothing is connected to yet. `sender` is who e-mail is from.
    fn build(
        config: &Self::Config,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError>;
}

/// One provider's adapter: a row of the registry.
#[derive(Debug)]
pub struct AdapterType {
    /// The provider.
    pub kind: ProviderKind,
    /// What it can carry.
    pub capabilities: Capabilities,
    pub(crate) build: BuildAny,
}

type BuildAny =
    fn(&dyn ProviderConfig, Option<Mailbox>, &Parts) -> Result<Arc<dyn Provider>, BuildError>;

impl AdapterType {
    /// The row of an adapter.
    pub(crate) const fn of<A: Adapter>() -> Self {
        Self {
            kind: A::Config::KIND,
            capabilities: A::CAPABILITIES,
            build: |config, sender, parts| {
                let config = config.get::<A::Config>().ok_or(BuildError::Unknown)?;
                Ok(Arc::new(A::build(config, sender, parts)?))
            },
        }
    }
}
