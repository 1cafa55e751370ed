//! What a campaign of one clinic costs at a mail server that allows its login few connections: the queue's messages in
//! batches of ten, real worker processes that are frozen between two invocations, as Lambda freezes them.
//!
//! ```text
//! cargo build --release -p comms-worker
//! cargo bench -p comms-bench --bench connections -- --programs target/release
//! cargo bench -p comms-bench --bench connections -- --programs target/release --before ../old/target/release --limits 0
//! ```
//!
//! For each limit (`0` for none) three numbers are printed: the messages of a second beside those of one process with a
//! pool of as many connections, the connections that the server refused for each message, and how long another client of
//! the mailbox tries to get in when all processes are frozen. The server answers each round trip after `--delay`
//! milliseconds, so that what is compared is waiting rather than work.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

mod client;
#[path = "../common/clinic.rs"]
mod clinic;
#[path = "../functions/clinics.rs"]
mod clinics;
mod fleet;
#[path = "../common/message.rs"]
mod message;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use comms_testkit::{
    smtp::{SmtpServer, TlsMode},
    tls::TestCa,
};

use client::{Client, MAX_WAIT};
use fleet::{Done, Fleet};

#[derive(Debug)]
struct Options {
    programs: PathBuf,
    before: Option<PathBuf>,
    limits: Vec<usize>,
    messages: usize,
    processes: usize,
    delay: Duration,
    rounds: usize,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            programs: PathBuf::from("target/release"),
            before: None,
            limits: vec![2, 10],
            messages: 200,
            processes: 20,
            delay: Duration::from_millis(100),
            rounds: 1,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap();
            match argument.as_str() {
                "--programs" => options.programs = value().into(),
                "--before" => options.before = Some(value().into()),
                "--limits" => {
                    let limits = value();
                    options.limits = limits
                        .split(',')
                        .map(|limit| limit.parse().unwrap())
                        .collect();
                }
                "--messages" => options.messages = value().parse().unwrap(),
                "--processes" => options.processes = value().parse().unwrap(),
                "--delay" => options.delay = Duration::from_millis(value().parse().unwrap()),
                "--rounds" => options.rounds = value().parse().unwrap(),
                // Cargo's own.
                "--bench" => {}
                other => panic!("unknown option {other}"),
            }
        }
        options
    }
}

/// A mail server that allows its login `limit` connections.
async fn server(ca: &TestCa, limit: usize, delay: Duration) -> SmtpServer {
    let limit = if limit == 0 { 1_000 } else { limit };
    SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .credentials("user", "password")
        .max_connections_per_login(limit)
        .reply_delay(delay)
        .start()
        .await
}

/// The messages of a second of one process with a pool of as many connections.
async fn pool_rate(ca: &TestCa, limit: usize, options: &Options) -> f64 {
    let server = server(ca, limit, options.delay).await;
    let connections = u8::try_from(limit).unwrap().max(1);
    let client = Client::new(ca, &server, connections);
    let time = client.send_all(options.messages, connections.into()).await;
    rate(options.messages, time)
}

fn rate(messages: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(messages).unwrap()) / time.as_secs_f64()
}

/// Some campaigns, one after another: the messages a second of the last one.
async fn campaign(
    name: &str,
    programs: &Path,
    limit: usize,
    options: &Options,
    pool: Option<f64>,
) -> f64 {
    let ca = TestCa::new();
    let server = server(&ca, limit, options.delay).await;
    let fleet = Fleet::start(programs, options.processes, &ca, server.port()).await;
    // By the second one what the server allows is known. Where that is everything, connections are kept from then on.
    let campaigns: &[_] = if limit == 0 {
        &["first", "next", "third"]
    } else {
        &["first", "next"]
    };
    let mut rate_of_last = 0.0;
    for (campaign, which) in campaigns.iter().enumerate() {
        let refused_before = server.refused_logins();
        let first = campaign * options.messages;
        let done = fleet
            .campaign(&server, first..first + options.messages)
            .await;
        let refused = server.refused_logins() - refused_before;
        rate_of_last = report(name, which, limit, &done, refused, pool, options);
        let outside = Client::new(&ca, &server, 1).get_in().await;
        println!(
            "  another client {}",
            outside.map_or_else(
                || format!("did not get in within {MAX_WAIT:?}"),
                |time| format!("got in after {time:.1?}")
            )
        );
    }
    rate_of_last
}

fn report(
    name: &str,
    which: &str,
    limit: usize,
    done: &Done,
    refused: u64,
    pool: Option<f64>,
    options: &Options,
) -> f64 {
    let rate = rate(done.sent, done.time);
    let beside = pool.map_or_else(String::new, |pool| {
        format!(", {:.2} of the pool's {pool:.1}", rate / pool)
    });
    println!(
        "{name} limit {limit}, {which} campaign: {} of {} messages in {:.1} s, {rate:.1} a second{beside}; {refused} \
         refused ({:.3} a message), {} invocations, most receives {}, DynamoDB writes a message {:.2}",
        done.sent,
        options.messages,
        done.time.as_secs_f64(),
        f64::from(u32::try_from(refused).unwrap())
            / f64::from(u32::try_from(options.messages).unwrap()),
        done.invocations,
        done.most_receives,
        done.writes_per_message,
    );
    rate
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    for &limit in &options.limits {
        for _ in 0..options.rounds {
            let pool = if limit == 0 {
                None
            } else {
                Some(pool_rate(&TestCa::new(), limit, &options).await)
            };
            let before = match &options.before {
                Some(before) => Some(campaign("before", before, limit, &options, pool).await),
                None => None,
            };
            let now = campaign("now", &options.programs, limit, &options, pool).await;
            if let Some(before) = before {
                println!("now/before: {:.2}", now / before);
            }
        }
    }
}
