//! An HTTP/1.1 server that accepts every message as SendGrid does, as fast as it can or after a while, in a process of
//! its own, so that its time is not the sender's.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use comms_testkit::tls::TestCa;
use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// What this program is given to be the server.
pub(crate) const ARGUMENT: &str = "--sink";

/// What SendGrid answers to a message that it takes.
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nserver: sink\r\n\
x-message-id: 14c5d75ce93.dfd.64b469\r\ncontent-length: 0\r\n\r\n";

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
                    let acceptor = acceptor.clone();
                    // Who goes away goes away.
                    tokio::spawn(async move { converse(socket, face, acceptor).await });
                }
            });
        }
        print!("{}", ca.pem());
        let parent = || io::copy(&mut io::stdin(), &mut io::sink());
        tokio::task::spawn_blocking(parent).await.unwrap().unwrap();
    });
}

async fn converse(socket: TcpStream, face: Face, acceptor: TlsAcceptor) -> io::Result<()> {
    socket.set_nodelay(true)?;
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
