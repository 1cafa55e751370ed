//! The ledger against DynamoDB over the wire: who owns a delivery, and who may write.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::time::Duration;

use comms_aws::TableError;
use comms_core::{
    AddressMask, Attempt, AttemptOutcome, Clock, DeliveryStatus, Disposition, EntryId, ErrorKind,
    FailureReason, GlobalCause, HashKey, IdempotencyKey, Position, ProviderCode, ProviderKind,
    RequestId, SentVia, SkippedEntry, Tenant,
    request::{PlannedDelivery, Submission},
};
use comms_delivery::{
    Ledger, LedgerError,
    ledger::{
        Acceptance, Claim, DeliveryHistory, Origin, Outcome, Owner, RequestDetails, RequestRecord,
        Via,
    },
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
    dynamodb::{item, item_bytes},
};
use serde_json::json;

const ORIGIN: Origin = Origin {
    via: Via::Api,
    by: None,
};

struct World {
    aws: LocalAws,
    ledger: Ledger,
    clock: ManualClock,
    record: RequestRecord,
    planned: Vec<PlannedDelivery>,
}

impl World {
    async fn new() -> Self {
        let aws = LocalAws::start().await;
        let ledger = Ledger::new(&aws.sdk_config(), &aws.resources().deliveries_table);
        let body = json!({
            "title": "planted title", "body": "planted body", "channels": ["email", "whatsapp"],
            "recipients": [{"email": "planted@example.com", "name": "planted name"}],
            "metadata": {"clinicId": "clinic-a"}
        });
        let request = Submission::parse(body.to_string().as_bytes())
            .unwrap()
            .request;
        let hash = HashKey::from_bytes(&[1; 32]);
        let tenant = Tenant::parse("clinic-a").unwrap();
        let id = RequestId::derive(&hash, &tenant, &IdempotencyKey::parse("key").unwrap());
        let planned = request.deliveries(&hash, &id, AddressMask::Short);
        let payload_hash = request.payload_hash(&hash).unwrap();
        let record = RequestRecord {
            id,
            tenant,
            payload_hash,
            details: RequestDetails::default(),
        };
        Self {
            aws,
            ledger,
            clock: ManualClock::new(),
            record,
            planned,
        }
    }

    fn owner(&self, token: &str) -> Owner {
        let lease_until = self.clock.now() + Duration::from_secs(30);
        Owner {
            token: token.to_owned(),
            lease_until,
        }
    }

    async fn claim(&self, token: &str) -> Claim {
        self.ledger
            .claim(
                &self.record,
                &self.planned[0],
                "hash",
                &self.owner(token),
                self.clock.now(),
            )
            .await
            .unwrap()
    }

    async fn take_over(&self, from: &str, token: &str) -> Claim {
        let (delivery, owner) = (&self.planned[0].id, self.owner(token));
        self.ledger
            .take_over(&self.record, delivery, from, &owner, self.clock.now())
            .await
            .unwrap()
    }

    async fn finish(&self, token: &str, outcome: &Outcome) -> Result<(), LedgerError> {
        let (delivery, owner) = (&self.planned[0].id, self.owner(token));
        self.ledger
            .finish(&self.record.id, delivery, &owner, outcome, self.clock.now())
            .await
    }

    async fn status(&self) -> DeliveryStatus {
        self.ledger
            .read(&self.record.id, self.clock.now())
            .await
            .unwrap()
            .unwrap()
            .deliveries[0]
            .status
    }
}

fn owned() -> Claim {
    Claim::Owned(DeliveryHistory::default())
}

fn is_busy(claim: &Claim) -> bool {
    matches!(claim, Claim::Busy { .. })
}

fn sent() -> Outcome {
    Outcome {
        receipt: Some((ProviderKind::new("smtp"), "<id@clinic.example>".to_owned())),
        attempts: vec![Attempt {
            provider: ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position: Position::Primary,
            outcome: AttemptOutcome::Accepted {
                refused_copies: Vec::new(),
            },
            at: None,
            duration: Duration::from_millis(7),
            possible_duplicate: false,
            reply_to_dropped: false,
        }],
        skipped: Some(Vec::new()),
        ..Outcome::new(DeliveryStatus::Sent)
    }
}

fn ended(status: DeliveryStatus, reason: Option<FailureReason>) -> Outcome {
    Outcome {
        reason,
        skipped: Some(Vec::new()),
        ..Outcome::new(status)
    }
}

#[tokio::test]
async fn a_delivery_costs_two_writes_and_reads_back_as_it_ended() {
    let world = World::new().await;
    world.aws.clear_calls();
    assert_eq!(world.claim("a").await, owned());
    assert_eq!(world.status().await, DeliveryStatus::Sending);
    world.finish("a", &sent()).await.unwrap();
    assert_eq!(world.aws.count("dynamodb", "UpdateItem"), 2);

    let read = world
        .ledger
        .read(&world.record.id, world.clock.now())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.tenant, world.record.tenant);
    let delivery = &read.deliveries[0];
    assert_eq!(delivery.status, DeliveryStatus::Sent);
    assert_eq!(delivery.message_id.as_deref(), Some("<id@clinic.example>"));
    assert_eq!(delivery.attempts, sent().attempts);
}

#[tokio::test]
async fn what_is_accepted_can_be_read_back_before_anything_has_happened() {
    let world = World::new().await;
    assert_eq!(
        world
            .ledger
            .read(&world.record.id, world.clock.now())
            .await
            .unwrap(),
        None
    );
    let accept = || {
        world.ledger.accept(
            &world.record,
            &world.planned,
            &ORIGIN,
            None,
            world.clock.now(),
        )
    };
    assert_eq!(accept().await.unwrap(), Acceptance::New);
    assert_eq!(accept().await.unwrap(), Acceptance::Repeated);
    let read = world
        .ledger
        .read(&world.record.id, world.clock.now())
        .await
        .unwrap()
        .unwrap();
    let summary: Vec<_> = read
        .deliveries
        .iter()
        .map(|delivery| (delivery.recipient.as_str(), delivery.status))
        .collect();
    assert_eq!(
        summary,
        [
            ("p***@e***.com", DeliveryStatus::Queued),
            ("(no address)", DeliveryStatus::Queued)
        ]
    );
}

#[tokio::test]
async fn the_same_key_with_another_body_is_refused_everywhere() {
    let mut world = World::new().await;
    world
        .ledger
        .accept(
            &world.record,
            &world.planned,
            &ORIGIN,
            None,
            world.clock.now(),
        )
        .await
        .unwrap();
    world.claim("a").await;
    world.record.payload_hash = "another".to_owned();
    let accepted = world
        .ledger
        .accept(
            &world.record,
            &world.planned,
            &ORIGIN,
            None,
            world.clock.now(),
        )
        .await;
    assert_eq!(accepted.unwrap(), Acceptance::OtherPayload);
    assert_eq!(world.claim("b").await, Claim::OtherPayload);
}

#[tokio::test]
async fn of_many_claims_one_wins_and_only_its_owner_may_write() {
    let world = World::new().await;
    let tokens: Vec<_> = (0..20).map(|n| format!("owner-{n}")).collect();
    let claims =
        futures_util::future::join_all(tokens.iter().map(|token| world.claim(token))).await;
    let winners: Vec<_> = (0..20).filter(|n| claims[*n] == owned()).collect();
    assert_eq!(winners.len(), 1, "{claims:?}");
    assert_eq!(claims.iter().filter(|claim| is_busy(claim)).count(), 19);
    let loser = (winners[0] + 1) % 20;
    assert_eq!(
        world.finish(&tokens[loser], &sent()).await,
        Err(LedgerError::OwnershipLost)
    );
    assert_eq!(world.finish(&tokens[winners[0]], &sent()).await, Ok(()));
}

#[tokio::test]
async fn an_ended_delivery_stays_as_it_ended() {
    for (status, reason) in [
        (
            DeliveryStatus::Failed,
            Some(FailureReason::AllProvidersFailed),
        ),
        (DeliveryStatus::Unknown, Some(FailureReason::OutcomeUnknown)),
        (DeliveryStatus::Expired, Some(FailureReason::Expired)),
    ] {
        let world = World::new().await;
        world.claim("a").await;
        world.finish("a", &ended(status, reason)).await.unwrap();
        world.clock.advance(Duration::from_hours(1));
        let Claim::Ended(delivery) = world.claim("b").await else {
            panic!("{status:?}")
        };
        assert_eq!((delivery.status, delivery.reason), (status, reason));
        assert_eq!(
            world.finish("a", &sent()).await,
            Err(LedgerError::OwnershipLost)
        );
    }
}

#[tokio::test]
async fn a_delivery_given_back_can_be_claimed_again_with_its_attempts() {
    let world = World::new().await;
    world.claim("a").await;
    let mut outcome = ended(DeliveryStatus::Queued, None);
    outcome.attempts = sent().attempts;
    world.finish("a", &outcome).await.unwrap();
    let again = world.claim("b").await;
    let history = DeliveryHistory {
        attempts: sent().attempts,
        ..DeliveryHistory::default()
    };
    assert_eq!(again, Claim::Owned(history));
}

#[tokio::test]
async fn a_delivery_that_was_put_off_cannot_be_claimed_before_its_time_and_is_counted() {
    let world = World::new().await;
    for deferrals in 0..3 {
        let history = DeliveryHistory {
            deferrals,
            ..DeliveryHistory::default()
        };
        assert_eq!(world.claim("a").await, Claim::Owned(history));
        let until = world.clock.now() + Duration::from_mins(2);
        let mut outcome = ended(DeliveryStatus::Queued, None);
        outcome.not_before = Some(until);
        world.finish("a", &outcome).await.unwrap();
        assert_eq!(world.status().await, DeliveryStatus::Queued);
        world.clock.advance(Duration::from_secs(119));
        assert_eq!(world.claim("b").await, Claim::NotYet { until });
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(
        world.claim("b").await,
        Claim::Owned(DeliveryHistory {
            deferrals: 3,
            ..DeliveryHistory::default()
        })
    );
}

#[tokio::test]
async fn an_owner_that_went_away_is_replaced_after_its_lease_and_by_one_only() {
    let world = World::new().await;
    world.claim("a").await;
    // Its outcome may be on the queue, and is recorded first.
    let grace = Duration::from_secs(30);
    let until = world.owner("a").lease_until + grace;
    assert_eq!(world.claim("b").await, Claim::Busy { until });
    world.clock.advance(Duration::from_secs(31));
    assert_eq!(world.claim("b").await, Claim::Busy { until });
    world.clock.advance(grace);
    assert_eq!(
        world.claim("b").await,
        Claim::Abandoned {
            owner: "a".to_owned()
        }
    );
    let (b, c) = tokio::join!(world.take_over("a", "b"), world.take_over("a", "c"));
    let taken = Claim::Owned(DeliveryHistory {
        possible_duplicate: true,
        takeovers: 1,
        ..DeliveryHistory::default()
    });
    assert_eq!(
        [&b, &c].iter().filter(|claim| ***claim == taken).count(),
        1,
        "{b:?} {c:?}"
    );
    assert_eq!([&b, &c].iter().filter(|claim| is_busy(claim)).count(), 1);
    // The first owner wakes up: it must not write over what the second does.
    assert_eq!(
        world.finish("a", &sent()).await,
        Err(LedgerError::OwnershipLost)
    );
}

#[tokio::test]
async fn a_write_that_is_made_twice_because_its_answer_was_lost_is_one_write() {
    let world = World::new().await;
    assert_eq!(world.claim("a").await, owned());
    assert_eq!(world.claim("a").await, owned());
    assert_eq!(world.finish("a", &sent()).await, Ok(()));
    assert_eq!(world.finish("a", &sent()).await, Ok(()));
    let other = ended(DeliveryStatus::Failed, Some(FailureReason::Rejected));
    assert_eq!(
        world.finish("a", &other).await,
        Err(LedgerError::OwnershipLost)
    );
}

#[tokio::test]
async fn a_delivery_that_nobody_will_take_over_reads_as_unknown() {
    let world = World::new().await;
    world.claim("a").await;
    world.clock.advance(Duration::from_mins(20));
    assert_eq!(world.status().await, DeliveryStatus::Sending);
    world.clock.advance(Duration::from_mins(20));
    assert_eq!(world.status().await, DeliveryStatus::Unknown);
    let given_up_at = world.owner("a").lease_until - Duration::from_mins(10);
    let read = world.ledger.read(&world.record.id, world.clock.now()).await;
    assert_eq!(read.unwrap().unwrap().ended_at(), Some(given_up_at));
}

#[tokio::test]
async fn the_table_holds_no_content_and_no_address() {
    let world = World::new().await;
    world
        .ledger
        .accept(
            &world.record,
            &world.planned,
            &ORIGIN,
            None,
            world.clock.now(),
        )
        .await
        .unwrap();
    world.claim("a").await;
    world.finish("a", &sent()).await.unwrap();
    let dump = world.aws.dump_tables().await;
    assert!(dump.contains("p***@e***.com"));
    assert!(!dump.contains("planted"), "{dump}");
}

#[tokio::test]
async fn a_database_that_fails_is_an_error() {
    let world = World::new().await;
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 10, Fault::AccessDenied);
    let (now, owner) = (world.clock.now(), world.owner("a"));
    let claim = world
        .ledger
        .claim(&world.record, &world.planned[0], "hash", &owner, now)
        .await;
    assert!(
        matches!(
            claim,
            Err(LedgerError::Table(TableError::Refused {
                operation: "UpdateItem",
                ..
            }))
        ),
        "{claim:?}"
    );
    world
        .aws
        .fail_next("dynamodb", "Query", 10, Fault::AccessDenied);
    assert!(
        world
            .ledger
            .read(&world.record.id, world.clock.now())
            .await
            .is_err()
    );
}

/// One write unit is 1 KB (Amazon DynamoDB Developer Guide, "DynamoDB on-demand capacity mode").
#[tokio::test]
async fn failover_to_the_platforms_account_is_recorded_in_one_write_unit() {
    let world = World::new().await;
    assert_eq!(world.claim("a").await, owned());
    let at = world.clock.now();
    let mut outcome = sent();
    let accepted = Attempt {
        position: Position::Global,
        at: Some(at),
        ..outcome.attempts[0].clone()
    };
    let failed = Attempt {
        outcome: AttemptOutcome::Failed {
            disposition: Disposition::ProviderDown,
            kind: ErrorKind::Unauthenticated,
            code: ProviderCode::parse("535 5.7.8"),
        },
        position: Position::Fallback(0),
        ..accepted.clone()
    };
    outcome.attempts = vec![failed, accepted];
    outcome.via = Some(SentVia::Global(GlobalCause::OwnFailed));
    outcome.skipped = Some(vec![SkippedEntry {
        provider: ProviderKind::new("smtp"),
        entry: EntryId::primary(),
        position: Position::Primary,
        since: at,
        last_error: Some(ErrorKind::Unauthenticated),
    }]);
    world.finish("a", &outcome).await.unwrap();

    let read = world.ledger.read(&world.record.id, at).await.unwrap();
    let delivery = &read.unwrap().deliveries[0];
    assert_eq!(
        (&delivery.attempts, delivery.via, Some(&delivery.skipped)),
        (&outcome.attempts, outcome.via, outcome.skipped.as_ref())
    );
    assert_eq!(delivery.ended_at, Some(world.clock.now()));
    let table = &world.aws.resources().deliveries_table;
    let items = world.aws.items(table).await.unwrap();
    let stored = items
        .iter()
        .find(|item| item["sk"]["S"] != "request")
        .unwrap();
    let bytes = item_bytes(&item(stored).unwrap());
    assert!(bytes <= 1_024, "{bytes} bytes");
}

#[tokio::test]
async fn later_outcome_replaces_account_and_skipped_entries() {
    let world = World::new().await;
    let down = SkippedEntry {
        provider: ProviderKind::new("smtp"),
        entry: EntryId::primary(),
        position: Position::Primary,
        since: world.clock.now(),
        last_error: None,
    };
    let mut deferred = ended(DeliveryStatus::Queued, None);
    deferred.via = Some(SentVia::Global(GlobalCause::NoSettings));
    deferred.skipped = Some(vec![down.clone()]);
    world.claim("a").await;
    world.finish("a", &deferred).await.unwrap();
    // What is given back as it was, or was not tried, says nothing of either.
    let mut untouched = ended(DeliveryStatus::Queued, None);
    (untouched.is_untouched, untouched.skipped) = (true, None);
    let mut sent = sent();
    sent.via = Some(SentVia::Clinic);
    for (token, outcome, expected) in [
        ("b", &untouched, (deferred.via, vec![down])),
        ("c", &sent, (sent.via, Vec::new())),
    ] {
        world.claim(token).await;
        world.finish(token, outcome).await.unwrap();
        let read = world.ledger.read(&world.record.id, world.clock.now()).await;
        let delivery = read.unwrap().unwrap().deliveries.remove(0);
        assert_eq!((delivery.via, delivery.skipped), expected, "{token}");
    }
}

#[tokio::test]
async fn items_of_an_earlier_release_are_read_without_what_they_lack() {
    let world = World::new().await;
    let (ledger, now) = (&world.ledger, world.clock.now());
    let accepted = ledger.accept(&world.record, &world.planned, &ORIGIN, None, now);
    assert_eq!(accepted.await.unwrap(), Acceptance::New);
    assert_eq!(world.claim("a").await, owned());
    world.finish("a", &sent()).await.unwrap();
    let client = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config());
    let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    let attempts = r#"[{"provider":"smtp","entry":"primary","position":"primary","outcome":"failed",
        "disposition":"provider_down","kind":"timeout","detail":"…","durationMs":7},
        {"provider":"smtp","entry":"primary","position":"global","outcome":"accepted","durationMs":7}]"#;
    for (sk, update) in [
        ("request".to_owned(), "REMOVE category, priority"),
        (
            format!("delivery#{}", world.planned[0].id),
            "SET attempts = :attempts",
        ),
    ] {
        let update = client
            .update_item()
            .table_name(&world.aws.resources().deliveries_table)
            .key("pk", text(world.record.id.as_str()))
            .key("sk", text(&sk))
            .update_expression(update);
        let update = if sk == "request" {
            update
        } else {
            update.expression_attribute_values(":attempts", text(attempts))
        };
        update.send().await.unwrap();
    }
    let read = ledger.read(&world.record.id, now).await.unwrap().unwrap();
    assert_eq!(read.details, RequestDetails::default());
    assert_eq!((read.accepted_at, read.replays), (Some(now), 0));
    let delivery = &read.deliveries[0];
    // It went by the platform's account, and nobody recorded why.
    assert_eq!((delivery.via, delivery.attempts[0].at), (None, None));
    assert!(delivery.was_sent_by_global());
}
