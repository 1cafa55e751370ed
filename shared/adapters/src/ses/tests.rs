use crate::mime::mailbox;
use comms_core::EmailAddress;
use comms_core::Mailbox;
use comms_core::Secret;
use comms_core::account::AwsAccessKeyId;
use comms_core::account::AwsRegion;
use comms_core::account::ExternalId;
use comms_core::account::RoleArn;
use comms_core::account::SesName;
use comms_core::request::Content;
use comms_core::request::Target;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_config::BehaviorVersion;
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};
use aws_smithy_types::{body::SdkBody, config_bag::ConfigBag, retry::ErrorKind::TransientError};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use comms_core::{
    DeliveryId, PhoneNumber,
    attachment::{Attachment, ContentId},
    media_type::MediaType,
};
use http_body_util::BodyExt;
use mail_parser::MessageParser;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{checks::*, request::*, *};
use crate::{config::OwnSender, verify::StageOutcome};

/// What the double does with a request.
#[derive(Clone)]
enum Reply {
    Answer(u16, Vec<(String, String)>, String),
    /// Fails without having asked for the body.
    FailsBefore(fn() -> ConnectorError),
    /// Fails when it has read the body.
    FailsAfter(fn() -> ConnectorError),
    HangsBefore,
    HangsAfter,
}

fn ok(body: &Value) -> Reply {
    Reply::Answer(200, Vec::new(), body.to_string())
}

fn error(status: u16, code: &str) -> Reply {
    let code = ("x-amzn-errortype".to_owned(), code.to_owned());
    Reply::Answer(status, vec![code], "{}".to_owned())
}

fn accepted() -> Reply {
    ok(&json!({"MessageId": "0107-abc"}))
}

/// A request as it went to the connector.
struct Seen {
    method: String,
    uri: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(&self.body)
            .into_owned()
            .collect()
    }
}

#[derive(Default)]
struct State {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    validated: AtomicUsize,
}

/// Stands in for the connector below the SDK: what it is given is what would go over the wire.
#[derive(Clone, Default)]
struct Double(Arc<State>);

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Double")
    }
}

impl HttpClient for Double {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }

    fn validate_base_client_config(
        &self,
        _: &RuntimeComponentsBuilder,
        _: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validated.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl HttpConnector for Double {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let double = self.clone();
        HttpConnectorFuture::new(async move {
            let reply = double.0.replies.lock().unwrap().pop_front();
            let reply = reply.unwrap_or_else(accepted);
            match reply {
                Reply::FailsBefore(error) => return Err(error()),
                Reply::HangsBefore => return std::future::pending().await,
                Reply::Answer(..) | Reply::FailsAfter(_) | Reply::HangsAfter => {}
            }
            let seen = Seen {
                method: request.method().to_owned(),
                uri: request.uri().to_owned(),
                headers: request
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                body: Vec::new(),
            };
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = body.to_vec();
            double.0.seen.lock().unwrap().push(Seen { body, ..seen });
            match reply {
                Reply::Answer(status, headers, body) => {
                    let status = status.try_into().unwrap();
                    let mut response = HttpResponse::new(status, SdkBody::from(body));
                    for (name, value) in headers {
                        response.headers_mut().insert(name, value);
                    }
                    Ok(response)
                }
                Reply::FailsAfter(error) => Err(error()),
                Reply::HangsAfter | Reply::HangsBefore | Reply::FailsBefore(_) => {
                    std::future::pending().await
                }
            }
        })
    }
}

impl Double {
    fn answering(replies: impl IntoIterator<Item = Reply>) -> Self {
        let double = Self::default();
        double.0.replies.lock().unwrap().extend(replies);
        double
    }

    fn provider(&self, account: SesAccount) -> SesProvider {
        self.provider_of(SesConfig {
            account,
            ..settings()
        })
    }

    fn provider_of(&self, config: SesConfig) -> SesProvider {
        self.provider_from(config, sender())
    }

    fn provider_from(&self, config: SesConfig, sender: Mailbox) -> SesProvider {
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "AKIAPLATFORM00000000",
                "platform",
                None,
                None,
                "test",
            )))
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::ZERO))
            .http_client(self.clone())
            .build();
        SesProvider::new(config, sender, &sdk)
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.seen.lock().unwrap())
    }
}

fn keys() -> SesAccount {
    SesAccount::Keys {
        access_key_id: AwsAccessKeyId::parse("AKIACLINIC0000000000").unwrap(),
        secret_access_key: Secret::new("planted-secret".to_owned()),
    }
}

fn role() -> SesAccount {
    SesAccount::Role {
        role_arn: RoleArn::parse("arn:aws:iam::210987654321:role/clinic-ses/mail").unwrap(),
        external_id: ExternalId::parse("clinic-123").unwrap(),
    }
}

fn platform() -> SesAccount {
    SesAccount::Platform {
        tenant_name: SesName::parse("clinic-123").unwrap(),
    }
}

fn sender() -> Mailbox {
    Mailbox {
        address: address("appointments@mail.clinic.example"),
        name: Some("Clinic, \"Name\"".to_owned()),
    }
}

fn settings() -> SesConfig {
    SesConfig {
        region: AwsRegion::parse("eu-central-1").unwrap(),
        account: keys(),
        from: OwnSender::default(),
        configuration_set: None,
    }
}

#[tokio::test]
async fn what_ses_would_write_otherwise_goes_in_mime_form() {
    let raw = |body: &Value| {
        let data = body["Content"]["Raw"]["Data"].as_str().unwrap();
        String::from_utf8(BASE64_STANDARD.decode(data).unwrap()).unwrap()
    };
    let typed = message(|content| content.title = Some("=?utf-8?Q?hi?=".to_owned()));
    let mail = raw(&body_of(keys(), &typed).await);
    assert!(
        mail.contains("Subject: =?utf-8?B?PT91dGYtOD9RP2hpPz0=?=\r\n"),
        "{mail}"
    );
    let shown = message(|content| {
        content.attachments.push(Attachment {
            content_id: ContentId::parse("logo@clinic.example").ok(),
            ..attachment(1)
        });
    });
    let mail = raw(&body_of(keys(), &shown).await);
    assert!(
        mail.contains("\r\nContent-ID: <logo@clinic.example>\r\n"),
        "{mail}"
    );
    assert!(mail.contains("multipart/related"), "{mail}");
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn message(change: impl FnOnce(&mut Content)) -> Message {
    let mut content = Content {
        title: Some("Termin bestätigt".to_owned()),
        body: Some("See you on Monday.".to_owned()),
        html: Some("<p>See you on Monday.</p>".to_owned()),
        ..Content::default()
    };
    change(&mut content);
    Message {
        delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        target: Target::Email(Mailbox {
            address: address("patient@example.com"),
            name: Some("A. Patient".to_owned()),
        }),
        content: Arc::new(content),
        reply_to: Some(address("desk@clinic.example")),
    }
}

fn attachment(bytes: usize) -> Attachment {
    Attachment {
        filename: "a.ics".to_owned(),
        content_type: MediaType::parse("text/calendar").unwrap(),
        content_id: None,
        content: vec![b'x'; bytes].into(),
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

async fn sent(provider: &SesProvider, message: &Message) -> Result<Receipt, ProviderError> {
    provider.send(message, soon()).await
}

/// The body of the one request that `message` makes, checked against SES's contract.
async fn body_of(account: SesAccount, message: &Message) -> Value {
    let double = Double::default();
    sent(&double.provider(account), message).await.unwrap();
    let seen = double.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].method, "POST");
    assert_eq!(
        seen[0].uri,
        "https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails"
    );
    let body = seen[0].json();
    let contract = contract("SendEmailRequest");
    let problems: Vec<_> = contract.iter_errors(&body).map(|e| e.to_string()).collect();
    assert!(problems.is_empty(), "{problems:?}");
    body
}

fn fixture(path: &str) -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/");
    serde_json::from_slice(&std::fs::read(format!("{root}{path}")).unwrap()).unwrap()
}

/// The contract of one shape of the service model. An unknown member is a mistake: SES would ignore it.
fn contract(shape: &str) -> jsonschema::Validator {
    let model = fixture("contracts/sesv2_botocore.trim.json");
    let shapes = model["shapes"].as_object().unwrap();
    let schemas: serde_json::Map<_, _> = shapes
        .iter()
        .map(|(name, shape)| (name.clone(), schema(shape)))
        .collect();
    let root = json!({"$ref": format!("#/$defs/{shape}"), "$defs": schemas});
    jsonschema::validator_for(&root).unwrap()
}

/// A shape of botocore's service model as JSON schema, in the protocol `rest-json`.
fn schema(shape: &Value) -> Value {
    let to =
        |member: &Value| json!({"$ref": format!("#/$defs/{}", member["shape"].as_str().unwrap())});
    let mut schema = match shape["type"].as_str().unwrap() {
        "structure" => {
            let members = shape["members"].as_object().unwrap();
            let members: serde_json::Map<_, _> = members
                .iter()
                .map(|(name, member)| (name.clone(), to(member)))
                .collect();
            let required = shape.get("required").cloned().unwrap_or_else(|| json!([]));
            json!({"type": "object", "properties": members, "required": required, "additionalProperties": false})
        }
        "list" => json!({"type": "array", "items": to(&shape["member"])}),
        "map" => json!({"type": "object", "additionalProperties": to(&shape["value"])}),
        "string" => json!({"type": "string"}),
        // In base64.
        "blob" => json!({"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}),
        "boolean" => json!({"type": "boolean"}),
        "integer" | "long" => json!({"type": "integer"}),
        "double" | "float" | "timestamp" => json!({"type": "number"}),
        other => panic!("a shape of type {other}"),
    };
    let (min, max) = match shape["type"].as_str().unwrap() {
        "list" => ("minItems", "maxItems"),
        "map" => ("minProperties", "maxProperties"),
        "string" => ("minLength", "maxLength"),
        _ => ("minimum", "maximum"),
    };
    for (from, to) in [
        ("min", min),
        ("max", max),
        ("pattern", "pattern"),
        ("enum", "enum"),
    ] {
        if let (Some(limit), false) = (shape.get(from), shape["type"] == "blob") {
            schema[to] = limit.clone();
        }
    }
    schema
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[tokio::test]
async fn a_message_without_files_is_sent_as_subject_and_bodies() {
    let body = body_of(keys(), &message(|_| {})).await;
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "Content": {
        "Simple": {
          "Subject": {
            "Data": "Termin bestätigt",
            "Charset": "UTF-8"
          },
          "Body": {
            "Text": {
              "Data": "See you on Monday.",
              "Charset": "UTF-8"
            },
            "Html": {
              "Data": "<p>See you on Monday.</p>",
              "Charset": "UTF-8"
            }
          },
          "Headers": [
            {
              "Name": "Auto-Submitted",
              "Value": "auto-generated"
            }
          ]
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>",
      "ReplyToAddresses": [
        "desk@clinic.example"
      ]
    }
    "##);
}

#[tokio::test]
async fn copies_tenant_and_configuration_set_are_named() {
    let double = Double::default();
    let provider = double.provider_of(SesConfig {
        account: platform(),
        configuration_set: Some(SesName::parse("clinic-mail").unwrap()),
        ..settings()
    });
    let mut message = message(|content| {
        content.html = None;
        content.cc = vec![address("parent@example.com")];
        content.bcc = vec![address("archive@clinic.example")];
    });
    message.reply_to = None;
    sent(&provider, &message).await.unwrap();
    let body = double.seen()[0].json();
    assert!(contract("SendEmailRequest").is_valid(&body));
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "ConfigurationSetName": "clinic-mail",
      "Content": {
        "Simple": {
          "Subject": {
            "Data": "Termin bestätigt",
            "Charset": "UTF-8"
          },
          "Body": {
            "Text": {
              "Data": "See you on Monday.",
              "Charset": "UTF-8"
            }
          },
          "Headers": [
            {
              "Name": "Auto-Submitted",
              "Value": "auto-generated"
            }
          ]
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ],
        "CcAddresses": [
          "parent@example.com"
        ],
        "BccAddresses": [
          "archive@clinic.example"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>",
      "TenantName": "clinic-123"
    }
    "##);
}

#[tokio::test]
async fn a_message_with_files_is_sent_in_mime_form_without_its_blind_copies() {
    let message = message(|content| {
        content.attachments = vec![attachment(10)];
        content.cc = vec![address("parent@example.com")];
        content.bcc = vec![address("archive@clinic.example")];
    });
    let mut body = body_of(keys(), &message).await;
    let data = body["Content"]["Raw"]["Data"].take();
    let raw = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "Content": {
        "Raw": {
          "Data": null
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ],
        "CcAddresses": [
          "parent@example.com"
        ],
        "BccAddresses": [
          "archive@clinic.example"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>"
    }
    "##);
    assert!(!String::from_utf8(raw.clone()).unwrap().contains("archive"));
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(mail.subject(), Some("Termin bestätigt"));
    assert_eq!(
        mail.cc().unwrap().first().unwrap().address(),
        Some("parent@example.com")
    );
    assert_eq!(
        mail.reply_to().unwrap().first().unwrap().address(),
        Some("desk@clinic.example")
    );
    assert_eq!(mail.attachment_count(), 1);
}

#[tokio::test]
async fn the_receipt_has_the_id_that_ses_gave() {
    let receipt = sent(&Double::default().provider(keys()), &message(|_| {})).await;
    assert_eq!(receipt.unwrap().message_id, "0107-abc");
}

#[test]
fn the_contract_refuses_what_is_not_in_the_model() {
    let contract = contract("SendEmailRequest");
    assert!(!contract.is_valid(&json!({"Content": {}, "Sender": "x"})));
    assert!(!contract.is_valid(&json!({"FromEmailAddress": "a@example.com"})));
    assert!(!contract.is_valid(&json!({"Content": {"Raw": {"Data": "not base64!"}}})));
}

async fn refused(message: &Message) -> ProviderError {
    let double = Double::default();
    let error = sent(&double.provider(keys()), message).await.unwrap_err();
    assert!(double.seen().is_empty(), "a request was made: {error}");
    error
}

#[tokio::test]
async fn what_ses_can_not_take_makes_no_request() {
    let copies = |count: usize| -> Vec<_> {
        (0..count)
            .map(|n| address(&format!("copy{n}@example.com")))
            .collect()
    };
    let full = message(|content| content.cc = copies(49));
    assert!(
        sent(&Double::default().provider(keys()), &full)
            .await
            .is_ok()
    );
    let too_large = "x".repeat(30_000_000);
    for (message, named) in [
        (message(|content| content.cc = copies(50)), "50 recipients"),
        (
            message(|content| (content.cc, content.bcc) = (copies(25), copies(25))),
            "50 recipients",
        ),
        (message(|content| content.html = Some(too_large)), "40 MB"),
        (
            message(|content| content.attachments = vec![attachment(30_000_000)]),
            "40 MB",
        ),
        (message(|content| content.title = None), "subject"),
        (
            message(|content| {
                content.title = None;
                content.attachments = vec![attachment(1)];
            }),
            "subject",
        ),
        (
            message(|content| (content.body, content.html) = (None, None)),
            "body",
        ),
    ] {
        let error = refused(&message).await;
        assert_eq!(error.disposition, Disposition::Final);
        assert_eq!(error.kind, ErrorKind::InvalidMessage);
        assert!(error.detail.contains(named), "{}", error.detail);
    }
}

#[tokio::test]
async fn a_message_for_another_channel_is_refused() {
    let mut other = message(|_| {});
    other.target = Target::Whatsapp(PhoneNumber::parse("+14155550100").unwrap());
    let error = refused(&other).await;
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
}

#[tokio::test]
async fn an_address_beyond_ascii_is_left_to_another_provider() {
    let beyond = || address("jürgen@example.com");
    let mut to = message(|_| {});
    to.target = Target::Email(Mailbox {
        address: beyond(),
        name: None,
    });
    let mut reply_to = message(|_| {});
    reply_to.reply_to = Some(beyond());
    let cc = message(|content| content.cc = vec![beyond()]);
    let bcc = message(|content| content.bcc = vec![beyond()]);
    for message in [to, reply_to, cc, bcc] {
        let error = refused(&message).await;
        assert_eq!(error.disposition, Disposition::ProviderDown);
        assert_eq!(error.kind, ErrorKind::InvalidRecipient);
        assert!(!error.unhealthy);
    }
    let double = Double::default();
    let mut sender = sender();
    sender.address = beyond();
    let provider = double.provider_from(settings(), sender);
    let error = sent(&provider, &message(|_| {})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::SenderNotAllowed);
    assert!(double.seen().is_empty());
}

#[tokio::test]
async fn a_domain_beyond_ascii_is_sent_in_its_ascii_form() {
    let mut message = message(|_| {});
    message.target = Target::Email(Mailbox {
        address: address("patient@bücher.example"),
        name: Some("Jürgen".to_owned()),
    });
    let body = body_of(keys(), &message).await;
    assert_eq!(
        body["Destination"]["ToAddresses"][0],
        "=?utf-8?Q?J=C3=BCrgen?= <patient@xn--bcher-kva.example>"
    );
}

#[test]
fn a_name_that_would_not_fit_is_left_out() {
    let mut mailbox = sender();
    mailbox.name = Some("ü".repeat(60));
    assert_eq!(with_fitting_name(&mailbox), mailbox);
    mailbox.name = Some("ü".repeat(128));
    assert_eq!(with_fitting_name(&mailbox).name, None);
}

proptest! {
    #[test]
    fn a_name_reads_back_from_its_header(name in "\\PC{1,60}") {
        let whole = Mailbox { address: address("a@example.com"), name: Some(name.clone()) };
        let text = mailbox(&whole);
        prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{text}");
        prop_assert!(text.split(' ').all(|word| !word.starts_with("=?") || word.len() <= 75), "{text}");
        let header = format!("From: {text}\r\n\r\n");
        let mail = MessageParser::default().parse(header.as_bytes()).unwrap();
        let from = mail.from().unwrap();
        prop_assert_eq!(from.iter().count(), 1);
        let from = from.first().unwrap();
        prop_assert_eq!(from.address(), Some("a@example.com"));
        // Spaces at the ends are lost on the way.
        prop_assert_eq!(from.name().unwrap_or_default().trim(), name.trim());
    }
}

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

fn io_error() -> ConnectorError {
    ConnectorError::io(io::Error::from(io::ErrorKind::ConnectionReset).into())
}

fn timed_out() -> ConnectorError {
    ConnectorError::timeout("took too long".into())
}

/// As the SDK reports a connection that ended before an answer.
fn ended() -> ConnectorError {
    ConnectorError::other("connection closed".into(), Some(TransientError))
}

fn bad_certificate() -> ConnectorError {
    // As hyper-rustls nests them.
    let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    ConnectorError::io(io::Error::other(io::Error::other(tls)).into())
}

fn tls_refused() -> ConnectorError {
    let tls =
        rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13);
    ConnectorError::io(io::Error::other(tls).into())
}

fn cut_short() -> ConnectorError {
    ConnectorError::other("the answer was cut".into(), None)
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_before_the_body_was_asked_for_may_be_sent_again() {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable};
    for (reply, disposition, kind) in [
        (Reply::FailsBefore(io_error), Transient, Unavailable),
        (Reply::FailsBefore(ended), Transient, Unavailable),
        (Reply::FailsBefore(timed_out), Transient, Timeout),
        (Reply::FailsBefore(tls_refused), Transient, Unavailable),
        (
            Reply::FailsBefore(bad_certificate),
            ProviderDown,
            Unauthenticated,
        ),
        (Reply::HangsBefore, Transient, Timeout),
        (Reply::FailsAfter(io_error), Ambiguous, Unavailable),
        (Reply::FailsAfter(ended), Ambiguous, Unavailable),
        (Reply::FailsAfter(timed_out), Ambiguous, Timeout),
        (Reply::FailsAfter(bad_certificate), Ambiguous, Unavailable),
        (Reply::FailsAfter(cut_short), Ambiguous, Unavailable),
        (Reply::HangsAfter, Ambiguous, Timeout),
    ] {
        for message in [
            message(|_| {}),
            message(|content| content.attachments = vec![attachment(100_000)]),
        ] {
            let double = Double::answering([reply.clone()]);
            let error = sent(&double.provider(keys()), &message).await.unwrap_err();
            assert_eq!(
                (error.disposition, error.kind),
                (disposition, kind),
                "{error}"
            );
            assert!(double.seen().len() <= 1, "it was sent again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_takes_ten_seconds_at_most_and_never_longer_than_the_deadline() {
    for (deadline, expected) in [(60, 10), (4, 4)] {
        let double = Double::answering([Reply::HangsAfter]);
        let provider = double.provider(keys());
        let started = tokio::time::Instant::now();
        let deadline = Deadline::after(Duration::from_secs(deadline));
        provider.send(&message(|_| {}), deadline).await.unwrap_err();
        assert_eq!(started.elapsed().as_secs(), expected);
    }
}

#[tokio::test]
async fn a_client_more_costs_no_tls_configuration_more() {
    let double = Double::default();
    for account in [keys(), keys(), role(), platform()] {
        double.provider(account);
    }
    // Making it is the shared client's answer to this question.
    assert_eq!(double.0.validated.load(Ordering::Relaxed), 0);
    let (first, second) = (double.provider(keys()), double.provider(keys()));
    sent(&first, &message(|_| {})).await.unwrap();
    sent(&second, &message(|_| {})).await.unwrap();
    assert_eq!(double.seen().len(), 2, "both go through the shared client");
    assert_eq!(double.0.validated.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn each_account_signs_in_its_own_name_for_its_own_region() {
    for (account, key) in [
        (keys(), "AKIACLINIC0000000000"),
        (platform(), "AKIAPLATFORM00000000"),
    ] {
        let double = Double::default();
        sent(&double.provider(account), &message(|_| {}))
            .await
            .unwrap();
        let authorization = &double.seen()[0].headers["authorization"];
        let credential = format!("Credential={key}/");
        assert!(authorization.contains(&credential), "{authorization}");
        assert!(authorization.contains("/eu-central-1/ses/aws4_request"));
    }
}

fn assumed(expiration: &str) -> Reply {
    let xml = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>ASIAROLE000000000000</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    Reply::Answer(200, Vec::new(), xml)
}

fn sts_error(status: u16, code: &str) -> Reply {
    let xml = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    );
    Reply::Answer(status, Vec::new(), xml)
}

#[tokio::test]
async fn a_role_is_assumed_at_the_first_message_and_kept_until_it_ends() {
    let double = Double::answering([assumed("2999-01-01T00:00:00Z")]);
    let provider = double.provider(role());
    assert!(
        double.seen().is_empty(),
        "nothing happens before it is used"
    );
    sent(&provider, &message(|_| {})).await.unwrap();
    sent(&provider, &message(|_| {})).await.unwrap();
    let seen = double.seen();
    let uris: Vec<_> = seen.iter().map(|seen| seen.uri.as_str()).collect();
    let ses = "https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails";
    assert_eq!(uris, ["https://sts.eu-central-1.amazonaws.com/", ses, ses]);
    let form = seen[0].form();
    assert_eq!(
        form["RoleArn"],
        "arn:aws:iam::210987654321:role/clinic-ses/mail"
    );
    assert_eq!(form["ExternalId"], "clinic-123");
    assert_eq!(form["RoleSessionName"], "clinic-comms");
    assert!(seen[0].headers["authorization"].contains("Credential=AKIAPLATFORM00000000/"));
    for request in &seen[1..] {
        assert!(request.headers["authorization"].contains("Credential=ASIAROLE000000000000/"));
        assert_eq!(request.headers["x-amz-security-token"], "token");
    }
}

#[tokio::test]
async fn a_role_that_has_ended_is_assumed_again() {
    let ended = assumed("2001-01-01T00:00:00Z");
    let double = Double::answering([ended, accepted(), assumed("2999-01-01T00:00:00Z")]);
    let provider = double.provider(role());
    sent(&provider, &message(|_| {})).await.unwrap();
    sent(&provider, &message(|_| {})).await.unwrap();
    let asked = |seen: &&Seen| seen.uri.starts_with("https://sts.");
    assert_eq!(double.seen().iter().filter(asked).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_credentials_for_the_role_nothing_is_sent() {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let unreadable = Reply::Answer(200, Vec::new(), "<html>".to_owned());
    for (reply, disposition, kind, code) in [
        (
            sts_error(403, "AccessDenied"),
            ProviderDown,
            Unauthenticated,
            "trust policy",
        ),
        (
            sts_error(403, "RegionDisabledException"),
            ProviderDown,
            Unauthenticated,
            "activated STS",
        ),
        (
            sts_error(400, "ValidationError"),
            ProviderDown,
            Unauthenticated,
            "roleArn",
        ),
        (
            sts_error(403, "ExpiredTokenException"),
            ProviderDown,
            Unauthenticated,
            "platform",
        ),
        (
            sts_error(403, "InvalidClientTokenId"),
            ProviderDown,
            Unauthenticated,
            "platform",
        ),
        (sts_error(400, "Throttling"), Transient, Unavailable, "now"),
        (
            sts_error(500, "InternalFailure"),
            Transient,
            Unavailable,
            "now",
        ),
        (unreadable, Transient, Unexpected, "read"),
        (
            Reply::FailsBefore(io_error),
            Transient,
            Unavailable,
            "reached",
        ),
        (
            Reply::FailsAfter(io_error),
            Transient,
            Unavailable,
            "reached",
        ),
        (Reply::FailsAfter(timed_out), Transient, Timeout, "in time"),
        (Reply::HangsAfter, Transient, Timeout, "in time"),
        (
            Reply::FailsBefore(bad_certificate),
            ProviderDown,
            Unauthenticated,
            "STS",
        ),
    ] {
        // As often as the SDK tries it.
        let double = Double::answering(std::iter::repeat_n(reply, 3));
        let error = sent(&double.provider(role()), &message(|_| {}))
            .await
            .unwrap_err();
        assert_eq!(
            (error.disposition, error.kind),
            (disposition, kind),
            "{error}"
        );
        assert!(error.detail.contains(code), "{error}");
        let of_sts = |seen: &Seen| seen.uri.starts_with("https://sts.");
        assert!(double.seen().iter().all(of_sts), "{error}");
    }
}

#[tokio::test]
async fn nothing_that_is_printed_has_a_secret_or_an_address_in_it() {
    for account in [keys(), role(), platform()] {
        let settings = SesConfig {
            account,
            ..settings()
        };
        let printed = format!(
            "{settings:?} {:?} {:?} {:?}",
            settings.account,
            Double::default().provider_of(settings.clone()),
            SealedKey::new(
                AwsAccessKeyId::parse("AKIACLINIC0000000000").unwrap(),
                Secret::new("planted-secret".to_owned())
            ),
        );
        for hidden in ["planted-secret", "AKIACLINIC", "appointments", "clinic-123"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
    }
}

fn healthy() -> Value {
    json!({
        "SendingEnabled": true, "ProductionAccessEnabled": true, "EnforcementStatus": "HEALTHY",
        "SendQuota": {"Max24HourSend": 200.0, "MaxSendRate": 1.0, "SentLast24Hours": 199.0}
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Reply {
    let mut account = healthy();
    change(&mut account);
    assert!(contract("GetAccountResponse").is_valid(&account));
    ok(&account)
}

fn verified(yes: bool) -> Reply {
    ok(&json!({"VerifiedForSendingStatus": yes}))
}

/// The stages of a check, with what the failed one says.
async fn checked(replies: Vec<Reply>) -> (Vec<VerifyStage>, Option<(ErrorKind, &'static str)>) {
    let double = Double::answering(replies);
    let report = double.provider(keys()).verify(soon()).await;
    let failed = report.iter().find_map(|report| match &report.outcome {
        StageOutcome::Passed => None,
        StageOutcome::Failed { kind, detail, .. } => Some((*kind, *detail)),
    });
    (report.iter().map(|report| report.stage).collect(), failed)
}

const ALL: [VerifyStage; 3] = [
    VerifyStage::Authenticate,
    VerifyStage::Sender,
    VerifyStage::Quota,
];

#[tokio::test]
async fn a_check_of_a_tenant_tells_nothing_of_the_platforms_other_senders() {
    let double = Double::answering([ok(&healthy())]);
    let report = double.provider(platform()).verify(soon()).await;
    let stages: Vec<_> = report.iter().map(|report| report.stage).collect();
    assert_eq!(stages, [VerifyStage::Authenticate]);
    assert_eq!(report[0].outcome, StageOutcome::Passed);
    assert_eq!(double.seen().len(), 1);
}

#[tokio::test]
async fn a_check_asks_for_the_account_and_the_sender_and_sends_nothing() {
    let double = Double::answering([ok(&healthy()), verified(true)]);
    let report = double.provider(keys()).verify(soon()).await;
    assert!(
        report
            .iter()
            .all(|report| report.outcome == StageOutcome::Passed)
    );
    let stages: Vec<_> = report.iter().map(|report| report.stage).collect();
    assert_eq!(stages, ALL);
    let seen = double.seen();
    let asked: Vec<_> = seen
        .iter()
        .map(|seen| (seen.method.as_str(), seen.uri.as_str()))
        .collect();
    let base = "https://email.eu-central-1.amazonaws.com/v2/email";
    let (account, identity) = (
        format!("{base}/account"),
        format!("{base}/identities/appointments%40mail.clinic.example"),
    );
    assert_eq!(asked, [("GET", &*account), ("GET", &*identity)]);
}

#[tokio::test]
async fn the_sender_may_be_verified_by_its_domain_or_one_above() {
    let missing = || error(404, "NotFoundException");
    let double = Double::answering([ok(&healthy()), missing(), verified(false), verified(true)]);
    let report = double.provider(keys()).verify(soon()).await;
    assert!(
        report
            .iter()
            .all(|report| report.outcome == StageOutcome::Passed)
    );
    let seen = double.seen();
    let asked = seen[1..]
        .iter()
        .filter_map(|seen| seen.uri.rsplit('/').next());
    assert_eq!(
        asked.collect::<Vec<_>>(),
        [
            "appointments%40mail.clinic.example",
            "mail.clinic.example",
            "clinic.example"
        ]
    );
    let nowhere = vec![ok(&healthy()), missing(), missing(), missing()];
    let (stages, failed) = checked(nowhere).await;
    assert_eq!(stages, ALL[..2]);
    let (kind, detail) = failed.unwrap();
    assert_eq!(kind, ErrorKind::SenderNotAllowed);
    assert!(detail.contains("Neither"), "{detail}");
    let pending = vec![ok(&healthy()), verified(false), missing(), missing()];
    let (_, failed) = checked(pending).await;
    assert!(failed.unwrap().1.contains("not verified yet"));
}

#[tokio::test]
async fn an_account_that_does_not_send_fails_the_check() {
    let (stages, failed) = checked(vec![changed(|a| a["SendingEnabled"] = false.into())]).await;
    assert_eq!(stages, ALL[..1]);
    assert_eq!(failed.unwrap().0, ErrorKind::AccountSuspended);
    let shut = changed(|a| a["EnforcementStatus"] = "SHUTDOWN".into());
    assert_eq!(
        checked(vec![shut]).await.1.unwrap().0,
        ErrorKind::AccountSuspended
    );
    let probation = changed(|a| a["EnforcementStatus"] = "PROBATION".into());
    assert_eq!(
        checked(vec![probation, verified(true)]).await,
        (ALL.to_vec(), None)
    );
}

#[tokio::test]
async fn a_quota_that_is_used_up_and_the_sandbox_fail_the_check() {
    let used = changed(|a| a["SendQuota"]["SentLast24Hours"] = 200.0.into());
    let (stages, failed) = checked(vec![used, verified(true)]).await;
    assert_eq!(stages, ALL);
    assert_eq!(failed.unwrap().0, ErrorKind::QuotaExceeded);
    let sandbox = changed(|a| a["ProductionAccessEnabled"] = false.into());
    let (_, failed) = checked(vec![sandbox, verified(true)]).await;
    assert!(failed.unwrap().1.contains("sandbox"));
    let unlimited = changed(|a| a["SendQuota"]["Max24HourSend"] = (-1.0).into());
    assert_eq!(checked(vec![unlimited, verified(true)]).await.1, None);
}

#[tokio::test]
async fn credentials_that_may_send_but_not_look_are_told_what_to_allow() {
    let denied = || error(403, "AccessDeniedException");
    let (stages, failed) = checked(vec![denied(), verified(true)]).await;
    assert_eq!(stages, ALL);
    assert!(failed.unwrap().1.contains("ses:GetAccount"));
    let (stages, failed) = checked(vec![ok(&healthy()), denied()]).await;
    assert_eq!(stages, ALL[..2]);
    assert!(failed.unwrap().1.contains("ses:GetEmailIdentity"));
}

#[tokio::test]
async fn a_check_that_fails_says_at_which_stage() {
    for (reply, stage, kind) in [
        (
            error(403, "UnrecognizedClientException"),
            VerifyStage::Authenticate,
            ErrorKind::Unauthenticated,
        ),
        (
            Reply::FailsBefore(io_error),
            VerifyStage::Connect,
            ErrorKind::Unavailable,
        ),
        (
            Reply::FailsBefore(timed_out),
            VerifyStage::Connect,
            ErrorKind::Timeout,
        ),
        (
            Reply::FailsBefore(tls_refused),
            VerifyStage::Tls,
            ErrorKind::Unavailable,
        ),
        (
            Reply::FailsBefore(bad_certificate),
            VerifyStage::Tls,
            ErrorKind::Unauthenticated,
        ),
        (
            error(500, "InternalServiceErrorException"),
            VerifyStage::Authenticate,
            ErrorKind::Unavailable,
        ),
    ] {
        let (stages, failed) = checked(vec![reply]).await;
        assert_eq!(stages, [stage]);
        let (failed_kind, detail) = failed.unwrap();
        assert_eq!(failed_kind, kind, "{detail}");
        assert!(
            !detail.contains("may have taken"),
            "a question sends nothing: {detail}"
        );
    }
}

#[test]
fn a_rate_is_a_whole_number_of_at_least_one() {
    for (said, rate) in [
        (14.0, Some(14)),
        (14.9, Some(14)),
        (1.0, Some(1)),
        (0.2, Some(1)),
        (1e12, Some(1_000_000)),
        (0.0, None),
        (-1.0, None),
        (f64::NAN, None),
    ] {
        assert_eq!(whole_rate(said).map(NonZeroU32::get), rate, "{said}");
    }
}
