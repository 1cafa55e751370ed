//! What SES's replies mean.

use super::*;

/// Reads the fixtures: each reply with its name and what is expected of it.
fn replies() -> Vec<(String, Reply, Value)> {
    let files = [
        "send_email.json",
        "throttling.json",
        "common_errors.json",
        "success.json",
    ];
    let mut replies = Vec::new();
    for file in files {
        let fixture = fixture(&format!("ses/{file}"));
        for reply in fixture["replies"].as_array().unwrap() {
            let name = format!("{file}: {}", reply["name"].as_str().unwrap());
            let headers = reply["headers"].as_object().unwrap();
            let headers = headers
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect();
            let body = &reply["body"];
            let body = body
                .as_str()
                .map_or_else(|| body.to_string(), str::to_owned);
            let status = reply["status"].as_u64().unwrap().try_into().unwrap();
            let answer = Reply::Answer(status, headers, body);
            replies.push((name, answer, reply["expect"].clone()));
        }
    }
    replies
}

#[tokio::test]
async fn every_reply_is_classified_and_none_is_sent_again() {
    for (name, reply, expected) in replies() {
        let double = Double::answering([reply]);
        let error = sent(&double.provider(keys()), &message(|_| {}))
            .await
            .expect_err(&name);
        let mut got = json!({
            "disposition": error.disposition,
            "kind": error.kind,
            "unhealthy": error.unhealthy,
            "code": error.code,
        });
        if let Some(wait) = error.retry_after {
            got["retry_after"] = wait.as_secs().into();
        }
        assert_eq!(got, expected, "{name}");
        assert_eq!(double.seen().len(), 1, "{name}");
    }
}

#[test]
fn every_code_of_the_table_has_a_reply_to_test_it() {
    let listed = [
        "TooManyRequestsException",
        "ThrottlingException",
        "LimitExceededException",
        "AccountSuspendedException",
        "SendingPausedException",
        "MailFromDomainNotVerifiedException",
        "MessageRejected",
        "BadRequestException",
        "NotFoundException",
        "SignatureDoesNotMatch",
        "ExpiredTokenException",
        "AccessDeniedException",
    ];
    let tested: BTreeSet<String> = replies()
        .iter()
        .filter_map(|(_, _, expected)| Some(expected["code"].as_str()?.to_owned()))
        .collect();
    for code in listed {
        assert!(tested.contains(code), "{code}");
    }
    // And every error that the service model has for the operation.
    let model = fixture("contracts/sesv2_botocore.trim.json");
    for error in model["operations"]["SendEmail"]["errors"]
        .as_array()
        .unwrap()
    {
        let code = error["shape"].as_str().unwrap();
        assert!(tested.contains(code), "{code}");
    }
}
