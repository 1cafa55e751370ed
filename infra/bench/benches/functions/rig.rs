//! A function's process with all that it talks to.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use comms_testkit::{aws::LocalAws, runtime_api::RuntimeApi};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    clinic::smtp,
    clinics::{record, save_clinics},
    http_sink::{self, Over},
    smtp_sink::{self, Face},
};

/// What a message is sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// A mail server, over STARTTLS.
    Smtp,
    /// `SendGrid`'s API, over TLS.
    Sendgrid,
}

/// What the providers of a rig are; they end with it.
enum Sink {
    Smtp(smtp_sink::Sink),
    Sendgrid(http_sink::Sink),
}

impl Sink {
    /// Starts it; with the entry that leads there.
    fn start(shape: Shape) -> (Self, Value) {
        match shape.provider {
            Provider::Smtp => {
                let sink = smtp_sink::start();
                let entry = smtp(sink.port(Face {
                    delay: shape.delay,
                    pipelining: true,
                }));
                (Self::Smtp(sink), entry)
            }
            Provider::Sendgrid => {
                let sink = http_sink::start();
                let is_slow = !shape.delay.is_zero();
                let port = sink.port(http_sink::face(Over::Tls, is_slow));
                let entry = json!({"provider": "sendgrid", "credentials": {
                    "apiKey": "SG.0123456789abcdef012345.0123456789abcdef0123456789abcdef0123456",
                    "apiUrl": format!("https://127.0.0.1:{port}")}});
                (Self::Sendgrid(sink), entry)
            }
        }
    }

    fn ca_pem(&self) -> &str {
        match self {
            Self::Smtp(sink) => &sink.ca_pem,
            Self::Sendgrid(sink) => &sink.ca_pem,
        }
    }
}

/// What Lambda gives an invocation.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A tick of `/proc` (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// What the worker is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Invocations at once.
    pub(crate) invocations: usize,
    /// Messages of each.
    pub(crate) messages: usize,
    /// Clinics whose messages they are.
    pub(crate) clinics: usize,
    /// After how long a provider answers.
    pub(crate) delay: Duration,
    pub(crate) provider: Provider,
}

pub(crate) struct Rig {
    aws: LocalAws,
    api: RuntimeApi,
    function: &'static str,
    process: Child,
    shape: Shape,
    sent: AtomicUsize,
    // They end with the rig.
    _sink: Sink,
    _roots: tempfile::NamedTempFile,
}

impl Rig {
    pub(crate) async fn start(programs: &Path, function: &'static str, shape: Shape) -> Self {
        let (aws, api) = (LocalAws::start().await, RuntimeApi::start().await);
        let (sink, entry) = Sink::start(shape);
        save_clinics(&aws, shape.clinics, &entry).await;
        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(sink.ca_pem().as_bytes()).unwrap();
        let program = programs.join(function);
        let mut process = Command::new(&program)
            .env_clear()
            .envs(aws.env())
            .envs(api.env(function))
            .env("AWS_LAMBDA_MAX_CONCURRENCY", shape.invocations.to_string())
            .env("EGRESS_ALLOW", "127.0.0.0/8")
            .env("EXTRA_CA_FILE", roots.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        // Lambda reads the lines too.
        let mut lines = process.stdout.take().unwrap();
        std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        Self {
            aws,
            api,
            function,
            process,
            shape,
            sent: AtomicUsize::new(0),
            _sink: sink,
            _roots: roots,
        }
    }

    pub(crate) fn aws(&self) -> &LocalAws {
        &self.aws
    }

    /// Has `deliveries` made, or a few more, and says how many, and how long each invocation took.
    pub(crate) async fn deliver(&mut self, deliveries: usize) -> (usize, Vec<Duration>) {
        let batches = deliveries.div_ceil(self.shape.messages);
        let took = stream::iter(0..batches)
            .map(|_| self.deliver_batch())
            .buffer_unordered(self.shape.invocations)
            .collect()
            .await;
        (batches * self.shape.messages, took)
    }

    async fn deliver_batch(&self) -> Duration {
        let records: Vec<Value> = (0..self.shape.messages)
            .map(|_| record(self.sent.fetch_add(1, Relaxed), self.shape.clinics))
            .collect();
        let (took, answer) = self.invoke(&json!({"Records": records})).await;
        assert_eq!(answer, r#"{"batchItemFailures":[]}"#);
        took
    }

    /// What an event takes, and its answer.
    pub(crate) async fn invoke(&self, event: &Value) -> (Duration, Bytes) {
        let event = Bytes::from(event.to_string());
        let begin = Instant::now();
        let answer = self.api.invoke(self.function, event, TIMEOUT).await;
        (begin.elapsed(), answer.unwrap())
    }

    /// What the function has used of CPU time, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // The name may have spaces; it is followed by the fields from 3 on (proc(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<u32>().unwrap();
        TICK * (ticks(14) + ticks(15))
    }

    /// The function's resident memory in KB.
    pub(crate) fn resident(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended already. Neither minds being stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
