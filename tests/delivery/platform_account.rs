//! What a clinic can do at the platform's cost: with its account, and with more recipients than its limits count.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, SmtpServer, Stage},
};
use comms_tests::{
    CLINIC, FROM, Mail, World, claims, communication, email, immediate,
    reply_to::{ask_for_link, link_to},
};
use serde_json::{Value, json};

/// Envelope recipients that a server took.
fn envelope_recipients(server: &SmtpServer) -> usize {
    let messages = server.messages();
    messages.iter().map(|message| message.rcpt_to.len()).sum()
}

/// A world in which `_global` has this limit, and the clinic has switched its own provider off.
async fn switched_off(limit: Value) -> (World, SmtpServer, Arc<ManualClock>) {
    let mut world = Box::pin(World::new()).await;
    let global = Box::pin(world.save_global()).await;
    let patch = json!({"email": {"rateLimit": limit}});
    Box::pin(world.patch_settings("_global", patch))
        .await
        .expect(200);
    let mut entry = world.entry();
    entry["enabled"] = json!(false);
    Box::pin(world.put_settings(CLINIC, email(&entry, FROM)))
        .await
        .expect(201);
    let clock = Arc::new(ManualClock::new());
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    (world, global, clock)
}

fn with_copies(mut communication: Value, copies: usize) -> Value {
    let copies: Vec<_> = (0..copies)
        .map(|n| format!("copy-{n}@example.com"))
        .collect();
    communication["bcc"] = json!(copies);
    communication
}

#[tokio::test]
async fn the_global_accounts_limit_holds_for_what_clinics_send_by_it() {
    let (mut world, global, clock) = switched_off(json!({"maxPerDay": 3})).await;
    let admin = || claims("CLINIC_ADMIN", Some(CLINIC));
    let mut answers: BTreeMap<u16, usize> = BTreeMap::new();
    for n in 0..60 {
        if n == 30 {
            // Another process, which knows nothing of what the first one took.
            world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
        }
        let answer = world.post_as(&immediate(), admin(), &[]).await;
        *answers.entry(answer.status).or_default() += 1;
    }
    let workers = [
        world.worker_with_clock(clock.clone()),
        world.worker_with_clock(clock.clone()),
    ];
    for _ in 0..60 {
        world
            .post_as(&communication(), admin(), &[])
            .await
            .expect(202);
    }
    let mut waiting = 0;
    for n in 0..6 {
        let batch = world
            .run_worker_with(&workers[n % 2], Duration::from_secs(30))
            .await;
        waiting += batch.failed.len();
    }
    assert_eq!(envelope_recipients(&global), 3);
    assert_eq!(answers, BTreeMap::from([(200, 3), (429, 57)]));
    assert!(waiting >= 10, "{waiting}");
    // Nothing is lost: the next day has room for three more.
    clock.advance(Duration::from_hours(24));
    world
        .run_worker_with(&workers[0], Duration::from_secs(30))
        .await;
    assert_eq!(envelope_recipients(&global), 6);
}

#[tokio::test]
async fn copies_count_as_recipients_of_the_clinics_limit() {
    let mut world = World::saved().await;
    let patch = json!({"email": {"rateLimit": {"maxPerDay": 2}}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let clock = Arc::new(ManualClock::new());
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(world.post(&with_copies(immediate(), 49)).await.status);
    }
    assert_eq!(envelope_recipients(&world.smtp), 0);
    assert_eq!(statuses, [422, 422]);

    // From the queue it ends, and says why.
    let queued = world
        .post(&with_copies(communication(), 49))
        .await
        .expect(202);
    let worker = world.worker_with_clock(clock);
    let batch = world
        .run_worker_with(&worker, Duration::from_secs(30))
        .await;
    assert!(batch.failed.is_empty(), "{batch:?}");
    let answer = world.status(&queued.request_id()).await.expect(200);
    assert_eq!(
        answer.body["deliveries"][0]["reason"]["code"],
        "QUOTA_EXCEEDED"
    );
    // Its two recipients are still there.
    world.post(&with_copies(immediate(), 1)).await.expect(200);
    assert_eq!(envelope_recipients(&world.smtp), 2);
    world.post(&immediate()).await.expect(429);
}

/// What the platform's server got last, and what the delivery says of it.
async fn sent_with_reply_to(
    world: &World,
    global: &SmtpServer,
    address: &str,
) -> (Option<String>, Value) {
    let mut communication = immediate();
    communication["replyTo"] = json!(address);
    let admin = claims("CLINIC_ADMIN", Some(CLINIC));
    let answer = world.post_as(&communication, admin, &[]).await.expect(200);
    let status = world.status(&answer.request_id()).await.expect(200);
    let attempt = status.body["deliveries"][0]["attempts"][0].clone();
    assert_eq!(attempt["position"], "global");
    (
        Mail::of(&global.messages().pop().unwrap()).reply_to,
        attempt["replyTo"].clone(),
    )
}

#[tokio::test]
async fn an_unverified_reply_to_does_not_go_by_the_global_account() {
    let (world, global, _) = switched_off(Value::Null).await;
    let sent = sent_with_reply_to(&world, &global, "attacker@evil.example").await;
    assert_eq!(sent, (None, json!("dropped")));
    // Neither does the address of the clinic's settings.
    world.post(&immediate()).await.expect(200);
    assert_eq!(Mail::of(&global.messages().pop().unwrap()).reply_to, None);
}

#[tokio::test]
async fn an_address_gets_three_links_from_all_clinics_together() {
    let (world, global, _) = switched_off(Value::Null).await;
    for (clinic, address, status) in [
        (CLINIC, "victim@example.com", 202),
        (CLINIC, "VICTIM@example.com", 202),
        ("clinic-456", "victim@example.com", 202),
        ("clinic-789", "victim@example.com", 429),
        (CLINIC, "victim@example.com", 429),
        (CLINIC, "another@example.com", 202),
    ] {
        ask_for_link(&world, clinic, address).await.expect(status);
    }
    assert_eq!(global.messages().len(), 4);
}

#[tokio::test]
async fn a_link_that_may_have_been_sent_is_not_sent_again() {
    let (world, global, _) = switched_off(Value::Null).await;
    let patch = json!({"email": {"fallback": [world.entry()]}});
    world.patch_settings("_global", patch).await.expect(200);
    global.on(Stage::Body, Action::AcceptThenClose);
    ask_for_link(&world, CLINIC, "desk@clinic.example")
        .await
        .expect(503);
    assert_eq!(
        (global.messages().len(), world.smtp.messages().len()),
        (1, 0)
    );
    // What was surely not sent goes by the next entry.
    global.on(Stage::Mail, Action::reply("451 4.3.0 later"));
    ask_for_link(&world, CLINIC, "desk@clinic.example")
        .await
        .expect(202);
    assert_eq!(
        (global.messages().len(), world.smtp.messages().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn an_address_that_confirmed_its_link_is_named_for_replies() {
    const DESK: &str = "desk@clinic.example";
    let (mut world, global, clock) = switched_off(Value::Null).await;
    let link = link_to(&world, &global, DESK).await;
    assert!(!link.contains("desk"), "{link}");
    // A mail scanner that opens the link confirms nothing.
    let page = world
        .config("GET", &link, None, Value::Null, &[])
        .await
        .expect(200);
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    assert!(page.text.contains("<form method="), "{}", page.text);
    let dropped = (None, json!("dropped"));
    assert_eq!(sent_with_reply_to(&world, &global, DESK).await, dropped);
    for _ in 0..2 {
        world
            .config("POST", &link, None, Value::Null, &[])
            .await
            .expect(200);
    }
    // What a process remembers is up to a minute old.
    clock.advance(Duration::from_mins(1));
    let named = (Some(DESK.to_owned()), Value::Null);
    assert_eq!(sent_with_reply_to(&world, &global, DESK).await, named);
    assert_eq!(
        sent_with_reply_to(&world, &global, "other@clinic.example").await,
        dropped
    );
    // It was verified for this clinic only.
    world.send.pipeline = world.pipeline_with_clock("send", clock);
    let mut other = immediate();
    other["replyTo"] = json!(DESK);
    other["metadata"]["clinicId"] = json!("clinic-of-another");
    world.post(&other).await.expect(200);
    assert_eq!(Mail::of(&global.messages().pop().unwrap()).reply_to, None);
}

#[tokio::test]
async fn links_that_are_not_good_have_one_answer() {
    let (world, global, _) = switched_off(Value::Null).await;
    let link = link_to(&world, &global, "desk@clinic.example").await;
    let forged = [
        link.replace(CLINIC, "clinic-of-another"),
        format!("{link}0"),
        link[..link.len() - 1].to_owned(),
        "/api/v1/reply-to/x".to_owned(),
    ];
    let mut answers = Vec::new();
    for method in ["GET", "POST"] {
        for link in &forged {
            answers.push(
                world
                    .config(method, link, None, Value::Null, &[])
                    .await
                    .expect(404)
                    .text,
            );
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}
