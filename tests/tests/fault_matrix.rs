//! Every fault of AWS's side, at every kind of request, for both functions that send: the message is accepted once and
//! recorded, or the second copy is flagged where nothing else is possible.
//!
//! Each case has a clinic, a process and a proxy of its own, and all cases of one test go at the same time. A fault
//! either happens to the first two requests of its kind, or to all for as long as the first invocation lasts; then the
//! process is gone, and a new one gets the message as SQS brings it again, or the caller repeats its request.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_types::{SdkConfig, sdk_config::SharedCredentialsProvider};
use comms_testkit::{
    clock::ManualClock,
    fault_proxy::{FaultProxy, ProxiedCall, ProxyFault},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::world::{
    Answer, FROM, PASSWORD, World, communication, email, entry, handle_records, post_to, record,
    worker_with,
};

/// What an invocation may last whose requests fail to its end: a delivery is started with four seconds left, beside
/// two for the worker's answer or three for the queue.
const INVOCATION: Duration = Duration::from_secs(11);
/// What Lambda gives an invocation, of which a short fault takes little.
const WHOLE_INVOCATION: Duration = Duration::from_secs(30);
/// One try of a request that a hanging endpoint uses up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(600);
/// A request with its tries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);
/// Longer than any lease.
const BEYOND_A_LEASE: Duration = Duration::from_mins(1);
/// Cases at the same time: more are so slow that requests without a fault run out of time.
const CONCURRENT_CASES: usize = 11;
/// Requests that a short fault spoils.
const BURST: usize = 2;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Claim,
    Outcome,
    Settings,
    Health,
    Usage,
    Queue,
    Kms,
}

impl Target {
    fn is_of(self, call: &ProxiedCall) -> bool {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |name: &str| text(&call.request["Key"][name]["S"]);
        let update = text(&call.request["UpdateExpression"]);
        let is_delivery = key("sk").starts_with("delivery#");
        match self {
            Self::Claim => is_delivery && update.starts_with("SET #status = :sending"),
            Self::Outcome => is_delivery && update.starts_with("SET #status = :status"),
            Self::Settings => {
                call.service == "dynamodb" && text(&call.request["TableName"]).contains("settings")
            }
            Self::Health => key("pk").starts_with("health#"),
            Self::Usage => key("pk").starts_with("usage#"),
            Self::Queue => call.service == "sqs",
            Self::Kms => call.service == "kms",
        }
    }
}

/// For how long a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lasts {
    Burst,
    Invocation,
}

/// Which function sends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Worker,
    /// While the caller waits.
    Immediate,
    /// By the queue.
    Queued,
}

/// What a message cost its patient and its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// One copy, by the first invocation or answer.
    Nothing,
    /// One copy, by a later one.
    Later,
    /// One copy. The answer said so, and that it is not recorded; the ledger does not know it.
    Unrecorded,
    /// Two copies, and the delivery says so.
    TwiceAndFlagged,
}

/// One case.
struct Case<'w> {
    world: &'w World,
    function: Function,
    fault: ProxyFault,
    lasts: Lasts,
    clinic: String,
    message: Value,
    sdk: SdkConfig,
    proxy: FaultProxy,
    clock: Arc<ManualClock>,
}

impl<'w> Case<'w> {
    async fn new(
        world: &'w World,
        function: Function,
        target: Target,
        lasts: Lasts,
        fault: ProxyFault,
    ) -> Self {
        let clinic = format!("{lasts:?}-{fault:?}").to_lowercase();
        // A login of its own: connections of one are counted over all cases.
        world.smtp.set_password(clinic.as_str(), PASSWORD);
        let own = entry(world.smtp.port(), &clinic, PASSWORD);
        let document = email(&own, FROM);
        world.put_settings(&clinic, document).await.expect(201);
        let mut message = communication();
        message["metadata"]["clinicId"] = json!(clinic);
        message["priority"] = json!("normal");
        message["recipients"] = json!([{"email": format!("{clinic}@example.com")}]);
        if function == Function::Immediate {
            message["strategy"] = json!("immediate");
        }
        let proxy = FaultProxy::start(world.aws.endpoint()).await.unwrap();
        let mut timeouts = aws_sdk_dynamodb::config::timeout::TimeoutConfig::builder();
        if fault == ProxyFault::Hang {
            timeouts
                .set_operation_attempt_timeout(Some(ATTEMPT_TIMEOUT))
                .set_operation_timeout(Some(OPERATION_TIMEOUT));
        }
        let timeouts = timeouts.build();
        let sdk = world.sdk_of(if function == Function::Worker {
            "worker"
        } else {
            "send"
        });
        let credentials: SharedCredentialsProvider = sdk.credentials_provider().unwrap();
        let sdk = sdk
            .to_builder()
            .credentials_provider(credentials)
            .endpoint_url(proxy.endpoint())
            .timeout_config(timeouts)
            .build();
        let left = AtomicUsize::new(match lasts {
            Lasts::Burst => BURST,
            Lasts::Invocation => usize::MAX,
        });
        proxy.spoil(move |call| {
            let spend = |left: usize| left.checked_sub(1);
            let is_spoiled = target.is_of(call)
                && left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
                    .is_ok();
            is_spoiled.then_some(fault)
        });
        Self {
            world,
            function,
            fault,
            lasts,
            clinic,
            message,
            sdk,
            proxy,
            clock: Arc::new(ManualClock::new()),
        }
    }

    /// What the first invocation may last.
    fn time(&self) -> Duration {
        match self.lasts {
            Lasts::Burst => WHOLE_INVOCATION,
            Lasts::Invocation => INVOCATION,
        }
    }

    fn copies(&self) -> usize {
        let to = format!("{}@example.com", self.clinic);
        let messages = self.world.smtp.messages();
        messages
            .iter()
            .filter(|message| message.rcpt_to.contains(&to))
            .count()
    }

    /// The send function's answer, by a process of its own.
    async fn post(&self, is_new: bool, send: &comms_send::Deps) -> Answer {
        let key = format!("key-{}", self.clinic);
        let time = if is_new {
            self.time()
        } else {
            WHOLE_INVOCATION
        };
        post_to(send, &self.message, &[("idempotency-key", &key)], time).await
    }

    /// The first invocation, with the fault. Whether it ended everything; and the request's id.
    async fn first(&self) -> (bool, Option<String>) {
        match self.function {
            Function::Worker => {
                let key = format!("key-{}", self.clinic);
                let posted = self
                    .world
                    .post_with_key(&self.message, &key)
                    .await
                    .expect(202);
                let mut body = self.message.clone();
                body["idempotencyKey"] = json!(key);
                let worker = worker_with(
                    &self.sdk,
                    self.world.aws.resources(),
                    &self.world.ca.pem(),
                    self.clock.clone(),
                );
                // The other message is none, and goes to the dead-letter queue.
                let poison = format!("no communication of {}", self.clinic);
                let records = [
                    record("message", &body.to_string()),
                    record("poison", &poison),
                ];
                let failed = handle_records(&worker, &records, self.time()).await;
                (
                    !failed.iter().any(|id| id == "message"),
                    Some(posted.request_id()),
                )
            }
            Function::Immediate | Function::Queued => {
                let send = self.world.send_with(&self.sdk, self.clock.clone());
                let answer = self.post(true, &send).await;
                assert!(
                    [200, 202, 503].contains(&answer.status),
                    "{:?} {}",
                    self.fault,
                    answer.text
                );
                let id = (answer.status != 503).then(|| answer.request_id());
                let is_sent = answer.body["status"] == "sent";
                (
                    is_sent || (self.function == Function::Queued && answer.status == 202),
                    id,
                )
            }
        }
    }

    /// What the caller does who got no answer: it asks again with the same key.
    async fn second(&self, id: Option<String>) -> String {
        if let Some(id) = id {
            return id;
        }
        let send = self.world.send_with(&self.sdk, self.clock.clone());
        let answer = self.post(false, &send).await;
        assert!(
            [200, 202].contains(&answer.status),
            "{:?} {}",
            self.fault,
            answer.text
        );
        answer.request_id()
    }

    /// That the message was accepted and recorded, and what that cost.
    async fn cost(&self, id: &str, was_ended: bool) -> Cost {
        let answer = self.world.status(id).await.expect(200);
        let delivery = &answer.body["deliveries"][0];
        let (copies, is_flagged) = (self.copies(), delivery["possibleDuplicate"] == true);
        let case = format!("{:?}: {copies} copies of {delivery}", self.fault);
        // The ledger's clock is long past the case's own: who has not recorded it by now does not.
        if delivery["status"] == "unknown" && was_ended && copies == 1 {
            return Cost::Unrecorded;
        }
        assert_eq!(delivery["status"], "sent", "{case}");
        match copies {
            1 if was_ended && !is_flagged => Cost::Nothing,
            1 => Cost::Later,
            2 if is_flagged => Cost::TwiceAndFlagged,
            _ => panic!("{case}"),
        }
    }
}

/// The costs of every fault at a target, short and long.
async fn costs(function: Function, target: Target) -> BTreeMap<Lasts, Vec<(ProxyFault, Cost)>> {
    let world = World::saved().await;
    let both = [Lasts::Burst, Lasts::Invocation];
    let faults = both
        .iter()
        .flat_map(|lasts| ProxyFault::ALL.map(|fault| (*lasts, fault)));
    let mut cases = Vec::new();
    for (lasts, fault) in faults {
        cases.push((
            lasts,
            Case::new(&world, function, target, lasts, fault).await,
        ));
    }
    let firsts = cases.iter().map(|(_, case)| Box::pin(case.first()));
    let firsts: Vec<_> = stream::iter(firsts)
        .buffered(CONCURRENT_CASES)
        .collect()
        .await;
    let mut ended = Vec::new();
    for ((lasts, case), (was_ended, id)) in cases.iter().zip(firsts) {
        assert!(
            case.proxy.spoiled() > 0,
            "{target:?} {lasts:?} {:?} met no request",
            case.fault
        );
        case.proxy.heal();
        case.clock.advance(BEYOND_A_LEASE);
        ended.push((was_ended, case.second(id).await));
    }
    // What is on the queue, by a process that knows nothing, when every lease is over.
    let clock = Arc::new(ManualClock::new());
    loop {
        clock.advance(BEYOND_A_LEASE);
        let worker = world.worker_with_clock(clock.clone());
        let batch = world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
        if batch.records.is_empty() {
            break;
        }
    }
    let mut costs = BTreeMap::<_, Vec<_>>::new();
    for ((lasts, case), (was_ended, id)) in cases.iter().zip(&ended) {
        let cost = case.cost(id, *was_ended).await;
        costs.entry(*lasts).or_default().push((case.fault, cost));
    }
    costs
}

/// That every fault costs `burst` at most while it is short, and `long` at most while it lasts.
async fn check(function: Function, target: Target, burst: Cost, long: Cost) {
    for (lasts, costs) in Box::pin(costs(function, target)).await {
        let bound = match lasts {
            Lasts::Burst => burst,
            Lasts::Invocation => long,
        };
        let beyond: Vec<_> = costs.iter().filter(|(_, cost)| *cost > bound).collect();
        assert!(
            beyond.is_empty(),
            "{function:?} {target:?} {lasts:?}: {beyond:?}"
        );
        let most = costs.iter().map(|(_, cost)| *cost).max();
        assert_eq!(most, Some(bound), "OPERATIONS.md has more");
    }
}

macro_rules! matrix {
    ($($name:ident: $function:ident $target:ident costs $burst:ident, $long:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                check(Function::$function, Target::$target, Cost::$burst, Cost::$long).await;
            }
        )*
    };
}

// What a short fault costs, and one that lasts for an invocation: the table of OPERATIONS.md, "What a fault of AWS costs".
matrix! {
    worker_under_faults_of_claims: Worker Claim costs Nothing, Later;
    worker_under_faults_of_outcomes: Worker Outcome costs Nothing, TwiceAndFlagged;
    worker_under_faults_of_settings: Worker Settings costs Later, Later;
    worker_under_faults_of_health: Worker Health costs Nothing, Nothing;
    worker_under_faults_of_usage: Worker Usage costs Nothing, Nothing;
    worker_under_faults_of_queues: Worker Queue costs Nothing, Nothing;
    worker_under_faults_of_kms: Worker Kms costs Later, Later;
    immediate_send_under_faults_of_claims: Immediate Claim costs Nothing, Later;
    immediate_send_under_faults_of_outcomes: Immediate Outcome costs Nothing, Unrecorded;
    immediate_send_under_faults_of_settings: Immediate Settings costs Later, Later;
    immediate_send_under_faults_of_health: Immediate Health costs Nothing, Nothing;
    immediate_send_under_faults_of_usage: Immediate Usage costs Nothing, Nothing;
    immediate_send_under_faults_of_kms: Immediate Kms costs Later, Later;
    queued_send_under_faults_of_queues: Queued Queue costs Later, Later;
}
