//! One SMTP connection, stage by stage: connect, TLS, greeting, EHLO, AUTH, and then messages.
//!
//! Every stage has its own time limit, and an error says at which it happened: what a reply means
//! depends on it, and so does whether the message may have been accepted.
//!
//! A connection whose conversation was cut short is out of step: the next reply may belong to the
//! last command. [`Connection`] therefore is consumed by sending, and only comes back when every
//! reply was read.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use comms_core::{RefusedCopy, Secret};
use futures_util::FutureExt;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    auth,
    commands::{QUIT, RSET, send_command},
    config::Security,
    failure::{Cause, Failure, Stage, succeeded},
    further::{Further, is_without_room, send_rest},
    server_capabilities::ServerCapabilities,
    submission::Submission,
    timeouts::{QUIT_TIMEOUT, TLS_TIMEOUT, command_time, within},
    transaction::{Start, send_transaction},
    wire::Wire,
};
use crate::{
    deadline::Deadline,
    net::{
        metered::{MAX_HANDSHAKE_BYTES, Metered},
        tcp::{self, ConnectFailure},
        tls::HandshakeFailure,
    },
};

/// Connects to the first of the checked `addresses` that answers.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    deadline: Deadline,
) -> Result<Metered, Failure> {
    tcp::connect(addresses, deadline).await.map_err(|failure| {
        let cause = match failure {
            ConnectFailure::Refused => Cause::Closed,
            ConnectFailure::TimedOut => Cause::TimedOut,
        };
        Failure::new(Stage::Connect, cause)
    })
}

/// A conversation over TLS, before its first EHLO.
pub(super) struct Encrypted {
    wire: Wire<TlsStream<Metered>>,
    greeted: bool,
}

/// Sets up TLS: at once, or after the server agreed to STARTTLS.
pub(super) async fn encrypt(
    socket: Metered,
    security: Security,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    hello: &str,
    deadline: Deadline,
) -> Result<Encrypted, Failure> {
    let (socket, greeted) = match security {
        Security::ImplicitTls => (socket, false),
        Security::StartTls => (start_tls(socket, hello, deadline).await?, true),
    };
    let budget = socket.budget().clone();
    budget.allow(MAX_HANDSHAKE_BYTES);
    let handshake = async {
        let handshake = TlsConnector::from(config).connect(name, socket);
        handshake.await.map_err(|error| tls_cause(&error))
    };
    let limit = TLS_TIMEOUT.max(command_time(deadline));
    let tls = within(Stage::Tls, limit, deadline, handshake).await?;
    Ok(Encrypted {
        wire: Wire::metered(tls, usize::from(!greeted), budget),
        greeted,
    })
}

/// Greeting, EHLO and STARTTLS in clear. Nothing that arrived in clear is ever read as if it had come
/// over TLS (response injection, RFC 3207 section 6): a byte more than the replies ends it here, and
/// one that comes later is no TLS.
async fn start_tls(socket: Metered, hello: &str, deadline: Deadline) -> Result<Metered, Failure> {
    let budget = socket.budget().clone();
    let mut wire = Wire::metered(socket, 1, budget);
    greeting(&mut wire, deadline).await?;
    let capabilities = send_ehlo(&mut wire, hello, deadline).await?;
    if !capabilities.start_tls {
        return Err(Failure::new(Stage::StartTls, Cause::NotOffered));
    }
    let reply = send_command(&mut wire, Stage::StartTls, "STARTTLS\r\n", deadline).await?;
    succeeded(reply, Stage::StartTls)?;
    wire.into_stream()
        .map_err(|cause| Failure::new(Stage::StartTls, cause))
}

fn tls_cause(error: &io::Error) -> Cause {
    match HandshakeFailure::from(error) {
        HandshakeFailure::Certificate(fault) => Cause::Certificate(fault),
        HandshakeFailure::Refused => Cause::TlsHandshake,
        HandshakeFailure::Closed => Cause::Closed,
    }
}

pub(super) async fn greeting<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let limit = command_time(deadline);
    let reply = within(Stage::Greeting, limit, deadline, wire.reply()).await?;
    succeeded(reply, Stage::Greeting)
}

/// EHLO. There is no falling back to HELO: who has neither STARTTLS nor AUTH is of no use here.
async fn send_ehlo<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    hello: &str,
    deadline: Deadline,
) -> Result<ServerCapabilities, Failure> {
    let exchange = async {
        wire.write(format!("EHLO {hello}\r\n").as_bytes(), 1)
            .await?;
        wire.reply_with_lines().await
    };
    let (lines, reply) = within(Stage::Ehlo, command_time(deadline), deadline, exchange).await?;
    succeeded(reply, Stage::Ehlo)?;
    Ok(ServerCapabilities::parse(&lines))
}

impl Encrypted {
    /// Greeting (where it is still to come), EHLO, AUTH.
    pub(super) async fn log_in(
        mut self,
        hello: &str,
        user: &str,
        password: &Secret,
        deadline: Deadline,
    ) -> Result<Connection, Failure> {
        if !self.greeted {
            greeting(&mut self.wire, deadline).await?;
        }
        let capabilities = send_ehlo(&mut self.wire, hello, deadline).await?;
        auth::log_in(
            &mut self.wire,
            capabilities.mechanisms,
            user,
            password,
            deadline,
        )
        .await?;
        Ok(Connection {
            wire: Box::new(self.wire),
            capabilities,
            messages: 0,
            must_reset: false,
        })
    }
}

/// A connection that is logged in and in step: the last reply was read.
pub(super) struct Connection {
    /// Boxed: TLS keeps more than a kilobyte, and a connection moves with every message.
    wire: Box<Wire<TlsStream<Metered>>>,
    capabilities: ServerCapabilities,
    messages: u32,
    /// Whether the last message was refused, so that its transaction may be open still.
    must_reset: bool,
}

/// What became of a message, and of the connection it went over.
pub(super) struct Sent {
    /// The copies that it did not go to.
    pub(super) result: Result<Vec<RefusedCopy>, Failure>,
    /// The connection, where it is in step; else how the server ended it behind a message that it
    /// took, where it did.
    pub(super) connection: Result<Connection, Option<Cause>>,
}

impl Connection {
    /// How many messages it has carried, refused ones among them, as RFC 9422 counts for MAILMAX.
    pub(super) const fn messages(&self) -> u32 {
        self.messages
    }

    /// What the server offers on it.
    pub(super) const fn capabilities(&self) -> &ServerCapabilities {
        &self.capabilities
    }

    /// What the server said or did since the last reply, by what has arrived: costs no round trip.
    pub(super) fn unasked(&mut self) -> Option<Cause> {
        if let Some(cause) = self.wire.out_of_step() {
            return Some(cause);
        }
        // After a freeze the runtime may not know yet what has arrived on the socket: ask the socket.
        let (socket, _) = self.wire.stream().get_ref();
        // Not silent: the end of the stream, a reset, or bytes, such as a 421 or TLS's close_notify.
        (!socket.is_silent()).then_some(Cause::Closed)
    }

    /// Sends one message to its recipient and the copies. Success is the server's 2yz to the message
    /// and nothing less.
    ///
    /// After a refusal, the transaction may be open still, even where the whole message was refused: RFC 5321
    /// section 4.1.1.4 has it closed then, and Postfix may leave it open. RSET closes it: together with the next
    /// MAIL where the server takes commands together, at once where it does not.
    pub(super) async fn send(
        mut self,
        submission: &Submission<'_>,
        first_reply: Duration,
        deadline: Deadline,
    ) -> Sent {
        let start = Start {
            first_reply,
            after_refusal: std::mem::take(&mut self.must_reset),
        };
        let sending = send_transaction(
            &mut *self.wire,
            &self.capabilities,
            submission,
            start,
            deadline,
        );
        let mut result = sending.await;
        self.messages += 1;
        let can_go_on = match &mut result {
            Ok(refused) => {
                let wire = &mut *self.wire;
                let further = if is_without_room(&submission.copies, refused) {
                    let rest = send_rest(wire, &self.capabilities, submission, refused, deadline);
                    // Boxed, as it is rare and would make every message's future as large as itself.
                    Box::pin(rest).await
                } else {
                    Further::default()
                };
                self.messages += further.transactions;
                self.must_reset = further.was_refused && self.capabilities.pipelining;
                let is_open = further.was_refused && !self.must_reset;
                !further.is_over && (!is_open || self.reset(deadline).await)
            }
            Err(Failure {
                cause: Cause::Reply(reply),
                ..
            }) if reply.is_refusal() && self.wire.is_in_step() => {
                self.must_reset = self.capabilities.pipelining;
                self.must_reset || self.reset(deadline).await
            }
            Err(_) => false,
        };
        let connection = if can_go_on {
            match self.wire.out_of_step() {
                None => Ok(self),
                Some(cause) => Err(result.is_ok().then_some(cause)),
            }
        } else {
            Err(None)
        };
        Sent { result, connection }
    }

    /// Sends QUIT (RFC 5321 section 4.1.1.10) if that needs no waiting, and closes the connection without reading the reply.
    pub(super) fn leave(mut self) {
        let quit = tokio::task::unconstrained(self.wire.write(QUIT.as_bytes(), 1));
        let _ = quit.now_or_never();
    }

    /// Sends QUIT and waits until the server has closed the connection, for `limit` at most. True if it has.
    pub(super) async fn part(mut self, limit: Duration) -> bool {
        let exchange = async {
            self.wire.write(QUIT.as_bytes(), 1).await?;
            loop {
                self.wire.reply().await?;
            }
        };
        let ended: Result<Result<std::convert::Infallible, Cause>, _> =
            tokio::time::timeout(limit, exchange).await;
        ended.is_ok()
    }

    async fn reset(&mut self, deadline: Deadline) -> bool {
        let reply = deadline
            .bound(QUIT_TIMEOUT, self.wire.command(RSET.as_bytes()))
            .await;
        matches!(reply, Ok(Ok(reply)) if reply.is_success())
    }

    /// Sends NOOP, whose reply must be a success, and QUIT.
    pub(super) async fn noop_and_quit(mut self, deadline: Deadline) -> Result<(), Failure> {
        let reply = send_command(&mut *self.wire, Stage::Auth, "NOOP\r\n", deadline).await?;
        succeeded(reply, Stage::Auth)?;
        // The reply to QUIT changes nothing.
        let quit = self.wire.command(QUIT.as_bytes());
        let _ = deadline.bound(QUIT_TIMEOUT, quit).await;
        Ok(())
    }
}
