//! One SMTP connection, driven stage by stage: connect, TLS, greeting, EHLO, AUTH, and then messages.
//!
//! The plain-text part before STARTTLS is spoken here, byte-exact, so that nothing that arrived in
//! clear is ever read as if it had come over TLS (response injection, RFC 3207 section 6). From then
//! on lettre speaks, over a stream that is TLS by its type.
//!
//! A connection whose conversation was cut short is out of step: the next reply may belong to the
//! last command. [`Connection`] therefore is consumed by sending, and only comes back when the last
//! reply was read.

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use comms_core::Secret;
use futures_util::FutureExt;
use lettre::{
    Address,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream},
        commands::{Data, Mail, Quit, Rcpt, Rset},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::reply::{Reply, read_reply};
use crate::deadline::{Deadline, Elapsed};

/// The longest that is waited for a name to be resolved.
pub(super) const RESOLVE_TIME: Duration = Duration::from_secs(4);
/// The longest that is waited for a TCP connection to one address.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Addresses of one host that are tried.
const MOST_ADDRESSES: usize = 3;
/// The longest that is waited for a TLS handshake.
const TLS_TIME: Duration = Duration::from_secs(8);
/// The longest that is waited for the reply to one command. RFC 5321 section 4.5.3.2 would wait
/// minutes, which a Lambda does not have: a server that hangs must leave time for the next provider.
const COMMAND_TIME: Duration = Duration::from_secs(8);
/// The longest that the body and the reply to it may take.
const BODY_TIME: Duration = Duration::from_mins(1);
/// What must be left of the deadline for a message to be started on. A body that our own deadline cuts
/// off may have been accepted; one that was not begun has not.
const BODY_TIME_LEAST: Duration = Duration::from_secs(2);
/// The longest that a connection is waited for to say good-bye.
const QUIT_TIME: Duration = Duration::from_secs(2);

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
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The message and the reply to it.
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
    /// The server's certificate does not verify.
    Certificate,
    /// The TLS handshake failed otherwise.
    TlsHandshake,
    /// The server answered what is not SMTP, or more than was asked.
    Malformed,
    /// The server does not offer what is needed.
    NotOffered,
    /// The host may not be connected to, or does not resolve.
    Egress(crate::egress::EgressError),
    /// Our side could not do its part: a secret that can not be opened, a setting that can not be used.
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
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// From the start.
    ImplicitTls,
    /// By STARTTLS, without which the conversation ends.
    StartTls,
}

/// A TCP connection that its owner can look at while TLS uses it.
#[derive(Debug, Clone)]
struct SharedTcp(Arc<TcpStream>);

impl AsyncRead for SharedTcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SharedTcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = socket2::SockRef::from(&*self.0);
        Poll::Ready(socket.shutdown(std::net::Shutdown::Write))
    }
}

/// The encrypted stream as lettre gets it.
///
/// lettre wants to read a greeting, and the server's has been read already: it is handed one. Bytes
/// beyond ASCII in a reply's text become `?`, because lettre takes a reply that is not UTF-8 for a
/// broken connection, and a message that was accepted in Latin-1 for one that was not.
#[derive(Debug)]
struct EncryptedStream {
    greeting: &'static [u8],
    tls: TlsStream<SharedTcp>,
    peer: SocketAddr,
}

impl AsyncRead for EncryptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.is_empty() {
            let greeting = std::mem::take(&mut self.greeting);
            let (now, later) = greeting.split_at(greeting.len().min(buf.remaining()));
            buf.put_slice(now);
            self.greeting = later;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tls).poll_read(cx, buf))?;
        for byte in &mut buf.filled_mut()[before..] {
            if !byte.is_ascii() {
                *byte = b'?';
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EncryptedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for EncryptedStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

/// A TCP connection to a checked address.
pub(super) struct Connected {
    socket: Arc<TcpStream>,
    peer: SocketAddr,
}

/// Connects to the first of the checked `addresses` that answers.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    deadline: Deadline,
) -> Result<Connected, Failure> {
    let mut cause = Cause::Closed;
    for address in addresses.iter().take(MOST_ADDRESSES) {
        match deadline
            .bound(CONNECT_TIME, TcpStream::connect(address))
            .await
        {
            Ok(Ok(socket)) => {
                // Without it every message waits 40 ms: Nagle's algorithm holds the final dot back
                // until the server's delayed acknowledgement.
                socket
                    .set_nodelay(true)
                    .map_err(|_| Failure::new(Stage::Connect, Cause::Closed))?;
                return Ok(Connected {
                    socket: Arc::new(socket),
                    peer: *address,
                });
            }
            Ok(Err(_)) => cause = Cause::Closed,
            Err(Elapsed) => cause = Cause::TimedOut,
        }
    }
    Err(Failure::new(Stage::Connect, cause))
}

/// An encrypted connection whose greeting has been read, if the server gave it in clear.
pub(super) struct Encrypted {
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    tls: TlsStream<SharedTcp>,
    greeted: bool,
}

impl Connected {
    /// Sets up TLS: at once, or after the server agreed to STARTTLS.
    pub(super) async fn encrypt(
        self,
        security: Security,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        hello: &str,
        deadline: Deadline,
    ) -> Result<Encrypted, Failure> {
        let mut stream = SharedTcp(self.socket.clone());
        let greeted = match security {
            Security::ImplicitTls => false,
            Security::StartTls => {
                start_tls(&mut stream, hello, deadline).await?;
                true
            }
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        let tls = match deadline.bound(TLS_TIME, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return Err(Failure::new(Stage::Tls, tls_cause(&error))),
            Err(Elapsed) => return Err(Failure::new(Stage::Tls, Cause::TimedOut)),
        };
        Ok(Encrypted {
            socket: self.socket,
            peer: self.peer,
            tls,
            greeted,
        })
    }
}

/// Greeting, EHLO and STARTTLS in clear.
async fn start_tls(stream: &mut SharedTcp, hello: &str, deadline: Deadline) -> Result<(), Failure> {
    let (_, reply) = exchange(stream, None, Stage::Greeting, deadline).await?;
    expect(reply, 220, Stage::Greeting)?;
    let (offered, reply) = exchange(
        stream,
        Some(&format!("EHLO {hello}\r\n")),
        Stage::Ehlo,
        deadline,
    )
    .await?;
    expect(reply, 250, Stage::Ehlo)?;
    let offered = String::from_utf8_lossy(&offered).to_ascii_uppercase();
    // A line is `250-KEYWORD` or `250 KEYWORD`; the first names the server.
    let offers_starttls = offered.lines().skip(1).any(|line| {
        line.get(4..)
            .and_then(|line| line.split_whitespace().next())
            == Some("STARTTLS")
    });
    if !offers_starttls {
        return Err(Failure::new(Stage::StartTls, Cause::NotOffered));
    }
    let (_, reply) = exchange(stream, Some("STARTTLS\r\n"), Stage::StartTls, deadline).await?;
    expect(reply, 220, Stage::StartTls)
}

fn expect(reply: Reply, code: u16, stage: Stage) -> Result<(), Failure> {
    if reply.code == code {
        Ok(())
    } else {
        Err(Failure::new(stage, Cause::Reply(reply)))
    }
}

/// Writes `command`, if any, and reads exactly one reply. Anything after the reply is a failure.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    command: Option<&str>,
    stage: Stage,
    deadline: Deadline,
) -> Result<(Vec<u8>, Reply), Failure> {
    let conversation = async {
        if let Some(command) = command {
            stream
                .write_all(command.as_bytes())
                .await
                .map_err(|_| Cause::Closed)?;
            stream.flush().await.map_err(|_| Cause::Closed)?;
        }
        read_reply(stream).await
    };
    match deadline.bound(COMMAND_TIME, conversation).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(cause)) => Err(Failure::new(stage, cause)),
        Err(Elapsed) => Err(Failure::new(stage, Cause::TimedOut)),
    }
}

fn tls_cause(error: &io::Error) -> Cause {
    let rustls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match rustls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Cause::Certificate
        }
        Some(_) => Cause::TlsHandshake,
        None => Cause::Closed,
    }
}

/// A connection that is logged in and in step: the next reply belongs to the next command.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    socket: Arc<TcpStream>,
    messages: u32,
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
            let (_, reply) = exchange(&mut self.tls, None, Stage::Greeting, deadline).await?;
            expect(reply, 220, Stage::Greeting)?;
        }
        let stream = EncryptedStream {
            greeting: b"220 greeted\r\n",
            tls: self.tls,
            peer: self.peer,
        };
        let hello = ClientId::Domain(hello.to_owned());
        let connecting = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello);
        // lettre panics on a line of the EHLO reply that is blank behind its code.
        let connecting = AssertUnwindSafe(connecting).catch_unwind();
        let mut smtp = match deadline.bound(COMMAND_TIME, connecting).await {
            Ok(Ok(Ok(smtp))) => smtp,
            Ok(Ok(Err(error))) => return Err(Failure::new(Stage::Ehlo, lettre_cause(&error))),
            Ok(Err(_)) => return Err(Failure::new(Stage::Ehlo, Cause::Malformed)),
            Err(Elapsed) => return Err(Failure::new(Stage::Ehlo, Cause::TimedOut)),
        };

        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if smtp.server_info().get_auth_mechanism(&mechanisms).is_none() {
            return Err(Failure::new(Stage::Auth, Cause::NotOffered));
        }
        let password = password
            .expose()
            .map_err(|_| Failure::new(Stage::Auth, Cause::Local))?;
        let credentials = Credentials::new(user.to_owned(), password.to_string());
        step(
            Stage::Auth,
            COMMAND_TIME,
            deadline,
            smtp.auth(&mechanisms, &credentials),
        )
        .await?;
        Ok(Connection {
            smtp,
            socket: self.socket,
            messages: 0,
        })
    }
}

/// A message as it goes over the wire.
pub(super) struct Envelope<'a> {
    pub(super) from: &'a Address,
    pub(super) to: &'a Address,
    pub(super) message: &'a [u8],
}

/// What became of a message, and of the connection it went over.
pub(super) struct Sent {
    pub(super) result: Result<(), Failure>,
    /// The connection, where it is in step.
    pub(super) connection: Option<Connection>,
}

impl Connection {
    /// How many messages it has carried.
    pub(super) const fn messages(&self) -> u32 {
        self.messages
    }

    /// Whether the server has neither closed the connection nor said anything since the last reply.
    /// Looks at the socket only; costs no round trip.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match socket2::SockRef::from(&*self.socket).peek(&mut byte) {
            // End of stream, or bytes: a good-bye, or TLS closing.
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Sends one message to one recipient. Success is the server's 250 to the body and nothing less.
    pub(super) async fn send(mut self, envelope: &Envelope<'_>, deadline: Deadline) -> Sent {
        let result = self.transaction(envelope, deadline).await;
        let in_step = match &result {
            Ok(()) => true,
            // A refused body ends the transaction; a refusal before it leaves one to be reset.
            Err(Failure {
                cause: Cause::Reply(reply),
                stage,
            }) if reply.code >= 400 && reply.code != 421 => {
                *stage == Stage::Body
                    || step(*stage, QUIT_TIME, deadline, self.smtp.command(Rset))
                        .await
                        .is_ok_and(|reply| reply.code == 250)
            }
            Err(_) => false,
        };
        self.messages += 1;
        Sent {
            result,
            connection: in_step.then_some(self),
        }
    }

    async fn transaction(
        &mut self,
        envelope: &Envelope<'_>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let smtp = &mut self.smtp;
        let mut parameters = Vec::new();
        let is_ascii = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        if !is_ascii(envelope.to) || !is_ascii(envelope.from) {
            if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Failure::new(Stage::Rcpt, Cause::NotOffered));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !envelope.message.is_ascii() {
            if !smtp.server_info().supports_feature(Extension::EightBitMime) {
                return Err(Failure::new(Stage::Body, Cause::NotOffered));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let mail = Mail::new(Some(envelope.from.clone()), parameters);
        step(Stage::Mail, COMMAND_TIME, deadline, smtp.command(mail)).await?;
        let rcpt = Rcpt::new(envelope.to.clone(), Vec::new());
        step(Stage::Rcpt, COMMAND_TIME, deadline, smtp.command(rcpt)).await?;
        if deadline.remaining() < BODY_TIME_LEAST {
            return Err(Failure::new(Stage::Data, Cause::TimedOut));
        }
        let data = step(Stage::Data, COMMAND_TIME, deadline, smtp.command(Data)).await?;
        // lettre takes any 2yz or 3yz for success; only 354 asks for the message (RFC 5321 section 4.1.1.4).
        expect(data, 354, Stage::Data)?;
        let body = step(
            Stage::Body,
            BODY_TIME,
            deadline,
            smtp.message(envelope.message),
        )
        .await?;
        expect(body, 250, Stage::Body)
    }

    /// Asks whether the server is there, and says good-bye.
    pub(super) async fn noop_and_quit(mut self, deadline: Deadline) -> Result<(), Failure> {
        let noop = lettre::transport::smtp::commands::Noop;
        step(Stage::Auth, COMMAND_TIME, deadline, self.smtp.command(noop)).await?;
        // What the server says to a good-bye does not matter any more.
        let _ = step(Stage::Auth, QUIT_TIME, deadline, self.smtp.command(Quit)).await;
        Ok(())
    }
}

/// Lets one step of lettre's take place within its time, and turns its error into a cause.
async fn step(
    stage: Stage,
    limit: Duration,
    deadline: Deadline,
    work: impl Future<Output = Result<Response, lettre::transport::smtp::Error>>,
) -> Result<Reply, Failure> {
    match deadline.bound(limit, work).await {
        Ok(Ok(response)) => Ok(Reply {
            code: response.code().into(),
            enhanced: None,
        }),
        Ok(Err(error)) => Err(Failure::new(stage, lettre_cause(&error))),
        Err(Elapsed) => Err(Failure::new(stage, Cause::TimedOut)),
    }
}

fn lettre_cause(error: &lettre::transport::smtp::Error) -> Cause {
    if let Some(code) = error.status() {
        // The source is the reply's text, of which only the enhanced status code is kept.
        let text = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        return Cause::Reply(Reply::new(code.into(), &text));
    }
    if error.is_response() {
        // lettre says "incomplete response" for a closed connection, in a text of its own.
        let source = std::error::Error::source(error).map(ToString::to_string);
        return match source.as_deref() {
            Some("incomplete response") => Cause::Closed,
            Some(_) | None => Cause::Malformed,
        };
    }
    if error.is_client() {
        Cause::Local
    } else {
        Cause::Closed
    }
}

/// Reads more of `stream` than nothing, for [`read_reply`].
pub(super) async fn read_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<(), Cause> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => Err(Cause::Closed),
        Ok(_) => Ok(()),
    }
}
