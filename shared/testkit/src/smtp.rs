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

mod builder;
mod record;
mod script;
mod session;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::changes::wait_until;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use session::Session;

use self::{builder::Config, script::Script};

pub use self::{
    builder::SmtpServerBuilder,
    record::{Event, ReceivedMessage},
    script::{Action, OnMessage, Reached, TlsMode},
    stage::Stage,
};

/// How many connections' transcripts are kept; the oldest go first.
const KEPT_TRANSCRIPTS: usize = 256;
/// How many lines of one connection are kept; later ones are not recorded.
const KEPT_LINES: usize = 10_000;
/// How many events are kept; the oldest go first.
const KEPT_EVENTS: usize = 20_000;

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

    async fn wait_until<T>(&self, what: &str, found: impl FnMut() -> Option<T>) -> T {
        let Ok(result) = wait_until(&self.shared.changed, found).await else {
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
    state: Mutex<ServerState>,
    /// Marked after every change of the state that somebody may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct ServerState {
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
    fn state(&self) -> MutexGuard<'_, ServerState> {
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
