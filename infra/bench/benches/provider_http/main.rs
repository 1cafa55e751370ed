//! What a message to a provider with an HTTP API costs: messages a second and CPU time, to a server on loopback that
//! accepts everything ([`sink`]), at once or after 50 ms.
//!
//! ```text
//! cargo bench -p comms-bench --bench provider_http
//! cargo bench -p comms-bench --bench provider_http -- --rounds 9 --messages 50000
//! ```
//!
//! The adapter is the real one for SendGrid, from `Provider::send` on: it writes the JSON of each message, opens the sealed
//! key, asks for leave to connect, and reads the answer. What it is compared with posts a ready-made body of the
//! same length: one client of `reqwest`, `wrk` (Debian: `wrk`) with as many connections, and hyper without a client around
//! it: over HTTP/1.1 with a connection for each in flight, over HTTP/2 with one for all.
//!
//! Every round measures each sender, so that other load on the machine affects all of them. The results are medians over the
//! rounds. CPU time is that of the sender's process, user and system, and not the server's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

#[path = "../common/cpu.rs"]
mod cpu;
#[path = "../common/message.rs"]
mod message;
#[path = "../common/options.rs"]
mod options;
#[path = "../common/senders.rs"]
mod senders;
#[path = "../common/server.rs"]
mod server;
mod sink;

use std::{
    fmt::Write as _,
    io::Write as _,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use comms_adapters::{
    OwnSender, Sockets,
    http::HttpClients,
    sendgrid::{SendgridConfig, SendgridProvider},
    tls::TlsConfigs,
};
use comms_core::{BaseUrl, Secret, SystemClock, request::Content};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::{
    cpu::CpuTime,
    message::{appointment, clinic},
    senders::{Sample, load, loopback_guard, median, one_thread, send_all},
    sink::{Face, LATENCY, Over, Sink, face},
};

const CONNECTIONS: usize = 10;
/// How long `wrk` posts in each round.
const WRK_SECONDS: u32 = 2;

/// A sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Adapter,
    Reqwest,
    Hyper,
    Wrk,
}

/// One line of the table.
struct Row {
    sender: Sender,
    face: Face,
    in_flight: usize,
    samples: Vec<Sample>,
}

struct Options {
    rounds: usize,
    messages: usize,
}

impl Options {
    fn of_command_line() -> Self {
        let mut options = Self {
            rounds: 5,
            messages: 20_000,
        };
        options::read("--rounds N and --messages N", |option, value| {
            match option {
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--messages" => options.messages = value().parse().unwrap(),
                _ => return false,
            }
            true
        });
        options
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(sink::ARGUMENT) {
        sink::serve();
        return;
    }
    let options = Options::of_command_line();
    let bench = Bench::new();
    let mut rows = rows();
    for _ in 0..options.rounds {
        for row in &mut rows {
            // Where it is the latency that counts, fewer messages are enough to see it, and many enough that
            // their connections count for little.
            let messages = if row.face.slow {
                row.in_flight * 100
            } else {
                options.messages
            };
            row.samples.extend(bench.measure(row, messages));
        }
    }
    print(&rows, &options);
}

fn rows() -> Vec<Row> {
    let row = |sender, over, slow, in_flight| Row {
        sender,
        face: face(over, slow),
        in_flight,
        samples: Vec::new(),
    };
    let mut rows = vec![
        row(Sender::Wrk, Over::Clear, false, CONNECTIONS),
        row(Sender::Reqwest, Over::Clear, false, CONNECTIONS),
        row(Sender::Adapter, Over::Clear, false, CONNECTIONS),
        row(Sender::Reqwest, Over::Tls, false, CONNECTIONS),
        row(Sender::Adapter, Over::Tls, false, CONNECTIONS),
        row(Sender::Hyper, Over::Tls, false, CONNECTIONS),
        row(Sender::Hyper, Over::Http2, false, CONNECTIONS),
    ];
    for in_flight in [10, 50, 100, 200] {
        rows.push(row(Sender::Adapter, Over::Tls, true, in_flight));
    }
    for over in [Over::Tls, Over::Http2] {
        rows.extend([100, 200].map(|in_flight| row(Sender::Hyper, over, true, in_flight)));
    }
    rows
}

/// The parts of the benchmark.
struct Bench {
    runtime: tokio::runtime::Runtime,
    sink: Sink,
    tls: TlsConfigs,
    content: Arc<Content>,
    /// A message as it goes over the wire, as long as the adapter's.
    body: Bytes,
}

impl Bench {
    fn new() -> Self {
        let sink = sink::start();
        let tls = TlsConfigs::new(Some(&sink.ca_pem)).unwrap();
        Self {
            runtime: one_thread(),
            sink,
            tls,
            content: appointment(),
            // 2.2 KB: the two texts, the addresses and the JSON around them.
            body: Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(2_200))),
        }
    }

    /// `None` where the sender is not installed.
    fn measure(&self, row: &Row, messages: usize) -> Option<Sample> {
        let scheme = match row.face.over {
            Over::Clear => "http",
            Over::Tls | Over::Http2 => "https",
        };
        let url = format!("{scheme}://127.0.0.1:{}", self.sink.port(row.face));
        let (before, begin) = (CpuTime::now(), Instant::now());
        match row.sender {
            Sender::Adapter => {
                let sending = self.by_adapter(&url, row.in_flight, messages);
                self.runtime.block_on(sending);
            }
            Sender::Reqwest => {
                let sending = self.by_reqwest(&url, row.in_flight, messages);
                self.runtime.block_on(sending);
            }
            Sender::Hyper => {
                let sending = self.by_hyper(row, messages);
                self.runtime.block_on(sending);
            }
            Sender::Wrk => return self.by_wrk(&url, row.in_flight),
        }
        let cpu = CpuTime::now().own - before.own;
        Some(Sample::new(messages, begin.elapsed().as_secs_f64(), cpu))
    }

    async fn by_adapter(&self, url: &str, in_flight: usize, messages: usize) {
        let settings = SendgridConfig {
            api_key: Secret::new("SG.key".to_owned()),
            from: OwnSender::default(),
            api_url: Some(BaseUrl::parse(url).unwrap()),
            sandbox: false,
        };
        let clients = HttpClients::new(
            self.tls.clone(),
            loopback_guard(),
            Sockets::default(),
            Arc::new(SystemClock),
        );
        let provider = SendgridProvider::new(settings, clinic(), clients).unwrap();
        send_all(provider, &self.content, in_flight, messages).await;
    }

    async fn by_reqwest(&self, url: &str, in_flight: usize, messages: usize) {
        let tls = rustls::ClientConfig::clone(&*self.tls.client(None).unwrap());
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .unwrap();
        let url = reqwest::Url::parse(&format!("{url}/v3/mail/send")).unwrap();
        let mut senders = JoinSet::new();
        for _ in 0..in_flight {
            let (client, url, body) = (client.clone(), url.clone(), self.body.clone());
            senders.spawn(async move {
                for _ in 0..messages / in_flight {
                    let request = client
                        .post(url.clone())
                        .header("content-type", "application/json")
                        .header("authorization", "Bearer SG.key")
                        .body(body.clone());
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 202);
                    answer.bytes().await.unwrap();
                }
            });
        }
        senders.join_all().await;
    }

    async fn by_hyper(&self, row: &Row, messages: usize) {
        let mut senders = JoinSet::new();
        let each = messages / row.in_flight;
        let port = self.sink.port(row.face);
        let request = Request::post(format!("https://127.0.0.1:{port}/v3/mail/send"))
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .header("authorization", "Bearer SG.key")
            .body(Full::new(self.body.clone()))
            .unwrap();
        if row.face.over == Over::Http2 {
            let wire = self.connect(port).await;
            let made = http2::handshake(TokioExecutor::new(), wire).await;
            let (sender, connection) = made.unwrap();
            tokio::spawn(connection);
            for _ in 0..row.in_flight {
                let (mut sender, request) = (sender.clone(), request.clone());
                senders.spawn(async move {
                    for _ in 0..each {
                        accepted(sender.send_request(request.clone()).await).await;
                    }
                });
            }
        } else {
            for _ in 0..row.in_flight {
                let made = http1::handshake(self.connect(port).await).await;
                let (mut sender, connection) = made.unwrap();
                tokio::spawn(connection);
                let mut request = request.clone();
                *request.uri_mut() = "/v3/mail/send".parse().unwrap();
                senders.spawn(async move {
                    for _ in 0..each {
                        sender.ready().await.unwrap();
                        accepted(sender.send_request(request.clone()).await).await;
                    }
                });
            }
        }
        senders.join_all().await;
    }

    async fn connect(&self, port: u16) -> TokioIo<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(self.tls.client(None).unwrap());
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TokioIo::new(tls.connect(name, socket).await.unwrap())
    }

    fn by_wrk(&self, url: &str, connections: usize) -> Option<Sample> {
        let mut script = tempfile::NamedTempFile::new().unwrap();
        let body = std::str::from_utf8(&self.body).unwrap();
        let mut lua = String::new();
        writeln!(lua, "wrk.method = 'POST'\nwrk.body = '{body}'").unwrap();
        writeln!(lua, "wrk.headers['Content-Type'] = 'application/json'").unwrap();
        writeln!(lua, "wrk.headers['Authorization'] = 'Bearer SG.key'").unwrap();
        script.write_all(lua.as_bytes()).unwrap();
        let before = CpuTime::now();
        let output = Command::new("wrk")
            .args(["-t", "1", "-c", &connections.to_string()])
            .args(["-d", &format!("{WRK_SECONDS}s")])
            .arg("-s")
            .arg(script.path())
            .arg(format!("{url}/v3/mail/send"))
            .output()
            .ok()?;
        let cpu = CpuTime::now().children - before.children;
        let said = String::from_utf8(output.stdout).unwrap();
        let per_second = said
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:"));
        let per_second: f64 = per_second.unwrap().trim().parse().unwrap();
        Some(Sample {
            per_second,
            cpu: cpu * 1e6 / (per_second * f64::from(WRK_SECONDS)),
        })
    }
}

async fn accepted(answer: hyper::Result<Response<Incoming>>) {
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 202);
    answer.into_body().collect().await.unwrap();
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn print(rows: &[Row], options: &Options) {
    println!(
        "{} messages of 2.2 KB, medians of {} rounds, load {}\n",
        options.messages,
        options.rounds,
        load()
    );
    println!(
        "| sender | over | answer after | in flight | messages/s | CPU/message | beside wrk | of what the latency allows |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let wrk = rows.iter().find(|row| row.sender == Sender::Wrk);
    let wrk = wrk.and_then(|row| median(&row.samples, |sample| sample.per_second));
    for row in rows {
        let name = match row.sender {
            Sender::Adapter => "adapter (SendGrid)",
            Sender::Reqwest => "reqwest, one client",
            Sender::Hyper => "hyper",
            Sender::Wrk => "wrk",
        };
        let over = match row.face.over {
            Over::Clear => "clear",
            Over::Tls => "TLS",
            Over::Http2 => "TLS, HTTP/2, one connection",
        };
        let latency = if row.face.slow {
            LATENCY
        } else {
            Duration::ZERO
        };
        let start = format!(
            "| {name} | {over} | {} ms | {} |",
            latency.as_millis(),
            row.in_flight
        );
        let per_second = median(&row.samples, |sample| sample.per_second);
        let cpu = median(&row.samples, |sample| sample.cpu);
        let (Some(per_second), Some(cpu)) = (per_second, cpu) else {
            println!("{start} not installed | | | |");
            continue;
        };
        let beside = wrk
            .filter(|_| !row.face.slow)
            .map(|wrk| format!("{:.2}", per_second / wrk));
        let allowed = number(row.in_flight) / latency.as_secs_f64();
        let of_allowed = row
            .face
            .slow
            .then(|| format!("{:.2}", per_second / allowed));
        println!(
            "{start} {per_second:.0} | {cpu:.1} µs | {} | {} |",
            beside.unwrap_or_default(),
            of_allowed.unwrap_or_default()
        );
    }
}
