//! What the functions ask of AWS, and what AWS asks in their names, held against rights.

use std::collections::{BTreeMap, BTreeSet};

use comms_testkit::aws::{Access, LocalAws, REGION};

use super::{
    grant::Grant,
    template::{KEY, RIGHTS, TEMPLATE, arn, entries, logical_name, properties, resolve},
};
use crate::world::{FUNCTIONS, access_key_id};

/// What the functions asked of the local AWS, by function.
pub fn asked(aws: &LocalAws) -> BTreeMap<&'static str, BTreeSet<Access>> {
    let mut asked = BTreeMap::new();
    for mut access in aws.accesses() {
        let Some(function) = FUNCTIONS
            .into_iter()
            .find(|function| access_key_id(function) == access.access_key_id)
        else {
            // A test itself, or a clinic's own credentials.
            continue;
        };
        // Whichever key it is: a further one gets the statements of the first (OPERATIONS.md, "Moving to another KMS
        // key").
        if access.resource.starts_with(&arn("kms", "key/")) {
            access.resource = arn("kms", KEY);
        }
        asked
            .entry(function)
            .or_insert_with(BTreeSet::new)
            .insert(access);
    }
    asked
}

/// What AWS does in a function's name, with what that in turn brings about.
pub fn implied(function: &str) -> Vec<Access> {
    let properties = properties(&logical_name(function));
    let mut implied = Vec::new();
    let mut add = |action: &str, resource: String| implied.push(access(action, resource));
    let logs = properties["LoggingConfig"]["LogGroup"].as_str().unwrap();
    for action in ["logs:CreateLogStream", "logs:PutLogEvents"] {
        add(
            action,
            arn("logs", &format!("log-group:{logs}:log-stream:1")),
        );
    }
    if TEMPLATE["Globals"]["Function"]["Tracing"] == "Active" {
        for action in ["xray:PutTraceSegments", "xray:PutTelemetryRecords"] {
            add(action, "*".to_owned());
        }
    }
    // An event source mapping polls in the name of the function's role (Lambda developer guide, "Using Lambda with
    // Amazon SQS", execution role permissions).
    let sources = entries(&properties["Events"]).filter(|(_, event)| event["Type"] == "SQS");
    for (_, source) in sources {
        for action in [
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
        ] {
            add(
                action,
                resolve(source["Properties"]["Queue"].as_str().unwrap()),
            );
        }
    }
    implied
}

/// What SQS asks KMS in the name of whoever sends to or receives from an encrypted queue (SQS developer guide, "Amazon
/// SQS Key management", configuring KMS permissions).
pub fn of_encryption(access: &Access) -> Vec<Access> {
    let actions: &[&str] = match access.action.as_str() {
        "sqs:SendMessage" => &["kms:GenerateDataKey", "kms:Decrypt"],
        "sqs:ReceiveMessage" => &["kms:Decrypt"],
        _ => &[],
    };
    let queues = entries(&TEMPLATE["Resources"])
        .filter(|(_, resource)| resource["Type"] == "AWS::SQS::Queue");
    let Some((_, queue)) = queues
        .into_iter()
        .find(|(name, _)| resolve(&format!("{name}.Arn")) == access.resource)
    else {
        return Vec::new();
    };
    let key = queue["Properties"]["KmsMasterKeyId"].as_str();
    let key = resolve(key.unwrap_or_else(|| panic!("not under a key of the account: {queue}")));
    let service = format!("sqs.{REGION}.amazonaws.com");
    let made = actions.iter().map(|action| {
        with(
            self::access(action, key.clone()),
            "kms:ViaService",
            &service,
        )
    });
    made.collect()
}

pub fn access(action: &str, resource: String) -> Access {
    Access {
        access_key_id: String::new(),
        action: action.to_owned(),
        resource,
        context: BTreeMap::new(),
    }
}

pub fn with(mut access: Access, key: &str, value: &str) -> Access {
    access
        .context
        .entry(key.to_owned())
        .or_default()
        .insert(value.to_owned());
    access
}

/// What of `accesses` is not permitted.
pub fn missing<'a>(
    grants: &[Grant],
    accesses: impl IntoIterator<Item = &'a Access>,
) -> Vec<String> {
    accesses
        .into_iter()
        .filter(|access| !grants.iter().any(|grant| grant.permits(access)))
        .map(|access| {
            format!(
                "{} on {} with {:?}",
                access.action, access.resource, access.context
            )
        })
        .collect()
}

/// What can be taken away from `grants`, whole or a value of a condition, and still nothing is missing.
pub fn unused(grants: &[Grant], accesses: &[Access]) -> Vec<String> {
    let mut unused = Vec::new();
    let mut without = |place: usize, instead: Option<Grant>, what: String| {
        let mut fewer = grants.to_vec();
        fewer.splice(place..=place, instead);
        let works = missing(&fewer, accesses).is_empty();
        unused.extend(works.then_some(what));
        works
    };
    for (place, grant) in grants.iter().enumerate() {
        let what = format!(
            "{}: {} on {}",
            grant.statement, grant.action, grant.resource
        );
        if without(place, None, what.clone()) {
            continue;
        }
        for (number, condition) in grant.conditions.iter().enumerate() {
            if !condition.operator.widens() || condition.values.len() < 2 {
                continue;
            }
            for (value, name) in condition.values.iter().enumerate() {
                let mut tighter = grant.clone();
                tighter.conditions[number].values.remove(value);
                without(
                    place,
                    Some(tighter),
                    format!("{what} where {} is {name}", condition.key),
                );
            }
        }
    }
    unused
}

/// Fails if a function did what its role does not permit.
pub fn assert_permitted(aws: &LocalAws) {
    for (function, accesses) in asked(aws) {
        let missing = missing(&RIGHTS[function], &accesses);
        assert!(
            missing.is_empty(),
            "the role of {function} does not permit {missing:#?}"
        );
    }
}
