mod answers;
mod exchange;
mod requests;
mod reuse;

use std::{future::Future, io};

use async_trait::async_trait;
use comms_core::SystemClock;
use comms_testkit::tls::TestCa;
use http_body::Body as _;
use jiff::SignedDuration;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use comms_core::{Disposition, ErrorKind, Secret};
use http::{
    HeaderName, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use jiff::Timestamp;
use url::Url;

use super::{response::NotJson, *};
use crate::net::egress::{EgressError, Resolver};

/// 2026-01-01T00:00:00Z.
const RECEIVED: Timestamp = Timestamp::constant(1_767_225_600, 0);

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
    HttpResponse::of(status, headers, body, RECEIVED)
}

fn reset() -> HeaderName {
    HeaderName::from_static("x-ratelimit-reset")
}

/// A resolver that knows one address for every name, or none at all.
struct Names(Option<IpAddr>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0
            .map(|address| vec![address])
            .ok_or_else(|| io::Error::other("no such name"))
    }
}

const LOOPBACK: &str = "127.0.0.1";
const ALLOWED: &str = "127.0.0.0/8";

/// Clients that may go to `allow` beside the public internet, and for which every name is `address`.
fn clients(allow: &str, address: Option<&str>, roots: Option<&str>) -> HttpClients {
    let names = Names(address.map(|address| address.parse().unwrap()));
    let egress = EgressGuard::new(allow.parse().unwrap(), Arc::new(names));
    HttpClients::new(
        TlsConfigs::new(roots).unwrap(),
        egress,
        crate::Sockets::default(),
        Arc::new(SystemClock),
    )
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Whether somebody has connected. The kernel completes a connection to loopback before the one who
/// asked for it is told, so that none is still under way.
fn was_connected_to(listener: TcpListener) -> bool {
    let listener = listener.into_std().unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            false
        }
    }
}

/// Enough for a machine that is busy with other things; no test waits for it to pass.
fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

async fn post(clients: &HttpClients, base: &str) -> Result<HttpResponse, TransportFailure> {
    let base = BaseUrl::parse(base).unwrap();
    let request = HttpRequest::post_json(base.join(["messages"]), &json!({"a": 1})).unwrap();
    clients.send(&base, request, deadline()).await
}

async fn get(clients: &HttpClients, base: &str) -> Result<HttpResponse, TransportFailure> {
    let base = BaseUrl::parse(base).unwrap();
    let request = HttpRequest::get(base.join(["account"]));
    clients.send(&base, request, deadline()).await
}

/// Reads a request with the body of [`post`], or none.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        let text = String::from_utf8(read.clone()).unwrap();
        let whole = if text.starts_with("GET ") {
            text.ends_with("\r\n\r\n")
        } else {
            text.ends_with("\r\n\r\n{\"a\":1}")
        };
        if whole {
            return text;
        }
    }
}

/// Reads a request, answers it and ends the connection.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: &[u8]) -> String {
    let request = read_request(&mut stream).await;
    stream.write_all(reply).await.unwrap();
    stream.shutdown().await.unwrap();
    request
}

/// What comes of an exchange with a server of one connection and one request.
async fn exchange(
    sent: impl Future<Output = Result<HttpResponse, TransportFailure>>,
    listener: TcpListener,
    reply: &[u8],
) -> (Result<HttpResponse, TransportFailure>, String) {
    tokio::join!(sent, async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, reply).await
    })
}

const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: id\r\nContent-Length: 0\r\n\r\n";
