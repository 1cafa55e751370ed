//! The rules of the document that its schemas cannot say.

use std::collections::BTreeSet;

use comms_tests::contract::Contract;
use serde_json::{Value, json};

/// A rule, at the place where its schema stands in a body.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Where what is refused is: a pointer in which `*` is any one name and `**` any number of them.
    at: String,
    /// A part of what is answered.
    says: String,
    /// Where the schema stands, and the merge patch that breaks the rule there.
    breaks: Option<(String, Value)>,
    /// Headers that belong to it.
    pub(crate) headers: Value,
}

impl Rule {
    /// Whether this is the rule behind an error.
    pub(crate) fn explains(&self, error: &Value) -> bool {
        let pointer: Vec<_> = error["pointer"].as_str().unwrap().split('/').collect();
        let pattern: Vec<_> = self.at.split('/').collect();
        matches(&pattern, &pointer) && error["detail"].as_str().unwrap().contains(&self.says)
    }

    /// What tells the rule from others, wherever its schema stands.
    pub(crate) fn name(&self) -> &str {
        &self.says
    }

    /// `body` with this rule broken; `None` where it has no place for that.
    pub(crate) fn broken(&self, body: &Value) -> Option<Value> {
        let (place, patch) = self.breaks.as_ref()?;
        let place = place.replace("/*", "/0");
        let mut body = body.clone();
        if let Some(there) = body.pointer_mut(&place) {
            merge(there, patch);
            return Some(body);
        }
        let (parent, name) = place.rsplit_once('/')?;
        let parent = body.pointer_mut(parent)?.as_object_mut()?;
        merge(parent.entry(name).or_insert(Value::Null), patch);
        Some(body)
    }
}

/// RFC 7396 section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let fields = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            fields.shift_remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn matches(pattern: &[&str], pointer: &[&str]) -> bool {
    match (pattern, pointer) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            matches(rest, pointer)
                || pointer
                    .split_first()
                    .is_some_and(|(_, after)| matches(pattern, after))
        }
        ([name, pattern @ ..], [here, pointer @ ..]) => {
            (*name == "*" || name == here) && matches(pattern, pointer)
        }
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}

/// The rules of a schema and of everything in it.
pub(crate) fn rules(contract: &Contract, schema: &Value) -> Vec<Rule> {
    let mut found = Vec::new();
    collect(contract, schema, "", &mut found);
    let mut seen = BTreeSet::new();
    found.retain(|rule| seen.insert((rule.at.clone(), rule.says.clone())));
    found
}

fn collect(contract: &Contract, schema: &Value, pointer: &str, found: &mut Vec<Rule>) {
    let schema = contract.resolved(schema);
    for rule in schema["x-rules"].as_array().into_iter().flatten() {
        found.push(Rule {
            at: format!("{pointer}{}", rule["at"].as_str().unwrap()),
            says: rule["says"].as_str().unwrap().to_owned(),
            breaks: rule
                .get("breaks")
                .map(|patch| (pointer.to_owned(), patch.clone())),
            headers: rule["headers"].clone(),
        });
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect(contract, property, &format!("{pointer}/{name}"), found);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            collect(contract, &schema[inner], &format!("{pointer}/*"), found);
        }
    }
    for choice in ["oneOf", "anyOf"] {
        for branch in schema[choice].as_array().into_iter().flatten() {
            collect(contract, branch, pointer, found);
        }
    }
}
