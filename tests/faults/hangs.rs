//! A primary that says nothing any more, at each stage of a conversation, with a fallback that works: the delivery ends
//! inside its invocation, and goes to the fallback wherever that is allowed.
//!
//! The clock stands still from when the primary hangs until it is given up, and goes at once to what is waited for.

use std::time::Duration;

use comms_testkit::{
    http::{ConnectAction, HttpServer, Reply},
    smtp::{Action, Event, SmtpServer, Stage},
};
use comms_tests::{FROM, Mail, World, communication, email, entry, handle_records, record};
use serde_json::{Value, json};
use tokio::time::Instant;

/// What Lambda gives an invocation.
const INVOCATION: Duration = Duration::from_secs(30);
/// What of that is left when the worker has kept two seconds for its answer.
const WORKING: Duration = Duration::from_secs(28);
const FALLBACK_USER: &str = "fallback-user";
const FALLBACK_PASSWORD: &str = "planted-fallback-password";

/// A clinic with a primary that hangs and a mail server that does not behind it.
struct Rig {
    world: World,
    fallback: SmtpServer,
    clinic: String,
}

/// How an invocation went.
#[derive(Debug)]
struct Ended {
    /// From when the primary hung.
    gave_up: Duration,
    total: Duration,
    requeued: bool,
}

impl Rig {
    async fn new() -> Self {
        let world = World::new().await;
        let fallback = world.server(FALLBACK_USER, FALLBACK_PASSWORD).start().await;
        Self {
            world,
            fallback,
            clinic: String::new(),
        }
    }

    /// A clinic of its own for every case, so that none is known to hang.
    async fn clinic(&mut self, id: &str, primary: &Value, policy: &str) {
        id.clone_into(&mut self.clinic);
        let mut document = email(primary, FROM);
        document["email"]["fallback"] = json!([entry(
            self.fallback.port(),
            FALLBACK_USER,
            FALLBACK_PASSWORD
        )]);
        document["email"]["onAmbiguous"] = json!(policy);
        self.world.put_settings(id, document).await.expect(201);
    }

    /// The same with nobody behind the primary.
    async fn clinic_without_fallback(&mut self, id: &str, primary: &Value) {
        id.clone_into(&mut self.clinic);
        let document = email(primary, FROM);
        self.world.put_settings(id, document).await.expect(201);
    }

    /// The clinic's one message, as its queue brings it, and the id that it has.
    async fn message(&self) -> (Value, String) {
        let mut body = communication();
        body["metadata"]["clinicId"] = json!(self.clinic);
        let key = format!("key-of-{}", self.clinic);
        let id = self
            .world
            .post_with_key(&body, &key)
            .await
            .expect(202)
            .request_id();
        body["idempotencyKey"] = json!(key);
        (record("message", &body.to_string()), id)
    }

    async fn delivery(&self, id: &str) -> Value {
        let status = self.world.status(id).await.expect(200);
        status.body["deliveries"][0].clone()
    }

    /// One invocation of the worker. `hangs` ends when the primary says nothing any more, `given_up` when the worker
    /// has turned away from it.
    async fn invoke<H, G>(
        &self,
        message: &Value,
        hangs: impl Future<Output = H>,
        given_up: impl Future<Output = G>,
    ) -> Ended {
        let records = [message.clone()];
        let working = async {
            let failed = handle_records(&self.world.worker, &records, INVOCATION).await;
            (failed, Instant::now())
        };
        let watching = async {
            hangs.await;
            tokio::time::pause();
            let hung = Instant::now();
            given_up.await;
            let gave_up = Instant::now();
            tokio::time::resume();
            (hung, gave_up)
        };
        let ((failed, end), (hung, gave_up)) = tokio::join!(working, watching);
        Ended {
            gave_up: gave_up - hung,
            total: end - hung,
            requeued: !failed.is_empty(),
        }
    }

    /// The same where the primary is the world's mail server and hangs at `stage`.
    async fn invoke_with_a_hang_at(&self, stage: Stage, message: &Value) -> Ended {
        let server = &self.world.smtp;
        let connection = server.connections() + 1;
        server.on(stage, Action::Hang);
        let hangs =
            server.wait_for_event(move |event| *event == Event::Reached { connection, stage });
        let given_up = server.wait_for_event(move |event| *event == Event::Closed { connection });
        self.invoke(message, hangs, given_up).await
    }

    /// The same where it is an API, after which the fallback is connected to.
    async fn invoke_with_a_hang_of(
        &self,
        api: &HttpServer,
        at: HttpStage,
        message: &Value,
    ) -> Ended {
        let connections = api.connections() + 1;
        api.clear_requests();
        match at {
            HttpStage::Tls => api.on_connect(ConnectAction::Hang),
            HttpStage::Answer => api.on("POST", SEND, Reply::hang()),
            HttpStage::Body => {
                let reply = Reply::new(202).header("x-message-id", "id").body("1234");
                api.on("POST", SEND, reply.stall(2));
            }
        }
        let hangs = async {
            match at {
                HttpStage::Tls => api.wait_for_connections(connections).await,
                HttpStage::Answer | HttpStage::Body => drop(api.wait_for_requests(1).await),
            }
        };
        let next = Event::Connected {
            connection: self.fallback.connections() + 1,
        };
        let given_up = self.fallback.wait_for_event(move |event| *event == next);
        self.invoke(message, hangs, given_up).await
    }
}

const SEND: &str = "/v3/mail/send";

/// Where an API hangs.
#[derive(Debug, Clone, Copy)]
enum HttpStage {
    Tls,
    Answer,
    Body,
}

/// Position, disposition and kind of each attempt.
fn attempts(delivery: &Value) -> Vec<[&str; 3]> {
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts
        .map(|attempt| {
            ["position", "disposition", "kind"]
                .map(|name| attempt[name].as_str().unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn a_mail_server_that_hangs_before_the_message_is_given_up_for_the_fallback() {
    let mut rig = Rig::new().await;
    for (n, stage) in [
        Stage::Connect,
        Stage::Greeting,
        Stage::Ehlo,
        Stage::StartTls,
        Stage::Tls,
        Stage::EhloAfterTls,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
    ]
    .into_iter()
    .enumerate()
    {
        // Nothing has gone out: the policy has no say.
        let policy = if n % 2 == 0 { "failover" } else { "hold" };
        let primary = rig.world.entry();
        rig.clinic(&format!("clinic-{n}"), &primary, policy).await;
        let (message, id) = rig.message().await;
        let ended = rig.invoke_with_a_hang_at(stage, &message).await;
        // A command has 8 seconds; the login, which may be answered late, the primary's share of the time.
        let most = if stage == Stage::Auth { 20 } else { 8 };
        assert!(ended.gave_up.as_secs() <= most, "{stage:?}: {ended:?}");
        assert!(ended.total < WORKING, "{stage:?}: {ended:?}");
        assert!(!ended.requeued, "{stage:?}");
        let delivery = rig.delivery(&id).await;
        assert_eq!(delivery["status"], "sent", "{stage:?}");
        assert_eq!(delivery["possibleDuplicate"], Value::Null, "{stage:?}");
        assert_eq!(
            attempts(&delivery),
            [["primary", "transient", "timeout"], ["fallback[0]", "", ""]],
            "{stage:?}"
        );
        assert_eq!(rig.fallback.messages().len(), n + 1, "{stage:?}");
    }
    assert!(rig.world.smtp.messages().is_empty());
}

#[tokio::test]
async fn mail_server_that_hangs_over_the_message_leaves_the_policy_to_decide() {
    let mut rig = Rig::new().await;
    // All of the 26.5 s that there are but six, which are enough for the fallback: nobody waits for the outcome, and a
    // late reply is no doubt.
    for (policy, most, status, copies) in [("hold", 20, "unknown", 0), ("failover", 20, "sent", 1)]
    {
        let primary = rig.world.entry();
        rig.clinic(&format!("clinic-{policy}"), &primary, policy)
            .await;
        let (message, id) = rig.message().await;
        let ended = rig.invoke_with_a_hang_at(Stage::Body, &message).await;
        // Less what was used up before it hung.
        let gave_up = ended.gave_up.as_secs();
        assert!((most - 2..=most).contains(&gave_up), "{policy}: {ended:?}");
        assert!(ended.total < WORKING, "{policy}: {ended:?}");
        assert!(!ended.requeued, "{policy}");
        let delivery = rig.delivery(&id).await;
        let attempts = attempts(&delivery);
        assert_eq!(attempts[0], ["primary", "ambiguous", "timeout"]);
        assert_eq!(attempts.len(), 1 + copies);
        assert_eq!(delivery["status"], status, "{policy}: {delivery}");
        assert_eq!(delivery["possibleDuplicate"] == true, copies > 0);
        assert_eq!(rig.fallback.messages().len(), copies, "{policy}");
    }
    assert!(rig.world.smtp.messages().is_empty());
}

/// Nobody's turn comes after it: it has all of the 26.5 s.
#[tokio::test]
async fn the_only_mail_server_is_waited_for_until_the_worker_has_to_answer() {
    let mut rig = Rig::new().await;
    let primary = rig.world.entry();
    rig.clinic_without_fallback("clinic-alone", &primary).await;
    let (message, id) = rig.message().await;
    let ended = rig.invoke_with_a_hang_at(Stage::Greeting, &message).await;
    assert!((24..=26).contains(&ended.gave_up.as_secs()), "{ended:?}");
    assert!(ended.total < WORKING, "{ended:?}");
    let delivery = rig.delivery(&id).await;
    assert_eq!(attempts(&delivery), [["primary", "transient", "timeout"]]);
}

#[tokio::test]
async fn hanging_api_fails_over_and_flags_a_possible_duplicate() {
    let mut rig = Rig::new().await;
    let api = rig.world.api().await;
    let primary = json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-key",
        "fromEmail": "hello@clinic.example", "apiUrl": api.url()}});
    for (n, (at, most, disposition)) in [
        (HttpStage::Tls, 5, "transient"),
        (HttpStage::Answer, 10, "ambiguous"),
        (HttpStage::Body, 10, "ambiguous"),
    ]
    .into_iter()
    .enumerate()
    {
        rig.clinic(&format!("clinic-{n}"), &primary, "failover")
            .await;
        let (message, id) = rig.message().await;
        let ended = rig.invoke_with_a_hang_of(&api, at, &message).await;
        assert!(ended.gave_up.as_secs() <= most, "{at:?}: {ended:?}");
        assert!(ended.total < WORKING, "{at:?}: {ended:?}");
        assert!(!ended.requeued, "{at:?}");
        let delivery = rig.delivery(&id).await;
        assert_eq!(delivery["status"], "sent", "{at:?}");
        assert_eq!(
            delivery["possibleDuplicate"] == true,
            disposition == "ambiguous",
            "{at:?}"
        );
        assert_eq!(
            attempts(&delivery),
            [["primary", disposition, "timeout"], ["fallback[0]", "", ""]],
            "{at:?}"
        );
        assert_eq!(Mail::of(&rig.fallback.messages()[n]).from, FROM);
    }
}
