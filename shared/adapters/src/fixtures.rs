//! For tests of adapters: providers' replies and contracts, from `tests/fixtures`.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use comms_core::{
    AfterRetries, DeliveryId, PhoneNumber, ProviderError, Receipt,
    request::{Content, Target},
};
use jiff::Timestamp;
use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::{http::Answer, message::Message};

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
    pub(crate) answer: Answer,
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
pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    answer(&json!({
        "status": status,
        "headers": {"content-type": "application/json"},
        "body": body,
    }))
}

fn answer(reply: &Value) -> Answer {
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
    Answer::of(
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
