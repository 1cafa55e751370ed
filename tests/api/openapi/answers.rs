//! What happens rarely is answered as documented.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{aws::Fault, clock::ManualClock};
use comms_tests::{
    ApiResponse, CLINIC, World, communication,
    contract::{Contract, operation},
    immediate, service, super_admin,
};
use serde_json::{Value, json};

use super::{another_super_admin, request::Request, requests::Body};

#[tokio::test]
async fn repeated_and_large_communications_are_answered_as_documented() {
    let contract = Contract::read();
    let post = operation(&contract, "postCommunication");
    let check = |answer: ApiResponse, status: u16| {
        contract.check(&post, &answer.expect(status)).unwrap();
    };
    let world = World::saved().await;
    check(world.post_with_key(&communication(), "key-1").await, 202);
    let mut other = communication();
    other["title"] = json!("Another");
    check(world.post_with_key(&other, "key-1").await, 409);
    check(world.post_with_key(&immediate(), "key-2").await, 200);
    let mut partly = immediate();
    partly["recipients"] = json!([{"email": "pat@example.com"}, {"phoneNumber": "+15550100"}]);
    check(world.post(&partly).await, 207);
    partly["recipients"] = json!([{"phoneNumber": "+15550100"}]);
    check(world.post(&partly).await, 207);
    let mut large = communication();
    large["attachments"] = json!([{"filename": "a.bin", "contentType": "application/octet-stream",
        "content": BASE64_STANDARD.encode(vec![0; 900_000])}]);
    check(world.post(&large).await, 413);
    world
        .aws
        .fail_next("sqs", "SendMessageBatch", 100, Fault::ServerError);
    check(world.post(&communication()).await, 503);
}

#[tokio::test]
async fn a_communication_over_the_clinics_limit_is_answered_as_documented() {
    let contract = Contract::read();
    let post = operation(&contract, "postCommunication");
    let mut world = World::saved().await;
    world.send.pipeline = world.pipeline_with_clock("send", Arc::new(ManualClock::new()));
    let limit = json!({"email": {"rateLimit": {"maxPerHour": "1"}}});
    world.patch_settings(CLINIC, limit).await.expect(200);
    let mut two = immediate();
    two["recipients"] = json!([{"email": "pat@example.com"}, {"email": "sam@example.com"}]);
    for (communication, status) in [(immediate(), 200), (immediate(), 429), (two, 422)] {
        let answer = world.post(&communication).await.expect(status);
        contract.check(&post, &answer).unwrap();
    }
}

#[tokio::test]
async fn statistics_are_answered_as_documented_for_every_query() {
    let contract = Contract::read();
    let stats = operation(&contract, "getStats");
    let world = World::saved().await;
    let ask = async |clinic: &str, query: &[(&str, &str)], claims: &Value| {
        let mut request = Request::of(&stats, Body::None).at(clinic);
        let query = query.iter();
        request.query = query
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let answer = request.ask(&world, &stats, claims).await;
        contract.check(&stats, &answer).unwrap();
        answer
    };
    let mut both = immediate();
    both["channels"] = json!(["email", "whatsapp"]);
    both["recipients"] = json!([{"email": "pat@example.com", "phoneNumber": "+15550100"}, {"phoneNumber": "+15550101"}]);
    world.post(&both).await.expect(207);
    let counted = ask(CLINIC, &[], &super_admin()).await.expect(200).body;
    assert_eq!(counted["totals"]["email"]["sentByProvider"]["smtp"], 1);
    let failed = &counted["totals"]["whatsapp"]["failedByReason"];
    assert_eq!(*failed, json!({"NO_PROVIDER": 2}));

    let admin = super_admin();
    for (clinic, query, claims, status) in [
        ("clinic-unknown", &[][..], &admin, 200),
        ("_global", &[], &admin, 200),
        (
            CLINIC,
            &[("from", "2025-01-01"), ("to", "2026-02-04")],
            &admin,
            200,
        ),
        (
            CLINIC,
            &[("from", "2025-01-01"), ("to", "2026-02-05")],
            &admin,
            400,
        ),
        (
            CLINIC,
            &[("from", "2026-01-02"), ("to", "2026-01-01")],
            &admin,
            400,
        ),
        (CLINIC, &[("day", "2026-01-01")], &admin, 400),
        ("-", &[], &admin, 404),
        (CLINIC, &[], &service(), 403),
        (CLINIC, &[], &Value::Null, 403),
    ] {
        ask(clinic, query, claims).await.expect(status);
    }
    world
        .aws
        .fail_next("dynamodb", "Query", 100, Fault::ServerError);
    ask(CLINIC, &[], &admin).await.expect(503);
}

#[tokio::test]
async fn saved_and_unreadable_settings_are_answered_as_documented() {
    let contract = Contract::read();
    let (put, get) = (
        operation(&contract, "putClinic"),
        operation(&contract, "getClinic"),
    );
    let world = World::saved().await;
    let read = |clinic: &str| Request::of(&get, Body::None).at(clinic);
    let answer = read(CLINIC)
        .ask(&world, &get, &super_admin())
        .await
        .expect(200);
    contract.check(&get, &answer).unwrap();
    for (name, value, status) in [
        ("if-match", answer.header("etag"), 200),
        ("if-match", "\"7\"", 412),
        ("if-none-match", "*", 412),
    ] {
        let save = Request::of(&put, Body::Json(answer.body.clone())).at(CLINIC);
        let save = save.with_header(name, value);
        let answer = save.ask(&world, &put, &super_admin()).await.expect(status);
        contract.check(&put, &answer).unwrap();
    }
    for (clinic, claims, status) in [
        ("clinic-unknown", super_admin(), 404),
        (CLINIC, Value::Null, 403),
    ] {
        let answer = read(clinic).ask(&world, &get, &claims).await.expect(status);
        contract.check(&get, &answer).unwrap();
    }
    for (service, operation, fault, status) in [
        ("dynamodb", "GetItem", Fault::ServerError, 503),
        ("kms", "Decrypt", Fault::ServerError, 503),
    ] {
        world.aws.fail_next(service, operation, 100, fault);
        let answer = read(CLINIC)
            .ask(&world, &get, &super_admin())
            .await
            .expect(status);
        contract.check(&get, &answer).unwrap();
        world.aws.clear_faults();
    }
}

#[tokio::test]
async fn deleted_version_can_be_restored_and_its_deletion_cannot() {
    let contract = Contract::read();
    let world = World::saved().await;
    for (id, version, status) in [
        ("deleteClinic", "", 204),
        ("deleteClinic", "", 404),
        ("restoreVersion", "2", 422),
        ("restoreVersion", "3", 404),
        ("restoreVersion", "1", 201),
        ("listVersions", "", 200),
        ("getProviderHealth", "", 200),
    ] {
        let operation = operation(&contract, id);
        let mut request = Request::of(&operation, Body::None).at(CLINIC);
        for (name, value) in &mut request.path {
            if name == "version" {
                version.clone_into(value);
            }
        }
        let answer = request.ask(&world, &operation, &super_admin()).await;
        contract.check(&operation, &answer.expect(status)).unwrap();
    }
}

#[tokio::test]
async fn test_over_the_limit_is_answered_as_documented() {
    let contract = Contract::read();
    let test = operation(&contract, "testEmail");
    let world = World::saved().await;
    for number in 0..31 {
        let verify = Request::of(&test, Body::Json(json!({"verifyOnly": true}))).at(CLINIC);
        let status = if number < 30 { 200 } else { 429 };
        let answer = verify
            .ask(&world, &test, &another_super_admin(number))
            .await
            .expect(status);
        contract.check(&test, &answer).unwrap();
    }
}
