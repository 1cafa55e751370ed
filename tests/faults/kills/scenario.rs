//! What surrounds the workers of a series: AWS and the providers ask here what becomes of every call and every message.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use comms_testkit::{
    aws::{Fault, LocalAws, Moment, PassingCall},
    http::{HttpServer, ReceivedRequest, Reply},
    smtp::{Action, Reached, SmtpServer, Stage},
};
use comms_tests::accounts::{Account, Behavior, Kind, seen_in};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use super::{
    plan::{AwsFault, InjectedFailure, Kill, Plan, Point},
    process::Process,
};

/// The surroundings of a series.
pub(super) struct Scenario {
    aws: LocalAws,
    /// By what they are known by.
    accounts: HashMap<String, Account>,
    state: Mutex<SeriesState>,
}

/// Who has claimed a delivery.
struct Claim {
    /// The process's key.
    process: String,
    /// The request by which it did: made again, it is no outcome.
    request: Arc<Value>,
}

/// A process that is to stand still.
struct Hold {
    process: String,
    at: Point,
    reached: oneshot::Sender<()>,
    release: Arc<Notify>,
}

#[derive(Default)]
struct SeriesState {
    plan: Option<Arc<Plan>>,
    /// Those that live, by key.
    processes: HashMap<String, Arc<Process>>,
    /// Deliveries by address, as the table names them.
    deliveries: HashMap<String, String>,
    claims: HashMap<String, Claim>,
    /// Tries by account and address.
    tries: HashMap<(u64, String), u32>,
    /// What is decided of a message whose recipient the mail server knows already.
    decided: HashMap<String, Behavior>,
    logins: HashMap<u64, u32>,
    /// How often a provider took a message to an address.
    taken: HashMap<String, u32>,
    kills: VecDeque<Kill>,
    killed_at: Vec<Point>,
    faults: Vec<AwsFault>,
    faults_had: u64,
    /// Whether anything goes wrong now.
    is_troubled: bool,
    hold: Option<Hold>,
    /// How long SQS was asked to let a message wait, by its receipt handle.
    waits: HashMap<String, Duration>,
}

/// A process that was told to stand still.
pub(super) struct Held {
    /// Is told when it does.
    pub(super) reached: oneshot::Receiver<()>,
    release: Arc<Notify>,
}

impl Held {
    /// Lets it go on.
    pub(super) fn release(&self) {
        self.release.notify_one();
    }
}

/// What a run has done, as the surroundings saw it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) taken: HashMap<String, u32>,
    pub(super) killed_at: Vec<Point>,
    pub(super) faults: u64,
}

impl Scenario {
    /// Surrounds whoever uses these.
    pub(super) fn around(
        aws: &LocalAws,
        smtp: &SmtpServer,
        api: &HttpServer,
        accounts: HashMap<String, Account>,
    ) -> Arc<Self> {
        let scenario = Arc::new(Self {
            aws: aws.clone(),
            accounts,
            state: Mutex::default(),
        });
        // Not to be kept alive by what it holds.
        let watching = Arc::downgrade(&scenario);
        aws.watch(move |call| {
            let scenario = watching.upgrade();
            Box::pin(async move { scenario?.call(&call).await })
        });
        let taking = Arc::downgrade(&scenario);
        api.answer_with(move |request| taking.upgrade()?.request(request));
        let hearing = Arc::downgrade(&scenario);
        smtp.act_with(move |reached| hearing.upgrade()?.stage(reached));
        scenario
    }

    fn state(&self) -> MutexGuard<'_, SeriesState> {
        self.state.lock().unwrap()
    }

    /// Begins a run.
    pub(super) fn begin(&self, plan: &Arc<Plan>) {
        *self.state() = SeriesState {
            plan: Some(plan.clone()),
            kills: plan.kills.iter().copied().collect(),
            faults: plan.faults.clone(),
            ..SeriesState::default()
        };
    }

    /// Ends it: whoever still lives is done away with.
    pub(super) fn end(&self) -> Seen {
        let state = std::mem::take(&mut *self.state());
        Seen {
            taken: state.taken,
            killed_at: state.killed_at,
            faults: state.faults_had,
        }
    }

    /// Makes a process known.
    pub(super) fn enter(&self, process: &Arc<Process>) {
        let mut state = self.state();
        state.processes.insert(process.key.clone(), process.clone());
    }

    /// A process that lives.
    pub(super) fn anybody(&self, but: Option<&Process>) -> Option<Arc<Process>> {
        let state = self.state();
        let mut keys: Vec<_> = state.processes.keys().collect();
        keys.sort();
        keys.retain(|key| but.is_none_or(|but| but.key != **key));
        keys.first().map(|key| state.processes[*key].clone())
    }

    /// Makes a delivery known by the address that it goes to.
    pub(super) fn expect(&self, address: &str, delivery: &str) {
        let mut state = self.state();
        let known = format!("delivery#{delivery}");
        state.deliveries.insert(plain(address), known);
    }

    /// Says whether anything may go wrong from now on, and whether anybody may be killed.
    pub(super) fn trouble(&self, is_troubled: bool) {
        self.state().is_troubled = is_troubled;
    }

    /// Whether a kill is still due.
    pub(super) fn first_kill_is_due(&self) -> bool {
        self.state().killed_at.is_empty()
    }

    /// Lets whoever next comes to this point be killed, whatever was planned.
    pub(super) fn kill_next(&self, at: Point) {
        self.state().kills = VecDeque::from([Kill { at, nth: 1 }]);
    }

    /// Lets a process stand still the next time that it comes to this point.
    pub(super) fn hold(&self, process: &Process, at: Point) -> Held {
        let (tell, reached) = oneshot::channel();
        let release = Arc::new(Notify::new());
        self.state().hold = Some(Hold {
            process: process.key.clone(),
            at,
            reached: tell,
            release: release.clone(),
        });
        Held { reached, release }
    }

    /// Whoever was to stand still and never came to that point need not any more.
    pub(super) fn forget_hold(&self) {
        self.state().hold = None;
    }

    /// How long SQS was asked to let messages wait since this was asked last, by receipt handle.
    pub(super) fn take_waits(&self) -> HashMap<String, Duration> {
        std::mem::take(&mut self.state().waits)
    }

    /// Kills the process `key` if that is due at this point; returns whether it is dead now.
    fn kill(&self, at: Point, key: &str) -> bool {
        let process = {
            let mut state = self.state();
            let is_it = |kill: &&mut Kill| kill.at == at;
            let is_alive = state.processes.contains_key(key);
            if !state.is_troubled || state.hold.is_some() || !is_alive {
                return false;
            }
            let Some(due) = state.kills.front_mut().filter(is_it) else {
                return false;
            };
            due.nth -= 1;
            if due.nth > 0 {
                return false;
            }
            let Some(process) = state.processes.remove(key) else {
                return false;
            };
            state.kills.pop_front();
            state.killed_at.push(at);
            process
        };
        process.kill();
        true
    }

    /// The same for the process that has claimed the delivery to this address.
    fn kill_sender(&self, at: Point, address: &str) -> bool {
        let sender = {
            let state = self.state();
            let claim = state
                .deliveries
                .get(address)
                .and_then(|delivery| state.claims.get(delivery));
            claim.map(|claim| claim.process.clone())
        };
        sender.is_some_and(|key| self.kill(at, &key))
    }

    /// What becomes of a call of AWS.
    async fn call(&self, call: &PassingCall) -> Option<Fault> {
        let key = &call.access_key_id;
        if !self.state().processes.contains_key(key) {
            // The test's own, or one whose process is gone.
            return None;
        }
        if let Some(point) = self.point(call).await {
            if self.kill(point, key) {
                return Some(Fault::Drop);
            }
            self.stand_still(point, key).await;
        }
        let failure = self.failure(call);
        if call.moment == Moment::Arrived && call.call.operation == "ChangeMessageVisibilityBatch" {
            self.note_waits(&call.request, failure);
        }
        match failure? {
            InjectedFailure::Before(fault) | InjectedFailure::After(fault) => Some(fault),
            InjectedFailure::Late(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                None
            }
        }
    }

    /// Where a worker is that makes this call.
    async fn point(&self, call: &PassingCall) -> Option<Point> {
        let is_done = match call.moment {
            Moment::Arrived => false,
            Moment::Answered(status) if status.is_success() => true,
            Moment::Answered(_) => return None,
        };
        match (call.call.operation.as_str(), is_done) {
            ("GetItem" | "Decrypt", false) => Some(Point::Reading),
            ("PutItem", true) => Some(Point::Recording),
            ("ChangeMessageVisibilityBatch", true) => Some(Point::LettingWait),
            ("SendMessage", true) => Some(Point::SettingAside),
            ("UpdateItem", _) => self.point_of_write(call, is_done).await,
            _ => None,
        }
    }

    /// A delivery's item tells a claim from an outcome: whoever writes makes it `sending`, or finds it so as its own.
    async fn point_of_write(&self, call: &PassingCall, is_done: bool) -> Option<Point> {
        let request = &call.request;
        let key = |name: &str| request["Key"][name]["S"].as_str();
        let (table, pk, sk) = (request["TableName"].as_str()?, key("pk")?, key("sk")?);
        if !sk.starts_with("delivery#") {
            return None;
        }
        let item = self.aws.item(table, pk, sk).await.unwrap();
        let is_sending = item.is_some_and(|item| item["status"]["S"] == "sending");
        let mut state = self.state();
        Some(match (is_done, is_sending) {
            (true, true) => {
                let claim = Claim {
                    process: call.access_key_id.clone(),
                    request: request.clone(),
                };
                state.claims.insert(sk.to_owned(), claim);
                Point::Claimed
            }
            (true, false) => Point::Ended,
            (false, true) => match state.claims.get(sk) {
                Some(claim) if claim.process == call.access_key_id && claim.request != *request => {
                    Point::Ending
                }
                _ => Point::Claiming,
            },
            (false, false) => Point::Claiming,
        })
    }

    async fn stand_still(&self, point: Point, key: &str) {
        let hold = {
            let mut state = self.state();
            let is_it = |hold: &mut Hold| hold.at == point && hold.process == key;
            state.hold.take_if(is_it)
        };
        if let Some(hold) = hold {
            let _ = hold.reached.send(());
            hold.release.notified().await;
        }
    }

    /// Whether a call fails, and how.
    fn failure(&self, call: &PassingCall) -> Option<InjectedFailure> {
        let mut state = self.state();
        if !state.is_troubled {
            return None;
        }
        let is_its_time = |failure: InjectedFailure| match failure {
            InjectedFailure::Before(_) => call.moment == Moment::Arrived,
            InjectedFailure::After(_) | InjectedFailure::Late(_) => call.moment != Moment::Arrived,
        };
        let fault = state.faults.iter_mut().find(|fault| {
            fault.times > 0
                && fault.service == call.call.service
                && fault.operation == call.call.operation
                && is_its_time(fault.failure)
        })?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        let failure = fault.failure;
        state.faults_had += 1;
        Some(failure)
    }

    /// Remembers what SQS was asked, as far as it does it.
    fn note_waits(&self, request: &Value, failure: Option<InjectedFailure>) {
        // Of what fails in part every second does, from the first on.
        let step = match failure {
            None
            | Some(
                InjectedFailure::Before(Fault::LoseAnswer)
                | InjectedFailure::After(_)
                | InjectedFailure::Late(_),
            ) => (0, 1),
            Some(InjectedFailure::Before(Fault::SomeEntries)) => (1, 2),
            Some(InjectedFailure::Before(_)) => return,
        };
        let mut state = self.state();
        let entries = request["Entries"].as_array().unwrap().iter();
        for entry in entries.skip(step.0).step_by(step.1) {
            let handle = entry["ReceiptHandle"].as_str().unwrap();
            let wait = entry["VisibilityTimeout"].as_u64().unwrap();
            state
                .waits
                .insert(handle.to_owned(), Duration::from_secs(wait));
        }
    }

    /// What an account does with a delivery this time.
    fn decide(&self, account: u64, address: &str) -> Option<Behavior> {
        let mut state = self.state();
        let plan = state.plan.clone()?;
        let tries = state
            .tries
            .entry((account, address.to_owned()))
            .or_default();
        *tries += 1;
        Some(plan.behavior(account, address, *tries - 1))
    }

    /// A message is at the end of its way: `true` where its sender is not to hear of that. It counts where it is taken.
    fn hand_over(&self, behavior: Behavior, address: &str) -> Fate {
        if self.kill_sender(Point::Offered, address) {
            return Fate::NotTaken;
        }
        if !behavior.takes() {
            return Fate::AsDecided;
        }
        *self.state().taken.entry(address.to_owned()).or_default() += 1;
        if self.kill_sender(Point::Taken, address) {
            Fate::TakenUnsaid
        } else {
            Fate::AsDecided
        }
    }

    /// What an API answers.
    fn request(&self, request: &ReceivedRequest) -> Option<Reply> {
        let seen = seen_in(request, &self.accounts)?;
        let account = &self.accounts[request.header("authorization")?];
        let address = plain(&seen.to);
        let behavior = self.decide(account.number, &address)?;
        Some(match self.hand_over(behavior, &address) {
            Fate::NotTaken | Fate::TakenUnsaid => Reply::close(),
            Fate::AsDecided => {
                let mut account = account.clone();
                account.behavior = behavior;
                account.reply()
            }
        })
    }

    /// What the mail server does.
    fn stage(&self, reached: Reached<'_>) -> Option<Action> {
        let account = self.accounts.get(reached.user?)?;
        if account.kind != Kind::Smtp {
            return None;
        }
        match (reached.stage, reached.recipient, reached.message) {
            (Stage::Auth, ..) => {
                let mut state = self.state();
                let plan = state.plan.clone()?;
                let logins = state.logins.entry(account.number).or_default();
                *logins += 1;
                plan.refuses_login(account.number, *logins - 1)
                    .then(|| Action::reply("535 5.7.8 no"))
            }
            (Stage::Rcpt, Some(address), _) => {
                let address = plain(address);
                let behavior = self.decide(account.number, &address)?;
                self.state().decided.insert(address, behavior);
                match behavior {
                    Behavior::PutsOff => Some(Action::reply("451 4.3.0 later")),
                    Behavior::RefusesTheRecipient => Some(Action::reply("550 5.1.1 nobody")),
                    Behavior::RefusesTheSender => Some(Action::reply("550 5.7.1 not you")),
                    Behavior::Takes
                    | Behavior::RefusesTheLogin
                    | Behavior::TakesAndHangsUp
                    | Behavior::HangsUp => None,
                }
            }
            (Stage::Body, _, Some(message)) => {
                let address = plain(message.rcpt_to.first()?);
                let behavior = self.state().decided.remove(&address)?;
                // A login is refused as a login, and then there is no message.
                let behavior = if behavior == Behavior::RefusesTheLogin {
                    Behavior::Takes
                } else {
                    behavior
                };
                match self.hand_over(behavior, &address) {
                    Fate::NotTaken => Some(Action::Close),
                    Fate::TakenUnsaid => Some(Action::AcceptThenClose),
                    Fate::AsDecided => match behavior {
                        Behavior::HangsUp => Some(Action::Close),
                        Behavior::TakesAndHangsUp => Some(Action::AcceptThenClose),
                        Behavior::Takes
                        | Behavior::PutsOff
                        | Behavior::RefusesTheLogin
                        | Behavior::RefusesTheSender
                        | Behavior::RefusesTheRecipient => None,
                    },
                }
            }
            _ => None,
        }
    }
}

/// What becomes of a message that a provider has in its hands.
enum Fate {
    /// What the account does with it.
    AsDecided,
    /// Its sender was killed, and it is not taken.
    NotTaken,
    /// It was taken, and its sender was killed before it heard of that.
    TakenUnsaid,
}

/// An address as every provider has it: Meta has no plus sign.
pub(super) fn plain(address: &str) -> String {
    address.trim_start_matches('+').to_owned()
}
