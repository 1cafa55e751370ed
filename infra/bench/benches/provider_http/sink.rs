//! A server that accepts every message as SendGrid does, as fast as it can or after a while, over HTTP/1.1 or HTTP/2.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::server::{self, Server};

/// What SendGrid answers to a message that it takes.
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nserver: sink\r\n\
x-message-id: 14c5d75ce93.dfd.64b469\r\ncontent-length: 0\r\n\r\n";

/// What this program is given to be the server.
pub(crate) const ARGUMENT: &str = "--http-sink";

/// The server.
pub(crate) type Sink = Server<Face>;

/// How the server is on one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) over: Over,
    /// Whether it answers after [`LATENCY`], or at once.
    pub(crate) slow: bool,
}

/// What it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Clear,
    Tls,
    /// HTTP/2 over TLS.
    Http2,
}

/// What a provider takes for an answer.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

const FACES: [Face; 5] = [
    face(Over::Clear, false),
    face(Over::Tls, false),
    face(Over::Tls, true),
    face(Over::Http2, false),
    face(Over::Http2, true),
];

pub(crate) const fn face(over: Over, slow: bool) -> Face {
    Face { over, slow }
}

/// Messages that a connection may have at once in HTTP/2: what front ends of providers allow (nginx's
/// `http2_max_concurrent_streams` is 128, that of AWS's load balancers as well).
pub(crate) const STREAMS: u32 = 128;

/// Starts the server.
pub(crate) fn start() -> Sink {
    Server::start(ARGUMENT, &FACES)
}

/// Is the server.
pub(crate) fn serve() {
    server::serve(&FACES, converse);
}

async fn converse(socket: TcpStream, face: Face, acceptor: TlsAcceptor) -> io::Result<()> {
    match face.over {
        Over::Clear => answer(socket, face.slow).await,
        Over::Tls => answer(acceptor.accept(socket).await?, face.slow).await,
        Over::Http2 => {
            let stream = TokioIo::new(acceptor.accept(socket).await?);
            let service = service_fn(move |request| answer_stream(request, face.slow));
            http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(STREAMS)
                .serve_connection(stream, service)
                .await
                .map_err(io::Error::other)
        }
    }
}

async fn answer_stream(
    request: Request<Incoming>,
    slow: bool,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let taken = request.into_body().collect().await.is_ok();
    if slow {
        sleep(LATENCY).await;
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = if taken {
        StatusCode::ACCEPTED
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok(response)
}

/// Answers until the client leaves.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, slow: bool) -> io::Result<()> {
    let mut input = Vec::with_capacity(16_384);
    loop {
        while let Some(length) = request(&input) {
            input.drain(..length);
            if slow {
                sleep(LATENCY).await;
            }
            stream.write_all(ACCEPTED).await?;
            stream.flush().await?;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Bytes of the first request, when all of it is there (RFC 9112 section 6.3: a body has its length).
fn request(input: &[u8]) -> Option<usize> {
    let head = memmem::find(input, b"\r\n\r\n")? + 4;
    let name = b"ontent-length: ";
    let at = memmem::find(&input[..head], name)
        .or_else(|| memmem::find(&input[..head], b"ontent-Length: "))?
        + name.len();
    let digits = input[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0, |all, digit| all * 10 + usize::from(digit - b'0'));
    (input.len() >= head + body).then_some(head + body)
}
