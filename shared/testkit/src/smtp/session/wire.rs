//! What is read and written, and what the transcript keeps of it.

use std::{io, mem, time::Duration};

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;

use super::{End, ReadLine, Session, code_of};

/// How long a closed connection is read from, so that the last reply is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// The transport of the moment.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after a failed handshake.
    Gone,
}

impl Stream {
    pub(super) async fn read_into(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read_buf(buffer).await,
            Self::Tls(tls) => tls.read_buf(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Ends our direction in good order, with TLS's own goodbye.
    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    pub(super) fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_mut().0),
            Self::Gone => None,
        }
    }
}

impl Session {
    pub(super) async fn read_line(
        &mut self,
        limit: usize,
        between_commands: bool,
    ) -> Result<ReadLine, End> {
        let mut too_long = false;
        let mut searched = 0;
        loop {
            if let Some(end) = self.input[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let mut line = self.input.split_to(searched + end + 1);
                if too_long || line.len() > limit {
                    return Ok(ReadLine::TooLong);
                }
                if !line.ends_with(b"\r\n") {
                    return Ok(ReadLine::Malformed);
                }
                line.truncate(line.len() - 2);
                if line.iter().any(u8::is_ascii_control) {
                    return Ok(ReadLine::Malformed);
                }
                return Ok(match String::from_utf8(line.to_vec()) {
                    Ok(text) => ReadLine::Text(text),
                    Err(_) => ReadLine::Malformed,
                });
            }
            if self.input.len() > limit {
                too_long = true;
                self.input.clear();
            }
            searched = self.input.len();
            self.fill(between_commands).await?;
        }
    }

    /// Waits for bytes from the client; between commands also for a request to close.
    pub(super) async fn fill(&mut self, between_commands: bool) -> Result<(), End> {
        self.write_held().await?;
        let idle = between_commands && self.input.is_empty() && self.transaction.is_none();
        self.shared.set_idle(self.connection, idle);
        let deadline = self.shared.config.idle_timeout;
        let read = loop {
            tokio::select! {
                biased;
                Some(request) = self.close_requests.recv() => {
                    if idle {
                        self.closer = Some(request.done);
                        if let Some(action) = request.action {
                            self.perform(action, None).await?;
                        }
                        return Err(End::Close);
                    }
                    // Busy after all: dropping the request tells so.
                }
                read = timeout(deadline, self.stream.read_into(&mut self.input)) => break read,
            }
        };
        match read {
            Ok(Ok(0) | Err(_)) => Err(End::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => {
                self.send("421 4.4.2 nothing heard for too long").await?;
                Err(End::Close)
            }
        }
    }

    /// Sends a reply of the server's own and returns its code.
    pub(super) async fn send(&mut self, reply: &str) -> Result<u16, End> {
        let bytes = self.wire(reply);
        self.send_bytes(&bytes).await?;
        Ok(code_of(reply))
    }

    /// Sends a reply of the script's and returns its code.
    pub(super) async fn send_verbatim(&mut self, reply: &str) -> Result<u16, End> {
        let bytes = with_crlf(reply.lines());
        self.send_bytes(&bytes).await?;
        Ok(code_of(reply))
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), End> {
        // Before the write: whoever has read this reply may rely on the connection being idle.
        let idle = self.transaction.is_none() && self.input.is_empty();
        self.shared.set_idle(self.connection, idle);
        self.note_reply(bytes);
        if self.shared.config.replies_together && !self.input.is_empty() {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        let delay = self.shared.config.reply_delay;
        // Commands that came together are one round trip.
        if !delay.is_zero() && self.input.is_empty() {
            tokio::time::sleep(delay).await;
        }
        self.write(bytes).await
    }

    pub(super) async fn write_held(&mut self) -> Result<(), End> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.write(&[]).await
    }

    /// Writes what was held and these bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut held = mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let bytes = held.as_slice();
        match timeout(self.shared.config.idle_timeout, self.stream.write(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    /// A reply as it goes on the wire: enhanced status codes only where they were offered.
    pub(super) fn wire(&self, reply: &str) -> Vec<u8> {
        if self.offers("ENHANCEDSTATUSCODES") {
            return with_crlf(reply.lines());
        }
        let plain = reply.lines().map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some(code), Some(status), Some(text)) if status.split('.').count() == 3 => {
                    format!("{code} {text}")
                }
                _ => line.to_owned(),
            }
        });
        with_crlf(plain)
    }

    pub(super) fn note_reply(&self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines() {
            self.shared.note(self.connection, format!("S: {line}"));
        }
    }

    pub(super) fn note_command(&self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let shown = match (words.next(), words.next(), words.next()) {
            (Some(verb), Some(mechanism), Some(_)) if verb.eq_ignore_ascii_case("AUTH") => {
                format!("C: {verb} {mechanism} ***")
            }
            _ => format!("C: {line}"),
        };
        self.shared.note(self.connection, shown);
    }

    pub(super) async fn end(mut self, end: End) {
        match end {
            // Who closes has said what it had to say; a reset takes it along.
            End::Close | End::Cut => {
                let _ = self.write_held().await;
            }
            End::Reset | End::Gone => {}
        }
        match end {
            End::Close => {
                let _ = timeout(LINGER, self.stream.shutdown()).await;
            }
            End::Cut => {
                if let Some(tcp) = self.stream.tcp() {
                    let _ = tcp.shutdown().await;
                }
            }
            End::Reset => {
                if let Some(tcp) = self.stream.tcp() {
                    let _ = tcp.set_zero_linger();
                }
                drop(self.stream);
                self.shared.closed(self.connection);
                if let Some(closer) = self.closer {
                    let _ = closer.send(());
                }
                return;
            }
            End::Gone => {
                self.shared.closed(self.connection);
                return;
            }
        }
        self.shared.closed(self.connection);
        if let Some(closer) = self.closer.take() {
            let _ = closer.send(());
        }
        // Closing a socket that still has unread bytes resets it, and a reset takes the last reply along: read on
        // until the client has closed as well, but not for long.
        let drained = async {
            let mut ignored = [0; 4_096];
            if let Some(tcp) = self.stream.tcp() {
                while matches!(tcp.read(&mut ignored).await, Ok(read) if read > 0) {}
            }
        };
        let _ = timeout(LINGER, drained).await;
    }
}

fn with_crlf(lines: impl Iterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in lines {
        wire.extend_from_slice(line.as_ref().as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire
}
