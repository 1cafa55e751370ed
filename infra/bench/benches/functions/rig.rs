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
use comms_core::{Problems, SystemClock, Tenant};
use comms_settings::{Author, CommunicationSettings, SettingsStore};
use comms_testkit::{aws::LocalAws, runtime_api::RuntimeApi};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::sink::{Face, Sink};

/// What Lambda gives an invocation of the worker.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Clinics that are saved at once.
const SAVED_AT_ONCE: usize = 16;
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
            Sink::start(),
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

fn clinic(number: usize) -> String {
    format!("clinic-{number:05}")
}

/// Saves clinics that all send by one mail server, each for itself.
async fn save_clinics(aws: &LocalAws, clinics: usize, port: u16) {
    let (sdk, resources) = (aws.sdk_config(), aws.resources());
    let store = &SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
    stream::iter(0..clinics)
        .for_each_concurrent(SAVED_AT_ONCE, async |number| {
            let tenant = Tenant::parse(&clinic(number)).unwrap();
            let document = json!({"email": {
                "primary": {"provider": "smtp", "credentials": {
                    "host": "127.0.0.1", "port": port, "secure": false, "user": "user", "password": "password"}},
                "defaultFrom": "desk@clinic.example"}});
            let mut problems = Problems::default();
            let settings = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
            let author = Author {
                subject: "bench".into(),
                source_address: None,
            };
            let settings = problems.or(settings).unwrap();
            let saved = store.save(&tenant, &settings, None, &author, &SystemClock);
            saved.await.unwrap();
        })
        .await;
}

/// A message as SQS gives it: 2.5 KB with the HTML, as the benchmark of SMTP has it.
fn record(number: usize, clinics: usize) -> Value {
    let clinic = clinic(at_random(number) % clinics);
    let line = "Your appointment with Dr. Müller is on Monday, 7 December, at 10:00 in room 4. ";
    let body = json!({
        "title": "Appointment confirmed", "body": line.repeat(10),
        "html": format!("<html><body><p>{}</p></body></html>", line.repeat(12)),
        "channels": ["email"], "recipients": [{"email": format!("patient-{number}@example.com")}],
        "metadata": {"clinicId": clinic}});
    json!({
        "messageId": format!("message-{number}"), "receiptHandle": "handle", "body": body.to_string(), "md5OfBody": "",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": clinic}, "messageAttributes": {},
        "eventSource": "aws:sqs", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms"})
}

/// The same for the same number: the last step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn at_random(number: usize) -> usize {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
