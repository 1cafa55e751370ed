mod content;
mod replies;

use crate::net::http::HttpResponse;
use comms_core::BaseUrl;
use comms_core::DeliveryId;
use comms_core::Disposition;
use comms_core::EmailAddress;
use comms_core::ErrorKind;
use comms_core::Mailbox;
use comms_core::Secret;
use comms_core::attachment::ContentId;
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use comms_core::{
    PhoneNumber,
    attachment::Attachment,
    media_type::MediaType,
    request::{Content, Target},
};
use jiff::Timestamp;
use serde_json::json;

use super::{reply::*, request::*, *};
use crate::{
    config::{OwnSender, ProviderConfig},
    fixtures::http,
};

/// A minute before the second that the documentation's example of a rate limit ends at.
const RECEIVED: Timestamp = Timestamp::constant(1_392_815_203, 0);

fn provider_with(change: impl FnOnce(&mut SendgridConfig)) -> SendgridProvider {
    let mut settings = SendgridConfig {
        api_key: Secret::new("SG.planted-key-0123456789".to_owned()),
        from: OwnSender::default(),
        api_url: Some(BaseUrl::parse(SendgridConfig::GLOBAL_URL).unwrap()),
        sandbox: false,
    };
    change(&mut settings);
    SendgridProvider::new(
        settings,
        Mailbox {
            address: address("appointments@clinic.example"),
            name: Some("Praxis Dr. Müller".into()),
        },
        http(),
    )
    .unwrap()
}

fn provider() -> SendgridProvider {
    provider_with(|_| {})
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn delivery() -> DeliveryId {
    DeliveryId::parse(&"ab".repeat(16)).unwrap()
}

fn message_with(change: impl FnOnce(&mut Content)) -> Message {
    let mut content = Content {
        title: Some("Termin bestätigt".into()),
        body: Some("Bis Montag, 10 Uhr.".into()),
        ..Content::default()
    };
    change(&mut content);
    Message {
        delivery: delivery(),
        target: Target::Email(Mailbox {
            address: address("patient@example.com"),
            name: None,
        }),
        content: Arc::new(content),
        reply_to: None,
    }
}

fn full_message() -> Message {
    let mut message = message_with(|content| {
        content.html = Some("<p>Bis <b>Montag</b>, 10 Uhr.</p>".into());
        content.cc = vec![address("parent@example.com")];
        content.bcc = vec![
            address("records@clinic.example"),
            address("desk@clinic.example"),
        ];
        content.attachments = vec![
            Attachment {
                filename: "termin.ics".into(),
                content_type: MediaType::parse("text/calendar").unwrap(),
                content_id: None,
                content: b"BEGIN:VCALENDAR".as_slice().into(),
            },
            Attachment {
                filename: "Rechnung 3,50 €; Kopie.pdf".into(),
                content_type: MediaType::parse("application/pdf").unwrap(),
                content_id: None,
                content: [0_u8, 159, 146, 150].as_slice().into(),
            },
        ];
    });
    message.target = Target::Email(Mailbox {
        address: address("patient@example.com"),
        name: Some("Łukasz Żółć".into()),
    });
    message.reply_to = Some(address("desk@clinic.example"));
    message
}

fn wire_of<'a>(
    provider: &'a SendgridProvider,
    message: &'a Message,
) -> Result<SendRequest<'a>, ProviderError> {
    request::wire(message, &provider.api.sender, provider.api.config.sandbox)
}

fn wire(provider: &SendgridProvider, message: &Message) -> Value {
    serde_json::to_value(wire_of(provider, message).unwrap()).unwrap()
}

fn request_of(
    provider: &SendgridProvider,
    message: &Message,
) -> Result<HttpRequest, ProviderError> {
    provider.api.request(&provider.api_url, message)
}

fn refused(message: &Message) -> ProviderError {
    wire_of(&provider(), message).err().unwrap()
}

fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(path)
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The schema at `pointer` of a contract, which its `$ref`s resolve in. The published schemas leave
/// every object open; here a field that they do not name is a mistake.
fn schema(contract: &str, pointer: &str) -> Value {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                fields.values_mut().for_each(close);
                if fields.get("properties").is_some_and(Value::is_object) {
                    fields
                        .entry("additionalProperties")
                        .or_insert(Value::Bool(false));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let contract = read_json(fixtures("contracts").join(contract));
    let mut schema = contract.pointer(pointer).unwrap().clone();
    schema["components"] = json!({"schemas": contract["components"]["schemas"]});
    close(&mut schema);
    schema
}

/// `custom_args` go with the personalization, where the contract types them rightly: the one at the top,
/// which it calls a string, is not sent, and nothing has to be patched.
fn mail_problems(wire: &Value) -> Vec<String> {
    let schema = schema(
        "sendgrid_mail_v3.trim.json",
        "/components/requestBodies/PostMailSend/content/application~1json/schema",
    );
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems = validator.iter_errors(wire);
    problems
        .map(|problem| format!("{}: {problem}", problem.instance_path()))
        .collect()
}

#[test]
fn both_urls_are_hosts_that_are_reached_at_443() {
    for (text, url) in [
        (
            SendgridConfig::GLOBAL_URL,
            "https://api.sendgrid.com/v3/mail/send",
        ),
        (
            "https://api.eu.sendgrid.com",
            "https://api.eu.sendgrid.com/v3/mail/send",
        ),
    ] {
        let base = BaseUrl::parse(text).unwrap();
        assert_eq!((base.join(SEND).as_str(), base.port()), (url, 443));
    }
}

#[test]
fn nothing_that_is_printed_tells_key_or_address() {
    let provider = provider();
    let printed = format!(
        "{provider:?} {:?} {:?}",
        provider.api.config,
        request_of(&provider, &full_message()).unwrap()
    );
    for planted in ["SG.", "planted", "clinic.example", "patient"] {
        assert!(!printed.contains(planted), "{printed}");
    }
}

#[test]
fn account_of_a_key_is_told_by_a_hash_of_it() {
    let one = provider();
    let other = provider_with(|config| config.api_key = Secret::new("SG.another".to_owned()));
    let [one, other] = [one, other].map(|provider| provider.api.config.account_key());
    assert!(
        one.starts_with("sendgrid\n") && !one.contains("planted"),
        "{one}"
    );
    assert_ne!(one, other);
}
