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
mod config;
mod connection;
pub(crate) mod connection_limit;
mod failure;
mod further;
mod host_limit;
mod lease;
mod memory;
mod pool;
mod reply;
mod saying;
mod server_capabilities;
mod session;
mod slots;
mod submission;
mod submission_port;
mod timeouts;
mod transaction;
mod wire;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use comms_core::{
    AfterRetries, Clock, EmailAddress, Host, Mailbox, ProviderError, ProviderKind, Receipt, Secret,
};
use jiff::SignedDuration;
use rustls::{ClientConfig, pki_types::ServerName};

pub use self::{
    classify::classify,
    config::{MAX_CONNECTIONS, Security, SmtpConfig},
    connection_limit::{ConnectionLimit, ConnectionsSeen, Granted},
    failure::{Cause, Failure, Stage},
    reply::{Reply, Throttling},
    saying::Saying,
};
use self::{
    connection::{Connection, Encrypted, connect, encrypt},
    host_limit::{HostLimit, feedback_of},
    lease::Lease,
    pool::{CheckedOut, Pool, Rest, out_of_time},
    slots::{Permit, Slot},
    submission::Draft,
    timeouts::{RESOLVE_TIMEOUT, command_time, within},
};
use crate::{
    adapter::{Adapter, BuildError, Parts},
    config::ReadConfig,
    deadline::Deadline,
    message::Message,
    net::{
        egress::{EgressGuard, SMTP_PORTS},
        metered::Metered,
        sockets::{Retirement, Sockets},
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

/// From how long on a connection that was idle is suspected of having died without a word: what is
/// between us and the server forgets a connection that says nothing, and after a freeze nobody is told.
const SUSPICIOUS_REST: SignedDuration = SignedDuration::from_secs(30);
/// The longest that is waited for the first reply on such a connection. A new one costs less than a second.
const SUSPICIOUS_TIMEOUT: Duration = Duration::from_secs(4);
/// What must be left of the deadline for a new connection and a message on it.
const RETRY_TIME_LEAST: Duration = Duration::from_secs(4);
/// How often one message is refused a new connection beside others before that is its error.
const MAX_REFUSALS: u32 = 3;

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

    /// Sends over a connection that was kept, if one is still good, else over a new one. A connection
    /// that turns out to be dead before the message's end was said, or one that the server refuses
    /// beside our others, does not cost the message.
    async fn deliver(
        &self,
        mut draft: Draft<'_>,
        mut slot: Slot<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        let mut refusals = 0;
        let checked_out = self.pool.check_out(&slot, deadline).await;
        let mut next = checked_out.map_err(classify)?;
        loop {
            let (lease, rest) = match next {
                CheckedOut::Kept(kept) => (kept.lease, Some(kept.rest)),
                CheckedOut::New(room) => match self.open(deadline).await {
                    Ok(connection) => {
                        self.limit.note_opened();
                        (self.pool.opened(connection, room), None)
                    }
                    Err(failure) => {
                        refusals += 1;
                        let others =
                            self.one_of_the_others(failure, refusals, room, slot, deadline);
                        (slot, next) = others.await?;
                        continue;
                    }
                },
            };
            let submission = match draft.for_server(lease.connection.capabilities()) {
                Ok(submission) => submission,
                Err(error) => {
                    self.pool.put_back(lease);
                    return Err(error);
                }
            };
            let Lease { connection, held } = lease;
            let carried = connection.messages();
            let sent = connection
                .send(&submission, first_reply_time(rest, deadline), deadline)
                .await;
            match (sent.result, sent.connection, rest) {
                (Ok(refused_copies), connection, _) => {
                    match connection {
                        Ok(connection) => self.pool.put_back(Lease { connection, held }),
                        Err(Some(cause)) => {
                            self.pool.ended_behind_message(held, carried + 1, cause);
                        }
                        Err(None) => {}
                    }
                    return Ok(Receipt {
                        refused_copies,
                        message_id: draft.into_message_id(),
                    });
                }
                (Err(failure), _, Some(rest)) if is_worth_another(failure, deadline) => {
                    next = CheckedOut::New(self.pool.replace(held, carried, rest, failure));
                }
                // Too late for another: it is our connection that was dead, and not the server.
                (Err(failure), _, Some(rest)) if failure.is_stale_connection() => {
                    drop(self.pool.replace(held, carried, rest, failure));
                    return Err(classify(failure.without_another()).health_unchanged());
                }
                (Err(failure), connection, None) if failure.is_one_too_many() => {
                    refusals += 1;
                    drop(connection);
                    let room = held.vacate(Retirement::Dropped);
                    let others = self.one_of_the_others(failure, refusals, room, slot, deadline);
                    (slot, next) = others.await?;
                }
                (Err(failure), connection, _) => {
                    if let Ok(connection) = connection {
                        self.pool.put_back(Lease { connection, held });
                    }
                    return Err(classify(failure));
                }
            }
        }
    }

    /// What a message goes over whose new connection was refused: where that was beside others of ours, one
    /// of those when it is free. The slot is given back meanwhile; there are fewer of them now.
    async fn one_of_the_others<'a>(
        &'a self,
        failure: Failure,
        refusals: u32,
        refused: Permit,
        slot: Slot<'a>,
        deadline: Deadline,
    ) -> Result<(Slot<'a>, CheckedOut), ProviderError> {
        let is_one_too_many = failure.is_one_too_many();
        let there_are_others = is_one_too_many && self.pool.learn_one_too_many(refused);
        let may_be_for_number = is_one_too_many && self.limit.note_refused();
        drop(slot);
        if there_are_others || may_be_for_number {
            self.sockets
                .count(|statistics| statistics.one_too_many += 1);
        }
        if !there_are_others && may_be_for_number {
            return Err(classify(failure)
                .health_unchanged()
                .after_retries(AfterRetries::WhenConnectionFree));
        }
        if !there_are_others || refusals > MAX_REFUSALS {
            return Err(classify(failure));
        }
        let slot = self.slot(deadline).await?;
        let next = self.pool.check_out(&slot, deadline).await;
        Ok((slot, next.map_err(classify)?))
    }

    /// The right to use one connection. There is none where other processes have all that the login may have.
    async fn slot(&self, deadline: Deadline) -> Result<Slot<'_>, ProviderError> {
        self.pool.slot(deadline).await.map_err(|failure| {
            let error = classify(failure);
            if self.pool.slots().is_revoked() {
                error.after_retries(AfterRetries::WhenConnectionFree)
            } else {
                error
            }
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

/// How long the first reply on a connection is waited for that has been idle for so long, or is new. A kept one leaves time
/// for another.
fn first_reply_time(rest: Option<Rest>, deadline: Deadline) -> Duration {
    match rest {
        Some(rest) if rest.time >= SUSPICIOUS_REST => SUSPICIOUS_TIMEOUT,
        Some(_) if deadline.allows_slow_stages() => deadline.remaining() / 2,
        Some(_) | None => command_time(deadline),
    }
}

/// Whether a message is to be tried once more over a new connection, since the kept one was dead.
fn is_worth_another(failure: Failure, deadline: Deadline) -> bool {
    failure.is_stale_connection() && deadline.remaining() >= RETRY_TIME_LEAST
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
