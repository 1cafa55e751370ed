//! HTTP towards providers: one client for all clinics, and what a failure below the provider's own
//! codes means.
//!
//! No redirects, no proxy, no cookies, no decompression. A clinic-supplied name is resolved once per
//! connection, its addresses are checked, and the connection goes to a checked one; an address in a
//! URL is checked as well. Answers are read up to [`MAX_ANSWER`] bytes.
//!
//! Only a request of which not a byte of the body was asked for is known not to have been sent.

mod connection;
mod failure;
mod idle;
mod request;
mod response;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use comms_core::{BaseUrl, Clock, Host};
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use self::{
    connection::{Connection, MAX_BODY_PIECES, Stream, Tracked, Unanswered},
    failure::{TransportFailure, transport_failure},
    idle::{Idle, Origin},
};
pub(crate) use self::{
    failure::{
        CONTENT_TOO_LARGE, causes, classify_status, classify_transport, of_question, too_large,
    },
    request::HttpRequest,
    response::{HttpResponse, provider_id},
};
use crate::{
    deadline::{Deadline, Elapsed},
    net::{
        egress::{EgressGuard, HTTPS_PORTS},
        metered::Metered,
        sockets::{self, Sockets},
        tcp::{self, ConnectFailure},
        tls::{HandshakeFailure, TlsConfigs, TlsError},
    },
    verify::{Report, VerifyStage},
};

/// Bytes of an answer that are read; providers' answers are a few hundred.
pub const MAX_ANSWER: usize = 256 * 1024;
/// The longest that is waited for name, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that is waited for a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest that is waited for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that one request takes with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What must be left after waiting for a socket, beside what must be left in any case.
const AFTER_WAITING: Duration = Duration::from_secs(2);

/// What requests to providers are made with. Clones share everything.
#[derive(Clone)]
pub struct HttpClients {
    tls: TlsConfigs,
    egress: EgressGuard,
    sockets: Sockets,
    clock: Arc<dyn Clock>,
    /// The configuration of all clinics' connections, once one was made.
    http_tls: Arc<OnceLock<Arc<ClientConfig>>>,
    idle: Arc<Idle>,
}

/// What decides which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Endpoint {
    https: bool,
    port: u16,
}

impl Endpoint {
    fn of(base: &BaseUrl) -> Self {
        Self {
            https: base.is_https(),
            port: base.port(),
        }
    }

    const fn ports(self) -> &'static [u16] {
        // In clear only where the operator allows it by address.
        if self.https { &HTTPS_PORTS } else { &[] }
    }
}

impl HttpClients {
    /// Requests are under the ceiling of
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
            http_tls: Arc::default(),
            idle: Arc::default(),
        }
    }

    /// Sends one request and reads the answer, within `deadline` and [`REQUEST_TIMEOUT`].
    pub(crate) async fn send(
        &self,
        base: &BaseUrl,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<HttpResponse, TransportFailure> {
        let endpoint = Endpoint::of(base);
        if let Host::Ip(address) = base.host() {
            // A connection that is kept was checked when it was made, by rules that do not change.
            self.egress
                .check(&[*address], endpoint.port, endpoint.ports())
                .map_err(TransportFailure::Egress)?;
        }
        let is_question = request.is_question();
        let request = request.into_wire().ok_or(TransportFailure::Local)?;
        let _socket = self.socket(deadline).await?;
        let begun = Arc::new(AtomicBool::new(false));
        let request = request.map(|body| Tracked::new(body, begun.clone()));
        let origin = Origin {
            host: base.host().clone(),
            endpoint,
        };
        let exchange = self.exchange(base, origin, request, &begun, deadline);
        match deadline.bound(REQUEST_TIMEOUT, exchange).await {
            Ok(Err(TransportFailure::Interrupted)) | Err(Elapsed) if is_question => {
                Err(TransportFailure::Unanswered)
            }
            Ok(result) => result,
            Err(Elapsed) if begun.load(Ordering::Acquire) => Err(TransportFailure::NoAnswerInTime),
            Err(Elapsed) => Err(TransportFailure::NoConnectionInTime),
        }
    }

    /// Sends a request over a connection that was kept, or a new one, and reads the answer.
    async fn exchange(
        &self,
        base: &BaseUrl,
        origin: Origin,
        request: Request<Tracked>,
        begun: &AtomicBool,
        deadline: Deadline,
    ) -> Result<HttpResponse, TransportFailure> {
        let failed = |error| transport_failure(&error, begun.load(Ordering::Acquire));
        let mut request = request;
        let (mut connection, response) = loop {
            let kept = self.idle.take(&origin);
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(base, origin.endpoint, deadline).await?,
            };
            match connection.send(request).await {
                Ok(response) => break (connection, response),
                Err(Unanswered::Failed(error)) => return Err(failed(error)),
                Err(Unanswered::Unstarted(_)) if is_new => return Err(TransportFailure::NotBegun),
                // The provider closed a connection that was kept, before it had anything of the request.
                Err(Unanswered::Unstarted(unstarted)) => request = *unstarted,
            }
        };
        let answer = self.read(&mut connection, response).await?;
        if connection.is_reusable().await {
            self.idle.put_back(origin, connection);
        }
        Ok(answer)
    }

    /// A place under the ceiling, for one request.
    async fn socket(&self, deadline: Deadline) -> Result<sockets::SocketPermit, TransportFailure> {
        // Who has waited is to have enough time left for an answer: a request that is cut off may have been
        // acted on.
        let place = self.sockets.place(deadline.less(AFTER_WAITING)).await;
        place.map_err(|Elapsed| TransportFailure::NoSocketInTime)
    }

    async fn read(
        &self,
        connection: &mut Connection,
        response: Response<Incoming>,
    ) -> Result<HttpResponse, TransportFailure> {
        let (head, mut body) = response.into_parts();
        let announced = body.size_hint().lower().min(MAX_ANSWER as u64);
        // Room for all of it at once, so that no smaller buffer is left behind unwiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(announced).unwrap_or(0)));
        let mut pieces = 0;
        while let Some(frame) = connection.frame(&mut body).await {
            pieces += 1;
            // The status was there: whatever the provider did, it has done.
            let frame = frame.map_err(|error| transport_failure(&error, true))?;
            // Trailers say nothing that is asked here.
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if bytes.len() + chunk.len() > MAX_ANSWER || pieces > MAX_BODY_PIECES {
                return Err(TransportFailure::AnswerTooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(HttpResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            body: bytes,
            received: self.clock.now(),
        })
    }

    /// Resolves the host once, checks its addresses, and connects to a checked one.
    async fn connect(
        &self,
        base: &BaseUrl,
        endpoint: Endpoint,
        deadline: Deadline,
    ) -> Result<Connection, TransportFailure> {
        let connecting = async {
            let addresses = self
                .egress
                .resolve(base.host())
                .await
                .map_err(TransportFailure::Egress)?;
            let socket = self.connect_tcp(endpoint, &addresses, deadline).await?;
            let stream = if endpoint.https {
                Stream::Tls(Box::new(self.encrypt(base, socket, deadline).await?))
            } else {
                Stream::Clear(socket)
            };
            let connection = Connection::new(stream).await;
            connection.map_err(|_| TransportFailure::NotBegun)
        };
        deadline
            .bound(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(TransportFailure::NoConnectionInTime))
    }

    async fn connect_tcp(
        &self,
        endpoint: Endpoint,
        addresses: &[IpAddr],
        deadline: Deadline,
    ) -> Result<Metered, TransportFailure> {
        let checked = self
            .egress
            .check(addresses, endpoint.port, endpoint.ports())
            .map_err(TransportFailure::Egress)?;
        let connected = tcp::connect(&checked, deadline).await;
        connected.map_err(|failure| match failure {
            ConnectFailure::Refused => TransportFailure::NotConnected,
            ConnectFailure::TimedOut => TransportFailure::NoConnectionInTime,
        })
    }

    async fn encrypt(
        &self,
        base: &BaseUrl,
        socket: Metered,
        deadline: Deadline,
    ) -> Result<TlsStream<Metered>, TransportFailure> {
        let config = self.tls_config().map_err(|_| TransportFailure::Local)?;
        let name = match base.host() {
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|_| TransportFailure::Local)?
            }
        };
        let handshake = TlsConnector::from(config).connect(name, socket);
        match deadline.bound(TLS_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(TransportFailure::Handshake(HandshakeFailure::from(&error))),
            Err(Elapsed) => Err(TransportFailure::NoConnectionInTime),
        }
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.http_tls.get() {
            return Ok(config.clone());
        }
        // Not the whole configuration is made anew: its roots, verifier and sessions are shared.
        let mut tls = ClientConfig::clone(&*self.tls.client(None)?);
        // Not HTTP/2: there all clinics' messages to a provider would share one connection, and with it the doubt when it
        // breaks. Here a message takes its own connection with it. ADR 15.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(self.http_tls.get_or_init(|| Arc::new(tls)).clone())
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
            .bound(RESOLVE_TIMEOUT, self.egress.resolve(base.host()))
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
        let endpoint = Endpoint::of(base);
        let checked = self
            .egress
            .check(&addresses, endpoint.port, endpoint.ports())
            .map_err(|error| classify_transport(TransportFailure::Egress(error)));
        if report.stage(VerifyStage::Egress, checked).is_none() {
            return false;
        }
        let connected = async {
            let permit = self.socket(deadline).await?;
            Ok((
                permit,
                self.connect_tcp(endpoint, &addresses, deadline).await?,
            ))
        };
        let Some((_permit, socket)) = report.stage(
            VerifyStage::Connect,
            connected.await.map_err(classify_transport),
        ) else {
            return false;
        };
        if !endpoint.https {
            return true;
        }
        let encrypted = self.encrypt(base, socket, deadline).await;
        report
            .stage(VerifyStage::Tls, encrypted.map_err(classify_transport))
            .is_some()
    }
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClients(…)")
    }
}

#[cfg(test)]
mod tests;
