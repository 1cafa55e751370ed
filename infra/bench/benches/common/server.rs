//! A server in a process of its own, so that its CPU time is not the client's: this program, started with an argument.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use comms_testkit::tls::TestCa;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
};
use tokio_rustls::TlsAcceptor;

/// A running server with several faces, each on a port of its own. It ends when this is dropped.
pub(crate) struct Server<F: 'static> {
    process: Child,
    faces: &'static [F],
    ports: Vec<u16>,
    /// The trust root of its certificate.
    pub(crate) ca_pem: String,
}

impl<F: Copy + PartialEq> Server<F> {
    /// Starts this program again, with the argument by which it becomes this server.
    pub(crate) fn start(argument: &str, faces: &'static [F]) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut lines = said.lines().map(Result::unwrap);
        let ports = lines.by_ref().take(faces.len());
        let ports = ports.map(|port| port.parse().unwrap()).collect();
        let mut ca_pem = String::new();
        while !ca_pem.contains("-----END") {
            ca_pem.push_str(&lines.next().unwrap());
            ca_pem.push('\n');
        }
        Self {
            process,
            faces,
            ports,
            ca_pem,
        }
    }

    pub(crate) fn port(&self, face: F) -> u16 {
        let at = self.faces.iter().position(|known| *known == face);
        self.ports[at.unwrap()]
    }
}

impl<F> Drop for Server<F> {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Is the server: says its ports and its trust root, and serves until its standard input ends.
pub(crate) fn serve<F, C, T>(faces: &'static [F], converse: C)
where
    F: Copy + Send + Sync,
    C: Fn(TcpStream, F, TlsAcceptor) -> T + Copy + Send + 'static,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let ca = TestCa::new();
    let acceptor = TlsAcceptor::from(ca.server_config(&["127.0.0.1"]));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for face in faces {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            println!("{}", listener.local_addr().unwrap().port());
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    socket.set_nodelay(true).unwrap();
                    // Who goes away goes away.
                    tokio::spawn(converse(socket, *face, acceptor.clone()));
                }
            });
        }
        print!("{}", ca.pem());
        let parent = || io::copy(&mut io::stdin(), &mut io::sink());
        tokio::task::spawn_blocking(parent).await.unwrap().unwrap();
    });
}
