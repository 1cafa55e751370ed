//! HTTP/2 with hyper: its framing is no test's subject, so a library may do it.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::{Conduct, FILLER, MAX_BODY, ReceivedRequest, Refusal, Reply, Shared};

/// Serves one connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    number: u64,
    server_name: Option<String>,
    wire: TlsStream<TcpStream>,
) {
    let connection = Arc::new(Connection {
        shared,
        number,
        server_name,
        over: Notify::new(),
    });
    let service = service_fn(|request| {
        let connection = Arc::clone(&connection);
        async move { connection.answer(request).await }
    });
    let serving = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(wire), service);
    tokio::select! {
        // Fails when the client does not speak HTTP/2 as it should, or goes away without a word: no news.
        _ = serving => {}
        () = connection.over.notified() => {}
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
    server_name: Option<String>,
    /// Told when the script ends the connection.
    over: Notify,
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<ReplyBody>> {
        let (parts, body) = request.into_parts();
        let head_only = parts.method == Method::HEAD;
        let reply = match self.read(parts, body).await? {
            Ok(request) => self.shared.receive(request),
            Err(refusal) => self.shared.refuse(refusal),
        };
        let then = match reply.conduct {
            Conduct::Whole => Then::End,
            Conduct::Cut(_) => Then::Fail,
            Conduct::Stall(_) => Then::Stall,
            Conduct::Endless => Then::Repeat,
            Conduct::Hang => match pending::<Infallible>().await {},
            Conduct::Close | Conduct::Raw(_) => {
                self.over.notify_one();
                match pending::<Infallible>().await {}
            }
            // What hyper makes of an error here is RST_STREAM.
            Conduct::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        let body = if head_only || reply.is_bodiless() {
            ReplyBody::new(&self.shared, Bytes::new(), Then::End)
        } else {
            ReplyBody::new(&self.shared, reply.sent_body(), then)
        };
        Ok(response(&reply, body))
    }

    async fn read(
        &self,
        parts: Parts,
        body: Incoming,
    ) -> io::Result<Result<ReceivedRequest, Refusal>> {
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Ok(Err(Refusal(413, "the body is too long")));
            }
            // The client took the request back, or is gone.
            Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let mut headers = parts
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.as_str().to_owned(), value.into_owned())
            })
            .collect::<Vec<_>>();
        if let Some(authority) = parts.uri.authority() {
            headers.insert(0, ("host".to_owned(), authority.to_string()));
        }
        let request = ReceivedRequest {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers,
            body,
            connection: self.number,
            version: parts.version,
        };
        Ok(request.check(self.server_name.as_deref()).map(|()| request))
    }
}

fn response(reply: &Reply, body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.complete_headers();
    response
}

/// What comes when a body's bytes are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    Fail,
    Stall,
    Repeat,
}

/// A body that may be given badly.
struct ReplyBody {
    shared: Arc<Shared>,
    data: Bytes,
    then: Then,
}

impl ReplyBody {
    fn new(shared: &Arc<Shared>, data: Bytes, then: Then) -> Self {
        Self {
            shared: Arc::clone(shared),
            data,
            then,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = match self.then {
            _ if !self.data.is_empty() => mem::take(&mut self.data),
            Then::End => return Poll::Ready(None),
            Then::Fail => return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            // Nobody has to be woken: hyper watches for the end of the stream by itself.
            Then::Stall => return Poll::Pending,
            Then::Repeat => Bytes::from_static(&FILLER),
        };
        self.shared.wrote(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.then == Then::End
    }
}
