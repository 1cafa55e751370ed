//! HTTP/1.1, written by hand.
//!
//! hyper's server cannot say what the tests script: bytes that are no response, a `content-length` that is not the
//! body's, a head or a body that is cut, an end of the connection without TLS's goodbye or with a reset. And it accepts what a strict server refuses: bare line feeds, a body without a type, a
//! host that is not the one of the handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, TRANSFER_ENCODING};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::{
    MAX_BODY, ReceivedRequest, Reply, Shared,
    reply::{Behavior, FILLER},
    request::Refusal,
};

/// The request line and the headers together.
const MAX_HEAD: usize = 64 * 1024;
/// The line before a chunk: a length, nothing else.
const MAX_CHUNK_LINE: usize = 64;
/// How long a closed connection is read from, so that the last reply is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// A connection's transport.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// The socket below.
    fn tcp(&mut self) -> &mut TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&mut self) -> &mut TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&mut self) -> &mut TcpStream {
        self.get_mut().0
    }
}

/// Why a connection is over.
enum End {
    /// In good order, with TLS's own goodbye.
    Close,
    /// Cut: FIN, but nothing from TLS.
    Cut,
    /// RST.
    Reset,
    /// The client is gone.
    Gone,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Why there is no request.
enum NoRequest {
    Refused(Refusal),
    /// The client is gone, in the middle of it or before.
    Gone,
}

impl From<Refusal> for NoRequest {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// How long a request says that its body is.
enum Length {
    Bytes(usize),
    Chunked,
}

/// Serves one connection to its end.
pub(super) async fn serve<W: Wire>(
    shared: Arc<Shared>,
    number: u64,
    server_name: Option<String>,
    wire: W,
) {
    let connection = Connection {
        shared,
        number,
        server_name,
        wire,
        input: BytesMut::new(),
    };
    connection.run().await;
}

/// Reads what comes, without a word, until the client is gone.
pub(super) async fn ignore(from: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 4_096];
    while matches!(from.read(&mut ignored).await, Ok(read) if read > 0) {}
}

struct Connection<W> {
    shared: Arc<Shared>,
    number: u64,
    server_name: Option<String>,
    wire: W,
    input: BytesMut,
}

impl<W: Wire> Connection<W> {
    async fn run(mut self) {
        let end = loop {
            match self.exchange().await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        match end {
            End::Gone => {}
            End::Cut => {
                // Said explicitly: what a socket does when it is dropped depends on what it has not read.
                let _ = self.wire.tcp().shutdown().await;
            }
            End::Reset => {
                let _ = self.wire.tcp().set_zero_linger();
            }
            End::Close => {
                let goodbye = async {
                    let _ = self.wire.shutdown().await;
                    // Closing a socket that still has unread bytes resets it, and a reset takes the last reply
                    // along: read on until the client has closed as well, but not for long.
                    ignore(self.wire.tcp()).await;
                };
                let _ = timeout(LINGER, goodbye).await;
            }
        }
    }

    /// One request and its reply.
    async fn exchange(&mut self) -> Result<(), End> {
        let request = match self.request().await {
            Ok(request) => request,
            Err(NoRequest::Gone) => return Err(End::Gone),
            Err(NoRequest::Refused(refusal)) => {
                let reply = self.shared.refuse(refusal);
                // Where the next request begins is anybody's guess.
                return self.answer(&reply, false, true).await;
            }
        };
        let head_only = request.method == "HEAD";
        let last = list_contains(&request, "connection", "close");
        let reply = self.shared.receive(request);
        self.answer(&reply, head_only, last).await
    }

    async fn request(&mut self) -> Result<ReceivedRequest, NoRequest> {
        let mut request = self.head().await?;
        let length = length(&request)?;
        self.invite(&request).await?;
        request.body = match length {
            Length::Bytes(bytes) => self.bytes(bytes).await?.to_vec(),
            Length::Chunked => self.chunks().await?,
        };
        request.check(self.server_name.as_deref())?;
        Ok(request)
    }

    /// The request line and the headers.
    async fn head(&mut self) -> Result<ReceivedRequest, NoRequest> {
        let mut budget = MAX_HEAD;
        let too_long = Refusal(431, "the head is too long");
        let line = self.line(&mut budget, too_long).await?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal(400, "a request line has three words").into());
        };
        if version != "HTTP/1.1" {
            return Err(Refusal(505, "the version is not HTTP/1.1").into());
        }
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Refusal(400, "the method is no word in capitals").into());
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let mut request = ReceivedRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            headers: Vec::new(),
            body: Vec::new(),
            connection: self.number,
        };
        loop {
            let line = self.line(&mut budget, too_long).await?;
            if line.is_empty() {
                return Ok(request);
            }
            // A name that has blanks in it is no name: that also refuses folded lines.
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name))
            else {
                return Err(Refusal(400, "a header is a name, a colon and a value").into());
            };
            let value = value.trim_matches([' ', '\t']);
            request
                .headers
                .push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// A line without its end. It and all before it may have as many bytes as the budget.
    async fn line(&mut self, budget: &mut usize, too_long: Refusal) -> Result<String, NoRequest> {
        let mut searched = 0;
        let end = loop {
            if let Some(found) = self.input[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                break searched + found + 1;
            }
            searched = self.input.len();
            if searched >= *budget {
                return Err(too_long.into());
            }
            self.more().await?;
        };
        *budget = budget.checked_sub(end).ok_or(too_long)?;
        let line = self.input.split_to(end);
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Refusal(400, "a line ends in LF alone").into());
        };
        if !line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(Refusal(400, "a line is not of visible ASCII").into());
        }
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    /// Says that the body may come, to a client that waits for this.
    async fn invite(&mut self, request: &ReceivedRequest) -> Result<(), NoRequest> {
        match request.header("expect") {
            None => Ok(()),
            Some(expected) if expected.eq_ignore_ascii_case("100-continue") => {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                Ok(())
            }
            Some(_) => Err(Refusal(417, "only 100-continue can be expected").into()),
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, NoRequest> {
        let malformed = Refusal(400, "a chunk is a length, its bytes and CRLF");
        let mut body = Vec::new();
        loop {
            let line = self.line(&mut { MAX_CHUNK_LINE }, malformed).await?;
            // The parser would take a sign.
            if !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(malformed.into());
            }
            let length = usize::from_str_radix(&line, 16).map_err(|_| malformed)?;
            if length > MAX_BODY - body.len() {
                return Err(Refusal(413, "the body is too long").into());
            }
            body.extend_from_slice(&self.bytes(length).await?);
            // After the last chunk this is the end of the trailers, and no client has a reason to send any.
            if self.bytes(2).await? != b"\r\n"[..] {
                return Err(malformed.into());
            }
            if length == 0 {
                return Ok(body);
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> io::Result<BytesMut> {
        while self.input.len() < count {
            self.more().await?;
        }
        Ok(self.input.split_to(count))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.wire.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    /// Gives the reply; the connection goes on when that is in order and it was not the last one.
    async fn answer(&mut self, reply: &Reply, head_only: bool, last: bool) -> Result<(), End> {
        let last = last || says_close(reply);
        match &reply.behavior {
            Behavior::Whole | Behavior::Endless => {
                self.respond(reply, head_only, last).await?;
                if last { Err(End::Close) } else { Ok(()) }
            }
            Behavior::Cut(_) => {
                self.respond(reply, head_only, last).await?;
                Err(End::Cut)
            }
            Behavior::Stall(_) => {
                self.respond(reply, head_only, last).await?;
                Err(self.hang().await)
            }
            Behavior::Hang => Err(self.hang().await),
            Behavior::Close => Err(End::Cut),
            Behavior::Reset => Err(End::Reset),
            Behavior::Raw(bytes) => {
                self.write(bytes).await?;
                Err(End::Close)
            }
        }
    }

    /// The head, and as much of the body as the script wants.
    async fn respond(&mut self, reply: &Reply, head_only: bool, last: bool) -> io::Result<()> {
        self.write(&head(reply, last)).await?;
        if head_only {
            return Ok(());
        }
        self.body(reply).await
    }

    async fn body(&mut self, reply: &Reply) -> io::Result<()> {
        let body = reply.sent_body();
        // Counted first: a client never has more than the test sees.
        self.shared.wrote(body.len());
        if reply.behavior != Behavior::Endless || reply.is_bodiless() {
            return self.write(&body).await;
        }
        if !body.is_empty() {
            self.write(&chunk(&body)).await?;
        }
        let filler = chunk(&FILLER);
        loop {
            self.shared.wrote(FILLER.len());
            self.write(&filler).await?;
        }
    }

    async fn hang(&mut self) -> End {
        ignore(&mut self.wire).await;
        End::Gone
    }
}

/// How long the body is, or why nobody can tell (RFC 9112, section 6).
fn length(request: &ReceivedRequest) -> Result<Length, Refusal> {
    let values = |wanted| {
        let headers = request.headers.iter();
        headers
            .filter(move |(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
    };
    let lengths = values("content-length");
    let codings = values("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") => Err(Refusal(
            411,
            "a request of this method says how long its body is",
        )),
        ([], []) => Ok(Length::Bytes(0)),
        ([length], []) => {
            // The parser would take a sign.
            if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Refusal(400, "the body's length is no number"));
            }
            match length.parse() {
                Ok(bytes) if bytes <= MAX_BODY => Ok(Length::Bytes(bytes)),
                _ => Err(Refusal(413, "the body is too long")),
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
        ([], _) => Err(Refusal(501, "the only transfer coding is chunked")),
        _ => Err(Refusal(400, "the body's length is said twice")),
    }
}

/// The status line and the headers, with the empty line.
fn head(reply: &Reply, last: bool) -> Vec<u8> {
    let reason = reply.status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", reply.status.as_str()).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in &reply.complete_headers() {
        line(name.as_str(), value.as_bytes());
    }
    if reply.behavior == Behavior::Endless && !reply.is_bodiless() {
        line(TRANSFER_ENCODING.as_str(), b"chunked");
    }
    if last && !says_close(reply) {
        line(CONNECTION.as_str(), b"close");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn chunk(bytes: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

/// Whether the script itself announces the connection's end.
fn says_close(reply: &Reply) -> bool {
    let mut values = reply.headers.get_all(CONNECTION).iter();
    values.any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Whether a header that is a list has this member.
fn list_contains(request: &ReceivedRequest, header: &str, member: &str) -> bool {
    request
        .headers
        .iter()
        .filter(|(name, _)| name == header)
        .flat_map(|(_, value)| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(member))
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}
