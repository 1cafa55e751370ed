//! An HTTP server on loopback that stands for a provider's API and says what a test's script tells it to.
//!
//! It speaks HTTP/1.1 (RFC 9112), over TLS or in clear, and HTTP/2 over TLS where it is asked to offer that. It is
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
mod h2;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
pub use http::Version;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// The largest body of a request; a longer one is answered `413`.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How many requests are kept; the oldest go first.
const KEPT_REQUESTS: usize = 1_000;
/// How many unexpected requests are kept; later ones are not recorded.
const KEPT_UNEXPECTED: usize = 1_000;
/// How long [`HttpServer::wait_for_requests`] and its like wait before they declare the test failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is repeated in a body that never ends. Blanks: a reader of JSON goes on hoping.
const FILLER: [u8; 16 * 1024] = [b' '; 16 * 1024];
/// The headers that differ from run to run or hold a credential: [`ReceivedRequest::transcript`] shows that they
/// are there, not what they say. So does it with every header whose name begins with `amz-sdk-`.
const VEILED: [&str; 8] = [
    "authorization",
    "cookie",
    "host",
    "proxy-authorization",
    "user-agent",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
];

/// What the server does in place of serving a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectAction {
    /// Closes it at once.
    Close,
    /// Never says anything, not even TLS; the connection stays open until the client or the server goes away.
    Hang,
    /// Closes it after the first bytes of the client: with TLS, in the middle of the handshake.
    CloseInTls,
}

/// A scripted answer, or the failure to give one.
///
/// Over HTTP/2, where a connection is shared, [`Reply::reset`] and [`Reply::cut`] reset the stream (the client may
/// then lose the head as well), and [`Reply::close`] and [`Reply::raw`] close the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    conduct: Conduct,
}

/// How a reply is given.
#[derive(Debug, Clone, PartialEq)]
enum Conduct {
    Whole,
    Cut(usize),
    Stall(usize),
    Endless,
    Hang,
    Close,
    Reset,
    Raw(Bytes),
}

impl Reply {
    /// A reply without headers or body.
    ///
    /// # Panics
    /// When the status is not one of a final response: 200 to 999.
    pub fn new(status: u16) -> Self {
        assert!(status >= 200, "{status} is not a final status");
        Self {
            status: StatusCode::from_u16(status).expect("a status has three digits"),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            conduct: Conduct::Whole,
        }
    }

    /// A reply with this document as its body.
    ///
    /// # Panics
    /// Like [`Self::new`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "documents are written where they are passed"
    )]
    pub fn json(status: u16, document: Value) -> Self {
        Self::new(status)
            .content_type("application/json")
            .body(document.to_string())
    }

    /// A body that never ends, sent as fast as the client reads; [`HttpServer::bytes_written`] tells how much. A
    /// body of one's own comes first.
    ///
    /// # Panics
    /// Like [`Self::new`] and [`Self::content_type`].
    pub fn endless(status: u16, content_type: &str) -> Self {
        Self {
            conduct: Conduct::Endless,
            ..Self::new(status).content_type(content_type)
        }
    }

    /// No answer, ever, to a request that was read; the connection stays open until the client or the server goes
    /// away.
    pub fn hang() -> Self {
        Self::fault(Conduct::Hang)
    }

    /// No answer to a request that was read: the connection ends (FIN, and no TLS `close_notify`).
    pub fn close() -> Self {
        Self::fault(Conduct::Close)
    }

    /// No answer to a request that was read: the connection is reset (RST).
    pub fn reset() -> Self {
        Self::fault(Conduct::Reset)
    }

    /// These bytes in place of a response, then an orderly end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::fault(Conduct::Raw(bytes.into()))
    }

    /// Adds a header. A `content-length` of one's own is sent in place of the true one.
    ///
    /// # Panics
    /// When the name or the value is none that HTTP allows; [`Self::raw`] sends such things.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header's name is a token");
        let value = HeaderValue::try_from(value).expect("a header's value is visible text");
        self.headers.append(name, value);
        self
    }

    /// Sets the type of the body.
    ///
    /// # Panics
    /// When the value is none that HTTP allows.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        let value = HeaderValue::try_from(content_type).expect("a type is visible text");
        self.headers.insert(CONTENT_TYPE, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the head as ever, but of the body only this many bytes (all, if there are fewer), then closes the
    /// connection as [`Self::close`] does.
    #[must_use]
    pub fn cut(mut self, after_bytes: usize) -> Self {
        self.conduct = Conduct::Cut(after_bytes);
        self
    }

    /// Sends the head as ever, but of the body only this many bytes (all, if there are fewer), and then nothing,
    /// ever; the connection stays open.
    #[must_use]
    pub fn stall(mut self, after_bytes: usize) -> Self {
        self.conduct = Conduct::Stall(after_bytes);
        self
    }

    fn fault(conduct: Conduct) -> Self {
        Self {
            conduct,
            ..Self::new(200)
        }
    }

    /// Whether responses of this status have no body, whatever the script says (RFC 9110, section 6.4.1).
    fn is_bodiless(&self) -> bool {
        matches!(
            self.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
    }

    /// The headers with the length of the body, if it has one.
    fn complete_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        if !self.is_bodiless() && self.conduct != Conduct::Endless {
            headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(self.body.len()));
        }
        headers
    }

    /// As much of the body as is to be sent.
    fn sent_body(&self) -> Bytes {
        let length = match self.conduct {
            Conduct::Cut(bytes) | Conduct::Stall(bytes) => bytes.min(self.body.len()),
            Conduct::Whole
            | Conduct::Endless
            | Conduct::Hang
            | Conduct::Close
            | Conduct::Reset
            | Conduct::Raw(_) => self.body.len(),
        };
        if self.is_bodiless() {
            Bytes::new()
        } else {
            self.body.slice(..length)
        }
    }
}

/// A request that the server read to its end, whatever it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The method.
    pub method: String,
    /// The path as it came, nothing decoded.
    pub path: String,
    /// What came behind the question mark, nothing decoded.
    pub query: Option<String>,
    /// The headers in order, names in lower case. HTTP/2's `:authority` is here as `host`.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
    /// The connection it came on, counted from 1.
    pub connection: u64,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: Version,
}

impl ReceivedRequest {
    /// The first value of a header; the case of its name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON, [`Value::Null`] when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The fields of an `application/x-www-form-urlencoded` body in order, decoded. Empty when the request says
    /// that its body is something else: anything could be read as a form.
    pub fn form(&self) -> Vec<(String, String)> {
        let is_form = self.header("content-type").is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        if is_form {
            form_urlencoded::parse(&self.body).into_owned().collect()
        } else {
            Vec::new()
        }
    }

    /// The request in the notation of HTTP/1.1, with `\n` for line ends, for snapshots: `POST /x HTTP/1.1`, the
    /// headers in order, an empty line, the body as it came (bytes that are not UTF-8 are replaced).
    ///
    /// The value of a header that differs from run to run or holds a credential is `…`: `authorization`, `cookie`,
    /// `host`, `proxy-authorization`, `user-agent`, `x-amz-date`, `x-amz-security-token`, `x-amz-user-agent` and
    /// all `amz-sdk-*`.
    pub fn transcript(&self) -> String {
        let mut text = format!("{} {}", self.method, self.path);
        if let Some(query) = &self.query {
            let _ = write!(text, "?{query}");
        }
        let _ = writeln!(text, " {:?}", self.version);
        for (name, value) in &self.headers {
            let veiled = VEILED.contains(&name.as_str())
                || name.starts_with("amz-sdk-")
                || name.ends_with("-token");
            let value = if veiled { "…" } else { value };
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&self.body));
        text
    }

    /// What both versions of HTTP demand of a request, and what providers do beyond that.
    ///
    /// `server_name` is the name that the client asked for in its TLS handshake.
    fn check(&self, server_name: Option<&str>) -> Result<(), Refusal> {
        if !is_path(&self.path) || !self.query.as_deref().is_none_or(is_query) {
            return Err(Refusal(400, "the target is no path with a query"));
        }
        let mut hosts = self.headers.iter().filter(|(name, _)| name == "host");
        let (Some((_, host)), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal(400, "a request has one host"));
        };
        let host = host
            .rsplit_once(':')
            .map_or(host.as_str(), |(name, _)| name);
        if host.is_empty() {
            return Err(Refusal(400, "the host is empty"));
        }
        if server_name.is_some_and(|name| !name.eq_ignore_ascii_case(host)) {
            return Err(Refusal(421, "TLS asked for another host"));
        }
        if self.body.is_empty() {
            return Ok(());
        }
        if matches!(self.method.as_str(), "GET" | "HEAD") {
            return Err(Refusal(400, "a request of this method has no body"));
        }
        if self.header("content-type").is_none_or(str::is_empty) {
            return Err(Refusal(415, "the body has no type"));
        }
        Ok(())
    }
}

/// Why a request is not taken: the status it is answered with, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal(u16, &'static str);

impl Refusal {
    fn reply(self) -> Reply {
        Reply::new(self.0).content_type("text/plain").body(self.1)
    }
}

/// RFC 3986, section 3.3: an absolute path.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && is_of_uri(path, b"/:@")
}

/// RFC 3986, section 3.4.
fn is_query(query: &str) -> bool {
    is_of_uri(query, b"/?:@")
}

/// Whether there are only unreserved characters, sub-delimiters, whole percent escapes and what else is allowed.
fn is_of_uri(text: &str, also: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => {
                byte.is_ascii_alphanumeric()
                    || b"-._~!$&'()*+,;=".contains(&byte)
                    || also.contains(&byte)
            }
        };
        if !good {
            return false;
        }
    }
    true
}

/// A server's settings; [`HttpServer::builder`] makes one.
#[derive(Default)]
pub struct HttpServerBuilder {
    listener: Option<TcpListener>,
    certificate: Option<Arc<ServerConfig>>,
    http2: bool,
}

impl HttpServerBuilder {
    /// Speaks TLS with this certificate, from the first byte; without it the server speaks in clear.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.certificate = Some(config);
        self
    }

    /// Offers HTTP/2 by ALPN, before HTTP/1.1. Needs [`Self::tls`].
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
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
    /// When no port can be bound, or HTTP/2 is to be offered without TLS.
    pub async fn start(self) -> io::Result<HttpServer> {
        let tls = match self.certificate {
            Some(certificate) => {
                let mut config = ServerConfig::clone(&certificate);
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                if self.http2 {
                    config.alpn_protocols.insert(0, b"h2".to_vec());
                }
                Some(TlsAcceptor::from(Arc::new(config)))
            }
            None if self.http2 => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "HTTP/2 is offered in the TLS handshake, and there is no TLS",
                ));
            }
            None => None,
        };
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

    async fn wait_until<T>(&self, what: &str, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                if let Some(result) = found(&self.shared.state()) {
                    return result;
                }
                changes
                    .changed()
                    .await
                    .expect("the sender lives as long as the server does");
            }
        };
        let Ok(result) = tokio::time::timeout(PATIENCE, waiting).await else {
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
    state: Mutex<State>,
    /// Marked after every change of the state that somebody may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    script: Script,
    connections: u64,
    requests: VecDeque<ReceivedRequest>,
    /// How many requests there were, kept or not.
    received: usize,
    unexpected: Vec<String>,
    bytes_written: u64,
}

impl State {
    fn note_unexpected(&mut self, what: String) {
        if self.unexpected.len() < KEPT_UNEXPECTED {
            self.unexpected.push(what);
        }
    }
}

impl Shared {
    /// The state is only ever replaced whole values at a time, so a panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
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
    if session.alpn_protocol() == Some(b"h2") {
        h2::serve(shared, number, server_name, socket).await;
    } else {
        h1::serve(shared, number, server_name, socket).await;
    }
}
