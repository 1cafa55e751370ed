//! HTTP towards providers: one client for all clinics, and what a failure below the provider's own
//! codes means.
//!
//! No redirects, no proxy, no cookies, no decompression. A clinic-supplied name is resolved once per
//! connection, its addresses are checked, and the connection goes to a checked one; an address in a
//! URL is checked as well. Answers are read up to [`MAX_ANSWER`] bytes.
//!
//! Only a request of which not a byte of the body was asked for is known not to have been sent.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use comms_core::{
    BaseUrl, Clock, Disposition, ErrorKind, Host, ProviderCode, ProviderError, Secret, json,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::{Frame, SizeHint};
use jiff::Timestamp;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use tokio_rustls::TlsConnector;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    deadline::{Deadline, Elapsed},
    egress::{EgressError, EgressGuard},
    provider::{Report, VerifyStage},
    sockets::{self, Sockets},
    tcp::{self, ConnectFailure},
    tls::{HandshakeFailure, TlsConfigs, TlsError},
};

/// Bytes of an answer that are read; providers' answers are a few hundred.
pub const MAX_ANSWER: usize = 256 * 1024;
/// The longest that is waited for name, TCP and TLS together.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The longest that is waited for a name.
const RESOLVE_TIME: Duration = Duration::from_secs(4);
/// The longest that is waited for a TLS handshake.
const TLS_TIME: Duration = Duration::from_secs(5);
/// The longest that one request takes with its answer.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// What must be left after waiting for a socket, beside what must be left in any case.
const AFTER_WAITING: Duration = Duration::from_secs(2);
/// How long an idle connection is kept. Providers' front ends close theirs after a minute or more; one
/// that is about to be closed may swallow a request.
const IDLE_TIME: Duration = Duration::from_secs(45);
/// Idle connections to one host that are kept; reqwest by itself keeps any number. The answers to a batch come nearly
/// together, so that this is also how many deliveries at once keep their connections from batch to batch, without
/// a TLS handshake for each. They are not under the ceiling of [`Sockets`], which counts what is in flight: three
/// providers' at most, [`sockets::CEILING`], and those to AWS are less than the file descriptors of a Lambda.
const MOST_IDLE: usize = 128;
/// Clients for ports other than 443, which only the operator can allow.
const MOST_CLIENTS: usize = 16;
/// The longest that a provider's wish to be left alone is taken for: a day.
const MOST_RETRY_AFTER: Duration = Duration::from_hours(24);
/// The port that a clinic-supplied URL may have.
const HTTPS_PORTS: [u16; 1] = [443];

/// What requests to providers are made with. Clones share everything.
#[derive(Clone)]
pub struct HttpClients {
    tls: TlsConfigs,
    egress: EgressGuard,
    sockets: Sockets,
    clock: Arc<dyn Clock>,
    clients: Arc<Mutex<HashMap<Place, Client>>>,
}

/// What decides which addresses a client may connect to: clients with the same share one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    https: bool,
    port: u16,
}

impl Place {
    const fn ports(self) -> &'static [u16] {
        // In clear only where the operator allows it by address.
        if self.https { &HTTPS_PORTS } else { &[] }
    }
}

impl HttpClients {
    /// Makes nothing yet; the first request makes the client. Requests are under the ceiling of
    /// `sockets`.
    pub fn new(
        tls: TlsConfigs,
        egress: EgressGuard,
        sockets: Sockets,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            tls,
            egress,
            sockets,
            clock,
            clients: Arc::default(),
        }
    }

    /// Sends one request and reads the answer, within `deadline` and [`REQUEST_TIME`].
    pub(crate) async fn send(
        &self,
        base: &BaseUrl,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, TransportFailure> {
        let place = Place {
            https: base.is_https(),
            port: base.port(),
        };
        if let Host::Ip(address) = base.host() {
            // The client asks its resolver about names only.
            self.egress
                .check(&[*address], place.port, place.ports())
                .map_err(TransportFailure::Egress)?;
        }
        let client = self.client(place).map_err(|_| TransportFailure::Local)?;
        let _socket = self.socket(deadline).await?;
        let asks = request.method == Method::GET;
        let begun = Arc::new(AtomicBool::new(false));
        let body = Tracked {
            bytes: Some(request.body),
            begun: begun.clone(),
        };
        let request = client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(reqwest::Body::wrap(body));
        let exchange = async {
            let response = request
                .send()
                .await
                .map_err(|error| transport_failure(&error, begun.load(Ordering::Acquire)))?;
            self.read(response).await
        };
        match deadline.bound(REQUEST_TIME, exchange).await {
            Ok(Err(TransportFailure::Interrupted)) | Err(Elapsed) if asks => {
                Err(TransportFailure::Unanswered)
            }
            Ok(result) => result,
            Err(Elapsed) if begun.load(Ordering::Acquire) => Err(TransportFailure::NoAnswerInTime),
            Err(Elapsed) => Err(TransportFailure::NoConnectionInTime),
        }
    }

    /// A place under the ceiling, for one request.
    async fn socket(&self, deadline: Deadline) -> Result<sockets::Place, TransportFailure> {
        // Who has waited is to have enough time left for an answer: a request that is cut off may have been
        // acted on.
        let place = self.sockets.place(deadline.less(AFTER_WAITING)).await;
        place.map_err(|Elapsed| TransportFailure::NoSocketInTime)
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Answer, TransportFailure> {
        let announced = response
            .content_length()
            .unwrap_or(0)
            .min(MAX_ANSWER as u64);
        // Room for all of it at once, so that no smaller buffer is left behind unwiped.
        let mut body = Zeroizing::new(Vec::with_capacity(usize::try_from(announced).unwrap_or(0)));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|_| TransportFailure::Interrupted)?
        {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(TransportFailure::AnswerTooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status().as_u16(),
            headers: std::mem::take(response.headers_mut()),
            body,
            received: self.clock.now(),
        })
    }

    fn client(&self, place: Place) -> Result<Client, TlsError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&place) {
            return Ok(client.clone());
        }
        let resolver = CheckingResolver {
            egress: self.egress.clone(),
            place,
        };
        // Not the whole configuration is made anew: its roots, verifier and sessions are shared.
        let mut tls = ClientConfig::clone(&*self.tls.client(None)?);
        // Not HTTP/2: there all clinics' messages to a provider would share one connection, and with it the doubt when it
        // breaks. Here a message takes its own connection with it. ADR 15.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(resolver))
            .https_only(place.https)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIME)
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(MOST_IDLE)
            .user_agent(concat!("clinic-comms/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| TlsError::Setup)?;
        if clients.len() >= MOST_CLIENTS {
            // Those of the operator's exceptions; the one that everybody shares stays.
            clients.retain(|place, _| place.https && HTTPS_PORTS.contains(&place.port));
        }
        clients.insert(place, client.clone());
        Ok(client)
    }

    /// Checks name, addresses, TCP and TLS of an API, a stage each, over a connection of its own.
    /// Whether all of them passed.
    pub(crate) async fn verify_reachable(
        &self,
        base: &BaseUrl,
        report: &mut Report,
        deadline: Deadline,
    ) -> bool {
        let resolved = match deadline
            .bound(RESOLVE_TIME, self.egress.resolve(base.host()))
            .await
        {
            Ok(resolved) => resolved.map_err(TransportFailure::Egress),
            Err(Elapsed) => Err(TransportFailure::NoConnectionInTime),
        };
        let Some(addresses) =
            report.stage(VerifyStage::Resolve, resolved.map_err(classify_transport))
        else {
            return false;
        };
        let place = Place {
            https: base.is_https(),
            port: base.port(),
        };
        let checked = self
            .egress
            .check(&addresses, place.port, place.ports())
            .map_err(|error| classify_transport(TransportFailure::Egress(error)));
        let Some(checked) = report.stage(VerifyStage::Egress, checked) else {
            return false;
        };
        let connected = async {
            let place = self.socket(deadline).await?;
            let connected = tcp::connect(&checked, deadline).await;
            let socket = connected.map_err(|failure| match failure {
                ConnectFailure::Refused => TransportFailure::NotConnected,
                ConnectFailure::TimedOut => TransportFailure::NoConnectionInTime,
            })?;
            Ok((place, socket))
        };
        let Some((_place, socket)) = report.stage(
            VerifyStage::Connect,
            connected.await.map_err(classify_transport),
        ) else {
            return false;
        };
        if !place.https {
            return true;
        }
        let encrypted = async {
            let config = self.tls.client(None).map_err(|_| TransportFailure::Local)?;
            let name = match base.host() {
                Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
                Host::Name(name) => {
                    ServerName::try_from(name.clone()).map_err(|_| TransportFailure::Local)?
                }
            };
            let handshake = TlsConnector::from(config).connect(name, socket);
            match deadline.bound(TLS_TIME, handshake).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(TransportFailure::Handshake(HandshakeFailure::from(&error))),
                Err(Elapsed) => Err(TransportFailure::NoConnectionInTime),
            }
        };
        report
            .stage(
                VerifyStage::Tls,
                encrypted.await.map_err(classify_transport),
            )
            .is_some()
    }
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClients(…)")
    }
}

/// Resolves names to checked addresses.
struct CheckingResolver {
    egress: EgressGuard,
    place: Place,
}

impl Resolve for CheckingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, place) = (self.egress.clone(), self.place);
        Box::pin(async move {
            let host = Host::parse(name.as_str())?;
            let addresses: Vec<IpAddr> = egress.resolve(&host).await?;
            let checked = egress.check(&addresses, place.port, place.ports())?;
            Ok(Box::new(checked.into_iter()) as Addrs)
        })
    }
}

/// A request's body that notes when it is first asked for: until then nothing that a provider could
/// act on has been sent.
struct Tracked {
    bytes: Option<Bytes>,
    begun: Arc<AtomicBool>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.begun.store(true, Ordering::Release);
        let bytes = self.bytes.take().filter(|bytes| !bytes.is_empty());
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A request to a provider.
pub(crate) struct HttpRequest {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl HttpRequest {
    /// A question.
    pub(crate) fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A message as JSON.
    pub(crate) fn post_json(url: Url, wire: &impl Serialize) -> Result<Self, ProviderError> {
        let body = serde_json::to_vec(wire).map_err(|_| local_failure())?;
        Ok(Self::post(url, "application/json", body))
    }

    /// A message as a form (`application/x-www-form-urlencoded`).
    pub(crate) fn post_form(url: Url, fields: &[(&str, &str)]) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let body = form.finish().into_bytes();
        Self::post(url, "application/x-www-form-urlencoded", body)
    }

    fn post(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            method: Method::POST,
            url,
            headers,
            body: body.into(),
        }
    }

    /// Bytes of its body.
    pub(crate) fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Adds `Authorization: Bearer` (RFC 6750).
    pub(crate) fn bearer(self, token: &Secret) -> Result<Self, ProviderError> {
        let token = token.expose().map_err(|_| local_failure())?;
        self.authorization(&Zeroizing::new(format!("Bearer {}", *token)))
    }

    /// Adds `Authorization: Basic` (RFC 7617).
    pub(crate) fn basic(self, user: &str, password: &Secret) -> Result<Self, ProviderError> {
        let password = password.expose().map_err(|_| local_failure())?;
        let pair = Zeroizing::new(format!("{user}:{}", *password));
        let pair = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
        self.authorization(&Zeroizing::new(format!("Basic {}", *pair)))
    }

    fn authorization(mut self, value: &Zeroizing<String>) -> Result<Self, ProviderError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            ProviderError::new(
                Disposition::ProviderDown,
                ErrorKind::Unauthenticated,
                "The key has characters that no key has; save it again.",
            )
        })?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Ok(self)
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpRequest(…)")
    }
}

/// An answer in full. Its body may hold credentials (Twilio's account has its token in it) and
/// addresses: it is wiped when it is dropped and never printed.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    received: Timestamp,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({}, …)", self.status)
    }
}

/// The answer is not JSON, or does not say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson;

#[cfg(test)]
impl Answer {
    /// An answer as if it had come in at `received`.
    pub(crate) fn of(
        status: u16,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
        received: Timestamp,
    ) -> Self {
        let headers = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        Self {
            status,
            headers: headers.collect(),
            body: Zeroizing::new(body.into()),
            received,
        }
    }
}

impl Answer {
    /// Whether the status is 2xx.
    pub(crate) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// A header's value, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON, within the limits of what this project reads: as a value each byte of it may take hundreds.
    /// The content type must say that it is: what a proxy or a portal answers is not taken for the provider's word.
    pub(crate) fn json(&self) -> Result<Value, NotJson> {
        if self.is_json() {
            json::parse(&self.body).map_err(|_| NotJson)
        } else {
            Err(NotJson)
        }
    }

    /// What of the body as JSON `T` has a place for; the rest is not kept. The content type counts as
    /// it does for [`Answer::json`].
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, NotJson> {
        if self.is_json() {
            serde_json::from_slice(&self.body).map_err(|_| NotJson)
        } else {
            Err(NotJson)
        }
    }

    fn is_json(&self) -> bool {
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_ascii_lowercase();
        media_type == "application/json"
            || (media_type.starts_with("application/") && media_type.ends_with("+json"))
            // Meta's Graph has answered with this one for as long as it exists.
            || media_type == "text/javascript"
    }

    /// An id that the provider gave, from a header: 1 to 256 visible characters.
    pub(crate) fn id_from_header(&self, name: &str) -> Option<String> {
        self.header(name).and_then(provider_id)
    }

    /// How long the provider asks to be left alone: `Retry-After` in seconds or as a date (RFC 9110
    /// section 10.2.3), else `reset`, a header with the second of Unix time at which its limit ends.
    pub(crate) fn retry_after(&self, reset: Option<&HeaderName>) -> Option<Duration> {
        let until = |time: Timestamp| {
            Duration::try_from(time.duration_since(self.received)).unwrap_or_default()
        };
        let asked = self.header(RETRY_AFTER.as_str()).map(str::trim);
        let asked = asked.and_then(|text| match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => jiff::fmt::rfc2822::parse(text)
                .ok()
                .map(|date| until(date.timestamp())),
        });
        let reset = || {
            let second = self.header(reset?.as_str())?.trim().parse::<i64>().ok()?;
            Some(until(Timestamp::from_second(second).ok()?))
        };
        asked.or_else(reset).map(|wait| wait.min(MOST_RETRY_AFTER))
    }
}

/// An id as a provider gave it, where it looks like one: 1 to 256 visible ASCII characters.
pub(crate) fn provider_id(text: &str) -> Option<String> {
    let fits = (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportFailure {
    /// The host does not resolve, or may not be connected to.
    Egress(EgressError),
    /// No TCP connection.
    NotConnected,
    /// No TLS.
    Handshake(HandshakeFailure),
    /// The time was up while other sockets of ours were waited for.
    NoSocketInTime,
    /// The time was up before the request was begun.
    NoConnectionInTime,
    /// The connection ended before the request was begun.
    NotBegun,
    /// The time was up when the request had been begun.
    NoAnswerInTime,
    /// A question, which sends nothing, got no answer, or not in full and in time.
    Unanswered,
    /// The connection ended when the request had been begun, or what came back is not HTTP.
    Interrupted,
    /// The answer is longer than [`MAX_ANSWER`].
    AnswerTooLong,
    /// Our side could not do its part.
    Local,
}

fn transport_failure(error: &reqwest::Error, begun: bool) -> TransportFailure {
    for cause in causes(error) {
        if let Some(egress) = cause.downcast_ref::<EgressError>() {
            return TransportFailure::Egress(*egress);
        }
        if let (Some(tls), false) = (cause.downcast_ref::<rustls::Error>(), begun) {
            return TransportFailure::Handshake(tls.into());
        }
    }
    match (begun, error.is_timeout(), error.is_connect()) {
        (true, true, _) => TransportFailure::NoAnswerInTime,
        (true, false, _) => TransportFailure::Interrupted,
        (false, true, _) => TransportFailure::NoConnectionInTime,
        (false, false, true) => TransportFailure::NotConnected,
        (false, false, false) => TransportFailure::NotBegun,
    }
}

/// An error and what is behind it. What an `io::Error` was made from is its content, not its source.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// What a failure below the provider's own answers means.
pub(crate) fn classify_transport(failure: TransportFailure) -> ProviderError {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    match failure {
        TransportFailure::Egress(EgressError::Unresolved) => error(
            Transient,
            Unavailable,
            "The provider's host name does not resolve; check apiUrl.",
        ),
        TransportFailure::Egress(EgressError::Address) => error(
            ProviderDown,
            Unavailable,
            "The address of apiUrl is not one that may be connected to; use the provider's public API.",
        ),
        TransportFailure::Egress(EgressError::Port) => error(
            ProviderDown,
            Unavailable,
            "apiUrl must be https on port 443.",
        ),
        TransportFailure::NotConnected => error(
            Transient,
            Unavailable,
            "The provider could not be connected to.",
        ),
        TransportFailure::Handshake(HandshakeFailure::Certificate) => error(
            ProviderDown,
            Unauthenticated,
            "The certificate of apiUrl does not verify; nothing was sent. Check apiUrl.",
        ),
        TransportFailure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed) => error(
            Transient,
            Unavailable,
            "TLS with the provider could not be set up; nothing was sent.",
        ),
        TransportFailure::NoSocketInTime => error(
            Transient,
            Timeout,
            "No socket became free in time; send less at once.",
        )
        .health_unchanged(),
        TransportFailure::NoConnectionInTime => error(
            Transient,
            Timeout,
            "The provider could not be connected to in time; nothing was sent.",
        ),
        TransportFailure::NotBegun => error(
            Transient,
            Unavailable,
            "The connection ended before anything was sent.",
        ),
        TransportFailure::NoAnswerInTime => error(
            Ambiguous,
            Timeout,
            "The provider did not answer in time; it may have taken the message.",
        ),
        TransportFailure::Unanswered => error(
            Transient,
            Timeout,
            "The provider did not answer, or not in full and in time.",
        ),
        TransportFailure::Interrupted => error(
            Ambiguous,
            Unavailable,
            "The connection ended before the provider's answer was complete; it may have taken the message.",
        ),
        TransportFailure::AnswerTooLong => error(
            Ambiguous,
            Unexpected,
            "The provider's answer was longer than any of its answers; it may have taken the message.",
        ),
        TransportFailure::Local => local_failure(),
    }
}

/// What an answer means whose code is not known: by its status alone (RFC 9110 section 15).
pub(crate) fn classify_status(answer: &Answer) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{InvalidMessage, RateLimited, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    // What does not come as JSON does not come from the API: a portal, a firewall, another server.
    let foreign = answer.read::<IgnoredAny>().is_err();
    let classified = match answer.status {
        200..=299 => error(
            Ambiguous,
            Unexpected,
            "The provider's answer can not be read; it may have taken the message.",
        ),
        300..=399 => error(
            ProviderDown,
            Unexpected,
            "The provider's URL leads elsewhere, and redirects are not followed; check apiUrl.",
        ),
        401 => error(
            ProviderDown,
            Unauthenticated,
            "The provider refused the credentials; save new ones and test the settings.",
        ),
        429 => {
            let limited = error(
                Transient,
                RateLimited,
                "The provider was asked for too much at once.",
            )
            .health_unchanged();
            match answer.retry_after(None) {
                Some(wait) => limited.with_retry_after(wait),
                None => limited,
            }
        }
        // 408: the server did not get the whole request.
        408 => error(
            Transient,
            Unavailable,
            "The provider did not get the whole request.",
        ),
        400..=499 if foreign => error(
            ProviderDown,
            Unexpected,
            "What answered is not the provider's API; check apiUrl.",
        ),
        400..=499 => error(
            Final,
            InvalidMessage,
            "The provider refused the message with a code that is not known.",
        ),
        500..=599 => error(
            Ambiguous,
            Unavailable,
            "The provider failed while it had the message; it may have taken it.",
        ),
        _ => error(
            Ambiguous,
            Unexpected,
            "The provider answered with what is no status of its API; it may have taken the message.",
        ),
    };
    classified.with_code(ProviderCode::parse(&answer.status.to_string()))
}

/// The same of a question, which sends nothing: no message can have been taken, and none was refused.
pub(crate) fn of_question(error: ProviderError) -> ProviderError {
    let (disposition, kind, detail) = match (error.disposition, error.kind) {
        (Disposition::Ambiguous, kind) => (
            Disposition::Transient,
            kind,
            "The provider did not answer as it should; try again.",
        ),
        (_, ErrorKind::InvalidMessage | ErrorKind::InvalidRecipient) => (
            Disposition::ProviderDown,
            ErrorKind::Unexpected,
            "The provider refused the question; check the ids of account and sender.",
        ),
        (disposition, kind) => (disposition, kind, error.detail),
    };
    ProviderError {
        disposition,
        kind,
        detail,
        ..error
    }
}

const fn local_failure() -> ProviderError {
    ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unavailable,
        "The entry's settings could not be used on this side; nothing was sent.",
    )
    .health_unchanged()
}

#[cfg(test)]
mod tests;
