//! SMTP submission (RFC 5321, RFC 6409) to a mail server of the clinic's own.
//!
//! TLS always: from the start or by STARTTLS, certificates verified. AUTH PLAIN or LOGIN. PIPELINING,
//! SIZE, 8BITMIME and SMTPUTF8 where they are offered; no delivery status notifications.
//! Idempotency: SMTP has none; the `Message-ID` is derived from the delivery's id, so that two copies
//! can be told to be one.
//!
//! Documentation: RFC 5321 (SMTP), 3207 (STARTTLS), 4954 (AUTH), 3463 (enhanced status codes), 8314
//! (implicit TLS), 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8).

mod auth;
mod classify;
mod commands;
mod config;
mod connection;
pub(crate) mod connection_limit;
mod deliver;
mod failure;
mod further;
mod host_limit;
mod lease;
mod memory;
mod pool;
mod reply;
mod server_capabilities;
mod session;
mod slots;
mod submission;
mod submission_port;
mod text_hint;
mod timeouts;
mod transaction;
mod wire;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use comms_core::{
    Clock, EmailAddress, Host, Mailbox, ProviderError, ProviderKind, Receipt, Secret,
};
use rustls::{ClientConfig, pki_types::ServerName};

pub use self::{
    classify::classify,
    config::{MAX_CONNECTIONS, Security, SmtpConfig},
    connection_limit::{ConnectionLimit, ConnectionsSeen, Granted},
    failure::{Cause, Failure, Stage},
    reply::{Reply, Throttling},
    text_hint::TextHint,
};
use self::{
    connection::{Connection, Encrypted, connect, encrypt},
    host_limit::{HostLimit, feedback_of},
    pool::{Pool, out_of_time},
    submission::Draft,
    timeouts::{RESOLVE_TIMEOUT, within},
};
use crate::{
    adapter::{Adapter, BuildError, Parts},
    config::ReadConfig,
    deadline::Deadline,
    message::Message,
    net::{
        egress::{EgressGuard, SMTP_PORTS},
        metered::Metered,
        sockets::Sockets,
        tls::{TlsConfigs, TlsError},
    },
    provider::{Capabilities, Provider},
    verify::{Report, StageReport, VerifyStage},
};

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    recipients: 50,
    reply_to: true,
    internationalised_addresses: true,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: None,
};

/// One mail server as one user, with its connections.
pub struct SmtpProvider {
    host: Host,
    port: u16,
    security: Security,
    user: String,
    password: Secret,
    sender: Mailbox,
    hello: String,
    tls: Arc<ClientConfig>,
    egress: EgressGuard,
    pool: Pool,
    limit: Arc<ConnectionLimit>,
    sockets: Sockets,
}

impl SmtpProvider {
    /// Makes the provider; nothing is connected to yet. Its connections are under the ceiling of
    /// `sockets`.
    pub fn new(
        config: SmtpConfig,
        sender: Mailbox,
        tls: &TlsConfigs,
        egress: EgressGuard,
        sockets: Sockets,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let pool = Pool::new(
            config.max_connections,
            HostLimit::of(&config.host) == HostLimit::Relay,
            sockets.clone(),
            clock,
        );
        Ok(Self {
            tls: tls.client(config.ca_pem.as_deref())?,
            limit: Arc::new(ConnectionLimit::new(
                &config,
                pool.slots().clone(),
                pool.idle(),
            )),
            pool,
            hello: hello(config.ehlo_name.as_ref(), &sender.address),
            host: config.host,
            port: config.port,
            security: config.security,
            user: config.user,
            password: config.password,
            sender,
            egress,
            sockets,
        })
    }

    async fn open(&self, deadline: Deadline) -> Result<Connection, Failure> {
        let addresses = self.resolve(deadline).await?;
        let socket = connect(&self.check(&addresses)?, deadline).await?;
        let encrypted = self.encrypt(socket, deadline).await?;
        encrypted
            .log_in(&self.hello, &self.user, &self.password, deadline)
            .await
    }

    async fn encrypt(&self, socket: Metered, deadline: Deadline) -> Result<Encrypted, Failure> {
        let name = match &self.host {
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| Failure::new(Stage::Tls, Cause::Local))?,
        };
        let config = self.tls.clone();
        encrypt(socket, self.security, name, config, &self.hello, deadline).await
    }

    async fn resolve(&self, deadline: Deadline) -> Result<Vec<IpAddr>, Failure> {
        let resolving = async {
            let resolved = self.egress.resolve(&self.host).await;
            resolved.map_err(Cause::Egress)
        };
        within(Stage::Resolve, RESOLVE_TIMEOUT, deadline, resolving).await
    }

    fn check(&self, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, Failure> {
        self.egress
            .check(addresses, self.port, &SMTP_PORTS)
            .map_err(|error| Failure::new(Stage::Connect, Cause::Egress(error)))
    }
}

/// What EHLO says: the name that is set, or the domain that the mail is from. An address is written as
/// a literal (RFC 5321 section 4.1.3).
fn hello(name: Option<&Host>, sender: &EmailAddress) -> String {
    match name {
        None => sender.domain().to_owned(),
        Some(Host::Name(name)) => name.clone(),
        Some(Host::Ip(IpAddr::V4(ip))) => format!("[{ip}]"),
        Some(Host::Ip(IpAddr::V6(ip))) => format!("[IPv6:{ip}]"),
    }
}

impl fmt::Debug for SmtpProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpProvider(…)")
    }
}

impl Adapter for SmtpProvider {
    type Config = SmtpConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(
        config: &SmtpConfig,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        let provider = Self::new(
            config.clone(),
            sender.ok_or(BuildError::NoSender)?,
            &parts.tls,
            parts.egress.clone(),
            parts.sockets.clone(),
            parts.clock.clone(),
        )?;
        Ok(provider)
    }
}

#[async_trait]
impl Provider for SmtpProvider {
    fn kind(&self) -> ProviderKind {
        SmtpConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn connection_limit(&self) -> Option<&Arc<ConnectionLimit>> {
        Some(&self.limit)
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        // The message is put together when it may have a connection: those that wait cost nothing.
        let slot = self.slot(deadline).await?;
        let draft = Draft::new(message, &self.sender, feedback_of(&self.host))?;
        self.deliver(draft, slot, deadline).await
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        // Each block is one stage; the first that fails ends the report.
        let Some(addresses) = report.stage(
            VerifyStage::Resolve,
            self.resolve(deadline).await.map_err(classify),
        ) else {
            return report.end();
        };
        let Some(checked) = report.stage(
            VerifyStage::Egress,
            self.check(&addresses).map_err(classify),
        ) else {
            return report.end();
        };
        let connected = async {
            let place = self.sockets.place(deadline).await.map_err(out_of_time)?;
            Ok((place, connect(&checked, deadline).await?))
        };
        let Some((_place, socket)) =
            report.stage(VerifyStage::Connect, connected.await.map_err(classify))
        else {
            return report.end();
        };
        let Some(encrypted) = report.stage(
            VerifyStage::Tls,
            self.encrypt(socket, deadline).await.map_err(classify),
        ) else {
            return report.end();
        };
        let logged_in = async {
            let connection = encrypted
                .log_in(&self.hello, &self.user, &self.password, deadline)
                .await?;
            connection.noop_and_quit(deadline).await
        };
        report.stage(VerifyStage::Authenticate, logged_in.await.map_err(classify));
        report.end()
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
