//! An HTTP/1.1 server that accepts every message as SendGrid does, as fast as it can or after a while.

use std::{io, time::Duration};

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

/// The server.
pub(crate) type Sink = Server<Face>;

/// How the server is on one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) tls: bool,
    /// Whether it answers after [`LATENCY`], or at once.
    pub(crate) slow: bool,
}

/// What a provider takes for an answer.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

const FACES: [Face; 4] = [
    Face {
        tls: false,
        slow: false,
    },
    Face {
        tls: true,
        slow: false,
    },
    Face {
        tls: false,
        slow: true,
    },
    Face {
        tls: true,
        slow: true,
    },
];

/// Starts the server.
pub(crate) fn start() -> Sink {
    Server::start(&FACES)
}

/// Is the server.
pub(crate) fn serve() {
    server::serve(&FACES, converse);
}

async fn converse(socket: TcpStream, face: Face, acceptor: TlsAcceptor) -> io::Result<()> {
    if face.tls {
        answer(acceptor.accept(socket).await?, face.slow).await
    } else {
        answer(socket, face.slow).await
    }
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
