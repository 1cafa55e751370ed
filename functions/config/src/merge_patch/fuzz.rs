//! Fuzz targets of merge patches.

#![allow(
    clippy::expect_used,
    reason = "what is not as it should be is the target's failure"
)]

use serde_json::{Map, Value, json};

use super::merge;

/// A patch does what RFC 7396 section 2 says, and notes every secret that it takes away. The input is a patch, or an
/// array of a document and a patch.
pub(crate) fn patches(input: &[u8]) {
    let Ok(input) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    let (document, patch) = match input.as_array().map(Vec::as_slice) {
        Some([document, patch]) => (document.clone(), patch.clone()),
        Some(_) | None => (
            json!({"email": {"primary": {"password": {"configured": true}}}}),
            input,
        ),
    };
    let (mut patched, mut removed) = (document.clone(), Vec::new());
    merge(&mut patched, patch.clone(), "", &mut removed);
    assert_eq!(patched, merge_patch(Some(&document), &patch));
    for pointer in removed {
        let secret = document
            .pointer(&pointer)
            .expect("what was removed was there");
        assert!(secret.get("configured").is_some());
        assert_eq!(patched.pointer(&pointer), None);
    }
}

/// `MergePatch` as the RFC has it, made anew rather than in place.
fn merge_patch(target: Option<&Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut result: Map<_, _> = target
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            result.shift_remove(name);
        } else {
            let merged = merge_patch(result.get(name), value);
            result.insert(name.clone(), merged);
        }
    }
    Value::Object(result)
}
