//! Examples and rules of the document are those of the code.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::request;
use comms_runtime::http;
use comms_settings::document;
use comms_tests::{
    World, communication,
    contract::{Contract, Direction, Operation, operation},
    super_admin,
};
use serde_json::{Value, json};

use super::{
    another_super_admin, operations,
    request::Request,
    requests::{Body, without_nulls},
    rules::{Rule, rules},
    world,
};

/// Saves what the examples are about: both channels of their clinic.
async fn save_examples(world: &World, contract: &Contract) {
    let put = operation(contract, "putClinic");
    let (_, body) = put.bodies().next().unwrap();
    let chain = &body["examples"]["chain"];
    let chain = contract.resolved(chain)["value"].clone();
    let answer = Request::of(&put, Body::Json(chain))
        .ask(world, &put, &super_admin())
        .await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text);
}

#[tokio::test]
async fn every_example_of_a_request_is_accepted_and_answered_as_documented() {
    let contract = Contract::read();
    let mut number = 0;
    for operation in operations(&contract) {
        for (content_type, body) in operation.bodies() {
            for (name, example) in contract.examples(body) {
                let world = world().await;
                number += 1;
                if operation.object["operationId"] == "postCommunication" {
                    world.save_clinic().await;
                } else {
                    save_examples(&world, &contract).await;
                }
                let _global = match operation.object["operationId"].as_str() {
                    Some("sendReplyToLink") => Some(world.save_global().await),
                    Some(_) | None => None,
                };
                let mut request = Request::of(&operation, Body::Json(example));
                content_type.clone_into(&mut request.content_type);
                let answer = request
                    .ask(&world, &operation, &another_super_admin(number))
                    .await;
                contract.check(&operation, &answer).unwrap();
                assert!(
                    (200..300).contains(&answer.status),
                    "{name}: {}",
                    answer.text
                );
            }
        }
    }
    assert!(number > 10, "{number}");
}

/// A request that is a byte or a header too large is refused in the document's words, and one that is not is not.
#[tokio::test]
async fn oversized_request_is_refused_as_documented() {
    let contract = Contract::read();
    let world = world().await;
    for (number, operation) in operations(&contract).into_iter().enumerate() {
        let ask = async |request: Request| {
            let claims = another_super_admin(number);
            request.ask(&world, &operation, &claims).await
        };
        let plain = || Request::of(&operation, Body::Json(json!({})));
        let event = plain().event(&operation, &another_super_admin(number));
        let event: Value = serde_json::from_str(&event).unwrap();
        let headers = event["headers"].as_object().unwrap();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.len() + value.as_str().unwrap().len())
            .sum();
        let path = event["rawPath"].as_str().unwrap().len();

        let mut cases = Vec::new();
        for more in [0, 1] {
            let mut many = plain();
            for n in 0..http::MAX_HEADERS - headers.len() + more {
                many = many.with_header(&format!("x-{n}"), "");
            }
            let long = "v".repeat(http::MAX_HEADER_BYTES - bytes - 1 + more);
            let mut target = plain();
            let query = "q".repeat(http::MAX_TARGET_BYTES - path - 3 + more);
            target.query = vec![("q".to_owned(), query)];
            cases.extend([
                (many, 431, more),
                (plain().with_header("x", &long), 431, more),
                (target, 414, more),
            ]);
        }
        for (content_type, _) in operation.bodies() {
            let most = match operation.object["operationId"].as_str() {
                Some("postCommunication") => request::MAX_BYTES,
                Some(_) | None => document::MAX_DOCUMENT_BYTES,
            };
            for more in [0, 1] {
                let mut body = plain();
                content_type.clone_into(&mut body.content_type);
                body.body = Body::Bytes([b"{}".to_vec(), vec![b' '; most - 2 + more]].concat());
                cases.push((body, 413, more));
            }
        }
        for (request, status, more) in cases {
            let answer = ask(request).await;
            let key = operation.key();
            assert_eq!(
                answer.status == status,
                more == 1,
                "{key:?}: {}",
                answer.text
            );
            if more == 1 {
                contract.check(&operation, &answer).unwrap();
            }
        }
    }
}

/// Asks for what breaks a rule, and for whether it is refused in the rule's words.
async fn check_broken(
    world: &World,
    contract: &Contract,
    operation: &Operation,
    rule: &Rule,
    request: Request,
    number: usize,
) {
    let (_, body) = operation.bodies().next().unwrap();
    let answer = request
        .ask(world, operation, &another_super_admin(number))
        .await;
    contract.check(operation, &answer).unwrap();
    let errors = answer.body["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    // Where a field has two names, under either.
    let same = rules(contract, &body["schema"])
        .into_iter()
        .filter(|same| same.name() == rule.name());
    let says_so = same
        .into_iter()
        .any(|rule| errors.iter().any(|error| rule.explains(error)));
    assert!(answer.status == 422 && says_so, "{rule:?}: {}", answer.text);
}

#[tokio::test]
async fn every_rule_of_the_document_is_a_rule_of_the_code() {
    let contract = Contract::read();
    let world = world().await;
    let (mut all, mut broken) = (BTreeMap::new(), BTreeSet::new());
    let mut number = 0;
    for operation in operations(&contract) {
        for (_, body) in operation.bodies() {
            let validator = contract.validator(&body["schema"], Direction::Request);
            for rule in rules(&contract, &body["schema"]) {
                all.insert(rule.name().to_owned(), rule.clone());
                for (_, example) in contract.examples(body) {
                    let Some(request) = rule.broken(&example) else {
                        continue;
                    };
                    // Another provider's rule, or nothing that the schema would not say by itself.
                    let read = without_nulls(&contract, &request, &body["schema"]);
                    if read == without_nulls(&contract, &example, &body["schema"])
                        || !validator.is_valid(&read)
                    {
                        continue;
                    }
                    number += 1;
                    let mut request = Request::of(&operation, Body::Json(request));
                    for (name, value) in rule.headers.as_object().into_iter().flatten() {
                        request = request.with_header(name, value.as_str().unwrap());
                    }
                    check_broken(&world, &contract, &operation, &rule, request, number).await;
                    broken.insert(rule.name().to_owned());
                }
            }
        }
    }
    save_examples(&world, &contract).await;
    for (id, name, body) in large_violations() {
        let operation = operation(&contract, id);
        let (_, said) = operation.bodies().next().unwrap();
        assert!(
            contract
                .validator(&said["schema"], Direction::Request)
                .is_valid(&body),
            "{name}"
        );
        check_broken(
            &world,
            &contract,
            &operation,
            &all[name],
            Request::of(&operation, Body::Json(body)),
            number,
        )
        .await;
        broken.insert(name.to_owned());
    }
    // Of a patch: that its result has to be right.
    broken.insert(String::new());
    let unbroken: Vec<_> = all.keys().filter(|name| !broken.contains(*name)).collect();
    assert!(
        unbroken.is_empty(),
        "nobody has seen these rules: {unbroken:?}"
    );
}

/// What breaks the rules whose examples would be too long for the document, or need something saved before: the
/// operation, the rule and the body.
fn large_violations() -> Vec<(&'static str, &'static str, Value)> {
    let post = |field: &str, value: Value| {
        let mut body = communication();
        body[field] = value;
        body
    };
    let wide = "ä".repeat(200);
    let texts = vec!["x"; 33];
    let file = |bytes: usize| {
        json!({"filename": "a.bin", "contentType": "application/octet-stream",
               "content": BASE64_STANDARD.encode(vec![0; bytes])})
    };
    let mut params = post("templateParams", json!({"header": texts, "body": texts}));
    params["templateId"] = json!("reminder");
    let mut components = post(
        "templateComponents",
        json!([{"type": "body", "text": "x".repeat(32_768)}]),
    );
    components["templateId"] = json!("reminder");
    let copies = |from: u32| {
        (from..from + 25)
            .map(|n| format!("copy-{n}@example.com"))
            .collect::<Vec<_>>()
    };
    let mut many = post("cc", json!(copies(0)));
    many["bcc"] = json!(copies(25));
    let mut named = post("attachments", json!([file(1)]));
    named["attachments"][0]["filename"] = json!(wide);
    let templates = json!({"settings": {"communicationSettings": {"whatsapp": {"primary": {"provider": "twilio",
        "credentials": {"accountSid": "AC0123456789abcdef0123456789abcdef", "authToken": "token",
            "fromNumber": "+14155238886", "templates": {"ä".repeat(128): "HX0123456789abcdef0123456789abcdef"}}}}}}});
    let moved = json!({"settings": {"communicationSettings": {"email": {"defaultFrom": "desk@clinic.example",
        "primary": {"id": "gmail", "provider": "smtp", "credentials":
            {"host": "smtp.example.com", "port": 587, "secure": false, "user": "u"}}}}}});
    vec![
        ("postCommunication", "at most 64 strings together", params),
        (
            "postCommunication",
            "at most 32768 bytes together",
            components,
        ),
        (
            "postCommunication",
            "must name at most 49 addresses together with cc and bcc",
            many,
        ),
        (
            "postCommunication",
            "must be a file name of 1 to 255 bytes",
            named,
        ),
        (
            "postCommunication",
            "must be at most 4000000 bytes together",
            post("attachments", json!([file(4_000_001)])),
        ),
        (
            "postCommunication",
            "under a name of at most 64 bytes",
            post("metadata", json!({"ä".repeat(64): "x"})),
        ),
        ("putClinic", "under a name of 1 to 128 bytes", templates),
        ("putClinic", "must be sent again", moved),
    ]
}
