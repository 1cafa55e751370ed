//! A series: runs one after another, with an AWS and providers of their own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use comms_core::{Clock, IdempotencyKey, request::Submission};
use comms_testkit::{http::HttpServer, runtime_api::RuntimeApi};
use comms_tests::{World, accounts::Kind, pipeline_with};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{
    clock::SeriesClock,
    expectation::{Expectation, Expected},
    plan::{Company, Plan, Point, Sending, Way, settings},
    process::{Ending, Process, impatient},
    queue::Queues,
    scenario::{Scenario, plain},
};

/// More batches than any run takes.
const MAX_BATCHES: u32 = 200;
/// Longer than a lease of an invocation of this suite, and than the queues' visibility timeout.
const BEYOND_A_LEASE: Duration = Duration::from_secs(200);

/// One series of runs.
pub(super) struct Series {
    world: World,
    _api: HttpServer,
    runtime: RuntimeApi,
    scenario: Arc<Scenario>,
    clock: Arc<SeriesClock>,
    /// Of a producer, and of the event source mapping.
    sqs: aws_sdk_sqs::Client,
    processes: u64,
}

/// A run as it goes on.
struct Run {
    plan: Arc<Plan>,
    queues: Queues,
    /// Requests with their deliveries.
    accepted: Vec<(String, Vec<Expected>)>,
    /// What the messages say that move to the dead-letter queue: of each group one.
    poison: Vec<Vec<String>>,
    messages: u64,
    batches: u32,
    /// The messages as the local AWS has them: URL of the queue and receipt handle.
    on_queues: Vec<(String, String)>,
    /// One that is a communication.
    first: Option<Value>,
}

impl Series {
    /// Starts one. In a series without WhatsApp nobody has settings for that.
    pub(super) async fn start(whatsapp: bool) -> Self {
        let tenants = settings(whatsapp);
        let accounts: HashMap<_, _> = tenants
            .iter()
            .flat_map(|(_, channels)| channels)
            .flat_map(|(_, chain)| &chain.accounts)
            .map(|account| (account.key(), account.clone()))
            .collect();
        let mut world = World::with(|mut server, _| {
            for account in accounts
                .values()
                .filter(|account| account.kind == Kind::Smtp)
            {
                server = server.credentials(account.user(), account.secret());
            }
            server
        })
        .await;
        let api = world.api().await;
        for (tenant, channels) in &tenants {
            let document = channels.iter().map(|(channel, chain)| {
                let document = chain.document(tenant, world.smtp.port(), &api.url());
                ((*channel).to_owned(), document)
            });
            let document = document.collect::<serde_json::Map<_, _>>().into();
            world.put_settings(tenant, document).await.expect(201);
        }
        let clock = Arc::new(SeriesClock::new());
        let sdk = impatient(&world.sdk_of("send"));
        let resources = world.aws.resources();
        let pipeline = pipeline_with(&sdk, resources, &world.ca.pem(), clock.clone());
        let queues = [&resources.queue_url, &resources.urgent_queue_url];
        let queue = comms_send::Queue::new(&sdk, queues[0], queues[1]);
        world.send.pipeline = pipeline;
        world.send.queue = queue;
        Self {
            scenario: Scenario::around(&world.aws, &world.smtp, &api, accounts),
            sqs: aws_sdk_sqs::Client::new(&world.aws.sdk_config()),
            _api: api,
            runtime: RuntimeApi::start().await,
            clock,
            processes: 0,
            world,
        }
    }

    /// Plays a run from its beginning to its end, and judges it.
    pub(super) async fn play(&mut self, plan: &Arc<Plan>, expectation: &mut Expectation) {
        let seed = plan.seed;
        // What providers did in the last run is forgiven.
        self.clock.advance(Duration::from_hours(1));
        self.scenario.begin(plan);
        let mut run = Run {
            plan: plan.clone(),
            queues: Queues::default(),
            accepted: Vec::new(),
            poison: Vec::new(),
            messages: 0,
            batches: 0,
            on_queues: Vec::new(),
            first: None,
        };
        let started = self.processes;
        self.bring(&mut run).await;
        self.collect(&mut run).await;
        loop {
            if run.queues.next_time().is_none() && self.scenario.first_kill_is_due() {
                // What failed before kept it from the point where it was to be killed. What is done is repeated, and
                // is claimed in vain.
                self.scenario.kill_next(Point::Claiming);
                let record = run.first.clone().unwrap();
                run.queues.bring_again(record, self.clock.now());
                run.batches = 0;
            }
            let Some(time) = run.queues.next_time() else {
                break;
            };
            self.clock.advance_to(time);
            if let Err(error) = self.work(&mut run).await {
                expectation.wrong(seed, error);
                break;
            }
            run.batches += 1;
            if run.batches > MAX_BATCHES {
                expectation.wrong(seed, "it does not come to an end");
                break;
            }
        }
        let observed = self.scenario.end();
        self.delete(&run).await;
        let processes = self.processes - started;
        expectation.run(seed, &observed, run.messages, run.batches.into(), processes);
        for (request, expected) in &run.accepted {
            let answer = self.world.status(request).await;
            let deliveries = answer.body["deliveries"].as_array().cloned();
            let deliveries = deliveries.unwrap_or_default();
            for expected in expected {
                let is_it = |said: &&Value| said["deliveryId"] == expected.delivery.as_str();
                let said = deliveries.iter().find(is_it).unwrap_or(&Value::Null);
                expectation.delivery(seed, expected, said, &observed);
            }
        }
        self.check_table(&run, expectation).await;
        self.check_dead_letters(&run, expectation).await;
    }

    /// Brings everything that is to be sent.
    async fn bring(&mut self, run: &mut Run) {
        let plan = run.plan.clone();
        for sending in &plan.sendings {
            let mut body = sending.body.clone();
            if let Some(lasts) = sending.lasts {
                let end = self.clock.now() + SignedDuration::try_from(lasts).unwrap();
                body["expiresAt"] = json!(end.to_string());
            }
            let key = match sending.way {
                Way::Http { fault, twice } => {
                    if let Some((service, operation, times, fault)) = fault {
                        self.world.aws.fail_next(service, operation, times, fault);
                    }
                    let id = self.post(&body).await;
                    if twice {
                        assert_eq!(self.post(&body).await, id, "seed {}", plan.seed);
                    }
                    self.world.aws.clear_faults();
                    body["idempotencyKey"].as_str().unwrap().to_owned()
                }
                Way::Queue => {
                    let id = self.enqueue(&body.to_string()).await;
                    let own = body["idempotencyKey"].as_str();
                    own.map_or(id, ToOwned::to_owned)
                }
            };
            self.expect(run, sending, &body, &key).await;
        }
        for poison in &plan.poison {
            self.enqueue(poison).await;
            run.poison.push(vec![poison.clone()]);
        }
        if plan.conflict {
            let first = &plan.sendings[0];
            let mut other = first.body.clone();
            if other["idempotencyKey"].is_string() {
                other["title"] = json!(format!("Another text of poison-{}", plan.seed));
                self.enqueue(&other.to_string()).await;
                let mut either = vec![other.to_string()];
                // What was answered is known. Of two on the queue, it is the one that is worked on first.
                if first.way == Way::Queue {
                    either.push(first.body.to_string());
                }
                run.poison.push(either);
            }
        }
    }

    /// POSTs it until it is accepted, as a caller does who is told to.
    async fn post(&self, body: &Value) -> String {
        for _ in 0..10 {
            let answer = self.world.post(body).await;
            match answer.status {
                200 | 202 | 207 => return answer.request_id(),
                503 => {}
                _ => panic!("{}", answer.text),
            }
        }
        panic!("it is never accepted");
    }

    /// Puts a message on the queue, as a producer does that does not come by HTTP, and returns SQS's id of it.
    async fn enqueue(&self, body: &str) -> String {
        let sent = self
            .sqs
            .send_message()
            .queue_url(&self.world.aws.resources().queue_url)
            .message_body(body)
            .send()
            .await
            .unwrap();
        sent.message_id.unwrap()
    }

    /// Remembers what is to become of a communication.
    async fn expect(&self, run: &mut Run, sending: &Sending, body: &Value, key: &str) {
        let submission = Submission::parse(body.to_string().as_bytes()).unwrap();
        let key = IdempotencyKey::parse(key).unwrap();
        let pipeline = &self.world.send.pipeline;
        let identified = pipeline.identify(&submission.request, &key).await.unwrap();
        let recipients = submission.request.recipients.iter();
        let addresses = recipients.flat_map(|recipient| {
            submission
                .request
                .channels
                .iter()
                .map(|channel| match channel {
                    comms_core::Channel::Email => recipient
                        .email
                        .as_ref()
                        .map(|email| email.as_str().to_owned()),
                    comms_core::Channel::Whatsapp => recipient
                        .phone_number
                        .as_ref()
                        .map(|phone| plain(phone.as_str())),
                })
        });
        let expected: Vec<_> = identified
            .queued()
            .into_iter()
            .zip(addresses)
            .map(|(delivery, address)| Expected {
                delivery: delivery.id.to_string(),
                address,
                holds: sending.holds,
            })
            .collect();
        for expected in &expected {
            if let Some(address) = &expected.address {
                self.scenario.expect(address, &expected.delivery);
            }
        }
        run.accepted.push((identified.id().to_string(), expected));
    }

    /// Takes off the queues what is there.
    async fn collect(&self, run: &mut Run) {
        loop {
            let (url, messages, records) = self.world.take_batch().await;
            if records.is_empty() {
                return;
            }
            for (message, record) in messages.iter().zip(records) {
                run.messages += 1;
                let handle = message.receipt_handle().unwrap().to_owned();
                run.on_queues.push((url.to_owned(), handle));
                if !message.body().unwrap().contains("poison-") {
                    run.first.get_or_insert_with(|| record.clone());
                }
                run.queues.put(record, self.clock.now());
            }
        }
    }

    /// Deletes what was taken off them, so that no later run gets it.
    async fn delete(&self, run: &Run) {
        for (url, handle) in &run.on_queues {
            let delete = self.sqs.delete_message().queue_url(url);
            delete.receipt_handle(handle).send().await.unwrap();
        }
    }

    /// Hands out one batch.
    async fn work(&mut self, run: &mut Run) -> Result<(), String> {
        let nth = run.batches;
        self.scenario.trouble(Plan::is_troubled(nth));
        let batch = run.queues.receive(self.clock.now());
        let company = if self.scenario.first_kill_is_due() {
            Company::Alone
        } else {
            run.plan.company(nth)
        };
        let endings = match company {
            Company::Alone => vec![self.worker(None).invoke(&batch).await?],
            Company::Twins => {
                let one = self.worker(None);
                let other = self.worker(Some(&one));
                let (one, other) = tokio::join!(one.invoke(&batch), other.invoke(&batch));
                vec![one?, other?]
            }
            Company::Overtaken(at) => {
                let slow = self.worker(None);
                let mut held = self.scenario.hold(&slow, at);
                let first = slow.invoke(&batch);
                tokio::pin!(first);
                tokio::select! {
                    // It never came to that point.
                    ending = &mut first => vec![ending?],
                    _ = &mut held.reached => {
                        self.clock.advance(BEYOND_A_LEASE);
                        let fast = self.worker(Some(&slow));
                        let second = async {
                            let ending = fast.invoke(&batch).await;
                            held.release();
                            ending
                        };
                        // It may be killed where it stands, for what else it is doing.
                        let (first, second) = tokio::join!(first, second);
                        vec![first?, second?]
                    }
                }
            }
        };
        self.scenario.forget_hold();
        let asked = self.scenario.take_waits();
        run.queues
            .change_visibility(&batch, &asked, self.clock.now());
        // SQS deletes what anybody says is done.
        for (place, record) in batch.iter().enumerate() {
            let id = record["messageId"].as_str().unwrap();
            let is_done = endings.iter().any(|ending| match ending {
                Ending::Answered(failed) => !failed.iter().any(|failed| failed == id),
                Ending::Killed => false,
            });
            if is_done {
                let again = run.plan.comes_again(nth, place);
                let again = again.then(|| self.clock.now() + Duration::from_secs(1));
                run.queues.done(id, again);
            }
        }
        Ok(())
    }

    /// A worker process: one that lives, other than `but`, or a new one.
    fn worker(&mut self, but: Option<&Process>) -> Arc<Process> {
        if let Some(process) = self.scenario.anybody(but) {
            return process;
        }
        self.processes += 1;
        let mut variables = self.world.variables("worker");
        variables.push(("LOG_LEVEL".to_owned(), "info".to_owned()));
        let process = Process::start(&self.runtime, self.processes, &self.clock.file(), variables);
        let process = Arc::new(process);
        self.scenario.enter(&process);
        process
    }

    /// That nobody is left in the middle of anything.
    async fn check_table(&self, run: &Run, expectation: &mut Expectation) {
        let table = &self.world.aws.resources().deliveries_table;
        let is_of_run = |id: &Value| run.accepted.iter().any(|(request, _)| id == request);
        for item in self.world.aws.items(table).await.unwrap() {
            if item["status"]["S"] == "sending" && is_of_run(&item["pk"]["S"]) {
                expectation.wrong(run.plan.seed, format!("left behind: {item}"));
            }
        }
    }

    /// That what is no communication lies in the dead-letter queue with a reason, and nothing else.
    async fn check_dead_letters(&self, run: &Run, expectation: &mut Expectation) {
        let seed = run.plan.seed;
        let letters = self.world.dead_letters().await;
        let mut found = HashSet::new();
        for letter in &letters {
            let body = letter["body"].as_str().unwrap();
            // Those of earlier runs are still there.
            if !body.contains(&format!("-{seed}")) {
                continue;
            }
            if !letter["attributes"]["reason"].is_string() {
                expectation.wrong(seed, format!("dead letter without a reason: {letter}"));
            }
            // One whose worker was killed in the middle may lie there twice.
            found.insert(body);
        }
        for either in &run.poison {
            let dead_lettered = either.iter().filter(|body| found.remove(body.as_str()));
            match dead_lettered.count() {
                1 => expectation.dead_letter(),
                0 => expectation.wrong(seed, format!("lost: {either:?}")),
                _ => expectation.wrong(seed, format!("both dead letters: {either:?}")),
            }
        }
        for body in found {
            expectation.wrong(seed, format!("dead letter: {body}"));
        }
    }
}
