//! What messages cost: every request to AWS that the functions make for them, counted where it arrives and asserted
//! exactly, and from those the table of infra/docs/OPERATIONS.md.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_testkit::{
    aws::{Moment, PassingCall},
    clock::ManualClock,
    dynamodb::{item, item_bytes},
    logs::{Captured, listen},
};
use comms_tests::{
    World, access_key_id, communication, immediate,
    repository::{file, yaml},
};
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

const OPERATIONS: &str = "infra/docs/OPERATIONS.md";
/// Bytes of an item that are one write request unit, and of one read request unit of a consistent read (Amazon
/// DynamoDB Developer Guide, "DynamoDB on-demand capacity mode").
const WRITE_UNIT: usize = 1_024;
const READ_UNIT: usize = 4_096;
/// Bytes that SQS bills as one request (Amazon SQS pricing).
const SQS_REQUEST: usize = 65_536;
/// Messages in a batch of the worker (`template.yaml`), each of which SQS's poller receives and deletes together.
const BATCH: u64 = 10;

/// What Lambda writes of an invocation by itself, in JSON (Lambda developer guide, "Monitoring function logs", platform
/// events; with `Tracing: Active`), and what API Gateway writes of a request by the template's format. The ids are of the length
/// that they have.
const START: &str = r#"{"time":"2026-12-01T09:00:00.000Z","type":"platform.start","record":{"requestId":"6f7f0961-f834-43a1-8ab1-a84e1b5a9d5f","version":"12","tracing":{"spanId":"54565fb41ac79632","type":"X-Amzn-Trace-Id","value":"Root=1-62e900b2-710d76f009d6e7785905449a;Parent=0efbd19962d95b05;Sampled=1"}}}"#;
const REPORT: &str = r#"{"time":"2026-12-01T09:00:00.250Z","type":"platform.report","record":{"requestId":"6f7f0961-f834-43a1-8ab1-a84e1b5a9d5f","metrics":{"durationMs":243.711,"billedDurationMs":244,"memorySizeMB":512,"maxMemoryUsedMB":41},"tracing":{"spanId":"54565fb41ac79632","type":"X-Amzn-Trace-Id","value":"Root=1-62e900b2-710d76f009d6e7785905449a;Parent=0efbd19962d95b05;Sampled=1"},"status":"success"}}"#;
/// Values of the access log's variables, for a POST.
const ACCESS: [(&str, &str); 8] = [
    ("$context.requestId", "JKJaXmPLvHcESHA="),
    ("$context.requestTimeEpoch", "1796115600000"),
    ("$context.routeKey", "POST /api/v1/communications"),
    ("$context.status", "202"),
    ("$context.responseLatency", "243"),
    ("$context.integrationStatus", "200"),
    ("$context.error.message", "-"),
    ("$context.authorizer.error", "-"),
];

/// Bytes of the access log's line.
fn access_line() -> usize {
    let template = yaml("template.yaml");
    let format = &template["Resources"]["Api"]["Properties"]["AccessLogSettings"]["Format"];
    let mut line = format.as_str().unwrap().to_owned();
    for (variable, value) in ACCESS {
        assert!(line.contains(variable), "{variable}");
        line = line.replace(variable, value);
    }
    assert!(!line.contains('$'), "{line}");
    line.len()
}

/// What one way of sending took of AWS.
#[derive(Debug, Default)]
struct Taken {
    /// Calls by function and operation.
    calls: BTreeMap<String, u64>,
    /// Of those, reads and decryptions, with the key of what was read.
    reads: BTreeMap<String, u64>,
    write_units: usize,
    /// In halves, as reads that need not be consistent cost.
    half_read_units: usize,
    sqs_requests: usize,
    /// Invocations of `send`, and of the worker.
    sends: u64,
    batches: u64,
    deliveries: u64,
    log_bytes: usize,
}

/// A warm service: what is read once in a minute has been read, and the clock stands still.
struct Meter {
    world: World,
    worker: comms_worker::Deps,
    clock: Arc<ManualClock>,
    taken: Arc<Mutex<Taken>>,
    log: Captured,
    _listening: tracing::subscriber::DefaultGuard,
}

impl Meter {
    async fn start() -> Self {
        let mut world = Box::pin(World::saved()).await;
        let clock = Arc::new(ManualClock::new());
        world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
        let worker = world.worker_with_clock(clock.clone());
        for warming in [normal(communication()), normal(immediate())] {
            world.post(&warming).await;
            world
                .run_worker_with(&worker, Duration::from_secs(30))
                .await;
        }
        let taken = Arc::<Mutex<Taken>>::default();
        let (aws, noting) = (world.aws.clone(), taken.clone());
        world.aws.watch(move |call| {
            let (aws, noting) = (aws.clone(), noting.clone());
            Box::pin(async move {
                let (units, halves) = units(&aws, &call).await;
                noting.lock().unwrap().note(&call, units, halves);
                None
            })
        });
        let log = Captured::default();
        let layer = telemetry::layer(TelemetryConfig::default(), log.clone());
        Self {
            world,
            worker,
            clock,
            taken,
            _listening: listen(tracing_subscriber::registry().with(layer)),
            log,
        }
    }

    async fn post(&self, communication: &Value, status: u16) {
        let answer = self.world.post(communication).await.expect(status);
        let deliveries = answer.body["deliveries"].as_array().unwrap().len();
        let mut taken = self.taken.lock().unwrap();
        taken.sends += 1;
        taken.deliveries += u64::try_from(deliveries).unwrap();
    }

    /// Lets the worker have all that is on the queues.
    async fn work_off(&self) {
        loop {
            let time = Duration::from_secs(30);
            let batch = self.world.run_worker_with(&self.worker, time).await;
            assert!(batch.failed.is_empty());
            if batch.records.is_empty() {
                return;
            }
            self.taken.lock().unwrap().batches += 1;
        }
    }

    /// What the worker has read and decrypted since this was asked last, by operation and what it is about.
    fn reads(&self) -> BTreeMap<String, u64> {
        let calls = std::mem::take(&mut self.taken.lock().unwrap().reads);
        let of_worker = calls.into_iter().filter_map(|(name, count)| {
            let name = name.strip_prefix("worker ")?;
            Some((name.to_owned(), count))
        });
        of_worker.collect()
    }

    fn end(self) -> Taken {
        self.world.aws.watch(|_| Box::pin(async { None }));
        let mut taken = std::mem::take(&mut *self.taken.lock().unwrap());
        let count = |count: u64| usize::try_from(count).unwrap();
        taken.log_bytes = self.log.text().len()
            + count(taken.sends) * access_line()
            + count(taken.sends + taken.batches) * (START.len() + REPORT.len());
        assert_eq!(
            self.world.smtp.messages().len(),
            usize::try_from(taken.deliveries).unwrap() + 2,
            "all were sent, beside the two that warmed up"
        );
        taken
    }
}

/// With a priority that needs no urgent quota.
fn normal(mut communication: Value) -> Value {
    communication["priority"] = json!("normal");
    communication
}

/// Whose call it is, of those who have to do with messages.
fn function(call: &PassingCall) -> Option<&'static str> {
    let mut functions = ["send", "worker"].into_iter();
    functions.find(|function| access_key_id(function) == call.access_key_id)
}

/// What DynamoDB bills for a call: write units, and halves of read units.
async fn units(aws: &comms_testkit::aws::LocalAws, call: &PassingCall) -> (usize, usize) {
    if call.call.service != "dynamodb" || call.moment == Moment::Arrived || function(call).is_none()
    {
        return (0, 0);
    }
    let request = &call.request;
    let key = match call.call.operation.as_str() {
        "PutItem" => &request["Item"],
        "UpdateItem" | "GetItem" => &request["Key"],
        other => panic!("{other} is not for messages"),
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (pk, sk) = (text(&key["pk"]["S"]), text(&key["sk"]["S"]));
    // As it is afterwards: none of these items becomes smaller.
    let stored = aws
        .item(&text(&request["TableName"]), &pk, &sk)
        .await
        .unwrap();
    let bytes = stored.map_or(0, |stored| item_bytes(&item(&stored).unwrap()));
    if call.call.operation == "GetItem" {
        let halves = if request["ConsistentRead"] == true {
            2
        } else {
            1
        };
        return (0, bytes.div_ceil(READ_UNIT).max(1) * halves);
    }
    (bytes.div_ceil(WRITE_UNIT), 0)
}

impl Taken {
    fn note(&mut self, call: &PassingCall, write_units: usize, half_read_units: usize) {
        self.write_units += write_units;
        self.half_read_units += half_read_units;
        let (Some(function), Moment::Arrived) = (function(call), call.moment) else {
            return;
        };
        let name = format!("{function} {}", call.call);
        if matches!(call.call.operation.as_str(), "GetItem" | "Decrypt") {
            let about = [
                &call.request["Key"]["pk"]["S"],
                &call.request["Key"]["sk"]["S"],
            ];
            let about = about.map(|key| key.as_str().unwrap_or_default());
            let read = format!("{name} {}", about.join(" ").trim());
            *self.reads.entry(read.trim_end().to_owned()).or_default() += 1;
        }
        *self.calls.entry(name).or_default() += 1;
        if call.call.service == "sqs" {
            let entries = call.request["Entries"].as_array().into_iter().flatten();
            let bodies = entries.filter_map(|entry| entry["MessageBody"].as_str());
            let bytes: usize = bodies.map(str::len).sum();
            self.sqs_requests += bytes.div_ceil(SQS_REQUEST).max(1);
        }
    }

    fn expect(&self, calls: &[(&str, u64)]) {
        let expected = calls
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        assert_eq!(self.calls, expected.collect());
    }
}

/// Dollars for a million of each (for the log, for a gigabyte): list prices of us-east-1, which OPERATIONS.md names.
const API_REQUESTS: f64 = 1.00;
const INVOCATIONS: f64 = 0.20;
const SQS_REQUESTS: f64 = 0.40;
const WRITE_UNITS: f64 = 0.625;
const READ_UNITS: f64 = 0.125;
const LOG_GIGABYTE: f64 = 0.50;
const GIGABYTE_SECOND: f64 = 13.333_4;
/// Gigabytes of memory of a function (`template.yaml`).
const MEMORY: f64 = 0.5;

/// The row of the table: what a delivery takes, and what a million of them cost without the time of the functions.
fn row(name: &str, taken: &Taken) -> String {
    let of = |count: f64| count / f64::from(u32::try_from(taken.deliveries).unwrap());
    let whole = |count: usize| f64::from(u32::try_from(count).unwrap());
    let small = |count: u64| f64::from(u32::try_from(count).unwrap());
    let polls = 2.0 * small(taken.batches);
    let api = of(small(taken.sends));
    let invocations = of(small(taken.sends + taken.batches));
    let sqs = of(whole(taken.sqs_requests) + polls);
    let writes = of(whole(taken.write_units));
    let reads = of(whole(taken.half_read_units) / 2.0);
    // To the next half of a kilobyte: durations have more digits at times, and less.
    let log = (of(whole(taken.log_bytes)) / 500.0).ceil() / 2.0;
    let dollars = api * API_REQUESTS
        + invocations * INVOCATIONS
        + sqs * SQS_REQUESTS
        + writes * WRITE_UNITS
        + reads * READ_UNITS
        + log * LOG_GIGABYTE;
    // Kilobytes of a delivery are gigabytes of a million.
    format!(
        "| {name} | {api:.3} | {invocations:.3} | {sqs:.3} | {writes:.2} | {reads:.2} | {log:.1} KB | ${dollars:.2} |"
    )
}

async fn queued_one_by_one() -> Taken {
    let meter = Box::pin(Meter::start()).await;
    for _ in 0..100 {
        meter.post(&normal(communication()), 202).await;
    }
    meter.work_off().await;
    meter.end()
}

/// Each message comes when the one before is done, as in the quiet hours.
async fn queued_far_apart() -> Taken {
    let meter = Box::pin(Meter::start()).await;
    for _ in 0..100 {
        meter.post(&normal(communication()), 202).await;
        meter.work_off().await;
    }
    meter.end()
}

async fn queued_in_bulk() -> Taken {
    let meter = Box::pin(Meter::start()).await;
    let mut campaign = normal(communication());
    campaign["recipients"] = (0..500)
        .map(|n| json!({"email": format!("patient-{n}@example.com")}))
        .collect();
    meter.post(&campaign, 202).await;
    meter.work_off().await;
    meter.end()
}

async fn immediately() -> Taken {
    let meter = Box::pin(Meter::start()).await;
    for _ in 0..100 {
        meter.post(&normal(immediate()), 200).await;
    }
    meter.end()
}

#[tokio::test]
async fn warm_message_costs_exactly_its_requests() {
    let single = Box::pin(queued_one_by_one()).await;
    single.expect(&[
        ("send dynamodb:PutItem", 100),
        ("send sqs:SendMessageBatch", 100),
        // The version of the clinic's settings, once for all deliveries that begin together.
        ("worker dynamodb:GetItem", 10),
        // The claim and the outcome; and for each batch what became of it.
        // And its connections: counted together, and released together.
        ("worker dynamodb:UpdateItem", 200 + 10 + 20),
    ]);
    assert_eq!(single.batches, 100 / BATCH);
    let apart = Box::pin(queued_far_apart()).await;
    apart.expect(&[
        ("send dynamodb:PutItem", 100),
        ("send sqs:SendMessageBatch", 100),
        ("worker dynamodb:GetItem", 100),
        ("worker dynamodb:UpdateItem", 200 + 100),
    ]);
    assert_eq!(apart.batches, 100);
    let mut bulk = Box::pin(queued_in_bulk()).await;
    // One version read for those that begin together: how many do, their provider's pace decides.
    let version_reads = bulk.calls.remove("worker dynamodb:GetItem").unwrap();
    let expected = bulk.batches..=bulk.deliveries;
    assert!(
        expected.contains(&version_reads),
        "{version_reads} version reads, not {expected:?}"
    );
    bulk.half_read_units = usize::try_from(bulk.deliveries).unwrap();
    bulk.expect(&[
        ("send dynamodb:PutItem", 1),
        ("send sqs:SendMessageBatch", 5),
        ("worker dynamodb:UpdateItem", 1_000 + 5 + 10),
    ]);
    assert_eq!(bulk.batches, 50 / BATCH);
    let immediate = Box::pin(immediately()).await;
    immediate.expect(&[
        ("send dynamodb:PutItem", 100),
        // The version of the clinic's settings, beside the permit.
        ("send dynamodb:GetItem", 100),
        // The claim and the outcome, the usage, and the permit that is taken and released.
        ("send dynamodb:UpdateItem", 200 + 100 + 200),
    ]);

    let rows = [
        row("queued, one recipient in a request", &single),
        row(
            "queued, one recipient in a request, one message in a batch",
            &apart,
        ),
        row("queued, 500 recipients in a request, at most", &bulk),
        row("immediate, one recipient in a request", &immediate),
    ];
    let operations = file(OPERATIONS);
    for row in &rows {
        assert!(
            operations.contains(row),
            "{OPERATIONS} needs\n{}",
            rows.join("\n")
        );
    }
    // What is said there of the functions' time.
    let second = MEMORY * GIGABYTE_SECOND;
    let said = format!("${second:.2} for a second of a million invocations");
    assert!(operations.contains(&said), "{OPERATIONS} needs {said}");
}

#[tokio::test]
async fn a_clinic_without_settings_costs_one_read_unit_a_message() {
    let meter = Box::pin(Meter::start()).await;
    let global = meter.world.save_global().await;
    meter.clock.advance(Duration::from_secs(61));
    let mut message = communication();
    message["metadata"]["clinicId"] = json!("clinic-456");
    meter.world.post(&message).await.expect(202);
    meter.work_off().await;
    meter.reads();
    meter.world.post(&message).await.expect(202);
    meter.work_off().await;
    // Whether it has saved settings since, and whether the platform has; half a unit each.
    let versions =
        ["clinic-456", "_global"].map(|tenant| format!("dynamodb:GetItem {tenant} counter"));
    let expected = versions.into_iter().map(|read| (read, 1));
    assert_eq!(meter.reads(), expected.collect());
    assert_eq!(global.messages().len(), 2);
}

#[tokio::test]
async fn warm_worker_reads_versions_by_batch_and_decrypts_once() {
    const VERSION: &str = "dynamodb:GetItem clinic-123 counter";
    const ONCE_A_MINUTE: [&str; 3] = [
        // Whether the platform's ceilings have changed.
        "dynamodb:GetItem _global counter",
        // What other processes know of its providers.
        "dynamodb:GetItem health#clinic-123 1",
        // Whether its deliveries are slow elsewhere.
        "dynamodb:GetItem slow#normal#clinic-123 permits",
    ];
    let meter = Box::pin(Meter::start()).await;
    let deliver_some = async || {
        for _ in 0..25 {
            meter.post(&normal(communication()), 202).await;
        }
        meter.work_off().await;
        meter.reads()
    };
    // 25 messages are three batches.
    let with_versions = |versions: u64, others: &[&str]| -> BTreeMap<String, u64> {
        let others = others.iter().map(|read| ((*read).to_owned(), 1));
        others.chain([(VERSION.to_owned(), versions)]).collect()
    };
    assert_eq!(deliver_some().await, with_versions(3, &[]));
    let minute = Duration::from_secs(61);
    for _ in 0..2 {
        meter.clock.advance(minute);
        assert_eq!(deliver_some().await, with_versions(3, &ONCE_A_MINUTE));
        assert_eq!(deliver_some().await, with_versions(3, &[]));
    }
    let patch = json!({"email": {"defaultFromName": "Another Name"}});
    let patched = meter.world.patch_settings("clinic-123", patch).await;
    patched.expect(200);
    let of_another_version = with_versions(
        4,
        &[
            "dynamodb:GetItem clinic-123 settings",
            "dynamodb:GetItem health#clinic-123 2",
            "kms:Decrypt",
        ],
    );
    assert_eq!(deliver_some().await, of_another_version);
    assert_eq!(deliver_some().await, with_versions(3, &[]));
}
