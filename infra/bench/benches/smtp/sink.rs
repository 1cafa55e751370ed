//! An SMTP server that takes everything, as fast as it can or after a while.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use memchr::{memchr, memmem::Finder};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::server::{self, Server};

/// What this program is given to be the server.
pub(crate) const ARGUMENT: &str = "--smtp-sink";

/// The server.
pub(crate) type Sink = Server<Face>;

/// How the server is on one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Face {
    /// The delay of its answers.
    pub(crate) delay: Duration,
    /// Whether it announces PIPELINING (RFC 2920).
    pub(crate) pipelining: bool,
}

const fn face(delay: u64, pipelining: bool) -> Face {
    Face {
        delay: Duration::from_millis(delay),
        pipelining,
    }
}

/// The best there is.
pub(crate) const AT_ONCE: Face = face(0, true);

const FACES: [Face; 4] = [AT_ONCE, face(0, false), face(10, true), face(10, false)];

/// Starts the server.
pub(crate) fn start() -> Sink {
    Server::start(ARGUMENT, &FACES)
}

/// Is the server.
pub(crate) fn serve() {
    server::serve(&FACES, converse);
}

async fn converse(mut socket: TcpStream, face: Face, acceptor: TlsAcceptor) -> io::Result<()> {
    let pipelining = if face.pipelining {
        "250-PIPELINING\r\n"
    } else {
        ""
    };
    let offer = |last| format!("250-sink\r\n250-SIZE 36700160\r\n{pipelining}{last}\r\n");
    sleep_for(face.delay).await;
    socket.write_all(b"220 sink ESMTP\r\n").await?;
    if !answer(&mut socket, face.delay, &offer("250 STARTTLS")).await? {
        return Ok(());
    }
    let mut tls = acceptor.accept(socket).await?;
    answer(&mut tls, face.delay, &offer("250 AUTH PLAIN")).await?;
    Ok(())
}

/// What ends a message (RFC 5321 section 4.1.1.4).
static END: LazyLock<Arc<Finder<'static>>> = LazyLock::new(|| Arc::new(Finder::new(b"\r\n.\r\n")));

/// Answers until the client leaves, or wants TLS.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    delay: Duration,
    offer: &str,
) -> io::Result<bool> {
    let (mut input, mut replies) = (Vec::with_capacity(16_384), Vec::new());
    let (mut in_message, mut goes_on, mut wants_tls) = (false, true, false);
    while goes_on {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(false);
        }
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if in_message {
                let Some(at) = END.find(rest) else { break };
                used += at + END.needle().len();
                in_message = false;
                replies.extend_from_slice(b"250 2.0.0 ok\r\n");
                continue;
            }
            let Some(at) = memchr(b'\n', rest) else { break };
            let verb = rest.get(..4).unwrap_or_default();
            let reply = match verb {
                b"EHLO" => offer,
                b"AUTH" => "235 2.7.0 ok\r\n",
                b"DATA" => "354 go ahead\r\n",
                b"QUIT" => "221 2.0.0 bye\r\n",
                b"STAR" => "220 2.0.0 go ahead\r\n",
                _ => "250 2.0.0 ok\r\n",
            };
            in_message = verb == b"DATA";
            wants_tls |= verb == b"STAR";
            goes_on &= verb != b"QUIT" && verb != b"STAR";
            replies.extend_from_slice(reply.as_bytes());
            used += at + 1;
        }
        input.drain(..used);
        if !replies.is_empty() {
            sleep_for(delay).await;
            stream.write_all(&replies).await?;
            stream.flush().await?;
            replies.clear();
        }
    }
    Ok(wants_tls)
}

async fn sleep_for(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}
