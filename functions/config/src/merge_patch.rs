//! JSON Merge Patch (RFC 7396), applied to the settings as GET shows them.

use comms_core::Problems;
use comms_settings::{CommunicationSettings, document::POINTER};
use lambda_http::http::{HeaderMap, header};
use serde_json::{Map, Value};

/// The media types in which a patch is taken: its own (RFC 7396 section 5), and JSON, as which the
/// document comes too.
pub(crate) const MEDIA_TYPES: &str = "application/merge-patch+json, application/json";

/// Whether a body says of itself that it is such a patch. One that says nothing does not.
pub(crate) fn is_announced(headers: &HeaderMap) -> bool {
    let announced = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    announced.is_some_and(|announced| {
        MEDIA_TYPES
            .split(", ")
            .any(|known| known.eq_ignore_ascii_case(announced))
    })
}

/// A document with a patch applied to it.
#[derive(Debug)]
pub(crate) struct Patched {
    /// The whole document as it is to be.
    pub(crate) document: Value,
    /// Where the patch removed a secret: pointers within the document.
    removed_secrets: Vec<String>,
}

impl Patched {
    /// Applies `patch` to the settings as they are shown.
    pub(crate) fn of(settings: &CommunicationSettings, patch: &Value) -> Self {
        let mut patched = Self {
            document: settings.view(),
            removed_secrets: Vec::new(),
        };
        let document = &mut patched.document;
        merge(document, patch.clone(), "", &mut patched.removed_secrets);
        keep_nulls(document, patch);
        patched
    }

    /// Notes each secret that the patch removes and `settings` still have: left out, it was taken from
    /// the stored ones. That is what PUT does with a secret that is left out; `null` says otherwise.
    pub(crate) fn check_removed_secrets(
        &self,
        settings: &CommunicationSettings,
        problems: &mut Problems,
    ) {
        let shown = settings.view();
        for pointer in &self.removed_secrets {
            if shown.pointer(pointer).is_some() {
                problems.add(
                    format!("{POINTER}{pointer}"),
                    "is required: it can be replaced and not removed; leave it out of the patch to keep it",
                );
            }
        }
    }
}

/// `MergePatch` of RFC 7396 section 2. `removed_secrets` gets the pointers of removed markers.
fn merge(target: &mut Value, patch: Value, pointer: &str, removed_secrets: &mut Vec<String>) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (name, value) in patch {
        let pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        if !value.is_null() {
            let field = fields.entry(name).or_insert(Value::Null);
            merge(field, value, &pointer, removed_secrets);
        } else if let Some(removed) = fields.shift_remove(&name)
            && removed.get("configured").is_some()
        {
            removed_secrets.push(pointer);
        }
    }
}

/// Copies the `null`s of a patch into the patched document. The reader treats a known field that is `null` as absent and
/// refuses an unknown one. Without this, a misspelt name would change nothing, and the caller would not know.
fn keep_nulls(patched: &mut Value, patch: &Value) {
    let (Value::Object(fields), Value::Object(patch)) = (patched, patch) else {
        return;
    };
    for (name, value) in patch {
        let field = fields.entry(name).or_insert(Value::Null);
        keep_nulls(field, value);
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use lambda_http::http::HeaderValue;
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut patched = target.clone();
            merge(&mut patched, patch.clone(), "", &mut Vec::new());
            assert_eq!(patched, result, "{target} with {patch}");
        }
    }

    #[test]
    fn a_secret_that_is_removed_is_told_by_its_pointer() {
        let marker = json!({"configured": true});
        let mut target = json!({"a/b": {"secret": marker, "other": marker, "plain": 1}});
        let patch = json!({"a/b": {"secret": null, "other": "new", "plain": null, "absent": null}});
        let mut removed = Vec::new();
        merge(&mut target, patch, "", &mut removed);
        assert_eq!(removed, ["/a~1b/secret"]);
        assert_eq!(target, json!({"a/b": {"other": "new"}}));
    }

    #[test]
    fn a_patch_is_announced_by_its_media_type() {
        for (value, announced) in [
            ("application/merge-patch+json", true),
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.clone())]);
            assert_eq!(is_announced(&headers), announced, "{value:?}");
        }
        assert!(!is_announced(&HeaderMap::new()));
    }
}
