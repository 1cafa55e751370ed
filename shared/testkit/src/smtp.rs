//! An SMTP server on loopback that keeps to the RFCs until a script tells it not to.
//!
//! It speaks RFC 5321 with STARTTLS (RFC 3207) or implicit TLS (RFC 8314), AUTH PLAIN and LOGIN (RFC 4954, 4616),
//! SIZE, 8BITMIME, SMTPUTF8, PIPELINING and ENHANCEDSTATUSCODES. Tests use it to make a provider fail at one exact
//! stage; the local stack uses it, without a script, as the inbox that every message ends in. It is therefore
//! strict where a lenient server would hide a client's mistake (order of commands, line endings, line lengths,
//! parameters of extensions that were not offered) and bounded in everything that a peer can make it hold.
//!
//! ```no_run
//! # use comms_testkit::smtp::{Action, SmtpServer, Stage, TlsMode};
//! # use comms_testkit::tls::TestCa;
//! # async fn example() {
//! let ca = TestCa::new();
//! let server = SmtpServer::builder()
//!     .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
//!     .credentials("user", "password")
//!     .on(Stage::Rcpt, Action::reply("550 5.1.1 no such user"))
//!     .start()
//!     .await;
//! // … a client talks to server.addr() …
//! server.wait_for_messages(1).await;
//! # }
//! ```

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "what cannot start or never comes is the test's failure, said at once and with the conversation"
)]

mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use session::Session;

/// How many connections' transcripts are kept; the oldest go first.
const KEPT_TRANSCRIPTS: usize = 256;
/// How many lines of one connection are kept; later ones are not recorded.
const KEPT_LINES: usize = 10_000;
/// How many events are kept; the oldest go first.
const KEPT_EVENTS: usize = 20_000;
/// How long [`SmtpServer::wait_for_event`] and its like wait before they declare the test failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the server's encryption begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never: the server offers no TLS.
    None,
    /// After STARTTLS, as on ports 25 and 587.
    StartTls,
    /// With the first byte, as on port 465.
    Implicit,
}

/// A point of the conversation that a script can change.
///
/// A stage is reached when the client's command is well-formed, in order and permitted; what is out of order is
/// answered by the protocol and uses no action up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The connection was accepted; nothing was sent yet, not even TLS.
    Connect,
    /// The `220` greeting.
    Greeting,
    /// EHLO or HELO, except after STARTTLS.
    Ehlo,
    /// The STARTTLS command.
    StartTls,
    /// The TLS handshake, of either mode.
    Tls,
    /// EHLO or HELO after STARTTLS.
    EhloAfterTls,
    /// The outcome of an AUTH exchange.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// The DATA command.
    Data,
    /// The message was received up to its final dot.
    Body,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

/// What the server does at a [`Stage`] in place of its ordinary reply.
///
/// After a reply of one's own the conversation goes on as its first digit says (RFC 5321, section 4.2.1): `250` to MAIL
/// opens a transaction, `550` does not; `252` to the body accepts the message as `250` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This reply instead; several lines are separated by `\n` and sent with CRLF.
    Reply(String),
    /// This reply, then an orderly end of the connection.
    ReplyThenClose(String),
    /// No reply: the connection ends (FIN, and no TLS `close_notify`), as if the server's process had died.
    Close,
    /// No reply: the connection is reset (RST).
    Reset,
    /// No reply, ever; the connection stays open until the client or the server goes away.
    Hang,
    /// At [`Stage::Body`]: the message is accepted, but the connection ends before the reply. Elsewhere as `Close`.
    AcceptThenClose,
    /// The ordinary reply with these bytes behind it in the same write. At [`Stage::StartTls`] this is the
    /// response injection that a client must not carry over into the encrypted session.
    Inject(Vec<u8>),
    /// The ordinary reply, but every byte in a segment of its own.
    Trickle,
}

impl Action {
    /// [`Action::Reply`] from anything that is text.
    pub fn reply(text: impl Into<String>) -> Self {
        Self::Reply(text.into())
    }

    /// [`Action::ReplyThenClose`] from anything that is text.
    pub fn reply_then_close(text: impl Into<String>) -> Self {
        Self::ReplyThenClose(text.into())
    }
}

/// A message that the server accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The envelope's sender, without angle brackets; empty for the null sender.
    pub mail_from: String,
    /// The recipients that were accepted, in order.
    pub rcpt_to: Vec<String>,
    /// The parameters of MAIL FROM as they came, such as `BODY=8BITMIME`.
    pub mail_params: Vec<String>,
    /// The message: dots unstuffed, line endings as they came, without the final dot.
    pub data: Vec<u8>,
    /// The user name of a successful AUTH.
    pub authenticated_as: Option<String>,
    /// Whether the message came over TLS.
    pub over_tls: bool,
    /// The connection it came on, counted from 1.
    pub connection: u64,
}

impl ReceivedMessage {
    /// The message as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// Something that happened at the server, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted.
    Connected {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// A stage was reached and its reply is about to be sent (or withheld).
    Reached {
        /// The connection, counted from 1.
        connection: u64,
        /// The stage.
        stage: Stage,
    },
    /// The TLS handshake succeeded.
    Secured {
        /// The connection, counted from 1.
        connection: u64,
        /// Whether the client resumed a session of before.
        is_resumed: bool,
    },
    /// The TLS handshake failed: the client refused the certificate, or did not speak TLS.
    HandshakeFailed {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// A message was accepted.
    Accepted {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// The connection is over.
    Closed {
        /// The connection, counted from 1.
        connection: u64,
    },
}

/// A stage that was reached, for [`SmtpServer::act_with`].
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// The connection, counted from 1.
    pub connection: u64,
    /// The stage.
    pub stage: Stage,
    /// Who asked to be logged in last, whatever became of it.
    pub user: Option<&'a str>,
    /// The recipient, at [`Stage::Rcpt`].
    pub recipient: Option<&'a str>,
    /// The message, at [`Stage::Body`]: what becomes of it is not settled yet.
    pub message: Option<&'a ReceivedMessage>,
}

type Responder = Arc<dyn Fn(Reached<'_>) -> Option<Action> + Send + Sync>;

/// What is called with every accepted message, before its `250` is sent.
pub type OnMessage = Arc<dyn Fn(&ReceivedMessage) + Send + Sync>;

/// A server's settings and script; [`SmtpServer::builder`] makes one.
pub struct SmtpServerBuilder {
    listener: Option<TcpListener>,
    config: Config,
    accounts: HashMap<String, String>,
    script: Script,
}

/// What does not change while the server runs.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a habit of its own, which a server has or has not"
)]
struct Config {
    host_name: String,
    tls: TlsMode,
    certificate: Option<Arc<ServerConfig>>,
    require_tls: bool,
    auth_mechanisms: Vec<String>,
    auth_without_tls: bool,
    extensions: Vec<String>,
    hidden_extensions: Vec<String>,
    max_message_size: usize,
    max_text_line: usize,
    max_recipients: usize,
    data_without_recipients: bool,
    keeps_refused_transactions: bool,
    replies_together: bool,
    max_connections: usize,
    max_connections_per_login: usize,
    reply_delay: Duration,
    max_messages_per_session: Option<usize>,
    idle_timeout: Duration,
    kept_messages: usize,
    on_message: Option<OnMessage>,
}

/// The faults that are still to come.
#[derive(Default)]
struct Script {
    once: HashMap<Stage, VecDeque<Action>>,
    always: HashMap<Stage, Action>,
    recipients: HashMap<String, Action>,
    users: HashMap<(String, Stage), Action>,
    responder: Option<Responder>,
}

impl Script {
    fn next(&mut self, reached: Reached<'_>) -> Option<Action> {
        let Reached {
            stage,
            user,
            recipient,
            ..
        } = reached;
        if let Some(action) =
            recipient.and_then(|address| self.recipients.get(&address.to_ascii_lowercase()))
        {
            return Some(action.clone());
        }
        if let Some(action) = user.and_then(|user| self.users.get(&(user.to_owned(), stage))) {
            return Some(action.clone());
        }
        self.once
            .get_mut(&stage)
            .and_then(VecDeque::pop_front)
            .or_else(|| self.always.get(&stage).cloned())
    }
}

impl SmtpServerBuilder {
    /// Offers TLS with this certificate. Without it the server speaks in clear only.
    #[must_use]
    pub fn tls(mut self, mode: TlsMode, config: Arc<ServerConfig>) -> Self {
        self.config.tls = mode;
        self.config.certificate = Some(config);
        self
    }

    /// Refuses MAIL (`530 5.7.0`) until the connection is encrypted.
    #[must_use]
    pub fn require_tls(mut self) -> Self {
        self.config.require_tls = true;
        self
    }

    /// Demands a login before MAIL, by AUTH PLAIN or LOGIN, over TLS only, and takes this one. Called again, it
    /// adds another user, or gives the same one another password.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.accounts.insert(user.into(), password.into());
        if self.config.auth_mechanisms.is_empty() {
            self.config.auth_mechanisms = vec!["PLAIN".to_owned(), "LOGIN".to_owned()];
        }
        self
    }

    /// The mechanisms that EHLO offers. Without [`Self::credentials`] AUTH is optional and any password is right.
    #[must_use]
    pub fn auth_mechanisms(mut self, mechanisms: &[&str]) -> Self {
        self.config.auth_mechanisms = mechanisms
            .iter()
            .map(|name| name.to_ascii_uppercase())
            .collect();
        self
    }

    /// Offers and accepts AUTH on a connection that is not encrypted.
    #[must_use]
    pub fn auth_without_tls(mut self) -> Self {
        self.config.auth_without_tls = true;
        self
    }

    /// Queues an action for the next time this stage is reached on any connection. Actions of one stage are used
    /// once each, in order; then the stage is ordinary again (or as [`Self::always`] says).
    #[must_use]
    pub fn on(mut self, stage: Stage, action: Action) -> Self {
        self.script.once.entry(stage).or_default().push_back(action);
        self
    }

    /// Sets the action for every time this stage is reached and no queued action is left.
    #[must_use]
    pub fn always(mut self, stage: Stage, action: Action) -> Self {
        self.script.always.insert(stage, action);
        self
    }

    /// Sets the action for every RCPT TO of this address, before any other action of [`Stage::Rcpt`].
    #[must_use]
    pub fn on_rcpt(mut self, address: impl AsRef<str>, action: Action) -> Self {
        self.script
            .recipients
            .insert(address.as_ref().to_ascii_lowercase(), action);
        self
    }

    /// Sets the action for every time that this user reaches this stage, from [`Stage::Auth`] on, before any
    /// action of the stage itself.
    #[must_use]
    pub fn always_for(mut self, user: impl Into<String>, stage: Stage, action: Action) -> Self {
        self.script.users.insert((user.into(), stage), action);
        self
    }

    /// Offers exactly these extensions, as EHLO shows them. STARTTLS and AUTH come from [`Self::tls`] and
    /// [`Self::credentials`]; SIZE without a number is completed with the server's limit.
    #[must_use]
    pub fn extensions(mut self, keywords: &[&str]) -> Self {
        self.config.extensions = keywords.iter().map(ToString::to_string).collect();
        self
    }

    /// Neither offers nor accepts this extension; `STARTTLS` and `AUTH` can be hidden as well.
    #[must_use]
    pub fn without_extension(mut self, keyword: &str) -> Self {
        self.config
            .hidden_extensions
            .push(keyword.to_ascii_uppercase());
        self
    }

    /// After this many accepted messages the next MAIL is answered `421 4.7.0` and the connection closed.
    #[must_use]
    pub fn max_messages_per_session(mut self, messages: usize) -> Self {
        self.config.max_messages_per_session = Some(messages);
        self
    }

    /// More connections than this at the same time are greeted `421 4.7.0` and closed (default 1,000).
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// More connections of one login than this at the same time are answered `421 4.7.0` at AUTH and closed, as
    /// Dovecot's `mail_max_userip_connections` does (default 1,000).
    #[must_use]
    pub fn max_connections_per_login(mut self, connections: usize) -> Self {
        self.config.max_connections_per_login = connections;
        self
    }

    /// The reply to the last of the commands that came together is late by this (default none): the round trip to a
    /// server that is far away.
    #[must_use]
    pub fn reply_delay(mut self, delay: Duration) -> Self {
        self.config.reply_delay = delay;
        self
    }

    /// The largest message in bytes (default 25 MiB); what is longer is answered `552 5.3.4`.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.config.max_message_size = bytes;
        self
    }

    /// The longest line of a message in bytes with its CRLF (default 1,000, RFC 5321); a longer one is `554 5.6.0`.
    #[must_use]
    pub fn max_text_line(mut self, bytes: usize) -> Self {
        self.config.max_text_line = bytes;
        self
    }

    /// The most recipients of one message (default 100); further ones are answered `452 4.5.3`.
    #[must_use]
    pub fn max_recipients(mut self, recipients: usize) -> Self {
        self.config.max_recipients = recipients;
        self
    }

    /// Asks for the message although no recipient was taken, and refuses it at its end (`554 5.5.1`), as RFC 2920
    /// section 3.1 has it for servers that were given DATA in one group with RCPT.
    #[must_use]
    pub fn data_without_recipients(mut self) -> Self {
        self.config.data_without_recipients = true;
        self
    }

    /// Leaves the transaction open after a message that was refused at its end, as Postfix does for some refusals:
    /// only RSET, EHLO or a new connection ends it, and MAIL is answered by `503 5.5.1`.
    #[must_use]
    pub fn keeps_refused_transactions(mut self) -> Self {
        self.config.keeps_refused_transactions = true;
        self
    }

    /// Answers commands that came together in one write, as RFC 2920 section 3.2 wants it. Without it each reply is a
    /// segment (and a TLS record) of its own, which is harder on a client.
    #[must_use]
    pub fn replies_together(mut self) -> Self {
        self.config.replies_together = true;
        self
    }

    /// How long a connection may say nothing before `421 4.4.2` ends it (default 5 minutes).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout;
        self
    }

    /// How many messages [`SmtpServer::messages`] holds (default 1,000); the oldest go first.
    #[must_use]
    pub fn keep_messages(mut self, messages: usize) -> Self {
        self.config.kept_messages = messages;
        self
    }

    /// Called with every accepted message, before its `250` is sent.
    #[must_use]
    pub fn on_message(mut self, callback: OnMessage) -> Self {
        self.config.on_message = Some(callback);
        self
    }

    /// The name in the greeting and in EHLO's reply (default `localhost`).
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.config.host_name = name.into();
        self
    }

    /// The socket to listen on (default: a free port of 127.0.0.1).
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Starts the server on the current tokio runtime. It runs until the [`SmtpServer`] is dropped.
    ///
    /// # Panics
    /// When no port can be bound on loopback.
    pub async fn start(self) -> SmtpServer {
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("loopback has a free port"),
        };
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            config: self.config,
            state: Mutex::new(State {
                accounts: self.accounts,
                script: self.script,
                ..State::default()
            }),
            changed: watch::Sender::new(()),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        SmtpServer {
            shared,
            addr,
            acceptor,
        }
    }
}

/// A running SMTP server; dropping it ends every connection.
pub struct SmtpServer {
    shared: Arc<Shared>,
    addr: SocketAddr,
    acceptor: JoinHandle<()>,
}

impl SmtpServer {
    /// A server that is not started yet, with no TLS, no credentials and no faults.
    pub fn builder() -> SmtpServerBuilder {
        SmtpServerBuilder {
            listener: None,
            config: Config {
                host_name: "localhost".to_owned(),
                tls: TlsMode::None,
                certificate: None,
                require_tls: false,
                auth_mechanisms: Vec::new(),
                auth_without_tls: false,
                extensions: [
                    "PIPELINING",
                    "SIZE",
                    "8BITMIME",
                    "SMTPUTF8",
                    "ENHANCEDSTATUSCODES",
                ]
                .map(str::to_owned)
                .to_vec(),
                hidden_extensions: Vec::new(),
                max_message_size: 25 * 1024 * 1024,
                max_text_line: 1_000,
                max_recipients: 100,
                data_without_recipients: false,
                keeps_refused_transactions: false,
                replies_together: false,
                max_connections: 1_000,
                max_connections_per_login: 1_000,
                reply_delay: Duration::ZERO,
                max_messages_per_session: None,
                idle_timeout: Duration::from_mins(5),
                kept_messages: 1_000,
                on_message: None,
            },
            accounts: HashMap::new(),
            script: Script::default(),
        }
    }

    /// Messages that were accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Logins that were refused because their user had as many connections as one may have.
    pub fn refused_logins(&self) -> u64 {
        self.shared.state().refused_logins
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address's host, as a settings document would name it.
    pub fn host(&self) -> String {
        self.addr.ip().to_string()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Queues an action while the server runs, like [`SmtpServerBuilder::on`].
    pub fn on(&self, stage: Stage, action: Action) {
        self.shared
            .state()
            .script
            .once
            .entry(stage)
            .or_default()
            .push_back(action);
    }

    /// Sets a standing action while the server runs, like [`SmtpServerBuilder::always`].
    pub fn always(&self, stage: Stage, action: Action) {
        self.shared.state().script.always.insert(stage, action);
    }

    /// Sets what finds the action at a stage that none is scripted for; it may leave it at that. It is asked before
    /// anything is answered, and at [`Stage::Body`] before the message counts as accepted.
    pub fn act_with(
        &self,
        responder: impl Fn(Reached<'_>) -> Option<Action> + Send + Sync + 'static,
    ) {
        self.shared.state().script.responder = Some(Arc::new(responder));
    }

    /// Gives a user another password. Who is logged in stays logged in, as with most servers.
    pub fn set_password(&self, user: impl Into<String>, password: impl Into<String>) {
        let mut state = self.shared.state();
        state.accounts.insert(user.into(), password.into());
    }

    /// Forgets every action that is still to come: from here on the server is well behaved.
    pub fn clear_script(&self) {
        self.shared.state().script = Script::default();
    }

    /// The accepted messages, oldest first.
    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.shared.state().messages.iter().cloned().collect()
    }

    /// Forgets the accepted messages; [`Self::wait_for_messages`] still counts them.
    pub fn clear_messages(&self) {
        self.shared.state().messages.clear();
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// What was said, connection by connection: `C: …` and `S: …` lines, credentials as `***`, a message as
    /// `<N bytes>`.
    pub fn transcript(&self) -> Vec<String> {
        self.shared
            .state()
            .transcripts
            .values()
            .flatten()
            .cloned()
            .collect()
    }

    /// What was said on one connection, counted from 1.
    pub fn transcript_of(&self, connection: u64) -> Vec<String> {
        self.shared
            .state()
            .transcripts
            .get(&connection)
            .cloned()
            .unwrap_or_default()
    }

    /// What happened so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.state().events.iter().copied().collect()
    }

    /// Waits until `count` messages were accepted since the start, and returns those that are kept.
    ///
    /// # Panics
    /// When they do not come within half a minute.
    pub async fn wait_for_messages(&self, count: u64) -> Vec<ReceivedMessage> {
        self.wait_until(&format!("{count} messages"), || {
            let state = self.shared.state();
            (state.accepted >= count).then(|| state.messages.iter().cloned().collect())
        })
        .await
    }

    /// Waits for an event that `wanted` accepts, past ones included, and returns it.
    ///
    /// # Panics
    /// When it does not come within half a minute.
    pub async fn wait_for_event(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        // On a copy: `wanted` may well ask the server something, which takes the lock.
        self.wait_until("the event", || self.events().into_iter().find(&wanted))
            .await
    }

    /// Waits until a stage was reached `times` times since the start, on whatever connections.
    ///
    /// # Panics
    /// When that does not happen within half a minute.
    pub async fn wait_for_stage(&self, wanted: Stage, times: usize) {
        self.wait_until(&format!("{wanted:?} {times} times"), || {
            let reached = self
                .events()
                .iter()
                .filter(|event| matches!(event, Event::Reached { stage, .. } if *stage == wanted))
                .count();
            (reached >= times).then_some(())
        })
        .await;
    }

    /// Closes every connection that is between transactions and waits for the client's next command, as a server
    /// does with connections it finds too old. Returns when the last of them was told (FIN sent).
    pub async fn close_idle_connections(&self) {
        self.end_idle(None).await;
    }

    /// The same, but ends them by `action`: with a word before ([`Action::ReplyThenClose`]), with no goodbye of TLS
    /// ([`Action::Close`]), with RST ([`Action::Reset`]).
    pub async fn end_idle_connections(&self, action: Action) {
        self.end_idle(Some(action)).await;
    }

    async fn end_idle(&self, action: Option<Action>) {
        let acknowledgements = {
            let state = self.shared.state();
            state
                .open
                .values()
                .filter(|connection| connection.idle)
                .filter_map(|connection| {
                    let (done, closed) = oneshot::channel();
                    let request = CloseRequest {
                        action: action.clone(),
                        done,
                    };
                    connection.close.send(request).is_ok().then_some(closed)
                })
                .collect::<Vec<_>>()
        };
        for closed in acknowledgements {
            // An error says that the connection got busy or went away by itself in the meantime.
            let _ = closed.await;
        }
    }

    async fn wait_until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                if let Some(result) = found() {
                    return result;
                }
                changes
                    .changed()
                    .await
                    .expect("the sender lives as long as the server does");
            }
        };
        let Ok(result) = tokio::time::timeout(PATIENCE, waiting).await else {
            panic!(
                "waited in vain for {what}; said so far: {:#?}",
                self.transcript()
            );
        };
        result
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        // The acceptor owns the connections' tasks, so they end with it.
        self.acceptor.abort();
    }
}

impl fmt::Debug for SmtpServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SmtpServer")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// What the server and its connections share.
struct Shared {
    config: Config,
    state: Mutex<State>,
    /// Marked after every change of the state that somebody may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Passwords by user.
    accounts: HashMap<String, String>,
    script: Script,
    connections: u64,
    open: HashMap<u64, OpenConnection>,
    /// Connections that a login was refused as one too many.
    refused_logins: u64,
    accepted: u64,
    messages: VecDeque<ReceivedMessage>,
    transcripts: BTreeMap<u64, Vec<String>>,
    events: VecDeque<Event>,
}

/// How the server reaches a connection's task.
struct OpenConnection {
    /// Whether it waits for a command outside of a transaction.
    idle: bool,
    /// Who is logged in.
    login: Option<String>,
    close: mpsc::UnboundedSender<CloseRequest>,
}

/// A wish that a connection end, if it is idle.
struct CloseRequest {
    /// What to do in place of closing in good order.
    action: Option<Action>,
    /// Is told when it has ended; dropped when it was not idle.
    done: oneshot::Sender<()>,
}

impl Shared {
    /// The state is only ever replaced whole values at a time, so a panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_action(&self, reached: Reached<'_>) -> Option<Action> {
        let (scripted, responder) = {
            let script = &mut self.state().script;
            (script.next(reached), script.responder.clone())
        };
        // Not under the lock: it is the test's own.
        scripted.or_else(|| responder?(reached))
    }

    fn wants_login(&self) -> bool {
        !self.state().accounts.is_empty()
    }

    /// Whether this is a login; where none is wanted, any is.
    /// Logs a connection in, unless its user has as many as one may have.
    fn log_in(&self, connection: u64, user: &str) -> bool {
        let mut state = self.state();
        let logged_in = |open: &&OpenConnection| open.login.as_deref() == Some(user);
        let others = state.open.values().filter(logged_in).count();
        if others >= self.config.max_connections_per_login {
            state.refused_logins += 1;
            return false;
        }
        if let Some(open) = state.open.get_mut(&connection) {
            open.login = Some(user.to_owned());
        }
        true
    }

    fn is_login(&self, user: &str, password: &str) -> bool {
        let state = self.state();
        let known = state.accounts.get(user).map(String::as_str);
        state.accounts.is_empty() || known == Some(password)
    }

    fn record(&self, event: Event) {
        let mut state = self.state();
        if state.events.len() == KEPT_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back(event);
        drop(state);
        self.changed.send_replace(());
    }

    fn note(&self, connection: u64, line: String) {
        let mut state = self.state();
        let lines = state.transcripts.entry(connection).or_default();
        if lines.len() < KEPT_LINES {
            lines.push(line);
        }
        if state.transcripts.len() > KEPT_TRANSCRIPTS {
            state.transcripts.pop_first();
        }
    }

    fn accept_message(&self, message: ReceivedMessage) {
        if let Some(callback) = &self.config.on_message {
            callback(&message);
        }
        let connection = message.connection;
        let mut state = self.state();
        state.accepted += 1;
        state.messages.push_back(message);
        while state.messages.len() > self.config.kept_messages {
            state.messages.pop_front();
        }
        drop(state);
        self.record(Event::Accepted { connection });
    }

    fn set_idle(&self, connection: u64, idle: bool) {
        if let Some(open) = self.state().open.get_mut(&connection) {
            open.idle = idle;
        }
    }

    /// Registers a connection: its number, the requests to close it, and whether it is one too many.
    fn open(&self) -> (u64, mpsc::UnboundedReceiver<CloseRequest>, bool) {
        let (close, requests) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.connections += 1;
        let connection = state.connections;
        let too_many = state.open.len() >= self.config.max_connections;
        state.open.insert(
            connection,
            OpenConnection {
                idle: false,
                login: None,
                close,
            },
        );
        drop(state);
        self.record(Event::Connected { connection });
        (connection, requests, too_many)
    }

    fn closed(&self, connection: u64) {
        // Both the end of the conversation and the end of its task report here; the first one counts.
        if self.state().open.remove(&connection).is_some() {
            self.record(Event::Closed { connection });
        }
    }
}

/// Takes connections until it is aborted, and the connections with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    sessions.spawn(serve(socket, Arc::clone(&shared)));
                }
                // Out of file descriptors, most likely: there will be some again when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    /// Reports the end even when a callback panics.
    struct Open(Arc<Shared>, u64);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.closed(self.1);
        }
    }

    // Replies are small and wanted at once.
    let _ = socket.set_nodelay(true);
    let (connection, requests, too_many) = shared.open();
    let open = Open(Arc::clone(&shared), connection);
    Session::new(shared, connection, requests, socket)
        .run(too_many)
        .await;
    drop(open);
}
