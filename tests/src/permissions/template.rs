//! The roles of `template.yaml` as rights, with its references as they are in the local AWS.

use std::{collections::BTreeMap, sync::LazyLock};

use comms_testkit::aws::{ACCOUNT, REGION};
use serde_json::{Map, Value, json};

use super::grant::{Condition, Grant, Operator};
use crate::{repository::yaml, world::FUNCTIONS};

/// The settings' key, by one name for all worlds: each makes its own.
pub const KEY: &str = "key/settings";

/// An ARN in the local AWS.
pub fn arn(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
}

pub static TEMPLATE: LazyLock<Value> = LazyLock::new(|| yaml("template.yaml"));

pub static RIGHTS: LazyLock<BTreeMap<&'static str, Vec<Grant>>> = LazyLock::new(|| {
    let of_function = |function| {
        let role = properties(&logical_name(function))["Role"]
            .as_str()
            .unwrap();
        let statements = [policy(role.strip_suffix(".Arn").unwrap()), of_the_key(role)].concat();
        (function, grants(&statements))
    };
    FUNCTIONS.into_iter().map(of_function).collect()
});

/// What the template calls a function.
pub fn logical_name(function: &str) -> String {
    comms_functions::named(function).unwrap().logical_id()
}

pub fn properties(resource: &str) -> &'static Value {
    let properties = &TEMPLATE["Resources"][resource]["Properties"];
    assert!(properties.is_object(), "{resource}");
    properties
}

/// The statements of a role's one policy.
pub fn policy(role: &str) -> Vec<Value> {
    let role = properties(role);
    let in_a_vpc = json!(["InVpc", ["VpcAccess"], "AWS::NoValue"]);
    assert_eq!(role["ManagedPolicyArns"], in_a_vpc, "{role}");
    let [policy] = role["Policies"].as_array().unwrap().as_slice() else {
        panic!("one policy is enough: {role}");
    };
    policy["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .clone()
}

/// The statements of the settings' key that name this role, as if they were the role's: for a principal of the key's own
/// account, one permits as the other does (KMS developer guide, "Key policies in AWS KMS").
fn of_the_key(role: &str) -> Vec<Value> {
    let statements = statements_of_the_key("Key").into_iter();
    let named = statements.filter(|statement| {
        let principals = &statement["Principal"]["AWS"];
        principals.is_string() && principals == role
            || principals
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == role))
    });
    named
        .map(|mut statement| {
            statement.as_object_mut().unwrap().remove("Principal");
            statement["Resource"] = json!("Key.Arn");
            statement
        })
        .collect()
}

/// The statements of a key's policy, without those that a condition of the template keeps out by default.
pub fn statements_of_the_key(key: &str) -> Vec<Value> {
    let mut statements = properties(key)["KeyPolicy"]["Statement"]
        .as_array()
        .unwrap()
        .clone();
    statements.retain(Value::is_object);
    statements
}

pub fn grants(statements: &[Value]) -> Vec<Grant> {
    statements.iter().flat_map(grants_of).collect()
}

fn grants_of(statement: &Value) -> Vec<Grant> {
    let fields = statement.as_object().unwrap();
    let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
    assert!(
        fields.keys().all(|field| known.contains(&field.as_str())),
        "{statement}"
    );
    assert_eq!(statement["Effect"], "Allow");
    let conditions: Vec<_> = entries(&statement["Condition"])
        .flat_map(|(operator, keys)| {
            entries(keys).map(move |(key, values)| (operator, key, values))
        })
        .map(|(operator, key, values)| Condition {
            operator: Operator::parse(operator),
            key: key.clone(),
            values: texts(values).iter().map(|value| resolve(value)).collect(),
        })
        .collect();
    let mut grants = Vec::new();
    for action in texts(&statement["Action"]) {
        for resource in texts(&statement["Resource"]) {
            grants.push(Grant {
                statement: statement["Sid"].as_str().unwrap().to_owned(),
                action: action.clone(),
                resource: resolve(&resource),
                conditions: conditions.clone(),
            });
        }
    }
    grants
}

pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A text, or a list of texts.
pub fn texts(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.as_str().unwrap().to_owned();
    value
        .as_array()
        .map_or_else(|| vec![one(value)], |all| all.iter().map(one).collect())
}

/// What a reference of the template is in the local AWS, where it is called the same in every world.
pub fn resolve(text: &str) -> String {
    if let Some(resource) = text.strip_suffix(".Arn") {
        let kind = TEMPLATE["Resources"][resource]["Type"].as_str().unwrap();
        return match (kind, resource) {
            (_, "SettingsTable") => arn("dynamodb", "table/clinic-comms-settings"),
            (_, "DeliveriesTable") => arn("dynamodb", "table/clinic-comms-deliveries"),
            (_, "Queue") => arn("sqs", "clinic-comms"),
            (_, "UrgentQueue") => arn("sqs", "clinic-comms-urgent"),
            (_, "DeadLetterQueue") => arn("sqs", "clinic-comms-dlq"),
            (_, "Key") => arn("kms", KEY),
            ("AWS::KMS::Key", other) => arn("kms", &format!("key/{other}")),
            ("AWS::Logs::LogGroup", other) => arn("logs", &format!("log-group:{other}:*")),
            (kind, other) => panic!("{other} ({kind}) is in a policy and is unknown here"),
        };
    }
    if let Some(default) = TEMPLATE["Parameters"][text]["Default"].as_str() {
        return default.to_owned();
    }
    let mut resolved = text
        .replace("${AWS::Partition}", "aws")
        .replace("${AWS::Region}", REGION)
        .replace("${AWS::AccountId}", ACCOUNT)
        .replace("${AWS::URLSuffix}", "amazonaws.com");
    for (name, parameter) in entries(&TEMPLATE["Parameters"]) {
        if let Some(default) = parameter["Default"].as_str() {
            resolved = resolved.replace(&format!("${{{name}}}"), default);
        }
    }
    assert!(
        !resolved.contains("${"),
        "{text} names what is unknown here"
    );
    resolved
}
