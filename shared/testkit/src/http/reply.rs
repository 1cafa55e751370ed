//! What the server answers, or does in place of answering.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::Value;

/// What is repeated in a body that never ends. Blanks: a reader of JSON goes on hoping.
pub(super) const FILLER: [u8; 16 * 1024] = [b' '; 16 * 1024];

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
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) behavior: Behavior,
}

/// How a reply is given.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Behavior {
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
            behavior: Behavior::Whole,
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
            behavior: Behavior::Endless,
            ..Self::new(status).content_type(content_type)
        }
    }

    /// No answer, ever, to a request that was read; the connection stays open until the client or the server goes
    /// away.
    pub fn hang() -> Self {
        Self::fault(Behavior::Hang)
    }

    /// No answer to a request that was read: the connection ends (FIN, and no TLS `close_notify`).
    pub fn close() -> Self {
        Self::fault(Behavior::Close)
    }

    /// No answer to a request that was read: the connection is reset (RST).
    pub fn reset() -> Self {
        Self::fault(Behavior::Reset)
    }

    /// These bytes in place of a response, then an orderly end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::fault(Behavior::Raw(bytes.into()))
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
        self.behavior = Behavior::Cut(after_bytes);
        self
    }

    /// Sends the head as ever, but of the body only this many bytes (all, if there are fewer), and then nothing,
    /// ever; the connection stays open.
    #[must_use]
    pub fn stall(mut self, after_bytes: usize) -> Self {
        self.behavior = Behavior::Stall(after_bytes);
        self
    }

    fn fault(behavior: Behavior) -> Self {
        Self {
            behavior,
            ..Self::new(200)
        }
    }

    /// Whether responses of this status have no body, whatever the script says (RFC 9110, section 6.4.1).
    pub(super) fn is_bodiless(&self) -> bool {
        matches!(
            self.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
    }

    /// The headers with the length of the body, if it has one.
    pub(super) fn complete_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        if !self.is_bodiless() && self.behavior != Behavior::Endless {
            headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(self.body.len()));
        }
        headers
    }

    /// As much of the body as is to be sent.
    pub(super) fn sent_body(&self) -> Bytes {
        let length = match self.behavior {
            Behavior::Cut(bytes) | Behavior::Stall(bytes) => bytes.min(self.body.len()),
            Behavior::Whole
            | Behavior::Endless
            | Behavior::Hang
            | Behavior::Close
            | Behavior::Reset
            | Behavior::Raw(_) => self.body.len(),
        };
        if self.is_bodiless() {
            Bytes::new()
        } else {
            self.body.slice(..length)
        }
    }
}
