//! A worker's process with all that it talks to.

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
    clinics::{record, save_clinics},
    sink::{self, Face, Sink},
};

/// What Lambda gives an invocation of the worker.
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
    /// After how long a mail server answers.
    pub(crate) delay: Duration,
}

pub(crate) struct Rig {
    aws: LocalAws,
    api: RuntimeApi,
    worker: Child,
    shape: Shape,
    sent: AtomicUsize,
    // They end with the rig.
    _sink: Sink,
    _roots: tempfile::NamedTempFile,
}

impl Rig {
    pub(crate) async fn start(programs: &Path, shape: Shape) -> Self {
        let (aws, api, sink) = (
            LocalAws::start().await,
            RuntimeApi::start().await,
            sink::start(),
        );
        let face = Face {
            delay: shape.delay,
            pipelining: true,
        };
        save_clinics(&aws, shape.clinics, sink.port(face)).await;
        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(sink.ca_pem.as_bytes()).unwrap();
        let mut worker = Command::new(programs.join("worker"))
            .env_clear()
            .envs(aws.env())
            .envs(api.env("worker"))
            .env("AWS_LAMBDA_MAX_CONCURRENCY", shape.invocations.to_string())
            .env("EGRESS_ALLOW", "127.0.0.0/8")
            .env("EXTRA_CA_FILE", roots.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} does not start: {error}",
                    programs.join("worker").display()
                )
            });
        // Lambda reads the lines too.
        let mut lines = worker.stdout.take().unwrap();
        std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        Self {
            aws,
            api,
            worker,
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
            .map(|_| self.invoke())
            .buffer_unordered(self.shape.invocations)
            .collect()
            .await;
        (batches * self.shape.messages, took)
    }

    async fn invoke(&self) -> Duration {
        let records: Vec<Value> = (0..self.shape.messages)
            .map(|_| record(self.sent.fetch_add(1, Relaxed), self.shape.clinics))
            .collect();
        let event = Bytes::from(json!({"Records": records}).to_string());
        let begin = Instant::now();
        let answer = self.api.invoke("worker", event, TIMEOUT).await.unwrap();
        let took = begin.elapsed();
        assert_eq!(answer, r#"{"batchItemFailures":[]}"#);
        took
    }

    /// What the worker has used of CPU time, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // The name may have spaces; it is followed by the fields from 3 on (proc(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<u32>().unwrap();
        TICK * (ticks(14) + ticks(15))
    }

    /// The worker's resident memory in KB.
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
        fs::read_to_string(format!("/proc/{}/{file}", self.worker.id())).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended already. Neither minds being stopped.
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}
