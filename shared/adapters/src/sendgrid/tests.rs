use crate::net::http::Answer;
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
fn a_message_with_everything_goes_out_in_one_personalization() {
    let wire = wire(&provider(), &full_message());
    insta::assert_snapshot!(serde_json::to_string_pretty(&wire).unwrap(), @r#"
    {
      "personalizations": [
        {
          "to": [
            {
              "email": "patient@example.com",
              "name": "Łukasz Żółć"
            }
          ],
          "cc": [
            {
              "email": "parent@example.com"
            }
          ],
          "bcc": [
            {
              "email": "records@clinic.example"
            },
            {
              "email": "desk@clinic.example"
            }
          ],
          "custom_args": {
            "delivery_id": "abababababababababababababababab"
          }
        }
      ],
      "from": {
        "email": "appointments@clinic.example",
        "name": "Praxis Dr. Müller"
      },
      "reply_to": {
        "email": "desk@clinic.example"
      },
      "subject": "Termin bestätigt",
      "content": [
        {
          "type": "text/plain",
          "value": "Bis Montag, 10 Uhr."
        },
        {
          "type": "text/html",
          "value": "<p>Bis <b>Montag</b>, 10 Uhr.</p>"
        }
      ],
      "attachments": [
        {
          "content": "QkVHSU46VkNBTEVOREFS",
          "type": "text/calendar",
          "filename": "termin.ics",
          "disposition": "attachment"
        },
        {
          "content": "AJ+Slg==",
          "type": "application/pdf",
          "filename": "Rechnung 3_50 €_ Kopie.pdf",
          "disposition": "attachment"
        }
      ],
      "headers": {
        "Auto-Submitted": "auto-generated"
      },
      "tracking_settings": {
        "click_tracking": {
          "enable": false,
          "enable_text": false
        },
        "open_tracking": {
          "enable": false
        },
        "ganalytics": {
          "enable": false
        }
      }
    }
    "#);
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn a_message_with_the_least_says_nothing_that_it_does_not_have() {
    let mut provider = provider();
    provider.api.sender.name = None;
    let wire = wire(&provider, &message_with(|_| {}));
    insta::assert_snapshot!(serde_json::to_string_pretty(&wire).unwrap(), @r#"
    {
      "personalizations": [
        {
          "to": [
            {
              "email": "patient@example.com"
            }
          ],
          "custom_args": {
            "delivery_id": "abababababababababababababababab"
          }
        }
      ],
      "from": {
        "email": "appointments@clinic.example"
      },
      "subject": "Termin bestätigt",
      "content": [
        {
          "type": "text/plain",
          "value": "Bis Montag, 10 Uhr."
        }
      ],
      "headers": {
        "Auto-Submitted": "auto-generated"
      },
      "tracking_settings": {
        "click_tracking": {
          "enable": false,
          "enable_text": false
        },
        "open_tracking": {
          "enable": false
        },
        "ganalytics": {
          "enable": false
        }
      }
    }
    "#);
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn sandbox_mode_is_asked_for_only_where_the_settings_say_so() {
    let sandbox = provider_with(|settings| settings.sandbox = true);
    let message = full_message();
    let sent = wire(&sandbox, &message);
    assert_eq!(
        sent["mail_settings"],
        json!({"sandbox_mode": {"enable": true}})
    );
    assert_eq!(mail_problems(&sent), Vec::<String>::new());
    assert_eq!(wire(&provider(), &message).get("mail_settings"), None);
}

#[test]
fn a_file_goes_with_a_bare_type_and_an_image_with_its_id() {
    let file = |content_type: &str, id: Option<&str>| Attachment {
        filename: "a".to_owned(),
        content_type: MediaType::parse(content_type).unwrap(),
        content: "Größe".as_bytes().into(),
        content_id: id.map(|id| ContentId::parse(id).unwrap()),
    };
    let message = message_with(|content| {
        content.html = Some("<img src=\"cid:logo\">".into());
        content.attachments = vec![
            file("text/calendar; charset=utf-8; method=REQUEST", None),
            file("message/rfc822", None),
            file("image/png", Some("logo")),
        ];
    });
    let wire = wire(&provider(), &message);
    let sent = |field: &str| {
        let files = wire["attachments"].as_array().unwrap().iter();
        files.map(|file| file[field].clone()).collect::<Vec<_>>()
    };
    let types = ["text/calendar", "application/octet-stream", "image/png"];
    assert_eq!(sent("type"), types);
    assert_eq!(sent("disposition"), ["attachment", "attachment", "inline"]);
    assert_eq!(
        sent("content_id"),
        [json!(null), json!(null), json!("logo")]
    );
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn html_alone_has_a_text_made_from_it() {
    let message = message_with(|content| {
        content.body = None;
        content.html = Some("<p>x</p>".into());
    });
    let wire = wire(&provider(), &message);
    assert_eq!(
        wire["content"],
        json!([{"type": "text/plain", "value": "x"}, {"type": "text/html", "value": "<p>x</p>"}])
    );
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn the_contract_finds_what_is_wrong_with_a_request() {
    let good = wire(&provider(), &full_message());
    for (pointer, wrong) in [
        ("/subject", json!("")),
        ("/content/0/value", json!("")),
        ("/attachments/0/content", json!("")),
        ("/attachments/0/disposition", json!("elsewhere")),
        ("/personalizations/0/to", json!("patient@example.com")),
        (
            "/personalizations/0/to/0",
            json!({"mail": "patient@example.com"}),
        ),
        ("/from", json!({"name": "Clinic"})),
        (
            "/tracking_settings",
            json!({"clicktracking": {"enable": false}}),
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = wrong;
        assert_ne!(mail_problems(&bad), Vec::<String>::new(), "{pointer}");
    }
}

#[test]
fn a_receivers_name_goes_without_commas_and_semicolons() {
    for (name, sent) in [
        ("Müller, Anna", json!("Müller Anna")),
        ("a;b,c", json!("a b c")),
        ("Anna Müller", json!("Anna Müller")),
        (" ;, ", Value::Null),
    ] {
        let mut message = message_with(|_| {});
        message.target = Target::Email(Mailbox {
            address: address("patient@example.com"),
            name: Some(name.into()),
        });
        let wire = wire(&provider(), &message);
        assert_eq!(wire["personalizations"][0]["to"][0]["name"], sent, "{name}");
    }
}

#[test]
fn custom_arguments_stay_far_below_their_limit() {
    let wire = wire(&provider(), &full_message());
    let arguments = wire["personalizations"][0]["custom_args"].to_string();
    assert!(arguments.len() < 10_000 / 10, "{arguments}");
}

#[test]
fn what_another_provider_may_carry_is_passed_on_without_blame() {
    let umlaut = || address("jürgen@example.com");
    let mut to = message_with(|_| {});
    to.target = Target::Email(Mailbox {
        address: umlaut(),
        name: None,
    });
    let mut answers = message_with(|_| {});
    answers.reply_to = Some(umlaut());
    let empty_file = message_with(|content| {
        content.attachments = vec![Attachment {
            filename: "a.txt".into(),
            content_type: MediaType::parse("text/plain").unwrap(),
            content_id: None,
            content: [].as_slice().into(),
        }];
    });
    for (message, kind) in [
        (to, ErrorKind::InvalidRecipient),
        (
            message_with(|content| content.cc = vec![umlaut()]),
            ErrorKind::InvalidRecipient,
        ),
        (
            message_with(|content| content.bcc = vec![umlaut()]),
            ErrorKind::InvalidRecipient,
        ),
        (answers, ErrorKind::InvalidMessage),
        (empty_file, ErrorKind::InvalidMessage),
        (
            message_with(|content| content.title = None),
            ErrorKind::InvalidMessage,
        ),
        (
            message_with(|content| content.title = Some(String::new())),
            ErrorKind::InvalidMessage,
        ),
    ] {
        let error = refused(&message);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::ProviderDown, kind, false),
            "{error}"
        );
    }
    let mut provider = provider();
    provider.api.sender.address = umlaut();
    let message = message_with(|_| {});
    let error = wire_of(&provider, &message).err().unwrap();
    assert_eq!(error.kind, ErrorKind::SenderNotAllowed);
    assert!(!error.unhealthy);
}

#[test]
fn what_no_provider_could_send_is_refused_for_good() {
    let mut whatsapp = message_with(|_| {});
    whatsapp.target = Target::Whatsapp(PhoneNumber::parse("+15005550006").unwrap());
    let copies = |count: usize| {
        let copies = (0..count).map(|n| address(&format!("copy{n}@example.com")));
        copies.collect::<Vec<_>>()
    };
    for message in [
        whatsapp,
        message_with(|content| content.body = None),
        message_with(|content| content.body = Some(String::new())),
        message_with(|content| {
            (content.cc, content.bcc) = (copies(500), copies(500));
        }),
    ] {
        let error = refused(&message);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Final, ErrorKind::InvalidMessage, false),
            "{error}"
        );
    }
    let most = message_with(|content| content.cc = copies(999));
    assert_eq!(
        mail_problems(&wire(&provider(), &most)),
        Vec::<String>::new()
    );
}

#[test]
fn a_message_of_30_megabytes_is_refused() {
    assert_eq!(check_size(29_999_999), Ok(()));
    assert!(check_size(30_000_000).is_err());
    // It is the size in base64 that counts.
    let message = message_with(|content| {
        content.attachments = vec![Attachment {
            filename: "a.bin".into(),
            content_type: MediaType::parse("application/octet-stream").unwrap(),
            content_id: None,
            content: vec![0; 22_500_000].into(),
        }];
    });
    let error = request_of(&provider(), &message).err().unwrap();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
}

/// One reply of a fixture, as the adapter gets it.
struct Reply {
    name: String,
    answer: Answer,
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
            answer: Answer::of(status, &headers, body, RECEIVED),
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
