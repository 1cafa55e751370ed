//! What SendGrid's replies mean.

use super::*;

/// One reply of a fixture, as the adapter gets it.
struct Reply {
    name: String,
    answer: HttpResponse,
    sandbox: bool,
    expect: Value,
}

fn replies(path: PathBuf) -> Vec<Reply> {
    let file = read_json(path);
    let url = file["source"].as_str().unwrap();
    assert!(url.starts_with("https://"), "{url}");
    let replies = file["replies"].as_array().unwrap().iter().map(|reply| {
        let headers: Vec<_> = reply["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let body = match &reply["body"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            json @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                json.to_string()
            }
        };
        let status = reply["status"].as_u64().unwrap().try_into().unwrap();
        Reply {
            name: reply["name"].as_str().unwrap().to_owned(),
            answer: HttpResponse::of(status, &headers, body, RECEIVED),
            sandbox: reply["sandbox"].as_bool().unwrap_or_default(),
            expect: reply["expect"].clone(),
        }
    });
    replies.collect()
}

fn send_replies() -> Vec<Reply> {
    let files = fs::read_dir(fixtures("sendgrid")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| !path.ends_with("scopes.json"))
        .flat_map(replies)
        .collect()
}

fn assert_expected(reply: &Reply, error: &ProviderError) {
    let mut expected = json!({
        "disposition": error.disposition,
        "kind": error.kind,
        "unhealthy": error.unhealthy,
    });
    if let Some(wait) = error.retry_after {
        expected["retryAfter"] = wait.as_secs().into();
    }
    assert_eq!(expected, reply.expect, "{}", reply.name);
}

#[test]
fn every_recorded_reply_to_a_message_means_what_is_expected() {
    for reply in send_replies() {
        match read_receipt(&reply.answer, &delivery(), reply.sandbox) {
            Ok(receipt) => {
                let expected = match reply.expect["accepted"].as_str() {
                    Some("header") => "14c5d75ce93.dfd.64b469",
                    Some("delivery") => "abababababababababababababababab",
                    _ => panic!("{} was not to be accepted", reply.name),
                };
                assert_eq!(receipt, Receipt::new(expected.into()), "{}", reply.name);
            }
            Err(error) => {
                assert_expected(&reply, &error);
                let status = reply.answer.status.to_string();
                let code = error.code.unwrap();
                assert_eq!(code.as_str(), status, "{}", reply.name);
            }
        }
    }
}

#[test]
fn every_status_of_the_documentation_has_a_recorded_reply() {
    let recorded: BTreeSet<_> = send_replies()
        .iter()
        .map(|reply| reply.answer.status)
        .collect();
    for status in [
        200, 202, 400, 401, 403, 404, 405, 406, 413, 415, 429, 451, 500, 502, 503, 504,
    ] {
        assert!(recorded.contains(&status), "{status}");
    }
}

#[test]
fn only_the_messages_own_faults_are_final_and_only_failures_of_the_server_are_in_doubt() {
    let faults = [
        Fault::Credits,
        Fault::Blocked,
        Fault::Trial,
        Fault::Sender,
        Fault::Recipient,
        Fault::Other,
    ];
    for (status, fault) in (100..1_000).flat_map(|status| faults.map(|fault| (status, fault))) {
        let Some(error) = classify(status, fault) else {
            continue;
        };
        let fits = match error.disposition {
            Disposition::Final => {
                status == 413 || (status == 400 && !matches!(fault, Fault::Sender | Fault::Trial))
            }
            Disposition::Transient => status == 429,
            Disposition::ProviderDown => (400..500).contains(&status),
            Disposition::Ambiguous => (500..600).contains(&status),
        };
        assert!(fits, "{status} {fault:?}");
    }
}

#[test]
fn a_key_may_send_only_if_its_scopes_say_so() {
    for reply in replies(fixtures("sendgrid/scopes.json")) {
        match read_scopes(&reply.answer) {
            Ok(()) => assert_eq!(reply.expect, json!({"passed": true}), "{}", reply.name),
            Err(error) => assert_expected(&reply, &error),
        }
    }
}

#[test]
fn the_scopes_that_are_read_are_of_the_contracts_form() {
    let schema = schema(
        "sendgrid_scopes_v3.trim.json",
        "/paths/~1v3~1scopes/get/responses/200/content/application~1json/schema",
    );
    let validator = jsonschema::validator_for(&schema).unwrap();
    let passed = replies(fixtures("sendgrid/scopes.json"))
        .into_iter()
        .filter(|reply| read_scopes(&reply.answer).is_ok());
    let bodies: Vec<_> = passed.map(|reply| reply.answer.json().unwrap()).collect();
    assert!(!bodies.is_empty());
    assert!(bodies.iter().all(|body| validator.is_valid(body)));
}
