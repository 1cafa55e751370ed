//! The cost of a provider that hangs for other clinics. The worker's handler gets batches with messages of two clinics; the
//! mail server of one of them stops answering at some stage. The result is the time from the batch's start until the mail
//! server of the other has accepted its messages.
//!
//! ```text
//! cargo bench -p comms-bench --bench fairness
//! cargo bench -p comms-bench --bench fairness -- --batches 200 --whole
//! ```
//!
//! The process is warm: settings are read and connections open, as far as anybody takes them. In a batch the messages of
//! the clinic that hangs come first, which is the worst case. Each batch is dropped when the healthy clinic's messages
//! are all accepted, so that the next one is not made to wait; with `--whole` it is not, and how long the longest
//! invocation took is printed too. `late` counts the healthy clinic's messages that were not accepted before the
//! invocation's end, and returned to the queue; they are in no percentile.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and its result is for people"
)]

#[path = "common/clinic.rs"]
mod clinic;
#[path = "common/options.rs"]
mod options;
#[path = "common/percentile.rs"]
mod percentile;
#[path = "common/threads.rs"]
mod threads;

use std::{
    io::Write as _,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use comms_runtime::Environment;
use comms_settings::SettingsStore;
use comms_testkit::{
    aws::LocalAws,
    smtp::{Action, SmtpServer, Stage, TlsMode},
    tls::TestCa,
};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use self::percentile::percentile;

/// No further batch of a row begins after this time.
const ROW_TIMEOUT: Duration = Duration::from_mins(1);

/// The worker's time limit in Lambda.
const INVOCATION: Duration = Duration::from_secs(30);
/// How long a batch that is dropped goes on after the healthy clinic's last message.
const REPLIES: Duration = Duration::from_millis(200);
const HEALTHY: &str = "clinic-healthy";
const HUNG: &str = "clinic-hung";
const USER: &str = "user";
const PASSWORD: &str = "password";

/// Where the one mail server hangs.
const STAGES: [(&str, Stage); 2] = [("greeting", Stage::Greeting), ("body", Stage::Body)];

/// A batch: messages of the clinic with the mail server that hangs, recipients of each, messages of the other.
///
/// Lambda gives ten messages at most (`BatchSize`). The last rows are what a larger batch would do.
const BATCHES: [(usize, usize, usize); 11] = [
    (0, 1, 10),
    (1, 1, 9),
    (5, 1, 5),
    (9, 1, 1),
    (1, 10, 9),
    (5, 10, 5),
    (9, 10, 1),
    (0, 1, 20),
    (1, 1, 10),
    (5, 1, 10),
    (10, 1, 10),
];

struct Options {
    batches: usize,
    whole: bool,
}

impl Options {
    fn of_command_line() -> Self {
        let mut options = Self {
            batches: 50,
            whole: false,
        };
        options::read("--batches N and --whole", |option, value| {
            match option {
                "--batches" => options.batches = value().parse().unwrap(),
                "--whole" => options.whole = true,
                _ => return false,
            }
            true
        });
        options
    }
}

/// Two clinics, their mail servers, and a worker.
struct Rig {
    worker: comms_worker::Deps,
    accepted: UnboundedReceiver<Instant>,
    messages: usize,
    // They end with the rig.
    _aws: LocalAws,
    _servers: [SmtpServer; 2],
}

impl Rig {
    async fn new(stage: Stage) -> Self {
        let (aws, ca) = (LocalAws::start().await, TestCa::new());
        let (sender, accepted) = unbounded_channel();
        let server = || {
            SmtpServer::builder()
                .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
                .require_tls()
                .credentials(USER, PASSWORD)
                .keep_messages(0)
        };
        let healthy = server()
            .on_message(Arc::new(move |_| {
                // The receiver is closed after the end of a batch.
                let _ = sender.send(Instant::now());
            }))
            .start()
            .await;
        let hung = server().always(stage, Action::Hang).start().await;
        let (sdk, resources) = (aws.sdk_config(), aws.resources());
        let store = SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
        for (id, server) in [(HEALTHY, &healthy), (HUNG, &hung)] {
            clinic::save(&store, id, &clinic::smtp(server.port())).await;
        }

        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(ca.pem().as_bytes()).unwrap();
        let mut variables = aws.env();
        variables.push(("EGRESS_ALLOW".to_owned(), "127.0.0.0/8".to_owned()));
        let roots_path = roots.path().to_str().unwrap().to_owned();
        variables.push(("EXTRA_CA_FILE".to_owned(), roots_path));
        let environment = Environment::from_lookup(|name| {
            let (_, value) = variables.iter().find(|(known, _)| known == name)?;
            Some(value.clone())
        });
        let worker = comms_worker::Deps::from_environment(&environment).unwrap();
        Self {
            worker,
            accepted,
            messages: 0,
            _aws: aws,
            _servers: [healthy, hung],
        }
    }

    /// Works on one batch: how long each of the healthy clinic's messages took, and the batch if it was waited for.
    async fn batch(
        &mut self,
        (hung, recipients, healthy): (usize, usize, usize),
        whole: bool,
    ) -> (Vec<Duration>, Option<Duration>) {
        // Those of the one that hangs come first, which is the worst that can happen.
        let clinics = [(HUNG, hung, recipients), (HEALTHY, healthy, 1)];
        let records: Vec<Value> = clinics
            .into_iter()
            .flat_map(|(clinic, messages, recipients)| {
                std::iter::repeat_n((clinic, recipients), messages)
            })
            .map(|(clinic, recipients)| {
                self.messages += 1;
                record(self.messages, clinic, recipients)
            })
            .collect();
        let event = serde_json::from_value(json!({"Records": records})).unwrap();
        let begin = Instant::now();
        let mut working = pin!(comms_worker::handle(
            &self.worker,
            LambdaEvent::new(event, context())
        ));
        let (mut took, mut invocation) = (Vec::new(), None);
        while invocation.is_none() && (whole || took.len() < healthy) {
            tokio::select! {
                _ = &mut working => invocation = Some(begin.elapsed()),
                Some(at) = self.accepted.recv() => took.push(at.duration_since(begin)),
            }
        }
        // What was accepted is known before the worker hears of it.
        while let Ok(at) = self.accepted.try_recv() {
            took.push(at.duration_since(begin));
        }
        if invocation.is_none() {
            // The worker has yet to read the last replies; or its connections would be lost with the batch.
            let _ = timeout(REPLIES, &mut working).await;
        }
        (took, invocation)
    }
}

fn record(number: usize, clinic: &str, recipients: usize) -> Value {
    let recipients: Vec<Value> = (0..recipients)
        .map(|n| json!({"email": format!("patient-{n}@example.com")}))
        .collect();
    let body = json!({
        "title": "Appointment confirmed", "body": "See you on Monday at 10:00.", "channels": ["email"],
        "recipients": recipients, "metadata": {"clinicId": clinic}});
    clinic::record(number, clinic, &body)
}

fn context() -> Context {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + INVOCATION;
    let mut context = Context::default();
    context.deadline = u64::try_from(deadline.as_millis()).unwrap();
    context
}

fn ms(time: Option<Duration>) -> String {
    let ms = time.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1_000.0));
    ms.unwrap_or_default()
}

fn main() {
    let options = Options::of_command_line();
    // The worker has one thread, this one, as in Lambda; its servers have the others.
    threads::block_on(measure(&options));
}

async fn measure(options: &Options) {
    for (name, stage) in STAGES {
        println!("\nthe hung clinic's mail server hangs at: {name}");
        println!(
            "{:>6} {:>10} {:>8} {:>8} {:>6} {:>11} {:>11} {:>11} {:>11}",
            "hung", "recipients", "healthy", "samples", "late", "p50", "p99", "most", "invocation"
        );
        for batch in BATCHES {
            let (hung, recipients, healthy) = batch;
            let mut rig = Rig::new(stage).await;
            // Settings, connections, the key of the hashes.
            rig.batch((0, 1, healthy), true).await;
            let (mut took, mut late, mut longest) = (Vec::new(), 0, None);
            let begin = Instant::now();
            for _ in 0..options.batches {
                let (of_batch, invocation) = rig.batch(batch, options.whole).await;
                late += healthy - of_batch.len();
                took.extend(of_batch);
                longest = longest.max(invocation);
                if begin.elapsed() > ROW_TIMEOUT {
                    break;
                }
            }
            took.sort_unstable();
            println!(
                "{hung:>6} {recipients:>10} {healthy:>8} {:>8} {late:>6} {:>11} {:>11} {:>11} {:>11}",
                took.len(),
                ms(percentile(&took, 50)),
                ms(percentile(&took, 99)),
                ms(percentile(&took, 100)),
                ms(longest)
            );
        }
    }
}
