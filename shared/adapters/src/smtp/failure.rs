//! Where and why a conversation failed: what a reply means depends on the stage, and so does whether the message may have
//! been accepted.

use super::reply::{MalformedReply, Reply};
use crate::net::{egress::EgressError, tls::CertificateFault};

/// The stages of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waiting for a free connection.
    Pool,
    /// The host's name.
    Resolve,
    /// TCP.
    Connect,
    /// The server's first line.
    Greeting,
    /// EHLO, before or after TLS.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO, of the message's own recipient.
    Rcpt,
    /// DATA, and the message as long as its end has not left.
    Data,
    /// The end of the message and the reply to it.
    Body,
}

/// What ended a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server's reply.
    Reply(Reply),
    /// The server closed or reset the connection, or it could not be made.
    Closed,
    /// The stage's time was up.
    TimedOut,
    /// The server took so long over its replies that the message was not begun.
    TooSlow,
    /// The server's certificate does not verify.
    Certificate(CertificateFault),
    /// The TLS handshake failed otherwise.
    TlsHandshake,
    /// The server answered what is not SMTP, or more than was asked.
    Malformed,
    /// The server does not offer what is needed: for the sender ([`Stage::Mail`]), the recipient
    /// ([`Stage::Rcpt`]), the header ([`Stage::Data`]) or the content ([`Stage::Body`]).
    NotOffered,
    /// The message is larger than the server says that it takes.
    TooLarge,
    /// The host may not be connected to, or does not resolve.
    Egress(EgressError),
    /// Our side could not do its part: a secret that cannot be opened, a setting that cannot be used.
    Local,
}

/// A stage that failed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The stage.
    pub stage: Stage,
    /// The cause.
    pub cause: Cause,
}

impl Failure {
    pub(super) const fn new(stage: Stage, cause: Cause) -> Self {
        Self { stage, cause }
    }

    /// Whether a connection that was kept turned out to be none any more, before the end of the message
    /// was said over it: the message has not been taken, and another connection may carry it.
    pub(super) const fn is_stale_connection(self) -> bool {
        match (self.stage, self.cause) {
            (Stage::Mail, Cause::Closed | Cause::Malformed | Cause::TimedOut)
            | (Stage::Rcpt | Stage::Data, Cause::Closed) => true,
            // 503 says that the server is at another point than we are, and nothing of the message.
            (Stage::Mail | Stage::Rcpt | Stage::Data, Cause::Reply(reply)) => {
                matches!(reply.code, 421 | 503)
            }
            (_, _) => false,
        }
    }

    /// The same where there is no time for another connection: "out of order" is no word about the message.
    pub(super) fn without_another(self) -> Self {
        if matches!(self.cause, Cause::Reply(reply) if reply.code == 503) {
            Self::new(Stage::Pool, Cause::TimedOut)
        } else {
            self
        }
    }

    /// Whether a server may have refused a new connection for being one more than it allows: by 421
    /// or 4yz before the first message (RFC 5321 section 3.8; `421 4.7.0 Too many connections`,
    /// `454 4.7.0 Too many login attempts`), which Exchange Online may say as late as at MAIL
    /// (<https://techcommunity.microsoft.com/t5/exchange-team-blog/changes-coming-to-the-smtp-authenticated-submission-client/ba-p/607825>).
    pub(super) fn is_one_too_many(self) -> bool {
        match (self.stage, self.cause) {
            (Stage::Greeting | Stage::Ehlo | Stage::Auth, Cause::Reply(reply)) => {
                // 4.7.12 wants the user to do something (RFC 4954 section 6); a limit that is named is
                // another one.
                (400..500).contains(&reply.code)
                    && reply.enhanced != Some((4, 7, 12))
                    && reply.throttling.is_none()
            }
            (Stage::Mail, Cause::Reply(reply)) => {
                (reply.code, reply.enhanced) == (432, Some((4, 3, 2)))
            }
            (_, _) => false,
        }
    }
}

impl From<MalformedReply> for Cause {
    fn from(MalformedReply: MalformedReply) -> Self {
        Self::Malformed
    }
}

/// That a command was carried out. The first digit decides (RFC 5321 sections 4.2.1 and 4.3.2).
pub(super) fn succeeded(reply: Reply, stage: Stage) -> Result<(), Failure> {
    if reply.is_success() {
        Ok(())
    } else {
        Err(Failure::new(stage, Cause::Reply(reply)))
    }
}
