mod checks;
mod content;
mod credentials;
mod refusals;
mod replies;
mod transport;

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
struct DoubleState {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    validated: AtomicUsize,
}

/// Stands in for the connector below the SDK: what it is given is what would go over the wire.
#[derive(Clone, Default)]
struct Double(Arc<DoubleState>);

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
