//! Every fault of AWS's side, at every kind of request, for both functions that send: the message is accepted once and
//! recorded, or the second copy is flagged where nothing else is possible.
//!
//! Each case has a clinic, a process and a proxy of its own, and all cases of one test go at the same time. A fault
//! either happens to the first two requests of its kind, or to all for as long as the first invocation lasts; then the
//! process is gone, and a new one gets the message as SQS brings it again, or the caller repeats its request.

mod target;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_types::{SdkConfig, sdk_config::SharedCredentialsProvider};
use comms_core::Clock as _;
use comms_testkit::{
    clock::ManualClock,
    fault_proxy::{FaultProxy, ProxyFault},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use comms_tests::{
    ApiResponse, FROM, PASSWORD, World, communication, email, entry, handle_records, post_to,
    record, worker_with,
};
use target::{Target, is_claim_of_whatsapp};

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
/// When a message was received first that is received again: long enough ago that its process may have ended.
const FIRST_RECEIVED: Duration = Duration::from_secs(200);
/// Cases at the same time: more are so slow that requests without a fault run out of time.
const CONCURRENT_CASES: usize = 11;
/// Requests that a short fault spoils.
const BURST: usize = 2;

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
    /// For a clinic that sends nothing again of which it is not known whether it arrived.
    WorkerHolds,
    /// A message that was received before.
    WorkerAgain,
    /// While the caller waits.
    Immediate,
    /// The same; the caller asks again at once, whatever it was answered.
    ImmediateRepeated,
    /// To a recipient by two channels, for one of which there is no provider.
    ImmediateBoth,
    /// The same, whose second delivery cannot be claimed and is left for the queue.
    ImmediateLeft,
    /// By the queue.
    Queued,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Worker | Self::WorkerHolds | Self::WorkerAgain => "worker",
            Self::Immediate
            | Self::ImmediateRepeated
            | Self::ImmediateBoth
            | Self::ImmediateLeft
            | Self::Queued => "send",
        }
    }

    fn is_immediate(self) -> bool {
        self.name() == "send" && self != Self::Queued
    }

    fn has_both_channels(self) -> bool {
        matches!(self, Self::ImmediateBoth | Self::ImmediateLeft)
    }
}

/// What a message cost its patient and its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// One copy, by the first invocation or answer.
    Nothing,
    /// One copy, by a later one.
    Later,
    /// One copy. The answer said so, and that it was not recorded; later it is.
    Unrecorded,
    /// One copy, which is never recorded as sent: the answer said so, or the clinic holds.
    NeverRecorded,
    /// Two copies, and the delivery says so.
    TwiceAndFlagged,
}

/// What the first invocation came to.
struct First {
    /// Whether the message was sent by it, or put on the queue where that was asked for.
    was_ended: bool,
    /// Whether its answer said that the ledger does not know that.
    was_unrecorded: bool,
    /// The request, where an answer named it.
    id: Option<String>,
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
        let mut document = email(&own, FROM);
        if function == Function::WorkerHolds {
            document["email"]["onAmbiguous"] = json!("hold");
        }
        world.put_settings(&clinic, document).await.expect(201);
        let mut message = communication();
        message["metadata"]["clinicId"] = json!(clinic);
        message["priority"] = json!("normal");
        message["recipients"] = json!([{"email": format!("{clinic}@example.com")}]);
        if function.is_immediate() {
            message["strategy"] = json!("immediate");
        }
        if function.has_both_channels() {
            message["channels"] = json!(["email", "whatsapp"]);
            message["recipients"][0]["phoneNumber"] = json!("+4915112345678");
        }
        let proxy = FaultProxy::start(world.aws.endpoint()).await.unwrap();
        let mut timeouts = aws_sdk_dynamodb::config::timeout::TimeoutConfig::builder();
        if fault == ProxyFault::Hang {
            timeouts
                .set_operation_attempt_timeout(Some(ATTEMPT_TIMEOUT))
                .set_operation_timeout(Some(OPERATION_TIMEOUT));
        }
        let timeouts = timeouts.build();
        let sdk = world.sdk_of(function.name());
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
            if function == Function::ImmediateLeft && is_claim_of_whatsapp(call) {
                return Some(ProxyFault::Throttle);
            }
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
    async fn post(&self, is_new: bool, send: &comms_send::Deps) -> ApiResponse {
        let key = format!("key-{}", self.clinic);
        let time = if is_new {
            self.time()
        } else {
            WHOLE_INVOCATION
        };
        post_to(send, &self.message, &[("idempotency-key", &key)], time).await
    }

    /// SQS's id of its message: all cases of a test share the table of starts.
    fn message_id(&self) -> String {
        format!("message-{}", self.clinic)
    }

    /// The message as SQS delivers it.
    fn record(&self, body: &Value) -> Value {
        let mut message = record(&self.message_id(), &body.to_string());
        if self.function == Function::WorkerAgain {
            let received = (self.clock.now() - FIRST_RECEIVED).as_millisecond();
            message["attributes"]["ApproximateReceiveCount"] = json!("2");
            message["attributes"]["ApproximateFirstReceiveTimestamp"] = json!(received.to_string());
        }
        message
    }

    /// The first invocation, with the fault.
    async fn first(&self) -> First {
        if self.function.name() == "worker" {
            let key = format!("key-{}", self.clinic);
            let posted = self.world.post_with_key(&self.message, &key).await;
            let id = posted.expect(202).request_id();
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
            let records = [self.record(&body), record("poison", &poison)];
            let failed = handle_records(&worker, &records, self.time()).await;
            return First {
                was_ended: !failed.contains(&self.message_id()),
                was_unrecorded: false,
                id: Some(id),
            };
        }
        let send = self.world.send_with(&self.sdk, self.clock.clone());
        let answer = self.post(true, &send).await;
        self.expect(&answer, &[200, 202, 207, 503]);
        if self.function == Function::ImmediateRepeated {
            let other = self.world.send_with(&self.sdk, self.clock.clone());
            let repeated = self.post(true, &other).await;
            self.expect(&repeated, &[200, 202, 503]);
        }
        let mail = &answer.body["deliveries"][0];
        let is_queued = self.function == Function::Queued && answer.status == 202;
        First {
            was_ended: is_queued || mail["status"] == "sent",
            was_unrecorded: mail["recorded"] == false,
            id: (answer.status != 503).then(|| answer.request_id()),
        }
    }

    fn expect(&self, answer: &ApiResponse, expected: &[u16]) {
        assert!(
            expected.contains(&answer.status),
            "{:?} {}",
            self.fault,
            answer.text
        );
    }

    /// What the caller does who got no answer: it asks again with the same key.
    async fn second(&self, id: Option<String>) -> String {
        if let Some(id) = id {
            return id;
        }
        let send = self.world.send_with(&self.sdk, self.clock.clone());
        let answer = self.post(false, &send).await;
        self.expect(&answer, &[200, 202, 207]);
        answer.request_id()
    }

    /// That the message was accepted and recorded, and what that cost.
    async fn cost(&self, first: &First, id: &str) -> Cost {
        let answer = self.world.status(id).await.expect(200);
        let delivery = &answer.body["deliveries"][0];
        let (copies, is_flagged) = (self.copies(), delivery["possibleDuplicate"] == true);
        let case = format!("{:?}: {copies} copies of {delivery}", self.fault);
        if self.function.has_both_channels() {
            assert_eq!(
                answer.body["deliveries"][1]["reason"]["code"], "NO_PROVIDER",
                "{case}"
            );
        }
        // The ledger's clock is long past the case's own: who has not recorded it by now does not.
        let is_known = first.was_unrecorded || self.function == Function::WorkerHolds;
        if delivery["status"] == "unknown" && is_known && copies == 1 {
            return Cost::NeverRecorded;
        }
        assert_eq!(delivery["status"], "sent", "{case}");
        match copies {
            2 if is_flagged => Cost::TwiceAndFlagged,
            // A flag on the only copy would be false.
            1 if is_flagged => panic!("{case}"),
            1 if first.was_unrecorded => Cost::Unrecorded,
            1 if first.was_ended => Cost::Nothing,
            1 => Cost::Later,
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
    for ((lasts, case), first) in cases.iter().zip(firsts) {
        assert!(
            case.proxy.spoiled() > 0,
            "{target:?} {lasts:?} {:?} met no request",
            case.fault
        );
        case.proxy.heal();
        case.clock.advance(BEYOND_A_LEASE);
        let id = case.second(first.id.clone()).await;
        ended.push((first, id));
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
    for ((lasts, case), (first, id)) in cases.iter().zip(&ended) {
        let cost = case.cost(first, id).await;
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
    worker_under_faults_of_outcomes: Worker Outcome costs Nothing, Nothing;
    worker_under_faults_of_outcomes_and_queues: Worker OutcomeAndQueue costs Nothing, TwiceAndFlagged;
    worker_under_faults_of_settings: Worker Settings costs Later, Later;
    worker_under_faults_of_health: Worker Health costs Nothing, Nothing;
    worker_under_faults_of_usage: Worker Usage costs Nothing, Nothing;
    worker_under_faults_of_queues: Worker Queue costs Nothing, Nothing;
    worker_under_faults_of_kms: Worker Kms costs Later, Later;
    worker_of_a_clinic_that_holds_under_faults_of_claims: WorkerHolds Claim costs Nothing, Later;
    worker_of_a_clinic_that_holds_under_faults_of_outcomes: WorkerHolds Outcome costs Nothing, Nothing;
    worker_of_a_clinic_that_holds_under_faults_of_both: WorkerHolds OutcomeAndQueue costs Nothing, NeverRecorded;
    worker_at_a_second_receive_under_faults_of_starts: WorkerAgain Start costs Nothing, Nothing;
    worker_at_a_second_receive_under_faults_of_outcomes: WorkerAgain Outcome costs Nothing, Nothing;
    immediate_send_under_faults_of_claims: Immediate Claim costs Nothing, Later;
    immediate_send_under_faults_of_outcomes: Immediate Outcome costs Nothing, Unrecorded;
    immediate_send_under_faults_of_outcomes_and_queues: Immediate OutcomeAndQueue costs Nothing, NeverRecorded;
    immediate_send_under_faults_of_settings: Immediate Settings costs Later, Later;
    immediate_send_under_faults_of_health: Immediate Health costs Nothing, Nothing;
    immediate_send_under_faults_of_usage: Immediate Usage costs Nothing, Nothing;
    immediate_send_under_faults_of_kms: Immediate Kms costs Later, Later;
    immediate_send_by_two_channels_under_faults_of_outcomes: ImmediateBoth Outcome costs Nothing, Unrecorded;
    immediate_send_with_a_rest_under_faults_of_queues: ImmediateLeft Queue costs Later, Later;
    repeated_immediate_send_under_faults_of_claims: ImmediateRepeated Claim costs Nothing, Later;
    repeated_immediate_send_under_faults_of_outcomes: ImmediateRepeated Outcome costs Nothing, Unrecorded;
    queued_send_under_faults_of_queues: Queued Queue costs Later, Later;
    queued_send_under_faults_of_settings: Queued Settings costs Nothing, Later;
    queued_send_under_faults_of_kms: Queued Kms costs Nothing, Later;
}
