//! How often settings may be tested.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use comms_settings::{LimitHolder, Limited};
use comms_testkit::aws::Fault;
use comms_tests::{CLINIC, FROM, World, email};
use futures_util::future::join_all;
use serde_json::json;

use super::{candidates::candidate, clinic, reached, stop_the_clock, test_as};

#[tokio::test]
async fn unreadable_saved_settings_lock_no_admin_out() {
    let world = World::saved().await;
    let key = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().settings_table)
        .set_item(Some([key("pk", CLINIC), key("sk", "settings")].into()))
        .send()
        .await
        .unwrap();
    let saved = json!({"testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &saved).await.expect(500);
    let whole = candidate(&world.entry());
    let answer = world.test_email(CLINIC, &whole).await.expect(200);
    assert_eq!(answer.body["ok"], true);
    let mut without = world.entry();
    without["credentials"]["password"] = json!({"configured": true});
    let refused = world.test_email(CLINIC, &candidate(&without)).await;
    refused.expect(422);
    // What passes by itself is waited for: the secrets that are left out may be there.
    world
        .aws
        .fail_next("dynamodb", "GetItem", 100, Fault::ServerError);
    world.test_email(CLINIC, &whole).await.expect(503);
}

#[tokio::test]
async fn concurrent_tests_pass_exactly_up_to_the_limit() {
    let mut world = World::saved().await;
    let clock = stop_the_clock(&mut world);
    let verify = json!({"verifyOnly": true});
    let answers = join_all((0..36).map(|_| world.test_email(CLINIC, &verify))).await;
    let passed = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(passed.count(), 30);
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert_eq!(refused.len(), 6);
    for answer in refused {
        assert_eq!(
            (answer.header("retry-after"), &answer.body["code"]),
            ("30", &json!("too_many_requests"))
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    // Those that were refused have reached nobody.
    assert_eq!(world.smtp.connections(), 30);

    // Another clinic has its own limit, whoever asks.
    world
        .put_settings("clinic-456", email(&world.entry(), FROM))
        .await
        .expect(201);
    world.test_email("clinic-456", &verify).await.expect(200);

    clock.advance(Duration::from_millis(29_001));
    let refused = world.test_email(CLINIC, &verify).await.expect(429);
    assert_eq!(refused.header("retry-after"), "1");
    clock.advance(Duration::from_millis(999));
    world.test_email(CLINIC, &verify).await.expect(200);
    world.test_email(CLINIC, &verify).await.expect(429);
    // What was not taken is there again, and not more.
    clock.advance(Duration::from_hours(24));
    let answers = join_all((0..31).map(|_| world.test_email(CLINIC, &verify))).await;
    let passed = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(passed.count(), 30);
}

#[tokio::test]
async fn test_limit_counts_entries_not_requests() {
    let mut world = World::new().await;
    stop_the_clock(&mut world);
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] = json!([world.entry(), world.entry()]);
    let body = json!({"verifyOnly": true, "settings": {"communicationSettings": settings}});
    for _ in 0..9 {
        world.test_email(CLINIC, &body).await.expect(200);
    }
    let mut one = body.clone();
    one["entry"] = json!("primary");
    world.test_email(CLINIC, &one).await.expect(200);
    // Two are left.
    let refused = world.test_email(CLINIC, &body).await.expect(429);
    assert_eq!(refused.header("retry-after"), "30");
    world.test_email(CLINIC, &one).await.expect(200);
    world.test_email(CLINIC, &one).await.expect(200);
    world.test_email(CLINIC, &one).await.expect(429);
}

#[tokio::test]
async fn author_limit_spans_clinics_and_costs_them_nothing() {
    let mut world = World::new().await;
    let clock = stop_the_clock(&mut world);
    let (limits, address) = (&world.config_test.limits, "admin@platform.example");
    for id in ["clinic-1", "clinic-2"] {
        for _ in 0..5 {
            assert_eq!(limits.take(&clinic(id), address, 6, 0).await, Ok(()));
        }
    }
    let third = clinic("clinic-3");
    let (author, entries) = (LimitHolder::Author, Limited::Entries);
    assert_eq!(
        limits.take(&third, address, 6, 0).await,
        reached(author, entries, Duration::from_secs(90))
    );
    // The limit that takes longest to pass is the one to wait for.
    assert_eq!(
        limits.take(&clinic("clinic-1"), address, 6, 0).await,
        reached(LimitHolder::Clinic, entries, Duration::from_mins(3))
    );
    let verify = json!({"verifyOnly": true, "settings": {"communicationSettings": email(&world.entry(), FROM)}});
    let refused = test_as(&world, address, "clinic-3", &verify).await;
    assert_eq!(refused.expect(429).header("retry-after"), "15");
    test_as(&world, "another", "clinic-3", &verify)
        .await
        .expect(200);
    for _ in 0..29 {
        assert_eq!(limits.take(&third, "another", 1, 0).await, Ok(()));
    }
    assert_eq!(
        limits.take(&third, "another", 1, 0).await,
        reached(LimitHolder::Clinic, entries, Duration::from_secs(30))
    );
    clock.advance(Duration::from_secs(15));
    assert_eq!(
        limits.take(&clinic("clinic-4"), address, 1, 0).await,
        Ok(())
    );
    assert_eq!(
        limits.take(&clinic("clinic-4"), address, 1, 0).await,
        reached(author, entries, Duration::from_secs(15))
    );
    let stored = world.aws.dump_tables().await;
    assert!(stored.contains("_test-limit#clinic#clinic-3") && stored.contains("expiresAt"));
    assert!(!stored.contains(address), "{stored}");
}

#[tokio::test]
async fn test_messages_have_their_own_limit_apart_from_logins() {
    let mut world = World::saved().await;
    let clock = stop_the_clock(&mut world);
    let limits = &world.config_test.limits;
    let clinic_id = clinic(CLINIC);
    let send = json!({"testEmail": "admin@clinic.example"});
    let messages = |holder, wait| reached(holder, Limited::Messages, Duration::from_secs(wait));
    for _ in 0..19 {
        assert_eq!(limits.take(&clinic_id, "user-1", 1, 1).await, Ok(()));
    }
    world.test_email(CLINIC, &send).await.expect(200);
    let refused = world.test_email(CLINIC, &send).await.expect(429);
    assert_eq!(refused.header("retry-after"), "3600");
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("verifyOnly")
    );
    assert_eq!(world.smtp.messages().len(), 1);
    world
        .test_email(CLINIC, &json!({"verifyOnly": true}))
        .await
        .expect(200);
    for _ in 0..20 {
        let other = limits.take(&clinic("clinic-2"), "user-1", 1, 1).await;
        assert_eq!(other, Ok(()));
    }
    let third = clinic("clinic-3");
    assert_eq!(
        limits.take(&third, "user-1", 1, 1).await,
        messages(LimitHolder::Author, 1_800)
    );
    clock.advance(Duration::from_hours(1));
    assert_eq!(limits.take(&third, "user-1", 2, 2).await, Ok(()));
    assert_eq!(
        limits.take(&clinic_id, "user-2", 2, 2).await,
        messages(LimitHolder::Clinic, 3_600)
    );
    assert_eq!(limits.take(&clinic_id, "user-2", 1, 1).await, Ok(()));
}

#[tokio::test]
async fn unreadable_limits_stop_every_test() {
    let world = World::saved().await;
    for fault in [Fault::ServerError, Fault::AccessDenied] {
        world
            .aws
            .fail_next("dynamodb", "TransactWriteItems", 100, fault);
        let answer = world
            .test_email(CLINIC, &json!({"verifyOnly": true}))
            .await
            .expect(503);
        assert_eq!(answer.header("retry-after"), "5");
        world.aws.clear_faults();
    }
    assert_eq!(world.smtp.connections(), 0);
}
