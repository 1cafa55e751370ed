//! The local AWS as the SDK sees it.

mod faults;

use std::os::unix::fs::PermissionsExt as _;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full};

use super::serve::credential_scope;
use super::*;

fn s(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

async fn put(tables: &aws_sdk_dynamodb::Client, table: &str, secret: &str) {
    tables
        .put_item()
        .table_name(table)
        .item("pk", s("CLINIC#1"))
        .item("sk", s("SETTINGS"))
        .item("sealed", AttributeValue::B(Blob::new(secret)))
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_sdk_writes_and_reads_items_and_both_calls_are_recorded() {
    let aws = LocalAws::start().await;
    let tables = aws_sdk_dynamodb::Client::new(&aws.sdk_config());
    let table = &aws.resources().settings_table;
    put(&tables, table, "hunter2").await;
    let item = tables
        .get_item()
        .table_name(table)
        .key("pk", s("CLINIC#1"))
        .key("sk", s("SETTINGS"))
        .send()
        .await
        .unwrap();
    assert!(item.item.is_some());
    let calls: Vec<String> = aws.calls().iter().map(ToString::to_string).collect();
    assert_eq!(calls, ["dynamodb:PutItem", "dynamodb:GetItem"]);
    aws.clear_calls();
    assert!(aws.calls().is_empty());
    let dump = aws.dump_tables().await;
    assert!(
        dump.contains("CLINIC#1") && dump.contains("hunter2"),
        "{dump}"
    );
}

#[tokio::test]
async fn deliveries_expire_by_their_time_to_live() {
    let aws = LocalAws::start().await;
    let tables = aws_sdk_dynamodb::Client::new(&aws.sdk_config());
    let ttl = tables
        .describe_time_to_live()
        .table_name(&aws.resources().deliveries_table)
        .send()
        .await
        .unwrap()
        .time_to_live_description
        .unwrap();
    assert_eq!(ttl.attribute_name(), Some("expiresAt"));
    tables
        .put_item()
        .table_name(&aws.resources().deliveries_table)
        .item("pk", s("a"))
        .item("sk", s("a"))
        .item("expiresAt", AttributeValue::N("1700000000".to_owned()))
        .send()
        .await
        .unwrap();
    assert_eq!(aws.sweep_expired().await.unwrap(), 1);
}

#[tokio::test]
async fn a_data_key_opens_with_its_encryption_context_only() {
    let aws = LocalAws::start().await;
    let kms = aws_sdk_kms::Client::new(&aws.sdk_config());
    let key = &aws.resources().kms_key_id;
    let data_key = kms
        .generate_data_key()
        .key_id("alias/clinic-comms")
        .key_spec(aws_sdk_kms::types::DataKeySpec::Aes256)
        .encryption_context("clinicId", "a")
        .send()
        .await
        .unwrap();
    assert_eq!(data_key.key_id(), Some(key.as_str()));
    let decrypt = |clinic: &'static str| {
        kms.decrypt()
            .key_id(key)
            .ciphertext_blob(data_key.ciphertext_blob.clone().unwrap())
            .encryption_context("clinicId", clinic)
            .send()
    };
    assert_eq!(decrypt("a").await.unwrap().plaintext, data_key.plaintext);
    let refused = decrypt("b").await.unwrap_err().into_service_error();
    assert!(refused.is_invalid_ciphertext_exception(), "{refused:?}");
}

#[tokio::test]
async fn a_queued_message_is_received_with_its_group_and_deleted() {
    let aws = LocalAws::start().await;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
    let queue = &aws.resources().queue_url;
    sqs.send_message()
        .queue_url(queue)
        .message_body("{}")
        .message_group_id("clinic-1")
        .send()
        .await
        .unwrap();
    let received = sqs
        .receive_message()
        .queue_url(queue)
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .send()
        .await
        .unwrap();
    let attributes = received.messages()[0].attributes().unwrap();
    assert_eq!(
        attributes[&MessageSystemAttributeName::MessageGroupId],
        "clinic-1"
    );
    let handle = received.messages()[0].receipt_handle().unwrap();
    sqs.delete_message()
        .queue_url(queue)
        .receipt_handle(handle)
        .send()
        .await
        .unwrap();
    assert_eq!(aws.count("sqs", "ReceiveMessage"), 1);
}

#[tokio::test]
async fn a_message_that_was_given_back_is_counted_as_one_that_can_be_received() {
    let aws = LocalAws::start().await;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
    let queue = &aws.resources().dlq_url;
    let counts = async || {
        let answer = sqs
            .get_queue_attributes()
            .queue_url(queue)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ]
        .map(|name| answer.attributes().unwrap()[&name].clone())
    };
    for body in ["a", "b", "c"] {
        let request = sqs.send_message().queue_url(queue).message_body(body);
        request.send().await.unwrap();
    }
    assert_eq!(counts().await, ["3", "0"]);
    let request = sqs.receive_message().queue_url(queue);
    let received = request.max_number_of_messages(2).send().await.unwrap();
    assert_eq!(counts().await, ["1", "2"]);
    let handle = |n: usize| received.messages()[n].receipt_handle().unwrap();
    sqs.change_message_visibility()
        .queue_url(queue)
        .receipt_handle(handle(0))
        .visibility_timeout(0)
        .send()
        .await
        .unwrap();
    assert_eq!(counts().await, ["2", "1"]);
    sqs.delete_message()
        .queue_url(queue)
        .receipt_handle(handle(1))
        .send()
        .await
        .unwrap();
    assert_eq!(counts().await, ["2", "0"]);
}

#[tokio::test]
async fn message_received_too_often_is_a_dead_letter_with_its_source() {
    let aws = LocalAws::start().await;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
    let (queue, dlq) = (&aws.resources().urgent_queue_url, &aws.resources().dlq_url);
    let policy = format!(
        r#"{{"deadLetterTargetArn":"arn:aws:sqs:{REGION}:{ACCOUNT}:{DLQ}","maxReceiveCount":1}}"#
    );
    sqs.set_queue_attributes()
        .queue_url(queue)
        .attributes(QueueAttributeName::RedrivePolicy, policy)
        .send()
        .await
        .unwrap();
    let request = sqs.send_message().queue_url(queue).message_body("{}");
    let sent = request.message_group_id("clinic-1").send().await.unwrap();
    let receive = async |url: &str| {
        let request = sqs
            .receive_message()
            .queue_url(url)
            .message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.unwrap().messages.unwrap_or_default()
    };
    let first = receive(queue).await;
    sqs.change_message_visibility()
        .queue_url(queue)
        .set_receipt_handle(first[0].receipt_handle.clone())
        .visibility_timeout(0)
        .send()
        .await
        .unwrap();
    assert!(receive(queue).await.is_empty());
    let dead = receive(dlq).await;
    assert_eq!(dead[0].message_id, sent.message_id);
    let attributes = dead[0].attributes().unwrap();
    assert_eq!(
        attributes[&MessageSystemAttributeName::DeadLetterQueueSourceArn],
        format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{URGENT_QUEUE}")
    );
    assert_eq!(
        attributes[&MessageSystemAttributeName::MessageGroupId],
        "clinic-1"
    );
}

#[tokio::test]
async fn sts_gives_an_hour_for_a_role_and_refuses_what_is_malformed() {
    let aws = LocalAws::start().await;
    let sts = aws_sdk_sts::Client::new(&aws.sdk_config());
    let assume = |role: &str, session: &str, external: &str| {
        sts.assume_role()
            .role_arn(role)
            .role_session_name(session)
            .external_id(external)
            .send()
    };
    let role = "arn:aws:iam::210987654321:role/path/clinic-mail";
    let given = assume(role, "clinic-comms", "a:b").await.unwrap();
    let given = given.credentials.unwrap();
    let left = given.expiration.secs() - jiff::Timestamp::now().as_second();
    assert!((3500..=3600).contains(&left), "{left}");
    let assumed = aws.assumed_roles();
    assert_eq!(assumed.len(), 1);
    assert_eq!(assumed[0].role_arn, role);
    assert_eq!(assumed[0].external_id.as_deref(), Some("a:b"));
    assert_eq!(assumed[0].access_key_id, given.access_key_id);

    for (role, session, external) in [
        ("arn:aws:iam::210987654321:user/mail", "clinic-comms", "ab"),
        ("arn:aws:iam::2109:role/mail", "clinic-comms", "ab"),
        (role, "clinic comms", "ab"),
        (role, "clinic-comms", "a"),
        (role, "clinic-comms", "<ab>"),
    ] {
        let error = assume(role, session, external).await.unwrap_err();
        let error = error.into_service_error();
        assert_eq!(error.meta().code(), Some("ValidationError"), "{error:?}");
    }
    assert_eq!(aws.assumed_roles().len(), 1);

    aws.fail_next("sts", "AssumeRole", 1, Fault::AccessDenied);
    let error = assume(role, "clinic-comms", "ab").await.unwrap_err();
    let error = error.into_service_error();
    assert_eq!(error.meta().code(), Some("AccessDenied"));
}

/// A page whose name resolves to this machine is of the endpoint's own origin, and signs with any key.
#[tokio::test]
async fn a_request_by_another_host_name_is_refused() {
    let aws = LocalAws::start().await;
    let ask = async |host: &str| {
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
        let request = Request::post(aws.endpoint())
            .header("host", host)
            .header(CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", "DynamoDB_20120810.ListTables")
            .header("x-amz-date", "20260101T000000Z")
            .header(
                AUTHORIZATION,
                "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request",
            )
            .body(Full::new(Bytes::from("{}")))
            .unwrap();
        let answer = client.build_http::<Full<Bytes>>().request(request).await;
        let (parts, body) = answer.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            parts.status.as_u16(),
            String::from_utf8_lossy(&body).into_owned(),
        )
    };
    let port = aws.inner.address.port();
    let (status, body) = ask(&format!("localhost:{port}")).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = ask(&format!("attacker.example:{port}")).await;
    assert_eq!(status, 421, "{body}");
    assert!(
        body.contains("--allow-host") && !body.contains("attacker"),
        "{body}"
    );
    assert!(
        aws.calls()
            .iter()
            .all(|call| call.operation == "ListTables")
    );
    assert_eq!(aws.calls().len(), 1);
}

#[tokio::test]
async fn data_sealed_before_a_restart_opens_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let start = || async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        LocalAws::start_on(listener, Some(dir.path()), &[])
            .await
            .unwrap()
    };
    let first = start().await;
    let config = first.sdk_config();
    let sealed = aws_sdk_kms::Client::new(&config)
        .encrypt()
        .key_id(&first.resources().kms_key_id)
        .plaintext(Blob::new("hunter2"))
        .send()
        .await
        .unwrap()
        .ciphertext_blob
        .unwrap();
    let tables = aws_sdk_dynamodb::Client::new(&config);
    put(&tables, &first.resources().settings_table, "sealed").await;
    let key = first.resources().kms_key_id.clone();
    drop(first);

    let second = start().await;
    assert_eq!(second.resources().kms_key_id, key);
    let opened = aws_sdk_kms::Client::new(&second.sdk_config())
        .decrypt()
        .key_id(&key)
        .ciphertext_blob(sealed)
        .send()
        .await
        .unwrap();
    assert_eq!(opened.plaintext.unwrap(), Blob::new("hunter2"));
    assert!(second.dump_tables().await.contains("CLINIC#1"));

    let mode = std::fs::metadata(dir.path().join(KEYS_FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn unreadable_keys_stop_the_start_instead_of_being_replaced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(KEYS_FILE), "{").unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let error = LocalAws::start_on(listener, Some(dir.path()), &[])
        .await
        .unwrap_err();
    assert!(matches!(error, LocalAwsError::Keys { .. }), "{error}");
}

#[test]
fn the_credential_scope_names_service_and_region() {
    let mut headers = HeaderMap::new();
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_static(
            "AWS4-HMAC-SHA256 Credential=AK/20260101/eu-west-1/ses/aws4_request, SignedHeaders=host, Signature=0",
        ),
    );
    assert_eq!(
        credential_scope(&headers),
        Some(("ses".to_owned(), "eu-west-1".to_owned()))
    );
}
