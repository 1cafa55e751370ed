//! SMTP submission (RFC 5321, RFC 6409) to a mail server of the clinic's own.
//!
//! TLS always: from the start or by STARTTLS, certificates verified. AUTH PLAIN or LOGIN.
//! Idempotency: SMTP has none; the `Message-ID` is derived from the delivery's id, so that two copies
//! can be told to be one.
//!
//! Documentation: RFC 5321 (SMTP), 3207 (STARTTLS), 4954 (AUTH), 3463 (enhanced status codes), 8314
//! (implicit TLS).

mod connection;
mod pool;
mod reply;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_core::{
    Clock, Disposition, ErrorKind, Host, Mailbox, ProviderError, ProviderKind, Receipt, Secret,
    request::Target,
};
use rustls::{ClientConfig, pki_types::ServerName};

pub use self::{
    connection::{Cause, Failure, Security, Stage},
    reply::Reply,
};
use self::{
    connection::{Connection, Envelope, RESOLVE_TIME, connect},
    pool::{Pool, Slot},
};
use crate::{
    deadline::{Deadline, Elapsed},
    egress::{EgressError, EgressGuard, SMTP_PORTS},
    message::Message,
    mime,
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
    tls::{TlsConfigs, TlsError},
};

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    receivers: 50,
    reply_to: true,
    internationalised_addresses: true,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: None,
};

/// What is needed to send through one mail server as one user.
#[derive(Clone)]
pub struct SmtpSettings {
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// When TLS begins.
    pub security: Security,
    /// The user to log in as.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Trust roots beside the public ones, in PEM.
    pub ca_pem: Option<String>,
    /// Connections at most.
    pub max_connections: u8,
    /// Who the mail is from.
    pub sender: Mailbox,
    /// What EHLO says; the sender's domain where nothing is set (RFC 5321 section 4.1.4 wants a name,
    /// and a Lambda has none of its own).
    pub ehlo_name: Option<Host>,
}

/// One mail server as one user, with its connections.
pub struct SmtpProvider {
    host: Host,
    port: u16,
    security: Security,
    user: String,
    password: Secret,
    sender: Mailbox,
    tls: Arc<ClientConfig>,
    egress: EgressGuard,
    pool: Pool,
}

impl SmtpProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(
        settings: SmtpSettings,
        tls: &TlsConfigs,
        egress: EgressGuard,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls.client(settings.ca_pem.as_deref())?,
            pool: Pool::new(settings.max_connections, clock),
            host: settings.host,
            port: settings.port,
            security: settings.security,
            user: settings.user,
            password: settings.password,
            sender: settings.sender,
            egress,
        })
    }

    async fn deliver(
        &self,
        envelope: &Envelope<'_>,
        slot: &Slot<'_>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        while let Some(connection) = self.pool.take(slot) {
            let sent = connection.send(envelope, deadline).await;
            match sent.result {
                // The server gave the idle connection up just now; nothing of the message was sent.
                Err(Failure {
                    stage: Stage::Mail,
                    cause: Cause::Closed | Cause::Reply(Reply { code: 421, .. }),
                }) => {}
                result => return self.settle(result, sent.connection, slot),
            }
        }
        let connection = self.open(deadline).await?;
        let sent = connection.send(envelope, deadline).await;
        self.settle(sent.result, sent.connection, slot)
    }

    fn settle(
        &self,
        result: Result<(), Failure>,
        connection: Option<Connection>,
        slot: &Slot<'_>,
    ) -> Result<(), Failure> {
        if let Some(connection) = connection {
            self.pool.put_back(connection, slot);
        }
        result
    }

    async fn open(&self, deadline: Deadline) -> Result<Connection, Failure> {
        let addresses = self.resolve(deadline).await?;
        let connected = connect(&self.check(&addresses)?, deadline).await?;
        let encrypted = connected
            .encrypt(
                self.security,
                self.server_name()?,
                self.tls.clone(),
                self.hello(),
                deadline,
            )
            .await?;
        encrypted
            .log_in(self.hello(), &self.user, &self.password, deadline)
            .await
    }

    async fn resolve(&self, deadline: Deadline) -> Result<Vec<std::net::IpAddr>, Failure> {
        match deadline
            .bound(RESOLVE_TIME, self.egress.resolve(&self.host))
            .await
        {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(Failure::new(Stage::Resolve, Cause::Egress(error))),
            Err(Elapsed) => Err(Failure::new(Stage::Resolve, Cause::TimedOut)),
        }
    }

    fn check(&self, addresses: &[std::net::IpAddr]) -> Result<Vec<SocketAddr>, Failure> {
        self.egress
            .check(addresses, self.port, &SMTP_PORTS)
            .map_err(|error| Failure::new(Stage::Connect, Cause::Egress(error)))
    }

    fn server_name(&self) -> Result<ServerName<'static>, Failure> {
        match &self.host {
            Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| Failure::new(Stage::Tls, Cause::Local)),
        }
    }

    /// What EHLO says: the domain that the mail is from (RFC 5321 section 4.1.4 wants a name, and a
    /// Lambda has none of its own).
    fn hello(&self) -> &str {
        self.sender.address.domain()
    }
}

impl fmt::Debug for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpSettings(…)")
    }
}

impl fmt::Debug for SmtpProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpProvider(…)")
    }
}

#[async_trait]
impl Provider for SmtpProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Smtp
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        // The message is built when there is a connection to send it over: those that wait cost nothing.
        let slot = self.pool.slot(deadline).await.map_err(classify)?;
        let mail = mime::build(message, &self.sender)?;
        let Target::Email(recipient) = &message.target else {
            return Err(mime::invalid("…"));
        };
        let envelope = Envelope {
            from: &mime::address(&self.sender.address),
            to: &mime::address(&recipient.address),
            message: &mail.bytes,
        };
        self.deliver(&envelope, &slot, deadline)
            .await
            .map_err(classify)?;
        Ok(Receipt::new(mail.message_id))
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
        let Some(connected) = report.stage(
            VerifyStage::Connect,
            connect(&checked, deadline).await.map_err(classify),
        ) else {
            return report.end();
        };
        let encrypted = match self.server_name() {
            Ok(name) => {
                connected
                    .encrypt(
                        self.security,
                        name,
                        self.tls.clone(),
                        self.hello(),
                        deadline,
                    )
                    .await
            }
            Err(failure) => Err(failure),
        };
        let Some(encrypted) = report.stage(VerifyStage::Tls, encrypted.map_err(classify)) else {
            return report.end();
        };
        let logged_in = async {
            let connection = encrypted
                .log_in(self.hello(), &self.user, &self.password, deadline)
                .await?;
            connection.noop_and_quit(deadline).await
        };
        report.stage(VerifyStage::Authenticate, logged_in.await.map_err(classify));
        report.end()
    }
}

/// What a failure at a stage means, and what to do about it.
#[allow(clippy::too_many_lines, reason = "one table")]
pub fn classify(failure: Failure) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, SenderNotAllowed, Timeout,
        Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    let Failure { stage, cause } = failure;
    match (stage, cause) {
        (Stage::Pool, _) => error(
            Transient,
            Timeout,
            "No connection became free in time; allow more connections or send less at once.",
        )
        .health_unchanged(),
        (_, Cause::Egress(EgressError::Unresolved)) => error(
            Transient,
            Unavailable,
            "The server's name does not resolve; check the host.",
        ),
        (_, Cause::Egress(EgressError::Address)) => error(
            ProviderDown,
            Unavailable,
            "The server's address is not one that may be connected to; use a public mail server.",
        ),
        (_, Cause::Egress(EgressError::Port)) => error(
            ProviderDown,
            Unavailable,
            "The port is not one that may be connected to; use 465, 587 or 2525.",
        ),
        (_, Cause::Certificate) => error(
            ProviderDown,
            Unauthenticated,
            "The server's certificate does not verify for this host; check the host, or give its root as caPem.",
        ),
        (Stage::StartTls, Cause::NotOffered) => error(
            ProviderDown,
            Unauthenticated,
            "The server does not offer STARTTLS on this port, and nothing is sent without TLS; try port 465 with secure=true.",
        ),
        (Stage::StartTls, Cause::Malformed) => error(
            ProviderDown,
            Unauthenticated,
            "Something was sent in clear after STARTTLS was agreed; somebody may be between us and the server.",
        ),
        (Stage::Auth, Cause::NotOffered) => error(
            ProviderDown,
            Unauthenticated,
            "The server offers neither AUTH PLAIN nor AUTH LOGIN.",
        ),
        (Stage::Rcpt, Cause::NotOffered) => error(
            Final,
            InvalidRecipient,
            "The address has characters beyond ASCII, which this server does not take.",
        ),
        (Stage::Body, Cause::NotOffered) => error(
            Final,
            InvalidMessage,
            "The message has 8-bit content, which this server does not take.",
        ),
        (Stage::Auth, Cause::Reply(reply)) => classify_auth(reply),
        (Stage::Mail, Cause::Reply(reply)) if reply.code >= 500 => {
            match (reply.code, reply.enhanced) {
                (530 | 535, _) => error(
                    ProviderDown,
                    Unauthenticated,
                    "The server wants a login before it takes mail.",
                ),
                (552, _) | (_, Some((5, 3, 4))) => error(
                    Final,
                    InvalidMessage,
                    "The message is larger than the server takes.",
                ),
                (_, _) => error(
                    ProviderDown,
                    SenderNotAllowed,
                    "The server does not let this user send from this address; check defaultFrom.",
                ),
            }
            .with_code(reply.provider_code())
        }
        (Stage::Rcpt, Cause::Reply(reply)) => classify_rcpt(reply),
        (Stage::Body, Cause::Reply(reply)) => classify_body(reply),
        (Stage::Body, Cause::Closed | Cause::TimedOut | Cause::Malformed) => error(
            Ambiguous,
            Timeout,
            "The server did not say whether it took the message.",
        ),
        (Stage::Data, Cause::Reply(reply)) if reply.code >= 500 => error(
            ProviderDown,
            PolicyRefused,
            "The server does not take this message.",
        )
        .with_code(reply.provider_code()),
        (
            Stage::Resolve
            | Stage::Connect
            | Stage::Greeting
            | Stage::Ehlo
            | Stage::StartTls
            | Stage::Tls
            | Stage::Mail
            | Stage::Data,
            Cause::Reply(reply),
        ) => error(
            Transient,
            Unavailable,
            "The server does not take mail at the moment.",
        )
        .with_code(reply.provider_code()),
        (_, Cause::TimedOut) => error(
            Transient,
            Timeout,
            "The server did not answer in time; check host and port.",
        ),
        (Stage::Tls, Cause::TlsHandshake | Cause::Closed | Cause::Malformed) => error(
            Transient,
            Unavailable,
            "TLS could not be set up; check that the port and secure belong together (465 true, 587 false).",
        ),
        (Stage::Connect, Cause::Closed) => error(
            Transient,
            Unavailable,
            "The server does not accept connections; check host and port.",
        ),
        (_, Cause::Malformed) => error(
            Transient,
            Unexpected,
            "The server does not speak SMTP here; check the port and secure.",
        ),
        (_, Cause::Closed | Cause::TlsHandshake | Cause::NotOffered) => error(
            Transient,
            Unavailable,
            "The server closed the connection before the message was sent.",
        ),
        (_, Cause::Local) => error(
            ProviderDown,
            Unexpected,
            "The settings of this provider can not be used as they are; save them again.",
        ),
    }
}

fn classify_auth(reply: Reply) -> ProviderError {
    let error = match reply.code {
        // RFC 4954 section 6: 454 is a temporary failure; whatever else is 4yz passes too.
        400..500 => ProviderError::new(
            Disposition::Transient,
            ErrorKind::Unavailable,
            "The server can not check logins at the moment.",
        ),
        _ => ProviderError::new(
            Disposition::ProviderDown,
            ErrorKind::Unauthenticated,
            "The server refused the user or the password; check both (some providers want an app password).",
        ),
    };
    error.with_code(reply.provider_code())
}

/// What greylisting servers want to see before they take a message: minutes, not seconds.
const GREYLISTING_TIME: Duration = Duration::from_mins(1);

fn classify_rcpt(reply: Reply) -> ProviderError {
    use Disposition::{Final, ProviderDown, Transient};
    let error = match (reply.code, reply.enhanced) {
        (421, _) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server is closing the connection.",
        ),
        (400..500, Some((4, 5, 3))) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server takes no more recipients for now.",
        )
        .health_unchanged(),
        (400..500, _) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server does not take mail for this recipient at the moment (greylisting or a busy mailbox).",
        )
        .with_retry_after(GREYLISTING_TIME),
        (530 | 535, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unauthenticated,
            "The server wants a login before it takes recipients.",
        ),
        (_, Some((5, 7, _))) => ProviderError::new(
            ProviderDown,
            ErrorKind::PolicyRefused,
            "The server refuses this recipient by its policy.",
        )
        .health_unchanged(),
        (500..505, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unexpected,
            "The server did not understand what it was sent; it says nothing of the recipient.",
        ),
        (550 | 551 | 553, _) | (_, Some((5, 1, _))) => ProviderError::new(
            Final,
            ErrorKind::InvalidRecipient,
            "The recipient's address does not exist or does not take mail.",
        ),
        (_, _) => ProviderError::new(
            Final,
            ErrorKind::InvalidRecipient,
            "The server does not take mail for this recipient.",
        ),
    };
    error.with_code(reply.provider_code())
}

fn classify_body(reply: Reply) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    let error = match (reply.code, reply.enhanced) {
        (421, _) => ProviderError::new(
            Ambiguous,
            ErrorKind::Timeout,
            "The server closed the connection in place of saying whether it took the message.",
        ),
        (400..500, _) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server could not take the message; it may later.",
        ),
        (_, Some((5, 1 | 2, _))) => ProviderError::new(
            Final,
            ErrorKind::InvalidRecipient,
            "The recipient's address does not exist or does not take mail.",
        ),
        (552, _) | (_, Some((5, 3, 4) | (5, 6, _))) => ProviderError::new(
            Final,
            ErrorKind::InvalidMessage,
            "The server refuses the message for its size or form.",
        ),
        (500.., _) => ProviderError::new(
            ProviderDown,
            ErrorKind::PolicyRefused,
            "The server refuses the message by its policy.",
        ),
        // A success that is not 250: nothing says that it was taken, or that it was not.
        (_, _) => ProviderError::new(
            Ambiguous,
            ErrorKind::Unexpected,
            "The server answered the message with a code that means nothing here.",
        ),
    };
    error.with_code(reply.provider_code())
}

#[cfg(test)]
mod tests;
