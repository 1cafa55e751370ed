//! One HTTP/1.1 connection, driven by the request that is on it.
//!
//! There is no task behind a connection. While a request is on it, whoever waits for the answer reads and writes; an idle
//! connection does nothing, whatever its peer sends. Dropping the wait ends the connection.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::net::metered::{Budget, Metered};

/// Bytes on the wire before the end of the final response's head, informational responses included.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Bytes on the wire for one response, with all that is around its body.
pub(super) const MAX_RESPONSE_BYTES: usize = 512 * 1024;
/// Pieces of a response's body: a chunk is one, or what one read brought.
pub(super) const MAX_BODY_PIECES: usize = 1_024;
/// Informational responses (1xx) before the final one.
pub(super) const MAX_INFORMATIONAL_RESPONSES: usize = 16;

/// A connection without a request on it.
pub(super) struct Connection {
    sender: SendRequest<Tracked>,
    driver: Driver,
    budget: Budget,
    is_used: bool,
}

/// How a request ended that has no response.
pub(super) enum Unanswered {
    /// The connection had ended before anything of the request was written.
    Unstarted(Box<Request<Tracked>>),
    /// The exchange failed.
    Failed(hyper::Error),
}

impl Connection {
    pub(super) async fn new(stream: Stream) -> hyper::Result<Self> {
        let budget = stream.metered().budget().clone();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self {
            sender,
            driver: Driver(Some(Box::new(driver))),
            budget,
            is_used: false,
        })
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &mut self,
        mut request: Request<Tracked>,
    ) -> Result<Response<Incoming>, Unanswered> {
        self.budget.allow(MAX_HEAD_BYTES);
        if self.is_used {
            self.budget.expect_silence();
        }
        self.is_used = true;
        let (budget, informational) = (self.budget.clone(), AtomicUsize::new(0));
        hyper::ext::on_informational(&mut request, move |_| {
            if informational.fetch_add(1, Ordering::Relaxed) >= MAX_INFORMATIONAL_RESPONSES {
                budget.exhaust();
            }
        });
        let mut response = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let response = poll_fn(|context| {
            driver.poll(context);
            response.as_mut().poll(context)
        });
        match response.await {
            Ok(response) => {
                self.budget.extend(MAX_RESPONSE_BYTES - MAX_HEAD_BYTES);
                Ok(response)
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Unanswered::Unstarted(Box::new(request)),
                None => Unanswered::Failed(error.into_error()),
            }),
        }
    }

    /// The next piece of a response's body.
    pub(super) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<hyper::Result<Frame<Bytes>>> {
        let driver = &mut self.driver;
        poll_fn(|context| {
            // Asking first is what makes the driver read.
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) {
                return Poll::Ready(frame);
            }
            driver.poll(context);
            Pin::new(&mut *body).poll_frame(context)
        })
        .await
    }

    /// Whether another request may follow, once the response was read to its end.
    pub(super) async fn is_reusable(&mut self) -> bool {
        let driver = &mut self.driver;
        poll_fn(|context| {
            driver.poll(context);
            Poll::Ready(())
        })
        .await;
        self.driver.0.is_some() && self.sender.is_ready()
    }
}

/// What reads and writes. It is dropped when it has ended: that is how a request that it never took is given back.
struct Driver(Option<Box<http1::Connection<TokioIo<Stream>, Tracked>>>);

impl Driver {
    /// Reads and writes as far as that goes now. Why it ended, the response says.
    fn poll(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.0
            && Pin::new(driver).poll(context).is_ready()
        {
            self.0 = None;
        }
    }
}

/// What a connection goes over.
pub(super) enum Stream {
    Clear(Metered),
    Tls(Box<TlsStream<Metered>>),
}

impl Stream {
    fn metered(&self) -> &Metered {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write_vectored(context, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// A request's body that notes when it is first asked for: until then nothing that a provider could
/// act on has been sent.
pub(super) struct Tracked {
    body: reqwest::Body,
    begun: Arc<AtomicBool>,
}

impl Tracked {
    pub(super) fn new(body: reqwest::Body, begun: Arc<AtomicBool>) -> Self {
        Self { body, begun }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.begun.store(true, Ordering::Release);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
