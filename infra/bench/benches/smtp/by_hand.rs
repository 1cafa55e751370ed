//! The least that an SMTP client can do, as a yardstick: a message that is ready made, sent again and again over a
//! connection that never ends, and no look at a reply but at its first digit.

use std::{io, sync::Arc};

use memchr::memchr_iter;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

/// How far it goes ahead of the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Not at all.
    Sequential,
    /// MAIL, RCPT and DATA in one write (RFC 2920).
    Pipelined,
    /// The same, and those of the next message in one write with the body of the one before it.
    Ahead,
}

/// Sends `messages` over one connection, over TLS where there is a configuration for it.
pub(crate) async fn send(
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    way: Way,
    body: &[u8],
    messages: usize,
) -> io::Result<()> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    let mut peer = Peer::new(socket);
    peer.hear(1).await?;
    peer.say(b"EHLO clinic.example\r\n", 1).await?;
    let Some(config) = tls else {
        return peer.hand_over(way, body, messages).await;
    };
    peer.say(b"STARTTLS\r\n", 1).await?;
    let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let encrypted = TlsConnector::from(config)
        .connect(name, peer.stream)
        .await?;
    let mut peer = Peer::new(encrypted);
    peer.say(b"EHLO clinic.example\r\n", 1).await?;
    peer.say(b"AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=\r\n", 1).await?;
    peer.hand_over(way, body, messages).await
}

struct Peer<S> {
    stream: S,
    input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            input: Vec::with_capacity(2_048),
        }
    }

    async fn hand_over(&mut self, way: Way, body: &[u8], messages: usize) -> io::Result<()> {
        const MAIL: &[u8] = b"MAIL FROM:<appointments@clinic.example> SIZE=2500\r\n";
        const RCPT: &[u8] = b"RCPT TO:<patient@example.com>\r\n";
        const DATA: &[u8] = b"DATA\r\n";
        let envelope = [MAIL, RCPT, DATA].concat();
        match way {
            Way::Sequential => {
                for _ in 0..messages {
                    for command in [MAIL, RCPT, DATA, body] {
                        self.say(command, 1).await?;
                    }
                }
            }
            Way::Pipelined => {
                for _ in 0..messages {
                    self.say(&envelope, 3).await?;
                    self.say(body, 1).await?;
                }
            }
            Way::Ahead => {
                let both = [body, &envelope].concat();
                self.say(&envelope, 3).await?;
                for _ in 1..messages {
                    self.say(&both, 4).await?;
                }
                self.say(body, 1).await?;
            }
        }
        Ok(())
    }

    async fn say(&mut self, bytes: &[u8], replies: usize) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.hear(replies).await
    }

    /// Reads so many replies, all of which agree.
    async fn hear(&mut self, mut replies: usize) -> io::Result<()> {
        loop {
            let mut used = 0;
            for end in memchr_iter(b'\n', &self.input) {
                let line = &self.input[used..end];
                assert!(line.starts_with(b"2") || line.starts_with(b"3"), "refused");
                replies -= usize::from(line.get(3) == Some(&b' '));
                used = end + 1;
            }
            self.input.drain(..used);
            if replies == 0 {
                return Ok(());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
