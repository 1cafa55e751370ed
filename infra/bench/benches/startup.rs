//! The start-up time of a function, from the start of its process until it asks for its first event, compared with a minimal
//! function (`examples/hello.rs`); and the time of its first event.
//!
//! ```text
//! cargo bench -p comms-bench --bench startup -- --programs $PWD/target/release --rounds 100
//! ```
//!
//! The programs alternate, so that other load on the machine affects all of them. The results are medians and 99th
//! percentiles. CPU time is the scheduler's (`/proc/PID/schedstat`), in nanoseconds. The programs' files are in the machine's
//! cache, so the figures do not contain AWS's time to load the package and to start a machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

#[path = "common/clinic.rs"]
mod clinic;
#[path = "functions/clinics.rs"]
mod clinics;
#[path = "common/options.rs"]
mod options;
#[path = "common/percentile.rs"]
mod percentile;
#[path = "common/server.rs"]
mod server;
#[path = "smtp/sink.rs"]
mod sink;
#[path = "common/threads.rs"]
mod threads;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use comms_testkit::{aws::LocalAws, runtime_api::RuntimeApi};

use self::{
    clinic::smtp,
    clinics::{record, save_clinics},
    percentile::percentile,
    sink::Sink,
};

/// The program that ours are compared with, below the directory of the functions' programs.
const HELLO: &str = "examples/hello";
/// A POST that is put on the queue, as API Gateway gives it.
const POST: &str = include_str!("../../../tests/events/send-post-queued.json");
/// The idempotency key in it.
const KEY: &str = "appt-456-confirmed";
const TIMEOUT: Duration = Duration::from_secs(30);

struct Options {
    programs: PathBuf,
    rounds: usize,
}

impl Options {
    fn of_command_line() -> Self {
        let mut options = Self {
            programs: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release")),
            rounds: 50,
        };
        options::read("--programs DIR and --rounds N", |option, value| {
            match option {
                "--programs" => options.programs = value().into(),
                "--rounds" => options.rounds = value().parse().unwrap(),
                _ => return false,
            }
            true
        });
        options
    }
}

/// A process; killed when dropped.
struct Process(Child);

impl Process {
    fn start(programs: &Path, name: &str, variables: &[(String, String)]) -> Self {
        let program = programs.join(name);
        let started = Command::new(&program)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(started.unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }

    /// What it has used of CPU time.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of_task = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap();
            let nanoseconds = stat.split(' ').next().unwrap().parse().unwrap();
            Duration::from_nanos(nanoseconds)
        };
        tasks.map(|task| of_task(task.unwrap())).sum()
    }

    /// Resident memory in KB.
    fn resident(&self) -> u32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already. Neither minds being stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One start, or one event.
struct Sample {
    took: Duration,
    cpu: Duration,
    resident: u32,
}

struct Row {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Row {
    fn of<T: Ord + Copy>(&self, value: impl Fn(&Sample) -> T, percent: usize) -> T {
        let mut values: Vec<_> = self.samples.iter().map(value).collect();
        values.sort_unstable();
        percentile(&values, percent).unwrap()
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(sink::ARGUMENT) {
        sink::serve();
        return;
    }
    let options = Options::of_command_line();
    threads::block_on(measure(&options));
}

async fn measure(options: &Options) {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load = load.split(' ').next().unwrap();
    println!(
        "medians and 99th percentiles of {}, load {load} before\n",
        options.rounds
    );
    let aws = LocalAws::start().await;
    let sink = sink::start();
    let roots = write_roots(&sink);
    let mut variables = aws.env();

    let names = [HELLO].into_iter().chain(comms_functions::NAMES);
    let mut rows: Vec<Row> = names.map(row).collect();
    for _ in 0..options.rounds {
        for row in &mut rows {
            let started =
                tokio::task::block_in_place(|| start(&options.programs, row.name, &variables));
            row.samples.push(started);
        }
    }
    println!("| program | until it asks for an event | p99 | beside hello | CPU | resident |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let hello = rows[0].of(|sample| sample.took, 50);
    for row in &rows {
        let took = row.of(|sample| sample.took, 50);
        println!(
            "| {} | {} | {} | {:.2} | {} | {:.1} MB |",
            row.name,
            ms(took),
            ms(row.of(|sample| sample.took, 99)),
            took.as_secs_f64() / hello.as_secs_f64(),
            ms(row.of(|sample| sample.cpu, 50)),
            f64::from(row.of(|sample| sample.resident, 50)) / 1e3,
        );
    }

    // What the worker needs to reach a mail server on loopback; a deployed one has neither.
    variables.extend([
        ("EGRESS_ALLOW".to_owned(), "127.0.0.0/8".to_owned()),
        (
            "EXTRA_CA_FILE".to_owned(),
            roots.path().to_str().unwrap().to_owned(),
        ),
    ]);
    save_clinics(&aws, 1, &smtp(sink.port(sink::AT_ONCE))).await;
    let batch = serde_json::json!({"Records": [record(0, 1)]}).to_string();
    let events = [
        ("a POST that is queued", "send", POST.to_owned()),
        ("a batch of one message, by SMTP", "worker", batch),
    ];
    println!("\n| first event of a process | program | took | p99 | CPU | resident then |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for (what, function, event) in events {
        let mut first = row(function);
        for round in 0..options.rounds {
            // Each is another message, or it would be known already.
            let key = format!("{}-{round}", what.len());
            let event = event.replace("message-0", &key).replace(KEY, &key);
            first
                .samples
                .push(invoke(options, function, &event, &variables).await);
        }
        println!(
            "| {what} | {function} | {} | {} | {} | {:.1} MB |",
            ms(first.of(|sample| sample.took, 50)),
            ms(first.of(|sample| sample.took, 99)),
            ms(first.of(|sample| sample.cpu, 50)),
            f64::from(first.of(|sample| sample.resident, 50)) / 1e3,
        );
    }
}

const fn row(name: &'static str) -> Row {
    Row {
        name,
        samples: Vec::new(),
    }
}

fn write_roots(sink: &Sink) -> tempfile::NamedTempFile {
    let mut roots = tempfile::NamedTempFile::new().unwrap();
    roots.write_all(sink.ca_pem.as_bytes()).unwrap();
    roots
}

/// Starts a program, and waits until it asks for an event.
fn start(programs: &Path, name: &str, variables: &[(String, String)]) -> Sample {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut variables = variables.to_vec();
    let api = listener.local_addr().unwrap().to_string();
    variables.extend(of_lambda(name, &api));
    let begin = Instant::now();
    let process = Process::start(programs, name, &variables);
    let (mut socket, _) = listener.accept().unwrap();
    let mut asked = [0; 64];
    let read = socket.read(&mut asked).unwrap();
    let took = begin.elapsed();
    assert!(asked[..read].starts_with(b"GET /2018-06-01/runtime/invocation/next"));
    Sample {
        took,
        cpu: process.cpu(),
        resident: process.resident(),
    }
}

/// The variables that Lambda sets (AWS Lambda Developer Guide, "Defined runtime environment variables").
fn of_lambda(name: &str, api: &str) -> Vec<(String, String)> {
    [
        ("AWS_LAMBDA_RUNTIME_API", api),
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The first invocation of a new process that has asked for it.
async fn invoke(
    options: &Options,
    function: &str,
    event: &str,
    variables: &[(String, String)],
) -> Sample {
    let api = RuntimeApi::start().await;
    let mut variables = variables.to_vec();
    variables.extend(api.env(function));
    let process = Process::start(&options.programs, function, &variables);
    api.asked(function).await;
    let (cpu, begin) = (process.cpu(), Instant::now());
    let event = Bytes::from(event.to_owned());
    let answer = api.invoke(function, event, TIMEOUT).await.unwrap();
    let took = begin.elapsed();
    let answer = String::from_utf8(answer.into()).unwrap();
    assert!(
        answer.contains("202") || answer == r#"{"batchItemFailures":[]}"#,
        "{answer}"
    );
    Sample {
        took,
        cpu: process.cpu().saturating_sub(cpu),
        resident: process.resident(),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
