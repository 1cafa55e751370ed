//! The fields of a schema in a value: without its nulls, and each at its limit.

use std::collections::BTreeSet;

use comms_tests::contract::Contract;
use serde_json::{Value, json};

use super::URLS;

/// A body as the document reads it: `null` for a field that is named is the same as leaving it out, and so is an empty text
/// in settings. Maps with names of the caller's own, and what is passed on as it is, have no such fields.
pub(crate) fn without_nulls(contract: &Contract, value: &Value, schema: &Value) -> Value {
    without(contract, value, schema, false)
}

fn without(contract: &Contract, value: &Value, schema: &Value, in_settings: bool) -> Value {
    let schema = contract.resolved(schema);
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, field)| {
                let in_settings = in_settings || name == "communicationSettings";
                let is_unset = field.is_null() || (in_settings && field == "");
                match property(contract, &schema, name) {
                    Some(_) if is_unset => None,
                    Some(named) => {
                        Some((name.clone(), without(contract, field, &named, in_settings)))
                    }
                    None => Some((name.clone(), field.clone())),
                }
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => {
            let schema = item_schema(contract, &schema);
            items
                .iter()
                .map(|item| without(contract, item, &schema, in_settings))
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// What the schema, or the alternatives of it together, say of a field.
pub(super) fn property(contract: &Contract, schema: &Value, name: &str) -> Option<Value> {
    let here = schema["properties"]
        .get(name)
        .filter(|property| property.is_object())
        .cloned();
    let alternatives = ["oneOf", "anyOf"]
        .into_iter()
        .flat_map(|choice| schema[choice].as_array().into_iter().flatten());
    let there: Vec<_> = alternatives
        .filter_map(|branch| property(contract, &contract.resolved(branch), name))
        .collect();
    match (here, there.is_empty()) {
        (here, true) => here,
        // Which of them it is does not matter: a field has the same fields in all that know it.
        (here, false) => Some(json!({"anyOf": here.into_iter().chain(there).collect::<Vec<_>>()})),
    }
}

fn item_schema(contract: &Contract, schema: &Value) -> Value {
    if let Some(items) = schema.get("items") {
        return items.clone();
    }
    let alternatives = ["oneOf", "anyOf"]
        .into_iter()
        .flat_map(|choice| schema[choice].as_array().into_iter().flatten());
    let items = alternatives.map(|branch| item_schema(contract, &contract.resolved(branch)));
    items
        .into_iter()
        .find(|items| !items.is_null())
        .unwrap_or_default()
}

/// The fields of `value` that have a schema, with their pointers.
pub(crate) fn fields_of(
    contract: &Contract,
    schema: &Value,
    value: &Value,
    pointer: &str,
    found: &mut Vec<(String, Value)>,
) {
    let schema = contract.resolved(schema);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let named = property(contract, &schema, name);
                if let Some(named) = named.or_else(|| schema.get("additionalProperties").cloned()) {
                    fields_of(contract, &named, field, &format!("{pointer}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            let schema = item_schema(contract, &schema);
            for (index, item) in items.iter().enumerate() {
                fields_of(
                    contract,
                    &schema,
                    item,
                    &format!("{pointer}/{index}"),
                    found,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push((pointer.to_owned(), schema));
}

/// Values at the limits that a schema has for what is `value` now, and next to them.
pub(crate) fn at_limits(contract: &Contract, schema: &Value, value: &Value) -> Vec<Value> {
    let schema = contract.resolved(schema);
    let mut found = Vec::new();
    for choice in ["oneOf", "anyOf"] {
        for branch in schema[choice].as_array().into_iter().flatten() {
            found.extend(at_limits(contract, branch, value));
        }
    }
    let limit = |name: &str| schema[name].as_i64();
    for number in [limit("minimum"), limit("maximum")].into_iter().flatten() {
        for near in [number - 1, number, number + 1] {
            found.extend([json!(near), json!(near.to_string())]);
        }
    }
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    let in_pattern = pattern
        .split(['{', '}', ','])
        .filter_map(|part| part.parse().ok());
    let lengths: BTreeSet<i64> = [limit("minLength"), limit("maxLength")]
        .into_iter()
        .flatten()
        .chain(in_pattern)
        .flat_map(|length: i64| [length - 1, length, length + 1])
        .collect();
    for length in lengths
        .into_iter()
        .filter_map(|length| usize::try_from(length).ok())
    {
        found.push(json!("a".repeat(length)));
        // Characters of several bytes, and digits. Of what is very long, one kind is enough.
        if length < 2_000 {
            found.extend([json!("1".repeat(length)), json!("ä".repeat(length))]);
        }
    }
    if let (Some(text), false) = (value.as_str(), pattern.is_empty()) {
        let mut shorter = text.to_owned();
        let last = shorter.pop();
        found.extend([
            json!(shorter),
            json!(format!("{text}{}", last.unwrap_or('a'))),
        ]);
    }
    if schema["format"] == "uri" {
        found.extend(URLS.map(Value::from));
    }
    if let Some(item) = value.as_array().and_then(|items| items.first()) {
        for count in [limit("minItems"), limit("maxItems")].into_iter().flatten() {
            let counts = [count - 1, count, count + 1].into_iter();
            found.extend(
                counts.filter_map(|count| {
                    Some(vec![item.clone(); usize::try_from(count).ok()?].into())
                }),
            );
        }
    }
    found
}
