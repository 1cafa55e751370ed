//! An SMTP server that takes everything, as fast as it can or after a while, in a process of its own, so that its
//! time is not the sender's.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use comms_testkit::tls::TestCa;
use memchr::{memchr, memmem::Finder};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// What this program is given to be the server.
pub(crate) const ARGUMENT: &str = "--sink";

/// A server that is running; it ends when this is dropped.
pub(crate) struct Sink {
    process: Child,
    ports: Vec<u16>,
    /// The trust root of its certificate.
    pub(crate) ca_pem: String,
}

/// How the server is on one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Face {
    /// After how long it answers what it received at once.
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

impl Sink {
    pub(crate) fn start() -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut lines = said.lines().map(Result::unwrap);
        let ports = lines.by_ref().take(FACES.len());
        let ports = ports.map(|port| port.parse().unwrap()).collect();
        let mut ca_pem = String::new();
        while !ca_pem.contains("-----END") {
            ca_pem.push_str(&lines.next().unwrap());
            ca_pem.push('\n');
        }
        Self {
            process,
            ports,
            ca_pem,
        }
    }

    pub(crate) fn port(&self, face: Face) -> u16 {
        let at = FACES.iter().position(|known| *known == face);
        self.ports[at.unwrap()]
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Is the server: says its ports and its trust root, and serves until its standard input ends.
pub(crate) fn serve() {
    let ca = TestCa::new();
    let acceptor = TlsAcceptor::from(ca.server_config(&["127.0.0.1"]));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for face in FACES {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            println!("{}", listener.local_addr().unwrap().port());
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    // Who goes away goes away.
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move { converse(socket, face, acceptor).await });
                }
            });
        }
        print!("{}", ca.pem());
        let parent = || io::copy(&mut io::stdin(), &mut io::sink());
        tokio::task::spawn_blocking(parent).await.unwrap().unwrap();
    });
}

async fn converse(mut socket: TcpStream, face: Face, acceptor: TlsAcceptor) -> io::Result<()> {
    socket.set_nodelay(true)?;
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
