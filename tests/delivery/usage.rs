//! Usage: what is counted of a clinic's messages, what that costs, and what is told of it.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use comms_testkit::{
    aws::{Fault, Moment, PassingCall},
    clock::ManualClock,
    http::Reply,
    smtp::{Action, Stage},
};
use comms_tests::{
    ApiResponse, CLINIC, World, communication, email, entry, handle_records, immediate, record,
    super_admin,
};
use futures_util::future::join_all;
use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use serde_json::{Value, json};

const OTHER: &str = "clinic-456";
const TIME: Duration = Duration::from_secs(30);

async fn stats(world: &World, tenant: &str, query: &str) -> ApiResponse {
    let path = format!("/api/v1/clinics/{tenant}/communication/stats{query}");
    world.config("GET", &path, None, super_admin(), &[]).await
}

/// What is counted of a tenant's e-mail on any day.
async fn totals(world: &World, tenant: &str) -> Value {
    let all = stats(world, tenant, "?from=2025-11-01&to=2026-11-30").await;
    all.expect(200).body["totals"]["email"].clone()
}

/// A message of the queue to one recipient.
fn to(tenant: &str, n: usize, recipient: &str) -> Value {
    let mut message = communication();
    message["metadata"]["clinicId"] = json!(tenant);
    message["recipients"] = json!([{"email": recipient}]);
    record(&format!("message-{tenant}-{n}"), &message.to_string())
}

/// Whether a call is about an item of usage.
fn is_of_usage(call: &PassingCall) -> bool {
    let key = call.request["Key"]["pk"]["S"].as_str();
    key.is_some_and(|key| key.starts_with("usage#"))
}

/// The next write of usage gets no answer: it has no effect, or, `after`, it has.
fn hang_once(world: &World, after: bool) {
    let is_next = AtomicBool::new(true);
    world.aws.watch(move |call| {
        let hangs = is_of_usage(&call)
            && (call.moment != Moment::Arrived) == after
            && is_next.swap(false, Ordering::Relaxed);
        Box::pin(async move {
            if hangs {
                pending::<()>().await;
            }
            None
        })
    });
}

/// From now on what is asked of an item of usage has this fault, so often; or, `after`, had its effect before. Counts how
/// often it was asked.
fn trouble(world: &World, times: usize, fault: Fault, after: bool) -> Arc<AtomicUsize> {
    let asked = Arc::<AtomicUsize>::default();
    let counting = asked.clone();
    world.aws.watch(move |call| {
        let is_moment = (call.moment != Moment::Arrived) == after;
        let fails =
            is_of_usage(&call) && is_moment && counting.fetch_add(1, Ordering::Relaxed) < times;
        Box::pin(async move { fails.then_some(fault) })
    });
    asked
}

#[tokio::test]
async fn every_outcome_is_counted_with_one_write_a_clinic_and_batch() {
    let world = World::saved().await;
    let server = entry(world.smtp.port(), "nobody", "wrong");
    let _global = world.save_global().await;
    // The clinic's own login is refused, and the global account sends for it.
    let document = email(&server, "other@clinic.example");
    world.put_settings(OTHER, document).await.expect(201);
    let mut batch: Vec<_> = (0..5)
        .map(|n| to(CLINIC, n, &format!("patient-{n}@example.com")))
        .collect();
    batch.extend((0..3).map(|n| to(OTHER, n, &format!("other-{n}@example.com"))));
    let mut expired = communication();
    expired["expiresAt"] = json!("2026-01-01T00:00:00Z");
    batch.push(record("message-expired", &expired.to_string()));
    let mut nowhere = communication();
    nowhere["recipients"] = json!([{"phoneNumber": "+15550100"}]);
    batch.push(record("message-nowhere", &nowhere.to_string()));
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_hours(12));
    let worker = world.worker_with_clock(clock);
    let writes = trouble(&world, 0, Fault::Throttle, false);
    let failed = handle_records(&worker, &batch, TIME).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(writes.load(Ordering::Relaxed), 2, "one for each clinic");

    let answer = stats(&world, CLINIC, "?from=2026-01-01&to=2026-01-02").await;
    let expected = json!({
        "sent": 5, "sentByProvider": {"smtp": 5}, "sentByFallback": 0, "sentByGlobal": 0, "sentByGlobalBecause": {},
        "sentByCategory": {"appointment": 5}, "possibleDuplicates": 0,
        "failed": 1, "failedByReason": {"NO_ADDRESS": 1}, "unknown": 0, "expired": 1, "deferrals": 0,
    });
    let expected = json!({
        "clinicId": CLINIC, "from": "2026-01-01", "to": "2026-01-02", "totals": {"email": expected},
        "days": [{"date": "2026-01-01", "channels": {"email": expected}}],
    });
    assert_eq!(answer.expect(200).body, expected);
    let other = totals(&world, OTHER).await;
    assert_eq!(other["sent"], 3);
    assert_eq!(
        (&other["sentByFallback"], &other["sentByGlobal"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(other["sentByGlobalBecause"], json!({"own failed": 3}));
    // What it sent for a clinic is the clinic's.
    assert_eq!(totals(&world, "_global").await, Value::Null);

    // The same messages again end nothing, and cost nothing here.
    assert!(handle_records(&worker, &batch, TIME).await.is_empty());
    assert_eq!(writes.load(Ordering::Relaxed), 2);
    assert_eq!(totals(&world, OTHER).await, other);
    let items = world.aws.dump_tables().await;
    let items = items.lines().filter(|item| item.contains("usage#"));
    for item in items {
        assert!(!item.contains('@') && !item.contains("5550100"), "{item}");
    }
}

/// How often each end was, by clinic, channel, end, and provider or reason.
type Ends = BTreeMap<[String; 4], u64>;

/// What the ledger says of all deliveries.
async fn ends_in_ledger(world: &World) -> Ends {
    let mut ends = Ends::new();
    let table = &world.aws.resources().deliveries_table;
    for item in world.aws.items(table).await.unwrap() {
        let text = |name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
        if text("sk").starts_with("delivery#") {
            let of = match text("status").as_str() {
                "sent" => text("provider"),
                "failed" => text("reason"),
                _ => String::new(),
            };
            let end = [text("clinicId"), text("channel"), text("status"), of];
            *ends.entry(end).or_default() += 1;
        }
    }
    ends
}

/// What the statistics say of these tenants.
async fn ends_in_stats(world: &World, tenants: &[&str]) -> Ends {
    let mut ends = Ends::new();
    for tenant in tenants {
        let answer = stats(world, tenant, "").await.expect(200);
        for (channel, counts) in answer.body["totals"].as_object().unwrap() {
            let mut add = |end: &str, of: &str, count: &Value| {
                let count = count.as_u64().unwrap();
                if count > 0 {
                    let end = [*tenant, channel, end, of].map(str::to_owned);
                    assert_eq!(ends.insert(end, count), None);
                }
            };
            for (end, by) in [("sent", "sentByProvider"), ("failed", "failedByReason")] {
                let by = counts[by].as_object().unwrap();
                by.iter().for_each(|(of, count)| add(end, of, count));
            }
            for end in ["unknown", "expired"] {
                add(end, "", &counts[end]);
            }
        }
    }
    ends
}

#[tokio::test]
async fn usage_equals_the_ledger_for_every_channel_and_provider() {
    const SENDGRID: &str = "/v3/mail/send";
    const META: &str = "/v23.0/123456789/messages";
    let world = World::new().await;
    let (sendgrid, graph) = (world.api().await, world.api().await);
    let _global = world.save_global().await;
    let primary = json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-key",
        "fromEmail": "desk@clinic.example", "apiUrl": sendgrid.url()}});
    let mut document = email(&primary, "desk@clinic.example");
    document["email"]["fallback"] = json!([world.entry()]);
    document["whatsapp"] = json!({"primary": {"provider": "meta_business", "credentials": {
        "accessToken": "planted-token", "phoneNumberId": "123456789",
        "apiUrl": format!("{}/v23.0", graph.url())}}});
    world.put_settings(CLINIC, document).await.expect(201);
    let own = email(&world.entry(), "other@clinic.example");
    world.put_settings(OTHER, own).await.expect(201);
    let accepted = json!({"messages": [{"id": "wamid.1"}]});
    graph.always("POST", META, Reply::json(200, accepted));
    let unknown_number =
        json!({"error": {"message": "planted", "type": "OAuthException", "code": 131_026}});
    graph.on("POST", META, Reply::json(400, unknown_number));
    let down = Reply::json(503, json!({"errors": []}));
    sendgrid.always(
        "POST",
        SENDGRID,
        Reply::new(202).header("x-message-id", "1"),
    );
    sendgrid.on("POST", SENDGRID, down);
    let refused = Action::reply("550 5.1.1 planted");
    world.smtp.on(Stage::Rcpt, refused);

    let message = |n: u32, tenant: &str, change: Value| {
        let mut message = communication();
        message["metadata"] = match tenant {
            "_global" => json!({}),
            clinic => json!({"clinicId": clinic}),
        };
        for (name, value) in change.as_object().unwrap() {
            message[name] = value.clone();
        }
        record(&format!("message-{n}"), &message.to_string())
    };
    let both = |n: u32| {
        json!({"channels": ["email", "whatsapp"],
            "recipients": [{"email": format!("patient-{n}@example.com"), "phoneNumber": format!("+1555010{n}")}]})
    };
    let batch = [
        message(0, CLINIC, both(0)),
        message(1, CLINIC, both(1)),
        message(2, CLINIC, both(2)),
        message(
            3,
            CLINIC,
            json!({"recipients": [{"phoneNumber": "+15550103"}]}),
        ),
        message(4, CLINIC, json!({"expiresAt": "2026-01-01T00:00:00Z"})),
        message(5, OTHER, both(5)),
        message(6, OTHER, json!({})),
        message(7, OTHER, json!({})),
        message(8, "_global", json!({})),
        message(9, "_global", both(9)),
    ];
    let writes = trouble(&world, 0, Fault::Throttle, false);
    assert!(world.work_on(&batch).await.is_empty());
    assert_eq!(writes.load(Ordering::Relaxed), 3, "one for each tenant");

    let ledger = ends_in_ledger(&world).await;
    assert_eq!(ledger.values().sum::<u64>(), 15, "{ledger:#?}");
    assert_eq!(
        ends_in_stats(&world, &[CLINIC, OTHER, "_global"]).await,
        ledger
    );
    for end in [
        [CLINIC, "email", "sent", "sendgrid"],
        [CLINIC, "email", "failed", "NO_ADDRESS"],
        [CLINIC, "email", "expired", ""],
        [CLINIC, "whatsapp", "sent", "meta_business"],
        [CLINIC, "whatsapp", "failed", "REJECTED"],
        [OTHER, "email", "sent", "smtp"],
        [OTHER, "whatsapp", "failed", "NO_PROVIDER"],
        ["_global", "email", "sent", "smtp"],
    ] {
        assert!(
            ledger.contains_key(&end.map(str::to_owned)),
            "{end:?}: {ledger:#?}"
        );
    }
    let answers = world.answers();
    let stats = answers.lines().filter(|line| line.contains("\"totals\""));
    for line in stats {
        assert!(!line.contains('@') && !line.contains("155501"), "{line}");
    }
}

#[tokio::test]
async fn usage_write_without_an_answer_is_retried_and_counts_once() {
    for after in [false, true] {
        let world = World::saved().await;
        let worker = world.worker_with_clock(Arc::new(ManualClock::new()));
        hang_once(&world, after);
        for n in 0..2 {
            let batch = [to(CLINIC, n, "patient@example.com")];
            assert!(handle_records(&worker, &batch, TIME).await.is_empty());
        }
        assert_eq!(totals(&world, CLINIC).await["sent"], 2, "{after}");
    }
}

#[tokio::test]
async fn usage_written_a_day_later_counts_for_its_own_day() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    trouble(&world, usize::MAX, Fault::AccessDenied, false);
    let yesterday = [to(CLINIC, 0, "patient@example.com")];
    assert!(handle_records(&worker, &yesterday, TIME).await.is_empty());
    clock.advance(Duration::from_hours(24));
    let writes = trouble(&world, 0, Fault::AccessDenied, false);
    let today = [1, 2].map(|n| to(CLINIC, n, "patient@example.com"));
    assert!(handle_records(&worker, &today, TIME).await.is_empty());
    assert_eq!(writes.load(Ordering::Relaxed), 2, "one for each day");
    let answer = stats(&world, CLINIC, "?from=2026-01-01&to=2026-01-02").await;
    let days = answer.body["days"].as_array().unwrap().iter();
    let sent: Vec<_> = days.map(|day| &day["channels"]["email"]["sent"]).collect();
    assert_eq!(sent, [1, 2]);
}

#[tokio::test]
async fn immediate_sends_count_and_days_end_at_midnight_utc() {
    let mut world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_hours(24) - Duration::from_secs(1));
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    world.post(&immediate()).await.expect(200);
    clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        world.post(&immediate()).await.expect(200);
    }
    let answer = stats(&world, CLINIC, "?from=2026-01-01&to=2026-01-02").await;
    let answer = answer.expect(200);
    let days = answer.body["days"].as_array().unwrap().iter();
    let sent: Vec<_> = days
        .map(|day| (&day["date"], &day["channels"]["email"]["sent"]))
        .collect();
    let (first, second) = (json!("2026-01-01"), json!("2026-01-02"));
    assert_eq!(sent, [(&first, &json!(1)), (&second, &json!(2))]);
    assert_eq!(answer.body["totals"]["email"]["sent"], 3);
    let second_only = stats(&world, CLINIC, "?from=2026-01-02&to=2026-01-02").await;
    assert_eq!(second_only.body["totals"]["email"]["sent"], 2);
}

#[tokio::test]
async fn unwritten_usage_is_counted_once_by_the_next_invocation() {
    for (fault, after) in [
        (Fault::AccessDenied, false),
        (Fault::Throttle, false),
        // It had its effect, and the process cannot know.
        (Fault::ServerError, true),
    ] {
        let world = World::saved().await;
        let worker = world.worker_with_clock(Arc::new(ManualClock::new()));
        trouble(&world, usize::MAX, fault, after);
        for n in 0..2 {
            let batch = [to(CLINIC, n, "patient@example.com")];
            assert!(handle_records(&worker, &batch, TIME).await.is_empty());
        }
        assert_eq!(world.smtp.messages().len(), 2, "nothing is held up by it");
        trouble(&world, 0, fault, after);
        let batch = [to(CLINIC, 2, "patient@example.com")];
        assert!(handle_records(&worker, &batch, TIME).await.is_empty());
        assert_eq!(totals(&world, CLINIC).await["sent"], 3, "{fault:?}");
    }
}

#[tokio::test]
async fn processes_that_count_at_the_same_time_take_nothing_from_each_other() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let workers: Vec<_> = (0..20)
        .map(|_| world.worker_with_clock(clock.clone()))
        .collect();
    let batches: Vec<_> = (0..20)
        .map(|n| [to(CLINIC, n, "patient@example.com")])
        .collect();
    let all = workers
        .iter()
        .zip(&batches)
        .map(|(worker, batch)| handle_records(worker, batch, TIME));
    assert!(join_all(all).await.iter().all(Vec::is_empty));
    assert_eq!(totals(&world, CLINIC).await["sent"], 20);
}

#[tokio::test]
async fn deferred_then_sent_message_counts_as_both() {
    let later = Action::reply("451 4.3.0 later");
    let world = World::with(|server, _| server.on(Stage::Rcpt, later)).await;
    world.save_clinic().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let batch = [to(CLINIC, 0, "patient@example.com")];
    for (failed, sent) in [(1, 0), (0, 1)] {
        assert_eq!(handle_records(&worker, &batch, TIME).await.len(), failed);
        let email = totals(&world, CLINIC).await;
        assert_eq!(
            (&email["deferrals"], &email["sent"]),
            (&json!(1), &json!(sent))
        );
        clock.advance(Duration::from_mins(2));
    }
}

#[tokio::test]
async fn statistics_cover_the_last_thirty_days_or_the_queried_ones() {
    let world = World::saved().await;
    let today =
        |answer: &ApiResponse| -> Date { answer.body["to"].as_str().unwrap().parse().unwrap() };
    let before = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let usual = stats(&world, CLINIC, "").await.expect(200);
    let after = Timestamp::now().to_zoned(TimeZone::UTC).date();
    assert!((before..=after).contains(&today(&usual)));
    let from = today(&usual).checked_sub(29.days()).unwrap();
    assert_eq!(usual.body["from"], from.to_string());
    assert_eq!(
        (&usual.body["totals"], &usual.body["days"]),
        (&json!({}), &json!([]))
    );
    let since = stats(&world, CLINIC, &format!("?from={from}")).await;
    assert_eq!(since.expect(200).body["to"], usual.body["to"]);
    let until = stats(&world, CLINIC, "?to=2024-03-15").await.expect(200);
    assert_eq!(until.body["from"], "2024-02-15");
    stats(&world, CLINIC, "?from=2025-01-01&to=2026-02-04")
        .await
        .expect(200);
    for malformed in [
        "?from=2025-01-01&to=2026-02-05",
        "?from=2026-01-02&to=2026-01-01",
        "?from=9999-01-01",
        "?from=20260101",
        "?from=2026-1-1",
        "?from=2026-02-30",
        "?from=2026-01-01T00:00:00Z",
        "?to=-9999-01-01",
        "?from=",
        "?days=3",
        "?from=2026-01-01&from=2026-01-01",
        "?to=%zz",
    ] {
        let answer = stats(&world, CLINIC, malformed).await.expect(400);
        assert_eq!(answer.body["code"], "malformed_query", "{malformed}");
    }
    // No clinic has to have settings for it, and DynamoDB has to answer.
    stats(&world, "clinic-without-settings", "")
        .await
        .expect(200);
    world
        .aws
        .fail_next("dynamodb", "Query", 1, Fault::AccessDenied);
    stats(&world, CLINIC, "").await.expect(503);
}
