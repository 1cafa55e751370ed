//! Everything that lies in a table, as text that can be searched.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use dynoxide::actions::scan::ScanRequest;
use serde_json::Value;

use super::{LocalAwsError, setup::tables_error};

pub(super) fn dump_table(tables: &dynoxide::Database, name: &str) -> Result<String, LocalAwsError> {
    let mut text = format!("# {name}\n");
    for item in scan(tables, name)? {
        text.push_str(&item.to_string());
        text.push('\n');
        push_binary(&item, &mut text);
    }
    Ok(text)
}

/// Every item of a table as DynamoDB JSON.
pub(super) fn scan(tables: &dynoxide::Database, name: &str) -> Result<Vec<Value>, LocalAwsError> {
    let mut items = Vec::new();
    let mut start = None;
    loop {
        let page = tables
            .scan(ScanRequest {
                table_name: name.to_owned(),
                exclusive_start_key: start.take(),
                ..ScanRequest::default()
            })
            .map_err(tables_error)?;
        for item in page.items.unwrap_or_default() {
            items.push(serde_json::to_value(&item).map_err(tables_error)?);
        }
        match page.last_evaluated_key {
            Some(key) => start = Some(key),
            None => return Ok(items),
        }
    }
}

/// Appends what every `{"B": …}` and `{"BS": […]}` below `value` holds, one line each.
fn push_binary(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("B", Value::String(encoded)) => push_decoded(encoded, text),
                    ("BS", Value::Array(values)) => {
                        for encoded in values.iter().filter_map(Value::as_str) {
                            push_decoded(encoded, text);
                        }
                    }
                    _ => push_binary(member, text),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                push_binary(value, text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn push_decoded(encoded: &str, text: &mut String) {
    if let Ok(bytes) = BASE64.decode(encoded) {
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.push('\n');
    }
}
