//! The fields that a change of settings touches.

use comms_core::{HashKey, Secret};
use serde_json::{Map, Value};

use super::CommunicationSettings;

impl CommunicationSettings {
    /// The fields in which `self` differs from `earlier`, secrets included, as sorted JSON pointers.
    pub fn changed_fields(&self, earlier: Option<&Self>) -> Vec<String> {
        // The hashes of the secrets live only as long as this comparison.
        let key = HashKey::from_bytes(&[0; HashKey::LENGTH]);
        let hashed = |secret: &Secret| {
            secret.expose().map_or(Value::Null, |text| {
                Value::String(key.digest("comparison", &[text.as_bytes()]).hex128())
            })
        };
        let with_secrets =
            |settings: &Self| settings.to_json(|entry| Some(entry.config.to_json(&hashed)));
        let before = earlier.map_or(Value::Null, with_secrets);
        let mut changed = Vec::new();
        differences("", Some(&before), Some(&with_secrets(self)), &mut changed);
        changed.sort();
        changed.dedup();
        changed
    }
}

/// Adds to `changed` the JSON pointer of every leaf in which the two documents differ.
fn differences(
    pointer: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    changed: &mut Vec<String>,
) {
    if before == after {
        return;
    }
    let no_fields = Map::new();
    let fields = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    match (fields(before), fields(after)) {
        (None, None) => changed.push(pointer.to_owned()),
        (before, after) => {
            let before = before.unwrap_or_else(|| no_fields.clone());
            let after = after.unwrap_or(no_fields);
            for name in before.keys().chain(after.keys()) {
                // RFC 6901 section 3: a template's name is the clinic's own.
                let escaped = name.replace('~', "~0").replace('/', "~1");
                differences(
                    &format!("{pointer}/{escaped}"),
                    before.get(name),
                    after.get(name),
                    changed,
                );
            }
        }
    }
}
