//! The cost of a message over SMTP: messages a second and CPU time, over ten connections to a server on loopback that accepts
//! everything ([`sink`]), at once or after 10 ms.
//!
//! ```text
//! cargo bench -p comms-bench --bench smtp
//! cargo bench -p comms-bench --bench smtp -- --rounds 9 --messages 50000
//! cargo bench -p comms-bench --bench smtp -- --only adapter
//! ```
//!
//! The adapter is the real one, from `Provider::send` on: it puts each message together (text and HTML, 2.5 KB), takes
//! a connection out of its pool, and makes a new one after a hundred messages, always over STARTTLS and with a login. It is
//! compared with:
//!
//! - `smtp-source -d` of Postfix (Debian: `postfix`, which need not run), which sends in clear, a message of as many
//!   bytes that is ready made, over connections that never end, with a round trip for each command.
//! - Minimal clients ([`by_hand`]), in clear and over the same TLS.
//! - `nodemailer` with its pool, over STARTTLS, where Node finds it (`NODE_PATH`).
//!
//! Every round measures each sender, so that other load on the machine affects all of them. The results are medians over the
//! rounds. CPU time is that of the sender's process, user and system, and not the server's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

mod by_hand;
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
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use comms_adapters::{
    OwnSender, Sockets,
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{Host, Secret, SystemClock, request::Content};
use tokio::task::JoinSet;

use self::{
    by_hand::Way,
    cpu::CpuTime,
    message::{appointment, clinic},
    senders::{Sample, load, loopback_guard, median, one_thread, send_all},
    sink::{Face, Sink},
};

const CONNECTIONS: usize = 10;
const NODEMAILER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/smtp/nodemailer.js");

/// A sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Adapter,
    SmtpSource,
    Nodemailer,
    ByHand { way: Way, tls: bool },
}

impl Sender {
    const fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::SmtpSource => "smtp-source -d",
            Self::Nodemailer => "nodemailer",
            Self::ByHand { way, .. } => match way {
                Way::Sequential => "by hand, sequential",
                Way::Pipelined => "by hand, pipelined",
                Way::Ahead => "by hand, next envelope with the body",
            },
        }
    }

    const fn is_over_tls(self) -> bool {
        match self {
            Self::Adapter | Self::Nodemailer => true,
            Self::SmtpSource => false,
            Self::ByHand { tls, .. } => tls,
        }
    }
}

/// One line of the table.
struct Row {
    sender: Sender,
    face: Face,
    samples: Vec<Sample>,
}

struct Options {
    rounds: usize,
    messages: usize,
    only: Option<String>,
}

impl Options {
    fn of_command_line() -> Self {
        let mut options = Self {
            rounds: 5,
            messages: 20_000,
            only: None,
        };
        options::read("--rounds N, --messages N, --only NAME", |option, value| {
            match option {
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--messages" => options.messages = value().parse().unwrap(),
                "--only" => options.only = Some(value()),
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
    let mut rows = rows(&options);
    for _ in 0..options.rounds {
        for row in &mut rows {
            // With the delay it is the round trips that count, and few messages are enough to see it.
            let is_slow = row.sender == Sender::Nodemailer || !row.face.delay.is_zero();
            let messages = options.messages / if is_slow { 20 } else { 1 };
            let sample = bench.measure(row.sender, row.face, messages);
            row.samples.extend(sample);
        }
    }
    print(&rows, &options);
}

fn rows(options: &Options) -> Vec<Row> {
    let by_hand = |way, tls| Sender::ByHand { way, tls };
    let mut senders = vec![(Sender::SmtpSource, true)];
    for tls in [false, true] {
        for way in [Way::Sequential, Way::Pipelined, Way::Ahead] {
            senders.push((by_hand(way, tls), true));
        }
    }
    senders.extend([
        (Sender::Nodemailer, true),
        (Sender::Adapter, false),
        (Sender::Adapter, true),
    ]);
    let delays = [Duration::ZERO, Duration::from_millis(10)];
    let rows = delays.into_iter().flat_map(|delay| {
        senders.iter().map(move |(sender, pipelining)| Row {
            sender: *sender,
            face: Face {
                delay,
                pipelining: *pipelining,
            },
            samples: Vec::new(),
        })
    });
    let is_wanted = |row: &Row| {
        let only = options.only.as_deref();
        only.is_none_or(|only| row.sender.name().contains(only))
    };
    rows.filter(is_wanted).collect()
}

/// The parts of the benchmark.
struct Bench {
    runtime: tokio::runtime::Runtime,
    sink: Sink,
    tls: TlsConfigs,
    content: Arc<Content>,
    /// A message as it goes over the wire, as long as the adapter's.
    body: Arc<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        let mut body = b"Subject: Appointment confirmed\r\n\r\n".to_vec();
        while body.len() < 2_500 {
            body.extend_from_slice(
                b"Your appointment is on Monday, 7 December, at 10:00 in room 4.\r\n",
            );
        }
        body.extend_from_slice(b".\r\n");
        Self {
            runtime: one_thread(),
            sink: sink::start(),
            tls: TlsConfigs::new(None).unwrap(),
            content: appointment(),
            body: Arc::new(body),
        }
    }

    /// `None` where the sender is not installed.
    fn measure(&self, sender: Sender, face: Face, messages: usize) -> Option<Sample> {
        let (before, begin) = (CpuTime::now(), Instant::now());
        let port = self.sink.port(face);
        match sender {
            Sender::Adapter => self.runtime.block_on(self.by_adapter(port, messages)),
            Sender::ByHand { way, tls } => self
                .runtime
                .block_on(self.by_hand(port, way, tls, messages)),
            Sender::SmtpSource => return self.by_smtp_source(port, messages),
            Sender::Nodemailer => return self.by_nodemailer(port, messages),
        }
        let cpu = CpuTime::now().own - before.own;
        Some(Sample::new(messages, begin.elapsed().as_secs_f64(), cpu))
    }

    async fn by_adapter(&self, port: u16, messages: usize) {
        let settings = SmtpConfig {
            host: Host::parse("127.0.0.1").unwrap(),
            port,
            security: Security::StartTls,
            user: "user".into(),
            password: Secret::new("password".to_owned()),
            ca_pem: Some(self.sink.ca_pem.clone()),
            max_connections: u8::try_from(CONNECTIONS).unwrap(),
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let provider = SmtpProvider::new(
            settings,
            clinic(),
            &self.tls,
            loopback_guard(),
            Sockets::default(),
            Arc::new(SystemClock),
        );
        send_all(provider.unwrap(), &self.content, CONNECTIONS, messages).await;
    }

    async fn by_hand(&self, port: u16, way: Way, tls: bool, messages: usize) {
        let config = tls.then(|| self.tls.client(Some(&self.sink.ca_pem)).unwrap());
        let mut senders = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (config, body) = (config.clone(), self.body.clone());
            senders.spawn(async move {
                let messages = messages / CONNECTIONS;
                by_hand::send(port, config, way, &body, messages)
                    .await
                    .unwrap();
            });
        }
        senders.join_all().await;
    }

    fn by_smtp_source(&self, port: u16, messages: usize) -> Option<Sample> {
        let (before, begin) = (CpuTime::now(), Instant::now());
        let status = Command::new("smtp-source")
            .env("PATH", "/usr/sbin:/usr/local/sbin:/usr/bin")
            .args([
                "-d",
                "-s",
                &CONNECTIONS.to_string(),
                "-m",
                &messages.to_string(),
            ])
            .args(["-l", &self.body.len().to_string()])
            .args([
                "-f",
                "appointments@clinic.example",
                "-t",
                "patient@example.com",
            ])
            .arg(format!("127.0.0.1:{port}"))
            .status()
            .ok()?;
        assert!(status.success(), "smtp-source: {status}");
        let cpu = CpuTime::now().children - before.children;
        Some(Sample::new(messages, begin.elapsed().as_secs_f64(), cpu))
    }

    fn by_nodemailer(&self, port: u16, messages: usize) -> Option<Sample> {
        let output = Command::new("node")
            .args([NODEMAILER, &port.to_string()])
            .args([CONNECTIONS.to_string(), messages.to_string()])
            .env("CA_PEM", &self.sink.ca_pem)
            .env("TEXT", self.content.body.as_deref().unwrap())
            .env("HTML", self.content.html.as_deref().unwrap())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        let (seconds, cpu) = text.trim().split_once(' ')?;
        Some(Sample::new(
            messages,
            seconds.parse().unwrap(),
            cpu.parse().unwrap(),
        ))
    }
}

fn print(rows: &[Row], options: &Options) {
    println!(
        "{CONNECTIONS} connections, {} messages of 2.5 KB, medians of {} rounds, load {}\n",
        options.messages,
        options.rounds,
        load()
    );
    println!("| sender | over | PIPELINING | delay | messages/s | a connection | CPU/message |");
    println!("| --- | --- | --- | ---: | ---: | ---: | ---: |");
    for row in rows {
        let over = if row.sender.is_over_tls() {
            "TLS"
        } else {
            "clear"
        };
        let announced = if row.face.pipelining { "yes" } else { "no" };
        let (name, delay) = (row.sender.name(), row.face.delay.as_millis());
        let start = format!("| {name} | {over} | {announced} | {delay} ms |");
        let per_second = median(&row.samples, |sample| sample.per_second);
        let cpu = median(&row.samples, |sample| sample.cpu);
        if let (Some(per_second), Some(cpu)) = (per_second, cpu) {
            let of_one = per_second / 10.0;
            println!("{start} {per_second:.0} | {of_one:.1} | {cpu:.1} µs |");
        } else {
            println!("{start} not installed | | |");
        }
    }
}
