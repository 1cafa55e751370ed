//! The pipeline with a clock that the test moves: leases, takeovers, expiry, rotation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::{
    Deadline, EgressGuard, ProviderFactory, egress::SystemResolver, tls::TlsConfigs,
};
use comms_core::{
    Clock, DeliveryStatus, FailureReason, IdempotencyKey, Problems, Tenant, request::Submission,
};
use comms_delivery::{
    DeliveryResult, Ledger, OnExhausted, Parts, Pipeline, Quotas, Requeue, ShareLimits,
    SharedHealth, SharedRateLimiter, Shares, Usage,
};
use comms_settings::{Author, CommunicationSettings, HashKeys, SettingsCache, SettingsStore};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
    smtp::{Action, SmtpServer, Stage, TlsMode},
    tls::TestCa,
};
use serde_json::{Value, json};

struct World {
    aws: LocalAws,
    server: SmtpServer,
    store: SettingsStore,
    clock: Arc<ManualClock>,
    tls: TlsConfigs,
}

impl World {
    async fn new(on_ambiguous: &str) -> Self {
        let (aws, ca) = (LocalAws::start().await, TestCa::new());
        let server = SmtpServer::builder()
            .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
            .credentials("user", "password")
            .start()
            .await;
        let resources = aws.resources();
        let store = SettingsStore::new(
            &aws.sdk_config(),
            &resources.settings_table,
            &resources.kms_key_id,
        );
        let tls = TlsConfigs::new(Some(&ca.pem())).unwrap();
        let world = Self {
            aws,
            server,
            store,
            clock: Arc::new(ManualClock::new()),
            tls,
        };
        world.save("password", on_ambiguous).await;
        world
    }

    async fn save(&self, password: &str, on_ambiguous: &str) {
        self.save_for("clinic-a", password, on_ambiguous).await;
    }

    async fn save_for(&self, tenant: &str, password: &str, on_ambiguous: &str) {
        let document = self.document(password, on_ambiguous);
        self.save_document(tenant, document).await;
    }

    fn document(&self, password: &str, on_ambiguous: &str) -> Value {
        json!({"email": {
            "primary": {"provider": "smtp", "credentials": {"host": "127.0.0.1",
                "port": self.server.port(), "secure": false, "user": "user", "password": password}},
            "defaultFrom": "desk@clinic.example", "onAmbiguous": on_ambiguous,
            "fallbackStrategy": {"retryAttempts": 2}
        }})
    }

    async fn save_document(&self, tenant: &str, document: Value) {
        let tenant = Tenant::parse(tenant).unwrap();
        let mut problems = Problems::default();
        let settings =
            CommunicationSettings::read(document, "", &tenant, None, &mut problems).unwrap();
        let previous = self.store.load(&tenant).await.unwrap();
        let author = Author {
            subject: "admin".into(),
            source_address: None,
        };
        self.store
            .save(&tenant, &settings, previous.as_ref(), &author, &*self.clock)
            .await
            .unwrap();
    }

    /// A pipeline as a new process has it.
    fn pipeline(&self) -> Pipeline {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(SystemResolver));
        Pipeline::new(Parts {
            settings: Arc::new(SettingsCache::new(self.store.clone(), clock.clone(), 10)),
            hash_keys: HashKeys::new(self.store.clone()),
            factory: ProviderFactory::new(
                self.tls.clone(),
                egress,
                self.aws.sdk_config(),
                clock.clone(),
                10,
            ),
            health: SharedHealth::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
                clock.clone(),
            ),
            quotas: Quotas::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
                clock.clone(),
            ),
            rate_limiter: SharedRateLimiter::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
                clock.clone(),
            ),
            usage: Usage::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
            ),
            shares: Shares::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
                clock.clone(),
                ShareLimits::default(),
            ),
            ledger: Ledger::new(
                &self.aws.sdk_config(),
                &self.aws.resources().deliveries_table,
            ),
            clock,
        })
    }

    async fn deliver(&self, pipeline: &Pipeline, submission: &Submission) -> DeliveryResult {
        self.deliver_with(pipeline, submission, OnExhausted::Fail)
            .await
    }

    async fn deliver_with(
        &self,
        pipeline: &Pipeline,
        submission: &Submission,
        on_exhausted: OnExhausted,
    ) -> DeliveryResult {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.deliver_by(pipeline, submission, on_exhausted, deadline)
            .await
    }

    async fn deliver_by(
        &self,
        pipeline: &Pipeline,
        submission: &Submission,
        on_exhausted: OnExhausted,
        deadline: Deadline,
    ) -> DeliveryResult {
        let key = IdempotencyKey::parse("key").unwrap();
        let accepted = pipeline.identify(&submission.request, &key).await.unwrap();
        pipeline
            .deliver(&submission.request, &accepted, deadline, on_exhausted)
            .await
            .remove(0)
    }
}

fn submission() -> Submission {
    let body = json!({
        "title": "t", "body": "b", "channels": ["email"],
        "recipients": [{"email": "patient@example.com"}], "expiresAt": "2026-01-01T01:00:00Z",
        "metadata": {"clinicId": "clinic-a"}
    });
    Submission::parse(body.to_string().as_bytes()).unwrap()
}

fn ended(result: &DeliveryResult) -> (DeliveryStatus, Option<FailureReason>, bool) {
    let DeliveryResult::Recorded(delivery) = result else {
        panic!("{result:?}")
    };
    (
        delivery.status,
        delivery.reason,
        delivery.possible_duplicate,
    )
}

fn requeued(result: &DeliveryResult) -> Requeue {
    let DeliveryResult::Requeued(_, reason) = result else {
        panic!("{result:?}")
    };
    *reason
}

/// A process dies with a message in flight: the SMTP server hangs, the work is dropped.
async fn abandon(world: &World) {
    abandon_again(world, 1).await;
}

/// The same for the `time`th time.
async fn abandon_again(world: &World, time: usize) {
    world.server.on(Stage::Body, Action::Hang);
    let (pipeline, submission) = (world.pipeline(), submission());
    let work = world.deliver(&pipeline, &submission);
    tokio::select! {
        result = work => panic!("{result:?}"),
        () = world.server.wait_for_stage(Stage::Body, time) => {}
    }
}

#[tokio::test]
async fn a_delivery_whose_process_died_waits_for_its_lease_and_is_then_flagged() {
    let world = World::new("failover").await;
    abandon(&world).await;
    let (pipeline, submission) = (world.pipeline(), submission());
    // Its invocation had 20 seconds, its lease has five more, and an outcome on the queue has 30 to be recorded.
    let Requeue::Busy { after } = requeued(&world.deliver(&pipeline, &submission).await) else {
        panic!("nobody else may have it");
    };
    assert!((Duration::from_secs(50)..=Duration::from_secs(55)).contains(&after));
    world.clock.advance(Duration::from_mins(1));
    let result = world.deliver(&pipeline, &submission).await;
    assert_eq!(ended(&result), (DeliveryStatus::Sent, None, true));
    assert_eq!(world.server.messages().len(), 1);
}

#[tokio::test]
async fn with_hold_a_delivery_whose_process_died_is_never_sent_again() {
    let world = World::new("hold").await;
    abandon(&world).await;
    world.clock.advance(Duration::from_mins(1));
    let (pipeline, submission) = (world.pipeline(), submission());
    for _ in 0..2 {
        let result = world.deliver(&pipeline, &submission).await;
        let unknown = (
            DeliveryStatus::Unknown,
            Some(FailureReason::OutcomeUnknown),
            false,
        );
        assert_eq!(ended(&result), unknown);
    }
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn unrecorded_outcome_is_redelivered_and_later_flagged() {
    let world = World::new("failover").await;
    let (pipeline, submission) = (world.pipeline(), submission());
    // The claim goes through; the database is gone when the outcome is to be written.
    world.server.on(Stage::Body, Action::Trickle);
    let deadline = Deadline::after(Duration::from_secs(8));
    let work = world.deliver_by(&pipeline, &submission, OnExhausted::Fail, deadline);
    let failing = async {
        world.server.wait_for_stage(Stage::Mail, 1).await;
        world
            .aws
            .fail_next("dynamodb", "UpdateItem", 1_000, Fault::AccessDenied);
    };
    let (result, ()) = tokio::join!(work, failing);
    let DeliveryResult::Unrecorded { delivery, .. } = &result else {
        panic!("{result:?}")
    };
    assert_eq!(
        (delivery.status, delivery.is_recorded),
        (DeliveryStatus::Sent, false)
    );
    world.aws.clear_faults();
    world.clock.advance(Duration::from_mins(1));
    // Another process, which does not know it.
    let result = world.deliver(&world.pipeline(), &submission).await;
    assert_eq!(ended(&result), (DeliveryStatus::Sent, None, true));
}

#[tokio::test]
async fn a_message_that_may_have_been_accepted_does_not_end_as_failed() {
    for policy in ["failover", "hold"] {
        let world = World::new(policy).await;
        world.server.on(Stage::Body, Action::AcceptThenClose);
        let (pipeline, submission) = (world.pipeline(), submission());
        let result = world.deliver(&pipeline, &submission).await;
        let unknown = (
            DeliveryStatus::Unknown,
            Some(FailureReason::OutcomeUnknown),
            false,
        );
        assert_eq!(ended(&result), unknown, "{policy}");
    }
}

#[tokio::test]
async fn message_refused_for_now_is_requeued_until_attempts_are_exhausted() {
    let world = World::new("failover").await;
    world.server.always(
        Stage::Rcpt,
        Action::reply("450 4.2.0 greylisted, come back later"),
    );
    let (pipeline, submission) = (world.pipeline(), submission());
    for _ in 0..2 {
        let result = world
            .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
            .await;
        let Requeue::Deferred { after } = requeued(&result) else {
            panic!("{result:?}")
        };
        world.clock.advance(after);
    }
    let result = world.deliver(&pipeline, &submission).await;
    let failed = (
        DeliveryStatus::Failed,
        Some(FailureReason::AllProvidersFailed),
        false,
    );
    assert_eq!(ended(&result), failed);
    let DeliveryResult::Recorded(delivery) = result else {
        panic!("{result:?}")
    };
    // Three runs of one attempt each: a greylisted recipient is not asked again within seconds.
    assert_eq!(delivery.attempts.len(), 3);
}

#[tokio::test]
async fn requeued_message_is_sent_when_the_provider_recovers() {
    let world = World::new("failover").await;
    world
        .server
        .on(Stage::Rcpt, Action::reply("451 4.3.0 try later"));
    let (pipeline, submission) = (world.pipeline(), submission());
    let result = world
        .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
        .await;
    let Requeue::Deferred { after } = requeued(&result) else {
        panic!("{result:?}")
    };
    // Not before, and nobody asks the provider meanwhile.
    let early = world
        .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
        .await;
    assert_eq!(requeued(&early), Requeue::Deferred { after });
    world.clock.advance(after);
    let result = world
        .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
        .await;
    assert_eq!(ended(&result), (DeliveryStatus::Sent, None, false));
}

#[tokio::test]
async fn what_would_expire_before_its_next_try_comes_again_when_it_expires() {
    let world = World::new("failover").await;
    world
        .server
        .always(Stage::Rcpt, Action::reply("451 4.3.0 try later"));
    world
        .clock
        .advance(Duration::from_mins(59) + Duration::from_secs(50));
    let (pipeline, submission) = (world.pipeline(), submission());
    let result = world
        .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
        .await;
    let after = Duration::from_secs(10);
    assert_eq!(requeued(&result), Requeue::Deferred { after });
    world.clock.advance(after);
    let result = world
        .deliver_with(&pipeline, &submission, OnExhausted::Requeue)
        .await;
    assert_eq!(
        ended(&result),
        (DeliveryStatus::Expired, Some(FailureReason::Expired), false)
    );
}

#[tokio::test]
async fn a_delivery_that_ends_every_process_that_has_it_ends_as_unknown() {
    let world = World::new("failover").await;
    for time in 1..=4 {
        abandon_again(&world, time).await;
        world.server.clear_script();
        world.clock.advance(Duration::from_mins(1));
    }
    let (pipeline, submission) = (world.pipeline(), submission());
    let result = world.deliver(&pipeline, &submission).await;
    let unknown = (
        DeliveryStatus::Unknown,
        Some(FailureReason::OutcomeUnknown),
        true,
    );
    assert_eq!(ended(&result), unknown);
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn what_has_expired_is_not_sent() {
    let world = World::new("failover").await;
    world.clock.advance(Duration::from_hours(1));
    let (pipeline, submission) = (world.pipeline(), submission());
    let result = world.deliver(&pipeline, &submission).await;
    assert_eq!(
        ended(&result),
        (DeliveryStatus::Expired, Some(FailureReason::Expired), false)
    );
    assert_eq!(world.server.connections(), 0);
}

#[tokio::test]
async fn what_may_have_been_sent_before_it_expired_is_unknown() {
    let world = World::new("failover").await;
    abandon(&world).await;
    world.clock.advance(Duration::from_hours(1));
    let (pipeline, submission) = (world.pipeline(), submission());
    let result = world.deliver(&pipeline, &submission).await;
    let unknown = (
        DeliveryStatus::Unknown,
        Some(FailureReason::OutcomeUnknown),
        false,
    );
    assert_eq!(ended(&result), unknown);
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn a_rotated_password_is_used_by_the_very_next_attempt() {
    let world = World::new("failover").await;
    world.save("wrong", "failover").await;
    let (pipeline, submission) = (world.pipeline(), submission());
    // The settings with the wrong password are remembered when the right one is saved.
    let wrong = world.deliver(&pipeline, &submission).await;
    assert_eq!(ended(&wrong).1, Some(FailureReason::AllProvidersFailed));
    world.save("password", "failover").await;
    let mut another = submission;
    another.request.content.title = Some("another".to_owned());
    let key = IdempotencyKey::parse("another").unwrap();
    let accepted = pipeline.identify(&another.request, &key).await.unwrap();
    let deadline = Deadline::after(Duration::from_secs(20));
    let result = pipeline
        .deliver(&another.request, &accepted, deadline, OnExhausted::Fail)
        .await
        .remove(0);
    let DeliveryResult::Recorded(delivery) = &result else {
        panic!("{result:?}")
    };
    assert_eq!(
        (delivery.status, delivery.attempts.len()),
        (DeliveryStatus::Sent, 1),
        "nothing is tried by the password that was replaced"
    );
}

#[tokio::test]
async fn the_global_accounts_rotated_password_is_used_by_the_very_next_attempt() {
    let world = World::new("failover").await;
    world.save_for("clinic-a", "wrong", "failover").await;
    world.save_for("_global", "wrong", "failover").await;
    let (pipeline, submission) = (world.pipeline(), submission());
    let wrong = world.deliver(&pipeline, &submission).await;
    assert_eq!(ended(&wrong).1, Some(FailureReason::AllProvidersFailed));
    world.save_for("_global", "password", "failover").await;
    let mut another = submission;
    another.request.content.title = Some("another".to_owned());
    let key = IdempotencyKey::parse("another").unwrap();
    let accepted = pipeline.identify(&another.request, &key).await.unwrap();
    let deadline = Deadline::after(Duration::from_secs(20));
    let result = pipeline
        .deliver(&another.request, &accepted, deadline, OnExhausted::Fail)
        .await
        .remove(0);
    let DeliveryResult::Recorded(delivery) = &result else {
        panic!("{result:?}")
    };
    let places: Vec<_> = delivery
        .attempts
        .iter()
        .map(|a| a.position.to_string())
        .collect();
    assert_eq!(delivery.status, DeliveryStatus::Sent);
    assert_eq!(places, ["primary", "global"]);
}

#[tokio::test]
async fn a_warm_process_reads_one_version_and_decrypts_nothing() {
    let world = World::new("failover").await;
    let pipeline = world.pipeline();
    let mut calls = Vec::new();
    for number in 0..3 {
        let mut submission = submission();
        submission.request.content.title = Some(format!("message {number}"));
        world.aws.clear_calls();
        let key = IdempotencyKey::parse(&format!("key-{number}")).unwrap();
        let accepted = pipeline.identify(&submission.request, &key).await.unwrap();
        let deadline = Deadline::after(Duration::from_secs(20));
        pipeline
            .deliver(&submission.request, &accepted, deadline, OnExhausted::Fail)
            .await;
        let called: Vec<_> = world.aws.calls().iter().map(ToString::to_string).collect();
        calls.push(called);
    }
    assert!(
        calls[0].iter().any(|call| call == "kms:Decrypt"),
        "{calls:?}"
    );
    // Beside the claim, and behind it: the delivery waits for the claim only.
    let warm = [
        "dynamodb:UpdateItem",
        "dynamodb:GetItem",
        "dynamodb:UpdateItem",
    ];
    for called in &mut calls[1..] {
        called[..2].sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(*called, warm);
    }
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn a_store_that_fails_hands_the_delivery_back_untouched() {
    let world = World::new("failover").await;
    let (pipeline, submission) = (world.pipeline(), submission());
    let key = IdempotencyKey::parse("key").unwrap();
    let accepted = pipeline.identify(&submission.request, &key).await.unwrap();
    for (service, operation) in [("dynamodb", "GetItem"), ("kms", "Decrypt")] {
        world
            .aws
            .fail_next(service, operation, 10, Fault::AccessDenied);
        let result = world.deliver(&pipeline, &submission).await;
        assert_eq!(requeued(&result), Requeue::Unreachable);
        world.aws.clear_faults();
    }
    let deliveries_table = &world.aws.resources().deliveries_table;
    let ledger = Ledger::new(&world.aws.sdk_config(), deliveries_table);
    let recorded = ledger.read(accepted.id(), world.clock.now()).await;
    assert!(recorded.unwrap().is_none(), "nothing was claimed");
    assert_eq!(world.server.connections(), 0);
}

/// A submission like [`submission`] under the key of its number.
async fn deliver_number(pipeline: &Pipeline, number: u32) -> DeliveryResult {
    let submission = submission();
    let key = IdempotencyKey::parse(&format!("key-{number}")).unwrap();
    let accepted = pipeline.identify(&submission.request, &key).await.unwrap();
    let deadline = Deadline::after(Duration::from_secs(20));
    pipeline
        .deliver(
            &submission.request,
            &accepted,
            deadline,
            OnExhausted::Requeue,
        )
        .await
        .remove(0)
}

#[tokio::test]
async fn what_is_over_quota_waits_for_the_next_window_and_not_beyond_its_expiry() {
    let world = World::new("failover").await;
    let mut document = world.document("password", "failover");
    document["email"]["rateLimit"] = json!({"maxPerHour": 1});
    world.save_document("clinic-a", document).await;
    let pipeline = world.pipeline();
    world.clock.advance(Duration::from_mins(20));
    let sent = deliver_number(&pipeline, 1).await;
    assert_eq!(ended(&sent).0, DeliveryStatus::Sent);
    // It expires when the window ends.
    let after = Duration::from_mins(40);
    let refused = deliver_number(&pipeline, 2).await;
    assert_eq!(requeued(&refused), Requeue::OverQuota { after });
    // A duplicate of what was sent takes nothing, and is answered when its turn comes.
    world.clock.advance(after);
    let expired = deliver_number(&pipeline, 2).await;
    assert_eq!(ended(&expired).0, DeliveryStatus::Expired);
    let again = deliver_number(&pipeline, 1).await;
    assert_eq!(ended(&again).0, DeliveryStatus::Sent);
    assert_eq!(world.server.messages().len(), 1);
}

#[tokio::test]
async fn quota_that_turns_out_not_to_be_needed_is_there_for_the_next() {
    let world = World::new("failover").await;
    let mut document = world.document("password", "failover");
    document["email"]["rateLimit"] = json!({"maxPerHour": 2});
    world.save_document("clinic-a", document).await;
    let pipeline = world.pipeline();
    for number in [1, 1, 1, 2] {
        let result = deliver_number(&pipeline, number).await;
        assert_eq!(ended(&result).0, DeliveryStatus::Sent);
    }
    assert!(matches!(
        requeued(&deliver_number(&pipeline, 3).await),
        Requeue::OverQuota { .. }
    ));
    assert_eq!(world.server.messages().len(), 2);
}

/// Makes all turns of the one account that there is due so much later.
async fn delay_turns(world: &World, by: Duration) {
    let client = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config());
    let table = &world.aws.resources().deliveries_table;
    let items = client.scan().table_name(table).send().await.unwrap();
    let is_turn = |item: &&Item| item["pk"].as_s().unwrap().starts_with("pace#");
    let item = items.items().iter().find(is_turn).unwrap();
    client
        .update_item()
        .table_name(table)
        .set_key(Some(
            ["pk", "sk"]
                .map(|name| (name.to_owned(), item[name].clone()))
                .into(),
        ))
        .update_expression("SET due = due + :by")
        .expression_attribute_values(":by", AttributeValue::N(by.as_micros().to_string()))
        .send()
        .await
        .unwrap();
}

type Item = HashMap<String, AttributeValue>;

#[tokio::test]
async fn what_its_provider_takes_too_slowly_waits_and_is_sent_later_without_a_mark_on_anybody() {
    let world = World::new("failover").await;
    let mut document = world.document("password", "failover");
    document["email"]["rateLimit"] = json!({"maxPerHour": 3});
    document["email"]["primary"]["rateLimit"] = json!({"maxPerSecond": 1});
    let mut fallback = document["email"]["primary"].clone();
    fallback["id"] = json!("other");
    document["email"]["fallback"] = json!([fallback]);
    world.save_document("clinic-a", document).await;
    let pipeline = world.pipeline();
    let sent = deliver_number(&pipeline, 1).await;
    assert_eq!(ended(&sent).0, DeliveryStatus::Sent);
    delay_turns(&world, Duration::from_mins(1)).await;
    for _ in 0..15 {
        // More often than what fails is tried, and more often than there is quota.
        let paced = deliver_number(&pipeline, 2).await;
        let Requeue::RateLimited { after } = requeued(&paced) else {
            panic!("{paced:?}")
        };
        assert!(after >= Duration::from_mins(1), "{after:?}");
    }
    assert_eq!(world.server.messages().len(), 1);
    world.clock.advance(Duration::from_mins(2));
    for number in [2, 3] {
        let result = deliver_number(&pipeline, number).await;
        assert_eq!(ended(&result), (DeliveryStatus::Sent, None, false));
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(world.server.messages().len(), 3);
}
