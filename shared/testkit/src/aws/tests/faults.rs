//! Faults that a test scripts.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_sqs::types::SendMessageBatchResultEntry;
use aws_smithy_runtime_api::client::result::SdkError;

use super::*;

#[tokio::test]
async fn scripted_faults_reach_the_sdk_as_the_services_own_errors() {
    let aws = LocalAws::start().await;
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
    let config = aws
        .sdk_config()
        .into_builder()
        .retry_config(retries)
        .build();
    let tables = aws_sdk_dynamodb::Client::new(&config);
    let get = || {
        tables
            .get_item()
            .table_name(&aws.resources().settings_table)
            .key("pk", s("x"))
            .key("sk", s("x"))
            .send()
    };
    aws.fail_next("dynamodb", "GetItem", 3, Fault::Throttle);
    let error = get().await.unwrap_err().into_service_error();
    assert!(
        matches!(
            error,
            GetItemError::ProvisionedThroughputExceededException(_)
        ),
        "{error:?}"
    );
    assert_eq!(aws.count("dynamodb", "GetItem"), 3, "the SDK's own retries");
    get().await.unwrap();

    aws.fail_next("dynamodb", "*", 1, Fault::AccessDenied);
    let error = get().await.unwrap_err().into_service_error();
    assert_eq!(error.meta().code(), Some("AccessDeniedException"));

    aws.fail_next("dynamodb", "GetItem", 3, Fault::Drop);
    let error = get().await.unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");

    let kms = aws_sdk_kms::Client::new(&config);
    aws.fail_next("kms", "Decrypt", 3, Fault::ServerError);
    let error = kms
        .decrypt()
        .ciphertext_blob(Blob::new("x"))
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert!(error.is_kms_internal_exception(), "{error:?}");

    let sqs = aws_sdk_sqs::Client::new(&config);
    aws.fail_next("sqs", "SendMessage", 3, Fault::Throttle);
    let error = sqs
        .send_message()
        .queue_url(&aws.resources().queue_url)
        .message_body("x")
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert!(error.is_request_throttled(), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_effect_that_the_call_had() {
    let aws = LocalAws::start().await;
    let retries = RetryConfig::standard().with_max_attempts(1);
    let config = aws
        .sdk_config()
        .into_builder()
        .retry_config(retries)
        .build();
    let tables = aws_sdk_dynamodb::Client::new(&config);
    let table = aws.resources().settings_table.as_str();
    let put = |pk: &'static str| {
        tables
            .put_item()
            .table_name(table)
            .item("pk", s(pk))
            .item("sk", s("x"))
            .send()
    };
    for (fault, pk, is_there) in [(Fault::Drop, "a", false), (Fault::LoseAnswer, "b", true)] {
        aws.fail_next("dynamodb", "PutItem", 1, fault);
        let error = put(pk).await.unwrap_err();
        assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
        let item = aws.item(table, pk, "x").await.unwrap();
        assert_eq!(item.is_some(), is_there, "{fault:?}");
    }
    let item = json!({"pk": {"S": "b"}, "sk": {"S": "x"}});
    assert_eq!(aws.items(table).await.unwrap(), [item]);
    put("a").await.unwrap();
}

#[tokio::test]
async fn every_second_entry_of_a_partly_failing_batch_has_its_effect() {
    let aws = LocalAws::start().await;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
    let queue = &aws.resources().queue_url;
    let send = |ids: &'static [&'static str]| {
        let entry = |id: &&str| {
            aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder()
                .id(*id)
                .message_body(*id)
                .build()
                .unwrap()
        };
        sqs.send_message_batch()
            .queue_url(queue)
            .set_entries(Some(ids.iter().map(entry).collect()))
            .send()
    };
    for (ids, sent) in [(&["a", "b", "c"][..], &["b"][..]), (&["d"], &[])] {
        aws.fail_next("sqs", "SendMessageBatch", 1, Fault::SomeEntries);
        let answer = send(ids).await.unwrap();
        let successful: Vec<_> = answer
            .successful()
            .iter()
            .map(SendMessageBatchResultEntry::id)
            .collect();
        assert_eq!(successful, sent);
        assert_eq!(answer.failed().len(), ids.len() - sent.len());
        assert!(answer.failed().iter().all(|entry| !entry.sender_fault()));
    }
    let received = sqs
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .send()
        .await
        .unwrap();
    let bodies: Vec<_> = received.messages().iter().map(|m| m.body()).collect();
    assert_eq!(bodies, [Some("b")]);
}

#[tokio::test]
async fn watcher_sees_and_may_fail_each_call_before_and_after_its_effect() {
    let aws = LocalAws::start().await;
    let retries = RetryConfig::standard().with_max_attempts(1);
    let config = aws
        .sdk_config()
        .into_builder()
        .retry_config(retries)
        .build();
    let tables = aws_sdk_dynamodb::Client::new(&config);
    let table = aws.resources().settings_table.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watched, notes, in_table) = (aws.clone(), seen.clone(), table.clone());
    aws.watch(move |passing| {
        let (aws, notes, table) = (watched.clone(), notes.clone(), in_table.clone());
        Box::pin(async move {
            let pk = passing.request["Item"]["pk"]["S"].as_str().unwrap();
            let is_there = aws.item(&table, pk, "x").await.unwrap().is_some();
            let note = format!("{pk} {:?} {is_there}", passing.moment);
            notes.lock().unwrap().push(note);
            assert_eq!(passing.access_key_id, ACCESS_KEY_ID);
            match (pk, passing.moment) {
                ("before", Moment::Arrived) | ("after", Moment::Answered(_)) => {
                    Some(Fault::ServerError)
                }
                _ => None,
            }
        })
    });
    let mut results = Vec::new();
    for pk in ["before", "after", "never"] {
        let put = tables.put_item().table_name(&table).item("pk", s(pk));
        results.push(put.item("sk", s("x")).send().await.is_ok());
    }
    assert_eq!(results, [false, false, true]);
    let expected = [
        "before Arrived false",
        "before Answered(500) false",
        "after Arrived false",
        "after Answered(200) true",
        "never Arrived false",
        "never Answered(200) true",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}
