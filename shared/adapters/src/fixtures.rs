//! For tests of adapters: providers' replies and contracts, from `tests/fixtures`.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use comms_core::{
    AfterRetries, DeliveryId, Disposition, EmailAddress, ErrorKind, Mailbox, PhoneNumber, Problems,
    ProviderError, Receipt, Secret, SystemClock, Tenant,
    attachment::{Attachment, ContentId},
    json::Object,
    media_type::MediaType,
    request::{Content, Target},
};
use jiff::Timestamp;
use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::{
    EgressGuard, Sockets,
    config::{
        ProviderConfig, ReadConfig,
        read::{Reading, Rules},
    },
    message::Message,
    net::{
        egress::{EgressAllow, SystemResolver},
        http::{HttpClients, HttpResponse},
        tls::TlsConfigs,
    },
};

fn path(below: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(below)
}

fn read(file: &PathBuf) -> Value {
    let text = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// One recorded reply and what it means.
pub(crate) struct Reply {
    /// The file and the reply's name in it.
    pub(crate) name: String,
    /// As it comes from the network.
    pub(crate) answer: HttpResponse,
    /// Its body, where that is JSON.
    pub(crate) body: Value,
    expect: Value,
}

/// Every reply of every file of a provider.
pub(crate) fn replies(provider: &str) -> Vec<Reply> {
    let mut replies = Vec::new();
    for entry in fs::read_dir(path(provider)).unwrap() {
        let file = entry.unwrap().path();
        let document = read(&file);
        assert!(document["source"].is_string(), "{}", file.display());
        for reply in document["replies"].as_array().unwrap() {
            replies.push(Reply {
                name: format!("{} {}", file.display(), reply["name"]),
                answer: answer(reply),
                body: reply["body"].clone(),
                expect: reply["expect"].clone(),
            });
        }
    }
    replies
}

/// An answer in JSON.
pub(crate) fn json_answer(status: u16, body: &Value) -> HttpResponse {
    answer(&json!({
        "status": status,
        "headers": {"content-type": "application/json"},
        "body": body,
    }))
}

fn answer(reply: &Value) -> HttpResponse {
    let headers = reply["headers"].as_object().unwrap();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let body = match reply["body"].as_str() {
        Some(text) => text.to_owned().into_bytes(),
        None => serde_json::to_vec(&reply["body"]).unwrap(),
    };
    let status = reply["status"].as_u64().unwrap();
    HttpResponse::of(
        u16::try_from(status).unwrap(),
        &headers,
        body,
        Timestamp::UNIX_EPOCH,
    )
}

impl Reply {
    /// That `result` is what the fixture says: a receipt's id, or disposition, kind, health, code and
    /// time to wait of an error.
    pub(crate) fn check(&self, result: &Result<Receipt, ProviderError>) {
        let got = match result {
            Ok(receipt) => json!({"receipt": receipt.message_id}),
            Err(error) => {
                let mut got = json!({
                    "disposition": error.disposition,
                    "kind": error.kind,
                    "unhealthy": error.unhealthy,
                    "code": error.code,
                });
                match error.after_retries {
                    AfterRetries::NextProvider => {}
                    AfterRetries::Later => got["after_retries"] = "later".into(),
                    AfterRetries::WhenConnectionFree => {
                        got["after_retries"] = "when_connection_free".into();
                    }
                    AfterRetries::GiveUp => got["after_retries"] = "give_up".into(),
                }
                if let Some(time) = error.retry_after {
                    got["retry_after"] = time.as_secs().into();
                }
                got
            }
        };
        assert_eq!(got, self.expect, "{}", self.name);
    }
}

/// That a template which cannot be sent goes to the next provider without blame, with `hint` in the text.
pub(crate) fn check_template_invalid(error: &ProviderError, hint: &str) {
    assert_eq!(
        (error.disposition, error.kind, error.unhealthy),
        (Disposition::ProviderDown, ErrorKind::TemplateInvalid, false)
    );
    assert!(error.detail.contains(hint), "{}", error.detail);
}

/// That every one of `codes` is among those that `code` finds in the replies.
pub(crate) fn check_complete(
    replies: &[Reply],
    codes: &[i64],
    code: impl Fn(&Value) -> Option<i64>,
) {
    let there: BTreeSet<i64> = replies
        .iter()
        .filter_map(|reply| code(&reply.body))
        .collect();
    let missing: Vec<_> = codes.iter().filter(|code| !there.contains(code)).collect();
    assert!(missing.is_empty(), "no fixture for {missing:?}");
}

/// A provider's contract: an `OpenAPI` 3.0 document.
pub(crate) struct Contract(Value);

impl Contract {
    pub(crate) fn read(file: &str) -> Self {
        Self(read(&path("contracts").join(file)))
    }

    /// Drops what is wrong in it. It must be there: what its author has mended needs no patch.
    #[must_use]
    pub(crate) fn without(mut self, pointers: &[&str]) -> Self {
        for pointer in pointers {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let parent = self.0.pointer_mut(parent).and_then(Value::as_object_mut);
            let dropped = parent.and_then(|parent| parent.shift_remove(name));
            assert!(dropped.is_some(), "{pointer}");
        }
        self
    }

    /// Whether there is something at `pointer`.
    pub(crate) fn has(&self, pointer: &str) -> bool {
        self.0.pointer(pointer).is_some()
    }

    /// The schema at `pointer`. Schemas of `OpenAPI` 3.0 are nearly those of draft 4.
    pub(crate) fn schema(&self, pointer: &str) -> Validator {
        let mut schema = self.0.pointer(pointer).unwrap().clone();
        schema["components"] = self.0["components"].clone();
        jsonschema::options()
            .with_draft(Draft::Draft4)
            .build(&schema)
            .unwrap()
    }
}

/// That `value` is what `schema` allows.
pub(crate) fn check_valid(schema: &Validator, value: &Value) {
    let errors: Vec<_> = schema
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

/// A `WhatsApp` message to nobody.
pub(crate) fn whatsapp(content: Content) -> Message {
    Message {
        delivery: DeliveryId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        target: Target::Whatsapp(PhoneNumber::parse("+15550100").unwrap()),
        content: Arc::new(content),
        reply_to: None,
    }
}

/// An address.
pub(crate) fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

/// Who the clinic's mail is from.
pub(crate) fn sender() -> Mailbox {
    Mailbox {
        address: address("appointments@clinic.example"),
        name: Some("Praxis \"Dr. Müller\"".into()),
    }
}

/// An e-mail with everything.
pub(crate) fn full_email() -> Message {
    let file = |name: &str, content_type: &str, id: Option<&str>| Attachment {
        filename: name.into(),
        content_type: MediaType::parse(content_type).unwrap(),
        content: b"file".as_slice().into(),
        content_id: id.map(|id| ContentId::parse(id).unwrap()),
    };
    let content = Content {
        title: Some("Your appointment".into()),
        body: Some("See you on Monday.".into()),
        html: Some("<p>See you on <b>Monday</b>. <img src=\"cid:logo@clinic\"></p>".into()),
        cc: vec![address("parent@example.com")],
        bcc: vec![address("archive@clinic.example")],
        attachments: vec![
            file("letter.pdf", "application/pdf", None),
            file("logo.png", "image/png", Some("logo@clinic")),
            file("mail.eml", "message/rfc822", None),
        ],
        ..Content::default()
    };
    Message {
        reply_to: Some(address("desk@clinic.example")),
        ..email(content)
    }
}

/// An e-mail to a patient.
pub(crate) fn email(content: Content) -> Message {
    Message {
        delivery: DeliveryId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        target: Target::Email(Mailbox {
            address: address("patient@example.com"),
            name: Some("Jane Roe".into()),
        }),
        content: Arc::new(content),
        reply_to: None,
    }
}

/// The same message with something else in it.
pub(crate) fn changed(message: &Message, change: impl FnOnce(&mut Content)) -> Message {
    let mut content = (*message.content).clone();
    change(&mut content);
    Message {
        content: Arc::new(content),
        ..message.clone()
    }
}

/// A client that is not used.
pub(crate) fn http() -> HttpClients {
    HttpClients::new(
        TlsConfigs::new(None).unwrap(),
        EgressGuard::new(EgressAllow::default(), Arc::new(SystemResolver)),
        Sockets::default(),
        Arc::new(SystemClock),
    )
}

/// A configuration by today's rules, or the fields that are wrong.
pub(crate) fn read_config<C: ReadConfig>(
    fields: &Value,
    stored: Option<&C>,
) -> Result<C, Vec<String>> {
    let mut problems = Problems::default();
    let tenant = Tenant::parse("clinic-1").unwrap();
    let reading = Reading {
        tenant: &tenant,
        rules: Rules::Current,
    };
    let read = Object::new(fields.clone(), "", &mut problems).and_then(|mut object| {
        let read = C::read(&mut object, reading, stored);
        object.finish();
        read
    });
    let read = problems.or(read);
    read.map_err(|problems| {
        let pointers = problems.as_slice().iter().map(|problem| &problem.pointer);
        pointers
            .map(|pointer| pointer.trim_start_matches('/').to_owned())
            .collect()
    })
}

/// That a configuration is shown without its secrets, which begin with `planted`, and reads back as it was; and that its
/// secrets have to be sent again where one of `places` changes.
pub(crate) fn check_config<C: ReadConfig>(fields: &Value, secret: &str, places: &[(&str, Value)]) {
    let shown = |config: &C| {
        let config: &dyn ProviderConfig = config;
        config.to_json(&|secret: &Secret| {
            let hidden = secret.last4();
            json!({"configured": true, "last4": hidden})
        })
    };
    let read = read_config::<C>(fields, None).unwrap();
    let first = shown(&read);
    assert!(!format!("{first} {read:?} {}", read.account_key()).contains("planted"));
    let again = read_config(&first, Some(&read)).unwrap();
    assert_eq!(shown(&again), first);
    for (name, value) in places {
        let mut moved = first.clone();
        moved[*name] = value.clone();
        assert_eq!(
            read_config(&moved, Some(&read)).unwrap_err(),
            [secret],
            "{name}"
        );
    }
}
