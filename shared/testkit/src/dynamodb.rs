//! DynamoDB items: read from JSON, and measured as DynamoDB measures them.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use serde_json::Value;

/// Bytes that an item may have with its names (Amazon DynamoDB, "Quotas", item size: 400 KB).
pub const MAX_ITEM_BYTES: usize = 400 * 1024;

/// An item.
pub type Item = HashMap<String, AttributeValue>;

/// The item of a JSON text in DynamoDB's own form, `{"name":{"S":"text"}}` (DynamoDB API reference, `AttributeValue`),
/// with texts in place of base64 in `B`; `None` for what is none.
pub fn item(json: &Value) -> Option<Item> {
    let fields = json.as_object()?.iter();
    fields
        .map(|(name, value)| Some((name.clone(), attribute(value)?)))
        .collect()
}

fn attribute(json: &Value) -> Option<AttributeValue> {
    let mut kinds = json.as_object()?.iter();
    let (kind, value) = kinds
        .next()
        .filter(|_| json.as_object().is_some_and(|all| all.len() == 1))?;
    let text = || value.as_str().map(str::to_owned);
    let texts = || -> Option<Vec<_>> {
        value
            .as_array()?
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    Some(match kind.as_str() {
        "S" => AttributeValue::S(text()?),
        "N" => AttributeValue::N(text()?),
        "B" => AttributeValue::B(Blob::new(text()?)),
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "NULL" => AttributeValue::Null(value.as_bool()?),
        "L" => AttributeValue::L(
            value
                .as_array()?
                .iter()
                .map(attribute)
                .collect::<Option<_>>()?,
        ),
        "M" => AttributeValue::M(item(value)?),
        "SS" => AttributeValue::Ss(texts()?),
        "NS" => AttributeValue::Ns(texts()?),
        _ => return None,
    })
}

/// Bytes of an item (Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats").
pub fn item_bytes(item: &Item) -> usize {
    let attributes = item.iter();
    attributes
        .map(|(name, value)| name.len() + bytes(value))
        .sum()
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the SDK's enum may have more some day"
)]
fn bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        // A byte for two digits and one more, at most 21.
        AttributeValue::N(digits) => (digits.len().div_ceil(2) + 1).min(21),
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::L(items) => 3 + items.iter().map(|item| 1 + bytes(item)).sum::<usize>(),
        AttributeValue::M(fields) => 3 + fields.len() + item_bytes(fields),
        AttributeValue::Ss(texts) | AttributeValue::Ns(texts) => {
            texts.iter().map(String::len).sum()
        }
        AttributeValue::Bs(blobs) => blobs.iter().map(|blob| blob.as_ref().len()).sum(),
        // True, false and null; and kinds that there are not yet.
        _ => 1,
    }
}
