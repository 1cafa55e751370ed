//! What callers of the API are told: keys, repetitions, times, and whose account sends.

use comms_core::id::MAX_IDEMPOTENCY_KEY;
use comms_testkit::smtp::{Action, Stage};
use comms_tests::{
    ApiResponse, CLINIC, FROM, World, claims, communication, email, http_event, immediate, record,
    service, super_admin,
};
use serde_json::{Value, json};

const ROUTE: &str = "/api/v1/communications";

/// GETs a communication by its key.
pub(crate) async fn find(world: &World, query: &str, claims: &Value) -> ApiResponse {
    let event = http_event("GET", &format!("{ROUTE}?{query}"), None, claims, &[]);
    world.ask_status(&event).await
}

pub(crate) fn without_clinic(mut communication: Value) -> Value {
    communication["metadata"] = json!({"appointmentId": "appt-456"});
    communication
}

#[tokio::test]
async fn quoted_idempotency_key_is_the_key_inside_the_quotes() {
    let world = World::saved().await;
    let plain = world.post_with_key(&immediate(), "abc").await.expect(200);
    let quoted = world
        .post_with_key(&immediate(), "\"abc\"")
        .await
        .expect(200);
    assert_eq!(quoted.request_id(), plain.request_id());
    let escaped = world
        .post_with_key(&immediate(), r#""a\"\\b""#)
        .await
        .expect(200);
    let mut in_body = immediate();
    in_body["idempotencyKey"] = json!(r#"a"\b"#);
    let same = world.post(&in_body).await.expect(200);
    assert_eq!(escaped.request_id(), same.request_id());
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn malformed_quotes_of_an_idempotency_key_are_refused_with_the_header() {
    let world = World::saved().await;
    let long = format!("\"{}\"", "x".repeat(MAX_IDEMPOTENCY_KEY + 1));
    for key in [
        "\"abc",
        "\"",
        "\"\"",
        "\"a\"b\"",
        "\"a\\b\"",
        "\"abc\";x=1",
        "\"a b\"",
        &long,
    ] {
        let refused = world.post_with_key(&immediate(), key).await.expect(422);
        assert_eq!(refused.pointers(), ["/idempotencyKey"], "{key}");
        assert!(
            refused.text.contains("Idempotency-Key header"),
            "{}",
            refused.text
        );
    }
    assert!(world.smtp.messages().is_empty());
}

#[tokio::test]
async fn repeated_answer_says_that_it_is_one() {
    let world = World::saved().await;
    for communication in [immediate(), communication()] {
        let key = communication["strategy"].as_str().unwrap();
        let first = world.post_with_key(&communication, key).await;
        assert_eq!(first.header("idempotency-replayed"), "");
        let second = world.post_with_key(&communication, key).await;
        assert_eq!(second.status, first.status);
        assert_eq!(second.header("idempotency-replayed"), "true");
    }
}

#[tokio::test]
async fn request_is_found_by_clinic_and_key() {
    let world = World::saved().await;
    let posted = world.post_with_key(&communication(), "order 7/ü").await;
    posted.expect(422);
    let posted = world
        .post_with_key(&communication(), "order/7?a=b&c")
        .await
        .expect(202);
    let by_id = world.status(&posted.request_id()).await.expect(200);
    let query = format!("clinicId={CLINIC}&idempotencyKey=order%2F7%3Fa%3Db%26c");
    let found = find(&world, &query, &service()).await.expect(200);
    assert_eq!(found.body, by_id.body);
    let own = claims("CLINIC_MANAGER", Some(CLINIC));
    assert_eq!(
        find(&world, &query, &own).await.expect(200).body,
        by_id.body
    );
    let other = claims("CLINIC_ADMIN", Some("clinic-2"));
    find(&world, &query, &other).await.expect(404);
    find(&world, &query, &claims("", None)).await.expect(403);
    let query = format!("clinicId={CLINIC}&idempotencyKey=order%2F8");
    find(&world, &query, &service()).await.expect(404);
    let query = "clinicId=clinic-2&idempotencyKey=order%2F7%3Fa%3Db%26c";
    find(&world, query, &service()).await.expect(404);
}

#[tokio::test]
async fn request_that_came_by_the_queue_is_found_by_its_key() {
    let world = World::saved().await;
    let id = "059f36b4-87a3-44ab-83d2-661975970001";
    let mut with_key = communication();
    with_key["idempotencyKey"] = json!("order-7");
    world.work_on(&[record(id, &with_key.to_string())]).await;
    world
        .work_on(&[record(id, &communication().to_string())])
        .await;
    for key in ["order-7", id] {
        let query = format!("clinicId={CLINIC}&idempotencyKey={key}");
        let found = find(&world, &query, &service()).await.expect(200);
        assert_eq!(found.body["deliveries"][0]["status"], "sent");
    }
}

#[tokio::test]
async fn request_without_a_clinic_is_found_by_its_key_alone() {
    let world = World::saved().await;
    let global = world.save_global().await;
    let posted = world
        .post_with_key(&without_clinic(immediate()), "key-1")
        .await;
    let id = posted.expect(200).request_id();
    for query in [
        "idempotencyKey=key-1",
        "clinicId=_global&idempotencyKey=key-1",
    ] {
        for caller in [service(), super_admin()] {
            let found = find(&world, query, &caller).await.expect(200);
            assert_eq!(found.request_id(), id);
        }
    }
    let clinics = claims("CLINIC_ADMIN", Some(CLINIC));
    let named = "clinicId=_global&idempotencyKey=key-1";
    find(&world, named, &clinics).await.expect(404);
    assert_eq!(global.messages().len(), 1);
}

#[tokio::test]
async fn clinics_user_who_looks_up_a_key_without_clinic_is_told_to_name_it() {
    let world = World::saved().await;
    world.post_with_key(&immediate(), "key-1").await.expect(200);
    for role in ["CLINIC_ADMIN", "CLINIC_MANAGER"] {
        let own = claims(role, Some(CLINIC));
        let refused = find(&world, "idempotencyKey=key-1", &own).await.expect(400);
        assert_eq!(refused.body["code"], "malformed_query");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("clinicId"), "{detail}");
    }
}

#[tokio::test]
async fn key_is_found_as_the_header_had_it() {
    let world = World::saved().await;
    let quoted = world
        .post_with_key(&immediate(), r#""key-1""#)
        .await
        .expect(200);
    let mut in_body = immediate();
    in_body["idempotencyKey"] = json!(r#""key-2""#);
    let literal = world.post(&in_body).await.expect(200);
    for (key, posted) in [("key-1", &quoted), ("key-2", &literal)] {
        let query = format!("clinicId={CLINIC}&idempotencyKey=%22{key}%22");
        let found = find(&world, &query, &service()).await.expect(200);
        assert_eq!(found.request_id(), posted.request_id());
    }
    let query = format!("clinicId={CLINIC}&idempotencyKey=%22key-3%22");
    find(&world, &query, &service()).await.expect(404);
}

#[tokio::test]
async fn query_that_is_not_understood_is_refused() {
    let world = World::new().await;
    for query in [
        "",
        "clinicId=clinic-123",
        "idempotencyKey=",
        "idempotencyKey=a%20b",
        "clinicId=a.b&idempotencyKey=a",
        "clinicID=clinic-123&idempotencyKey=a",
        "idempotencyKey=a&idempotencyKey=b",
        "clinicId=clinic-123&clinicId=clinic-123&idempotencyKey=a",
        "idempotencyKey=%zz",
    ] {
        let refused = find(&world, query, &service()).await.expect(400);
        assert_eq!(refused.body["code"], "malformed_query", "{query}");
    }
}

#[tokio::test]
async fn expiry_may_be_any_time_of_the_year_9999() {
    let world = World::saved().await;
    for time in [
        "9999-12-30T22:00:00Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-12:00",
    ] {
        let mut communication = immediate();
        communication["expiresAt"] = json!(time);
        world.post(&communication).await.expect(200);
    }
    let mut communication = immediate();
    communication["expiresAt"] = json!("10000-01-01T00:00:00Z");
    let refused = world.post(&communication).await.expect(422);
    assert!(refused.text.contains("9999"), "{}", refused.text);
}

#[tokio::test]
async fn clinics_user_who_leaves_the_clinic_out_is_told_the_field() {
    let world = World::saved().await;
    let admin = claims("CLINIC_ADMIN", Some(CLINIC));
    let refused = world
        .post_as(&without_clinic(immediate()), admin.clone(), &[])
        .await
        .expect(422);
    assert_eq!(refused.pointers(), ["/metadata/clinicId"]);
    let mut global = immediate();
    global["metadata"]["clinicId"] = json!("_global");
    world.post_as(&global, admin, &[]).await.expect(403);
    let manager = claims("CLINIC_MANAGER", Some(CLINIC));
    world
        .post_as(&without_clinic(immediate()), manager, &[])
        .await
        .expect(403);
}

#[tokio::test]
async fn misspelt_clinic_is_refused_and_sends_nothing() {
    let world = World::saved().await;
    let global = world.save_global().await;
    for key in ["clinicID", "clinic_id", "clincId"] {
        let mut misspelt = immediate();
        misspelt["metadata"] = json!({key: CLINIC});
        let refused = world.post(&misspelt).await.expect(422);
        assert_eq!(refused.pointers(), [format!("/metadata/{key}")]);
    }
    assert!(global.messages().is_empty());
}

#[tokio::test]
async fn health_says_untried_of_an_entry_that_never_sent() {
    let world = World::saved().await;
    assert_eq!(health_of(&world).await, "untried");
    world.post(&immediate()).await.expect(200);
    assert_eq!(health_of(&world).await, "healthy");
}

#[tokio::test]
async fn passed_test_of_saved_settings_takes_back_down() {
    let world = World::saved().await;
    world.smtp.on(Stage::Auth, Action::reply("535 5.7.8 no"));
    world.post(&immediate()).await.expect(207);
    assert_eq!(health_of(&world).await, "down");
    let candidate = json!({"settings": {"communicationSettings": email(&world.entry(), FROM)},
        "verifyOnly": true});
    world.test_email(CLINIC, &candidate).await.expect(200);
    assert_eq!(
        health_of(&world).await,
        "down",
        "a candidate is not what is saved"
    );
    world
        .test_email(CLINIC, &json!({"verifyOnly": true}))
        .await
        .expect(200);
    assert_eq!(health_of(&world).await, "healthy");
}

pub(crate) async fn health_of(world: &World) -> Value {
    let path = format!("/api/v1/clinics/{CLINIC}/communication/health");
    let answer = world.config("GET", &path, None, super_admin(), &[]).await;
    answer.expect(200).body["providers"][0]["health"].clone()
}

/// Whose account the only delivery goes by, and why.
pub(crate) fn via(answer: &ApiResponse) -> (Value, Value) {
    let delivery = &answer.body["deliveries"][0];
    (delivery["via"].clone(), delivery["because"].clone())
}

#[tokio::test]
async fn answers_say_whose_account_sends_and_why() {
    let world = World::saved().await;
    let global = world.save_global().await;
    let of = |clinic: &str| {
        let mut communication = communication();
        communication["metadata"] = json!({"clinicId": clinic});
        communication
    };
    let told = |via: &str, because: &str| (json!(via), json!(because));
    for (communication, expected) in [
        (
            without_clinic(communication()),
            told("global", "no clinicId"),
        ),
        (of("_global"), told("global", "requested")),
        (of("clinic-without-settings"), told("global", "no settings")),
    ] {
        let queued = world.post(&communication).await.expect(202);
        assert_eq!(via(&queued), expected, "{}", queued.text);
        assert_eq!(
            via(&world.status(&queued.request_id()).await).0,
            match expected.1.as_str() {
                // Before it is sent, the ledger does not know what settings there will be.
                Some("no settings") => Value::Null,
                _ => expected.0.clone(),
            }
        );
        world.run_worker().await;
        assert_eq!(via(&world.status(&queued.request_id()).await), expected);
        let mut at_once = communication;
        at_once["strategy"] = json!("immediate");
        let sent = world.post(&at_once).await.expect(200);
        assert_eq!(via(&sent), expected);
        assert_eq!(via(&world.status(&sent.request_id()).await), expected);
    }
    let own = world.post(&immediate()).await.expect(200);
    assert_eq!(via(&own), (json!("clinic"), Value::Null));
    world
        .smtp
        .always(Stage::Auth, Action::reply("535 5.7.8 no"));
    let failed_over = world.post(&immediate()).await.expect(200);
    assert_eq!(via(&failed_over), told("global", "own failed"));
    let skipping = world.post(&immediate()).await.expect(200);
    let skipped = &world.status(&skipping.request_id()).await.body["deliveries"][0]["skipped"];
    assert_eq!(skipped[0]["entry"], "primary");
    assert_eq!(
        (&skipped[0]["reason"], &skipped[0]["lastError"]),
        (&json!("down"), &json!("unauthenticated"))
    );
    assert!(skipped[0]["since"].is_string());
    assert_eq!(global.messages().len(), 8);

    let path = format!("/api/v1/clinics/{CLINIC}/communication/stats");
    let stats = world
        .config("GET", &path, None, super_admin(), &[])
        .await
        .expect(200);
    let email = &stats.body["totals"]["email"];
    assert_eq!(email["sentByGlobalBecause"], json!({"own failed": 2}));
    assert_eq!(email["sentByCategory"], json!({"appointment": 3}));
}

#[tokio::test]
async fn communication_says_what_was_posted_and_when_what_happened() {
    let world = World::saved().await;
    let posted = world.post_with_key(&immediate(), "key-1").await.expect(200);
    let read = world.status(&posted.request_id()).await.expect(200).body;
    assert_eq!(
        (&read["category"], &read["priority"]),
        (&json!("appointment"), &json!("high"))
    );
    assert_eq!(read["replayed"], 0);
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let (accepted, ended) = (time(&read["acceptedAt"]), time(&read["endedAt"]));
    let attempt = time(&read["deliveries"][0]["attempts"][0]["at"]);
    assert!(accepted <= attempt && attempt <= ended, "{read}");
    assert_eq!(read["deliveries"][0]["endedAt"], read["endedAt"]);
    for count in 1..=2 {
        world.post_with_key(&immediate(), "key-1").await.expect(200);
        let read = world.status(&posted.request_id()).await.expect(200).body;
        assert_eq!(read["replayed"], count);
    }
    let queued = world.post(&communication()).await.expect(202);
    let read = world.status(&queued.request_id()).await.expect(200).body;
    assert!(read["acceptedAt"].is_string() && read.get("endedAt").is_none());
}

/// API Gateway puts the name of a stage before the path, and says nothing of it to the caller.
#[tokio::test]
async fn an_api_at_a_named_stage_is_refused_by_the_stages_name() {
    let world = World::saved().await;
    let path = "/api/v1/communications";
    let body = immediate().to_string();
    let mut event: Value =
        serde_json::from_str(&http_event("POST", path, Some(&body), &service(), &[])).unwrap();
    event["requestContext"]["stage"] = json!("prod");
    event["rawPath"] = json!(format!("/prod{path}"));
    let answer = world.ask_send(&event.to_string()).await.expect(404);
    assert_eq!(answer.body["code"], "not_found");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(
        detail.contains("stage \"prod\"") && detail.contains("$default"),
        "{detail}"
    );
    assert_eq!(world.smtp.connections(), 0);
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let world = World::saved().await;
    for coding in ["gzip", "br", "gzip, identity", ""] {
        let headers = [("content-encoding", coding)];
        let sent = world
            .post_as(&communication(), service(), &headers)
            .await
            .expect(415);
        assert_eq!(sent.body["code"], "unsupported_content_encoding");
        assert_eq!(sent.header("accept-encoding"), "identity");
        for (method, path) in [
            ("PUT", format!("/api/v1/clinics/{CLINIC}")),
            ("PATCH", format!("/api/v1/clinics/{CLINIC}")),
        ] {
            let saved = world.config(method, &path, Some("{}"), super_admin(), &headers);
            saved.await.expect(415);
        }
    }
    let headers = [("content-encoding", "Identity")];
    let sent = world.post_as(&communication(), service(), &headers).await;
    sent.expect(202);
}
