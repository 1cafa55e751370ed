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
mod connection;
mod host_limit;
mod lease;
mod memory;
mod offer;
mod pool;
mod reply;
mod saying;
mod session;
mod slots;
mod submission;
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
    Clock, Disposition, EmailAddress, ErrorKind, Host, Mailbox, ProviderError, ProviderKind,
    Receipt, Secret,
};
use jiff::SignedDuration;
use rustls::{ClientConfig, pki_types::ServerName};

pub use self::{
    connection::{Cause, Failure, Security, Stage},
    reply::{Reply, Throttling},
    saying::Saying,
};
use self::{
    connection::{Connection, Encrypted, RESOLVE_TIME, command_time, connect, encrypt, within},
    host_limit::HostLimit,
    lease::Lease,
    pool::{CheckedOut, Pool, Rest, out_of_time},
    slots::{Room, Slot},
    submission::Draft,
};
use crate::{
    deadline::Deadline,
    egress::{EgressError, EgressGuard, SMTP_PORTS},
    message::Message,
    metered::Metered,
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
    sockets::{Retirement, Sockets},
    tls::{CertificateFault, TlsConfigs, TlsError},
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

/// From how long on a connection that was idle is suspected of having died without a word: what is
/// between us and the server forgets a connection that says nothing, and after a freeze nobody is told.
const SUSPICIOUS_REST: SignedDuration = SignedDuration::from_secs(30);
/// The longest that is waited for the first reply on such a connection. A new one costs less than a second.
const SUSPICIOUS_TIME: Duration = Duration::from_secs(4);
/// What must be left of the deadline for a new connection and a message on it.
const RETRY_TIME_LEAST: Duration = Duration::from_secs(4);
/// How often one message is refused a new connection beside others before that is its error.
const MOST_REFUSALS: u32 = 3;

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
    hello: String,
    tls: Arc<ClientConfig>,
    egress: EgressGuard,
    pool: Pool,
    sockets: Sockets,
}

impl SmtpProvider {
    /// Makes the provider; nothing is connected to yet. Its connections are under the ceiling of
    /// `sockets`.
    pub fn new(
        settings: SmtpSettings,
        tls: &TlsConfigs,
        egress: EgressGuard,
        sockets: Sockets,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls.client(settings.ca_pem.as_deref())?,
            pool: Pool::new(
                settings.max_connections,
                HostLimit::of(&settings.host) == HostLimit::Relay,
                sockets.clone(),
                clock,
            ),
            hello: hello(settings.ehlo_name.as_ref(), &settings.sender.address),
            host: settings.host,
            port: settings.port,
            security: settings.security,
            user: settings.user,
            password: settings.password,
            sender: settings.sender,
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
                    Ok(connection) => (self.pool.opened(connection, room), None),
                    Err(failure) => {
                        refusals += 1;
                        let others =
                            self.one_of_the_others(failure, refusals, room, slot, deadline);
                        (slot, next) = others.await.map_err(classify)?;
                        continue;
                    }
                },
            };
            let submission = match draft.for_server(lease.connection.offer()) {
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
                    (slot, next) = others.await.map_err(classify)?;
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
        refused: Room,
        slot: Slot<'a>,
        deadline: Deadline,
    ) -> Result<(Slot<'a>, CheckedOut), Failure> {
        let there_are_others = failure.is_one_too_many() && self.pool.learn_one_too_many(refused);
        drop(slot);
        if !there_are_others || refusals > MOST_REFUSALS {
            return Err(failure);
        }
        let slot = self.pool.slot(deadline).await?;
        let next = self.pool.check_out(&slot, deadline).await?;
        Ok((slot, next))
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
        within(Stage::Resolve, RESOLVE_TIME, deadline, resolving).await
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
        Some(rest) if rest.time >= SUSPICIOUS_REST => SUSPICIOUS_TIME,
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
        // The message is put together when it may have a connection: those that wait cost nothing.
        let slot = self.pool.slot(deadline).await.map_err(classify)?;
        let draft = Draft::new(message, &self.sender)?;
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

/// What a failure at a stage means, and what to do about it.
///
/// Nothing before the end of the message left can be [`Disposition::Ambiguous`].
#[allow(clippy::too_many_lines, reason = "one table")]
pub fn classify(failure: Failure) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, SenderNotAllowed, Timeout, Unauthenticated, Unavailable,
        Unexpected,
    };
    let error = ProviderError::new;
    let Failure { stage, cause } = failure;
    match (stage, cause) {
        (_, Cause::Reply(reply)) => classify_reply(stage, reply),
        (Stage::Pool, _) => error(
            Transient,
            Timeout,
            "There was not enough time left for the message, or for one of our connections to become free; allow more connections, or send less at once.",
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
        (_, Cause::Certificate(fault)) => {
            error(ProviderDown, Unauthenticated, certificate_detail(fault))
        }
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
        (Stage::Mail, Cause::NotOffered) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender's address has characters beyond ASCII, which this server does not take; send from another one.",
        ),
        (Stage::Rcpt, Cause::NotOffered) => error(
            Final,
            InvalidRecipient,
            "The address has characters beyond ASCII, which this server does not take.",
        ),
        (Stage::Data, Cause::NotOffered) => error(
            ProviderDown,
            InvalidMessage,
            "The address for answers has characters beyond ASCII, which this server does not take.",
        )
        .health_unchanged(),
        (Stage::Body, Cause::NotOffered) => error(
            Final,
            InvalidMessage,
            "The message has 8-bit content, which this server does not take.",
        ),
        (_, Cause::TooLarge) => error(
            Final,
            InvalidMessage,
            "The message is larger than this server takes by its own limit (SIZE); send less, or raise the limit there.",
        ),
        (Stage::Body, Cause::Closed | Cause::TimedOut | Cause::Malformed) => error(
            Ambiguous,
            Timeout,
            "The server did not say whether it took the message.",
        ),
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
        (Stage::Mail | Stage::Rcpt | Stage::Data, Cause::Malformed) => error(
            Transient,
            Unexpected,
            "The server answered something that it was not asked; the message was not sent.",
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

/// What is wrong with the server's certificate, and what to do about it.
const fn certificate_detail(fault: CertificateFault) -> &'static str {
    match fault {
        CertificateFault::Expired => "The server's certificate has expired; have it renewed.",
        CertificateFault::NotYetValid => {
            "The server's certificate is not valid yet; check its dates."
        }
        CertificateFault::OtherName => {
            "The server's certificate does not name this host in subjectAltName; set host to a name that it has, or have it issued for this one."
        }
        CertificateFault::UnknownRoot => {
            "The server's certificate does not verify: its root is not known; give the root, or the server's own certificate if it is self-signed, as caPem. One that is given is trusted for the names it has alone."
        }
        CertificateFault::OldVersion => {
            "The server's certificate is of X.509 version 1, which names no host, and cannot be trusted even if it is given as caPem; have one made with the host in subjectAltName."
        }
        CertificateFault::Other => {
            "The server's certificate does not verify: its form, its signature or its purpose is wrong; have a new one made, or give its root as caPem."
        }
    }
}

fn classify_reply(stage: Stage, reply: Reply) -> ProviderError {
    let classified = classify_account(reply).unwrap_or_else(|| classify_by_stage(stage, reply));
    classified.with_code(reply.provider_code())
}

/// What a refusal says of the account, at whatever stage it does.
fn classify_account(reply: Reply) -> Option<ProviderError> {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{QuotaExceeded, RateLimited, Unauthenticated};
    let error = ProviderError::new;
    let account = match (reply.throttling, reply.enhanced, reply.saying) {
        (Some(Throttling::Rate), _, _) => error(
            Transient,
            RateLimited,
            "The account sends more messages per second than its limit.",
        )
        .health_unchanged(),
        // RFC 3463 section 3.5 has "mail system congestion" for it; Google sends it for the day's limit
        // (Gmail SMTP errors and codes, 550 5.4.5).
        (Some(Throttling::Quota), _, _) | (None, Some((5, 4, 5)), _) => error(
            ProviderDown,
            QuotaExceeded,
            "The account has used up its messages of the day.",
        ),
        (None, _, _) if reply.code < 500 => return None,
        (None, _, Some(Saying::SmtpAuthOff)) => error(
            ProviderDown,
            Unauthenticated,
            "SMTP AUTH is off for the tenant or the mailbox; let its administrator turn on authenticated SMTP for this mailbox, or send by another provider.",
        ),
        // Exchange Online has 5.7.139 for a wrong password too, and says so in the text alone.
        (None, Some((5, 7, 30 | 139)), saying) if saying != Some(Saying::WrongLogin) => error(
            ProviderDown,
            Unauthenticated,
            "The server takes no user name and password for this mailbox (basic authentication is off); let its administrator allow it while the provider still does, or send by another provider.",
        ),
        (None, Some((5, 7, 30 | 139)), _) => WRONG_LOGIN,
        // The sender's own mailbox and day, and no recipient's, although the codes are a recipient's (5.2.x).
        (None, Some((5, 2, _)), Some(Saying::SubmissionLimit)) => error(
            ProviderDown,
            QuotaExceeded,
            "The sender's own mailbox is full, or its account has sent all that it may in a day; empty the mailbox (Sent Items too), or wait for the next day.",
        ),
        (None, _, _) => return None,
    };
    Some(account)
}

fn classify_by_stage(stage: Stage, reply: Reply) -> ProviderError {
    use Disposition::Transient;
    use ErrorKind::{Unavailable, Unexpected};
    let error = ProviderError::new;
    match stage {
        Stage::Auth => classify_auth(reply),
        Stage::Body => classify_body(reply),
        Stage::Mail | Stage::Rcpt | Stage::Data if reply.code < 400 => error(
            Transient,
            Unexpected,
            "The server answered with a code that means nothing here; the message was not sent.",
        ),
        Stage::Rcpt => classify_rcpt(reply),
        Stage::Mail if reply.code >= 500 => classify_mail(reply),
        Stage::Data if reply.code >= 500 => classify_refused_message(reply),
        Stage::Pool
        | Stage::Resolve
        | Stage::Connect
        | Stage::Greeting
        | Stage::Ehlo
        | Stage::StartTls
        | Stage::Tls
        | Stage::Mail
        | Stage::Data => error(
            Transient,
            Unavailable,
            "The server does not take mail at the moment.",
        ),
    }
}

const WRONG_LOGIN: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unauthenticated,
    "The server refused the user or the password; check both (some providers want an app password).",
);
const WANTS_LOGIN: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unauthenticated,
    "The server wants a login before it takes mail.",
);
const NOT_UNDERSTOOD: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unexpected,
    "The server did not understand what it was sent; that says nothing of the message.",
);
const SENDER_NOT_ALLOWED: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The server does not let this user send from this address; check defaultFrom.",
);
const NOT_VERIFIED: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The sender is not verified, or the account is in its provider's sandbox and the recipient is not verified; verify the sender, or request production access.",
);
/// A limit of the sender's own account, which says nothing of the recipient.
const ON_TRIAL: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The account is on trial at its provider and may not send to this recipient; have it approved, or upgrade it.",
)
.health_unchanged();
const REFUSED_BY_POLICY: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::PolicyRefused,
    "The server refuses this recipient by its policy.",
)
.health_unchanged();
const NO_SUCH_RECIPIENT: ProviderError = ProviderError::new(
    Disposition::Final,
    ErrorKind::InvalidRecipient,
    "The recipient's address does not exist or does not take mail.",
);
const MESSAGE_TOO_LARGE: ProviderError = ProviderError::new(
    Disposition::Final,
    ErrorKind::InvalidMessage,
    "The message is larger than the server takes.",
);

fn classify_auth(reply: Reply) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    match (reply.code, reply.enhanced) {
        (..400, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unexpected,
            "The server asks for more than a user and a password.",
        ),
        // RFC 4954 section 6: 454 is a temporary failure, and 432 4.7.12 wants the user to do something;
        // whatever else is 4yz passes too.
        (400..=499, enhanced) if enhanced != Some((4, 7, 12)) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server can not check logins at the moment.",
        ),
        (_, _) if reply.saying == Some(Saying::AppPassword) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unauthenticated,
            "The provider wants an app password in place of the mailbox's own; make one in the account's security settings and save it.",
        ),
        (501 | 504, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unauthenticated,
            "The server offers AUTH PLAIN or AUTH LOGIN, and takes neither; its administrator has to look.",
        ),
        (_, _) => WRONG_LOGIN,
    }
}

/// A 5yz to MAIL.
fn classify_mail(reply: Reply) -> ProviderError {
    match (reply.code, reply.enhanced) {
        (530 | 534 | 535, _) => WANTS_LOGIN,
        (552, _) | (_, Some((5, 3, 4))) => MESSAGE_TOO_LARGE,
        (_, _) if reply.saying == Some(Saying::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.saying == Some(Saying::Trial) => ON_TRIAL,
        (_, _) if reply.saying == Some(Saying::Sender) => SENDER_NOT_ALLOWED,
        (_, Some((5, 1 | 7, _))) => SENDER_NOT_ALLOWED,
        (500..=504 | 555, _) => NOT_UNDERSTOOD,
        (_, _) => SENDER_NOT_ALLOWED,
    }
}

/// What greylisting servers want to see before they take a message: minutes, not seconds.
const GREYLISTING_TIME: Duration = Duration::from_mins(1);

/// A 4yz or 5yz to RCPT of the message's recipient.
fn classify_rcpt(reply: Reply) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    match (reply.code, reply.enhanced) {
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
        (530 | 534 | 535, _) => WANTS_LOGIN,
        // RFC 3463 section 3.2: the sender's address. Many servers say only at RCPT what is wrong with MAIL.
        (_, Some((5, 1, 7 | 8) | (5, 7, 60) | (5, 2, 252))) => SENDER_NOT_ALLOWED,
        (_, _) if reply.saying == Some(Saying::Sender) => SENDER_NOT_ALLOWED,
        (_, _) if reply.saying == Some(Saying::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.saying == Some(Saying::Trial) => ON_TRIAL,
        // Postfix says 553 5.7.1 for `reject_sender_login_mismatch` and its like alone, and by default at RCPT
        // (`smtpd_delay_reject`).
        (553, Some((5, 7, 1)))
            if !matches!(reply.saying, Some(Saying::Recipient | Saying::NoRelay)) =>
        {
            SENDER_NOT_ALLOWED
        }
        // 5.6.7: the address needs SMTPUTF8, which some server behind this one does not have (RFC 6531).
        (_, Some((5, 1 | 2, _) | (5, 6, 7))) => NO_SUCH_RECIPIENT,
        // RFC 1870 section 6.1 has it here as well as at MAIL.
        (_, Some((5, 3, 4))) => MESSAGE_TOO_LARGE,
        // RFC 3463 section 3.4: the state of the server, and of no recipient.
        (_, Some((5, 3, _))) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unavailable,
            "The server takes no mail; that says nothing of the recipient.",
        ),
        (554 | 571, None) | (_, Some((5, 7, _))) => REFUSED_BY_POLICY,
        // Exim says so under 550 alone.
        (_, _) if reply.saying == Some(Saying::NoRelay) => REFUSED_BY_POLICY,
        (500..=504 | 555, _) | (_, Some((5, 5, _))) => NOT_UNDERSTOOD,
        (_, _) => NO_SUCH_RECIPIENT,
    }
}

/// The reply to a message of which every byte was sent.
fn classify_body(reply: Reply) -> ProviderError {
    use Disposition::Transient;
    match reply.code {
        // 421 among them, by which the server ends the connection as well (RFC 5321 section 3.8).
        400..500 => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server could not take the message; it may later.",
        ),
        500.. => classify_refused_message(reply),
        // A 3yz: what the server was given is not complete to it (RFC 5321 section 4.2.1), and only a 2yz makes the
        // message its own (section 4.2.5).
        _ => ProviderError::new(
            Transient,
            ErrorKind::Unexpected,
            "The server asked for more when it had the whole message; it did not take it.",
        ),
    }
}

/// A 5yz to DATA or to the message.
fn classify_refused_message(reply: Reply) -> ProviderError {
    use Disposition::{Final, ProviderDown};
    match (reply.code, reply.enhanced) {
        (530 | 534 | 535, _) => WANTS_LOGIN,
        // The sender's address (RFC 3463 section 3.2); 5.7.60 and 5.2.252 are Exchange's "may not send
        // as this sender", from experience.
        (_, Some((5, 1, 7 | 8) | (5, 7, 60) | (5, 2, 252))) => SENDER_NOT_ALLOWED,
        (_, _) if reply.saying == Some(Saying::Sender) => SENDER_NOT_ALLOWED,
        (_, _) if reply.saying == Some(Saying::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.saying == Some(Saying::Trial) => ON_TRIAL,
        // 5.2.3: longer than the recipient's mailbox takes (RFC 3463 section 3.3).
        (_, Some((5, 2, 3) | (5, 3, 4))) => MESSAGE_TOO_LARGE,
        (_, Some((5, 1 | 2, _))) => NO_SUCH_RECIPIENT,
        (_, Some((5, 6, _))) => ProviderError::new(
            Final,
            ErrorKind::InvalidMessage,
            "The server refuses the message for its form.",
        ),
        (552, enhanced) if !matches!(enhanced, Some((5, 7, _))) => MESSAGE_TOO_LARGE,
        (500..=504 | 555, None | Some((5, 5, _))) => NOT_UNDERSTOOD,
        (_, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::PolicyRefused,
            "The server refuses the message by its policy.",
        ),
    }
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
