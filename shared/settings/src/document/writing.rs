//! Writing a document: with markers in place of secrets for answers, without credentials for the store, and the credentials
//! for sealing.

use std::cell::Cell;

use comms_adapters::registry::MAX_CONFIG_BYTES;
use comms_core::{Channel, Secret};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::{ChannelSettings, CommunicationSettings, DEFAULT_COUNTRY, ProviderEntry};
use crate::{ceilings::CEILINGS, rate_limit::Period};

impl CommunicationSettings {
    /// The document for answers: markers in place of secrets.
    pub fn view(&self) -> Value {
        self.to_json(|entry| Some(entry.config.to_json(&secret_marker)))
    }

    /// The document as it is stored unencrypted: without credentials.
    pub(crate) fn outline(&self) -> Value {
        self.to_json(|_| None)
    }

    pub(super) fn to_json(&self, credentials: impl Fn(&ProviderEntry) -> Option<Value>) -> Value {
        let mut document = Map::new();
        for channel in Channel::ALL {
            if let Some(settings) = self.channel(channel) {
                document.insert(channel.as_str().to_owned(), settings.to_json(&credentials));
            }
        }
        if let Some(country) = self.default_country {
            document.insert(DEFAULT_COUNTRY.to_owned(), json!(country));
        }
        if !self.ceilings.is_empty() {
            document.insert(CEILINGS.to_owned(), self.ceilings.to_json());
        }
        Value::Object(document)
    }
}

impl ChannelSettings {
    fn to_json(&self, credentials: &impl Fn(&ProviderEntry) -> Option<Value>) -> Value {
        let entry = |entry: &ProviderEntry| {
            let mut json = json!({
                "id": entry.id, "provider": entry.config.kind(), "enabled": entry.enabled,
            });
            if let Some(credentials) = credentials(entry) {
                json["credentials"] = credentials;
            }
            if let Some(rate) = entry.max_per_second {
                json["rateLimit"] = json!({Period::Second.field(): rate});
            }
            json
        };
        let mut json = json!({
            "primary": entry(&self.primary),
            "fallback": self.fallback.iter().map(entry).collect::<Vec<_>>(),
            "fallbackStrategy": {"useGlobal": self.use_global, "retryAttempts": self.retry_attempts},
            "onAmbiguous": self.on_ambiguous.as_str(),
        });
        if let Some(from) = &self.default_from {
            json["defaultFrom"] = json!(from);
        }
        if let Some(name) = &self.default_from_name {
            json["defaultFromName"] = json!(name);
        }
        if let Some(limit) = self.rate_limit {
            json["rateLimit"] = limit.to_json();
        }
        json
    }
}

impl ProviderEntry {
    /// The credentials with their secrets, to be sealed. The bytes are wiped after use.
    /// `None` if a secret cannot be opened: an entry without its secret must not be saved.
    pub(crate) fn plaintext(&self) -> Option<Zeroizing<Vec<u8>>> {
        let complete = Cell::new(true);
        let clear = |secret: &Secret| {
            let text = secret.expose().ok();
            complete.set(complete.get() && text.is_some());
            text.map_or(Value::Null, |text| Value::String(text.to_string()))
        };
        // The capacity holds the longest escaped form: a buffer that grew would leave unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(6 * MAX_CONFIG_BYTES));
        let mut json = self.config.to_json(&clear);
        let written = serde_json::to_writer(&mut *bytes, &json);
        wipe(&mut json);
        (written.is_ok() && complete.get()).then_some(bytes)
    }
}

/// Overwrites every text in `value`.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn secret_marker(secret: &Secret) -> Value {
    match secret.last4() {
        Some(last4) => json!({"configured": true, "last4": last4}),
        None => json!({"configured": true}),
    }
}
