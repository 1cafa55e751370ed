//! An HTTP server on loopback that stands for a provider's API and says what a test's script tells it to.
//!
//! It speaks HTTP/1.1 (RFC 9112), over TLS or in clear. It is
//! strict where a lenient server would hide a client's mistake: line endings, the framing of bodies, `Host`, a body
//! without a type. It invents nothing: a request that no reply is scripted for is answered `599`. It is bounded in
//! everything that a peer can make it hold.
//!
//! ```no_run
//! # use comms_testkit::http::{HttpServer, Reply};
//! # use comms_testkit::tls::TestCa;
//! # async fn example() -> std::io::Result<()> {
//! let ca = TestCa::new();
//! let server = HttpServer::builder()
//!     .tls(ca.server_config(&["localhost"]))
//!     .start()
//!     .await?;
//! server.on("POST", "/v3/mail/send", Reply::new(503).header("retry-after", "7"));
//! server.always("POST", "/v3/mail/send", Reply::new(202).header("x-message-id", "one"));
//! // … a client talks to server.url() …
//! let requests = server.wait_for_requests(2).await;
//! assert_eq!(requests[0].json()["from"]["email"], "desk@clinic.example");
//! assert!(server.unexpected().is_empty());
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a script that cannot be played and a request that never comes are the test's failure"
)]

mod h1;
mod reply;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::changes::wait_until;
use rustls::ServerConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use self::request::{Refusal, is_path};

pub use self::{
    reply::{ConnectAction, Reply},
    request::ReceivedRequest,
};

/// The largest body of a request; a longer one is answered `413`.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How many requests are kept; the oldest go first.
const KEPT_REQUESTS: usize = 1_000;
/// How many unexpected requests are kept; later ones are not recorded.
const KEPT_UNEXPECTED: usize = 1_000;
/// A server's settings; [`HttpServer::builder`] makes one.
#[derive(Default)]
pub struct HttpServerBuilder {
    listener: Option<TcpListener>,
    certificate: Option<Arc<ServerConfig>>,
}

impl HttpServerBuilder {
    /// Speaks TLS with this certificate, from the first byte; without it the server speaks in clear.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.certificate = Some(config);
        self
    }

    /// The socket to listen on (default: a free port of 127.0.0.1).
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Starts the server on the current tokio runtime. It runs until the [`HttpServer`] is dropped.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(self) -> io::Result<HttpServer> {
        let tls = self.certificate.map(|certificate| {
            let mut config = ServerConfig::clone(&certificate);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        });
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let over_tls = tls.is_some();
        let acceptor = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Ok(HttpServer {
            shared,
            addr,
            over_tls,
            acceptor,
        })
    }
}

/// A running HTTP server; dropping it ends every connection.
pub struct HttpServer {
    shared: Arc<Shared>,
    addr: SocketAddr,
    over_tls: bool,
    acceptor: JoinHandle<()>,
}

impl HttpServer {
    /// A server that is not started yet, with no TLS.
    pub fn builder() -> HttpServerBuilder {
        HttpServerBuilder::default()
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The host of [`Self::url`]: the address, or with TLS `localhost`, a name that a client sends as such.
    pub fn host(&self) -> String {
        if self.over_tls {
            "localhost".to_owned()
        } else {
            self.addr.ip().to_string()
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `http://127.0.0.1:PORT`, or with TLS `https://localhost:PORT`; no slash at the end.
    pub fn url(&self) -> String {
        if self.over_tls {
            format!("https://localhost:{}", self.port())
        } else {
            format!("http://{}", self.addr)
        }
    }

    /// Queues the reply to the next request of exactly this method and path, with whatever query. Replies of one
    /// route are used once each, in order.
    ///
    /// # Panics
    /// When the path is none that a request could have, with a query for instance.
    pub fn on(&self, method: &str, path: &str, reply: Reply) {
        self.shared
            .state()
            .script
            .once
            .entry(route(method, path))
            .or_default()
            .push_back(reply);
    }

    /// Sets the reply to every request of exactly this method and path when no queued one is left.
    ///
    /// # Panics
    /// Like [`Self::on`].
    pub fn always(&self, method: &str, path: &str, reply: Reply) {
        self.shared
            .state()
            .script
            .always
            .insert(route(method, path), reply);
    }

    /// Sets what finds the reply to a request that none is scripted for; it may leave it at that.
    pub fn answer_with(
        &self,
        responder: impl Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync + 'static,
    ) {
        self.shared.state().script.responder = Some(Arc::new(responder));
    }

    /// Queues what is done with the next connection in place of serving it, once each, in order.
    pub fn on_connect(&self, action: ConnectAction) {
        self.shared.state().script.connects.push_back(action);
    }

    /// Forgets every reply and every action that is still to come.
    pub fn clear_script(&self) {
        self.shared.state().script = Script::default();
    }

    /// The requests, oldest first; the last 1,000 of them. Each is here before its answer begins.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.state().requests.iter().cloned().collect()
    }

    /// Forgets the requests, [`Self::unexpected`] ones included; [`Self::wait_for_requests`] counts anew.
    pub fn clear_requests(&self) {
        let mut state = self.shared.state();
        state.requests.clear();
        state.received = 0;
        state.unexpected.clear();
    }

    /// What should not have come. `POST /x` is a request that nothing was scripted for, answered `599`; `400 …` is
    /// one that is not as HTTP or a provider wants it, answered with this status and not among [`Self::requests`].
    pub fn unexpected(&self) -> Vec<String> {
        self.shared.state().unexpected.clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// How many bytes of replies' bodies were written so far: never fewer than clients got, but up to a few MiB more
    /// on one connection, because the operating system takes what a client has not read yet.
    pub fn bytes_written(&self) -> u64 {
        self.shared.state().bytes_written
    }

    /// Waits until `count` requests were received since the start or the last [`Self::clear_requests`], and returns
    /// those that are kept.
    ///
    /// # Panics
    /// When they do not come within half a minute.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<ReceivedRequest> {
        self.wait_until(&format!("{count} requests"), |state| {
            (state.received >= count).then(|| state.requests.iter().cloned().collect())
        })
        .await
    }

    /// Waits until `count` connections were accepted since the start.
    ///
    /// # Panics
    /// When they do not come within half a minute.
    pub async fn wait_for_connections(&self, count: u64) {
        self.wait_until(&format!("{count} connections"), |state| {
            (state.connections >= count).then_some(())
        })
        .await;
    }

    async fn wait_until<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&ServerState) -> Option<T>,
    ) -> T {
        let found = || found(&self.shared.state());
        let Ok(result) = wait_until(&self.shared.changed, found).await else {
            let state = self.shared.state();
            let routes = state
                .requests
                .iter()
                .map(|request| format!("{} {}", request.method, request.path))
                .collect::<Vec<_>>();
            panic!(
                "waited in vain for {what}; there were {} connections and {routes:#?}",
                state.connections
            );
        };
        result
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // The acceptor owns the connections' tasks, so they end with it.
        self.acceptor.abort();
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HttpServer")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// A method and a path.
type Route = (String, String);

fn route(method: &str, path: &str) -> Route {
    assert!(is_path(path), "{path} is no path that a request could have");
    (method.to_owned(), path.to_owned())
}

type Responder = Arc<dyn Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync>;

/// What is still to come.
#[derive(Default)]
struct Script {
    connects: VecDeque<ConnectAction>,
    once: HashMap<Route, VecDeque<Reply>>,
    always: HashMap<Route, Reply>,
    responder: Option<Responder>,
}

impl Script {
    fn next(&mut self, route: &Route) -> Option<Reply> {
        self.once
            .get_mut(route)
            .and_then(VecDeque::pop_front)
            .or_else(|| self.always.get(route).cloned())
    }
}

/// What the server and its connections share.
struct Shared {
    state: Mutex<ServerState>,
    /// Marked after every change of the state that somebody may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct ServerState {
    script: Script,
    connections: u64,
    requests: VecDeque<ReceivedRequest>,
    /// How many requests there were, kept or not.
    received: usize,
    unexpected: Vec<String>,
    bytes_written: u64,
}

impl ServerState {
    fn note_unexpected(&mut self, what: String) {
        if self.unexpected.len() < KEPT_UNEXPECTED {
            self.unexpected.push(what);
        }
    }
}

impl Shared {
    /// The state is only ever replaced whole values at a time, so a panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection: its number, and what is to be done in place of serving it.
    fn connected(&self) -> (u64, Option<ConnectAction>) {
        let mut state = self.state();
        state.connections += 1;
        let connected = (state.connections, state.script.connects.pop_front());
        drop(state);
        self.changed.send_replace(());
        connected
    }

    /// Records a request and finds the reply to it.
    fn receive(&self, request: ReceivedRequest) -> Reply {
        let route = (request.method.clone(), request.path.clone());
        let (scripted, responder) = {
            let script = &mut self.state().script;
            (script.next(&route), script.responder.clone())
        };
        // Not under the lock: it is the test's own.
        let reply = scripted.or_else(|| responder?(&request));
        let mut state = self.state();
        let reply = reply.unwrap_or_else(|| {
            state.note_unexpected(format!("{} {}", route.0, route.1));
            Reply::new(599)
        });
        if state.requests.len() == KEPT_REQUESTS {
            state.requests.pop_front();
        }
        state.requests.push_back(request);
        state.received += 1;
        drop(state);
        self.changed.send_replace(());
        reply
    }

    /// Records a request that is not taken.
    fn refuse(&self, refusal: Refusal) -> Reply {
        let Refusal(status, why) = refusal;
        self.state().note_unexpected(format!("{status} {why}"));
        refusal.reply()
    }

    fn wrote(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut state = self.state();
        state.bytes_written = state.bytes_written.saturating_add(bytes);
    }
}

/// Takes connections until it is aborted, and the connections with it.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    // Here, not in the task: numbers and actions go by the order of arrival.
                    let (number, action) = shared.connected();
                    connections.spawn(serve(socket, tls.clone(), Arc::clone(&shared), number, action));
                }
                // Out of file descriptors, most likely: there will be some again when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(
    mut socket: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    number: u64,
    action: Option<ConnectAction>,
) {
    match action {
        None => {}
        Some(ConnectAction::Close) => return,
        Some(ConnectAction::Hang) => return h1::ignore(&mut socket).await,
        Some(ConnectAction::CloseInTls) => {
            let _ = socket.read(&mut [0; 1]).await;
            return;
        }
    }
    // Replies are wanted at once.
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else {
        return h1::serve(shared, number, None, socket).await;
    };
    // A client that does not trust the certificate goes away here.
    let Ok(socket) = tls.accept(socket).await else {
        return;
    };
    let (_, session) = socket.get_ref();
    let server_name = session.server_name().map(str::to_owned);
    h1::serve(shared, number, server_name, socket).await;
}
