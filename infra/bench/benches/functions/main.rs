//! The cost of a delivery in the deployed functions: their release programs under a Lambda Runtime API, with a local AWS, and
//! mail servers on loopback that accept everything.
//!
//! ```text
//! just bench-functions
//! cargo bench -p comms-bench --bench functions -- --programs $PWD/target/release --plot $PWD/throughput.svg
//! ```
//!
//! The worker gets batches like those of SQS. A row has the number of concurrent invocations, of messages in each, and of
//! clinics; every message belongs to a random clinic, the same in each run. CPU time and memory are those of the function's
//! process alone, from `/proc`. The servers take most of the machine, so messages a second can be compared between rows
//! only.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

#[path = "../common/clinic.rs"]
mod clinic;
mod clinics;
#[path = "../provider_http/sink.rs"]
mod http_sink;
#[path = "../common/options.rs"]
mod options;
#[path = "../common/percentile.rs"]
mod percentile;
mod plot;
mod rig;
#[path = "../common/server.rs"]
mod server;
#[path = "../smtp/sink.rs"]
mod smtp_sink;
#[path = "../common/threads.rs"]
mod threads;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::{
    percentile::percentile,
    rig::{Provider, Rig, Shape},
};

/// Clinics that a process remembers (`shared/delivery/src/pipeline/parts.rs`).
const REMEMBERED: usize = 2_000;

/// What is measured.
struct Row {
    shape: Shape,
    deliveries: usize,
    per_second: f64,
    /// Microseconds of CPU time of the function's process for each delivery.
    cpu: f64,
    /// From handing out an invocation to its answer.
    p50: Duration,
    p99: Duration,
    /// Resident, in KB, at the end.
    resident: u64,
    /// Requests to AWS for each delivery: writes of the ledger, reads of settings, decryptions.
    writes: f64,
    settings: f64,
    decrypts: f64,
}

struct Options {
    programs: PathBuf,
    plot: Option<PathBuf>,
    deliveries: usize,
    /// Only the row of this name: `10x10x200` are ten invocations at once of ten messages, of 200 clinics.
    only: Option<String>,
}

impl Options {
    fn of_command_line() -> Self {
        let mut options = Self {
            programs: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release")),
            plot: None,
            deliveries: 10_000,
            only: None,
        };
        options::read(
            "--programs DIR, --plot FILE, --deliveries N, --only ROW",
            |option, value| {
                match option {
                    "--programs" => options.programs = value().into(),
                    "--plot" => options.plot = Some(value().into()),
                    "--deliveries" => options.deliveries = value().parse().unwrap(),
                    "--only" => options.only = Some(value()),
                    _ => return false,
                }
                true
            },
        );
        options
    }
}

const fn shape(invocations: usize, messages: usize, clinics: usize, delay: u64) -> Shape {
    Shape {
        invocations,
        messages,
        clinics,
        delay: Duration::from_millis(delay),
        provider: Provider::Smtp,
    }
}

const fn by_sendgrid(shape: Shape) -> Shape {
    Shape {
        provider: Provider::Sendgrid,
        ..shape
    }
}

/// More and more in flight, with mail servers that take 10 ms for each reply.
const CONCURRENCY: [Shape; 6] = [
    shape(1, 1, 200, 10),
    shape(1, 10, 200, 10),
    shape(4, 10, 200, 10),
    shape(10, 10, 200, 10),
    shape(30, 10, 200, 10),
    shape(100, 10, 200, 10),
];

/// More and more clinics, a batch at a time, as without managed instances; replies at once.
const CLINICS: [Shape; 4] = [
    shape(1, 10, 10, 0),
    shape(1, 10, 100, 0),
    shape(1, 10, 1_000, 0),
    shape(1, 10, 10_000, 0),
];

/// An API over HTTP in place of mail servers.
const HTTP: [Shape; 4] = [
    by_sendgrid(shape(1, 10, 10, 0)),
    by_sendgrid(shape(1, 1, 200, 50)),
    by_sendgrid(shape(1, 10, 200, 50)),
    by_sendgrid(shape(10, 10, 200, 50)),
];

/// A POST that is put on the queue, as API Gateway gives it.
const POST: &str = include_str!("../../../../tests/events/send-post-queued.json");

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(smtp_sink::ARGUMENT) => return smtp_sink::serve(),
        Some(http_sink::ARGUMENT) => return http_sink::serve(),
        _ => {}
    }
    let options = Options::of_command_line();
    threads::block_on(measure(&options));
}

async fn measure(options: &Options) {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!(
        "{} deliveries a row, load {} before\n",
        options.deliveries,
        load.split(' ').next().unwrap()
    );
    println!(
        "| invocations x messages | by | clinics | reply after | deliveries/s | CPU/delivery | invocation p50 | p99 | resident | ledger writes | settings reads | decrypts |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut lines = Vec::new();
    for shapes in [&CONCURRENCY[..], &CLINICS[..], &HTTP[..]] {
        let mut rows = Vec::new();
        for shape in shapes {
            let name = format!("{}x{}x{}", shape.invocations, shape.messages, shape.clinics);
            if options.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let row = one(options, *shape).await;
            print(&row);
            rows.push(row);
        }
        lines.push(rows);
    }
    if options.only.is_none() {
        queued_posts(options).await;
    }
    if let Some(file) = &options.plot {
        plot::draw(file, &lines[0], &lines[1]);
        println!("\n{}", file.display());
    }
}

async fn one(options: &Options, shape: Shape) -> Row {
    let mut rig = Rig::start(&options.programs, "worker", shape).await;
    // Connections, settings and whatever else is made once: for nearly all clinics, where the process can remember them.
    let warm_up = (options.deliveries / 5).max(3 * shape.clinics.min(REMEMBERED));
    rig.deliver(warm_up).await;
    rig.aws().clear_calls();
    let (cpu, begin) = (rig.cpu(), Instant::now());
    let (deliveries, mut took) = rig.deliver(options.deliveries).await;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), rig.cpu().saturating_sub(cpu));
    took.sort_unstable();
    let number = f64::from(u32::try_from(deliveries).unwrap());
    let each = |service: &str, operations: &[&str]| {
        let calls: usize = operations
            .iter()
            .map(|operation| rig.aws().count(service, operation))
            .sum();
        f64::from(u32::try_from(calls).unwrap()) / number
    };
    Row {
        shape,
        deliveries,
        per_second: number / seconds,
        cpu: cpu.as_secs_f64() * 1e6 / number,
        p50: percentile(&took, 50).unwrap(),
        p99: percentile(&took, 99).unwrap(),
        resident: rig.resident(),
        writes: each("dynamodb", &["PutItem", "UpdateItem"]),
        settings: each("dynamodb", &["GetItem"]),
        decrypts: each("kms", &["Decrypt"]),
    }
}

/// What a POST that is put on the queue takes of a process that has had others, one after the other.
async fn queued_posts(options: &Options) {
    let rig = Rig::start(&options.programs, "send", shape(1, 1, 1, 0)).await;
    let mut event: Value = serde_json::from_str(POST).unwrap();
    let mut body: Value = serde_json::from_str(event["body"].as_str().unwrap()).unwrap();
    body["recipients"] = json!([{"email": "patient@example.com", "name": "Pat Example"}]);
    event["body"] = body.to_string().into();
    let posts = options.deliveries.max(5);
    let mut took = Vec::with_capacity(posts);
    let mut cpu = rig.cpu();
    for number in 0..posts + posts / 5 {
        if number == posts / 5 {
            (took, cpu) = (Vec::with_capacity(posts), rig.cpu());
        }
        event["headers"]["idempotency-key"] = format!("post-{number}").into();
        let (time, answer) = rig.invoke(&event).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["statusCode"], 202, "{answer}");
        took.push(time);
    }
    let cpu = rig.cpu().saturating_sub(cpu).as_secs_f64();
    println!("\n| posts that are queued | p50 | p99 | CPU/post | resident |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    took.sort_unstable();
    let ms = |percent: usize| percentile(&took, percent).unwrap().as_secs_f64() * 1e3;
    println!(
        "| {posts} | {:.1} ms | {:.1} ms | {:.0} µs | {:.1} MB |",
        ms(50),
        ms(99),
        cpu * 1e6 / f64::from(u32::try_from(posts).unwrap()),
        f64::from(u32::try_from(rig.resident()).unwrap()) / 1e3,
    );
}

fn print(row: &Row) {
    let Shape {
        invocations,
        messages,
        clinics,
        delay,
        provider,
    } = row.shape;
    let by = match provider {
        Provider::Smtp => "SMTP",
        Provider::Sendgrid => "SendGrid",
    };
    println!(
        "| {invocations} x {messages} | {by} | {clinics} | {} ms | {:.0} | {:.0} µs | {:.1} ms | {:.1} ms | {:.1} MB | {:.3} | {:.3} | {:.3} |",
        delay.as_millis(),
        row.per_second,
        row.cpu,
        row.p50.as_secs_f64() * 1e3,
        row.p99.as_secs_f64() * 1e3,
        f64::from(u32::try_from(row.resident).unwrap()) / 1e3,
        row.writes,
        row.settings,
        row.decrypts,
    );
    assert!(row.deliveries > 0);
}
