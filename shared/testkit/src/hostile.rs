//! A server that plays a short script and then sends without end, on a thread of its own for each connection.
//!
//! It does not share the runtime of what it attacks: a client that is starved does not slow it down, and it takes no
//! turn from the client's neighbors. It stops when the client hangs up or when the server is dropped.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long a write may block, and how often a silent server looks whether it is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of a flood in one write.
const WRITE_BYTES: usize = 64 * 1024;

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads until these bytes have come.
    ReadUntil(&'static [u8]),
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Sends these bytes again and again, as fast as the client takes them.
    Flood(Vec<u8>),
    /// Sends these bytes one at a time, again and again, with a pause after each.
    Drip(Vec<u8>, Duration),
}

/// A running server; dropping it ends its connections.
pub struct HostileServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_stopped: AtomicBool,
    connections: AtomicU64,
    written: AtomicU64,
}

impl HostileServer {
    /// Starts a server on a free port of 127.0.0.1 that plays `script` on each connection, below TLS where there is a
    /// configuration.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(tls: Option<Arc<ServerConfig>>, script: Vec<Step>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let (tls, script, shared) = (tls.clone(), script.clone(), accepting.clone());
                thread::spawn(move || shared.serve(stream, tls, &script));
            }
        });
        Ok(Self { address, shared })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes that clients' sockets took from the last step of the script.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        // The listener looks when somebody comes.
        drop(TcpStream::connect(self.address));
    }
}

trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

impl Shared {
    fn serve(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>, script: &[Step]) {
        let played = (|| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK_INTERVAL))?;
            stream.set_write_timeout(Some(LOOK_INTERVAL))?;
            match tls {
                Some(config) => {
                    let session = ServerConnection::new(config).map_err(io::Error::other)?;
                    self.play(&mut StreamOwned::new(session, stream), script)
                }
                None => self.play(&mut { stream }, script),
            }
        })();
        // The client hung up, or the test is over.
        drop(played);
    }

    fn play(&self, wire: &mut dyn Wire, script: &[Step]) -> io::Result<()> {
        for step in script {
            match step {
                Step::ReadUntil(end) => self.read_until(wire, end)?,
                Step::Say(bytes) => self.say(wire, bytes)?,
                Step::Flood(unit) => {
                    let bytes = unit.repeat(WRITE_BYTES.div_ceil(unit.len().max(1)));
                    loop {
                        self.say(wire, &bytes)?;
                        let written = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                        self.written.fetch_add(written, Ordering::Relaxed);
                    }
                }
                Step::Drip(unit, pause) => {
                    for byte in unit.iter().cycle() {
                        self.say(wire, std::slice::from_ref(byte))?;
                        self.written.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(*pause);
                    }
                }
            }
        }
        // Silent, until the client goes away.
        self.read_until(wire, b"\0\0\0\0 never said")
    }

    fn read_until(&self, wire: &mut dyn Wire, end: &[u8]) -> io::Result<()> {
        let mut heard = Vec::new();
        let mut bytes = [0; 4_096];
        while !heard.windows(end.len()).any(|window| window == end) {
            match wire.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => heard.extend_from_slice(&bytes[..read]),
                Err(error) => self.wait_after(error)?,
            }
        }
        Ok(())
    }

    fn say(&self, wire: &mut dyn Wire, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match wire.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) => self.wait_after(error)?,
            }
        }
        loop {
            match wire.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_after(error)?,
            }
        }
    }

    /// Goes on after an error that says no more than that nothing happened for a while.
    fn wait_after(&self, error: io::Error) -> io::Result<()> {
        let is_over = self.is_stopped.load(Ordering::Relaxed);
        let is_pause = [
            io::ErrorKind::WouldBlock,
            io::ErrorKind::TimedOut,
            io::ErrorKind::Interrupted,
        ]
        .contains(&error.kind());
        if is_pause && !is_over {
            Ok(())
        } else {
            Err(error)
        }
    }
}
