//! Rights are compared as IAM compares them.

use comms_testkit::aws::Access;
use comms_tests::permissions::{
    access::{access, missing, unused, with},
    grant::{Condition, Grant, Operator},
    template::{grants, resolve},
};
use serde_json::json;

use super::decrypt;

/// Rights to one table, one key and one queue, and what uses them all.
fn example() -> (Vec<Grant>, Vec<Access>) {
    let statements = json!([
        {"Sid": "Keep", "Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
         "Resource": "SettingsTable.Arn",
         "Condition": {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["a#*", "b"]}}},
        {"Sid": "Open", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": ["Key.Arn"],
         "Condition": {"StringEquals": {"kms:EncryptionContext:purpose": ["settings", "hash-key"]},
                       "Null": {"kms:EncryptionContext:clinicId": "false"}}},
    ]);
    let table = resolve("SettingsTable.Arn");
    let mut accesses = Vec::new();
    for (action, key) in [
        ("GetItem", "a#1"),
        ("GetItem", "b"),
        ("PutItem", "a#2"),
        ("PutItem", "b"),
    ] {
        let access = access(&format!("dynamodb:{action}"), table.clone());
        accesses.push(with(access, "dynamodb:LeadingKeys", key));
    }
    accesses.extend(["settings", "hash-key"].map(|purpose| decrypt(purpose, Some("clinic-1"))));
    (grants(statements.as_array().unwrap()), accesses)
}

#[test]
fn a_right_that_is_taken_away_is_missing() {
    let (rights, needs) = example();
    assert_eq!(missing(&rights, &needs), [""; 0]);
    for place in 0..rights.len() {
        let mut fewer = rights.clone();
        let taken = fewer.remove(place);
        let missing = missing(&fewer, &needs);
        assert!(!missing.is_empty());
        assert!(
            missing.iter().all(|what| what.starts_with(&taken.action)),
            "{missing:?}"
        );
    }
    // As is one whose conditions became tighter.
    let mut tighter = rights;
    tighter[2].conditions[0].values.pop();
    assert_eq!(missing(&tighter, &needs).len(), 1);
}

#[test]
fn a_right_that_is_added_is_unused() {
    let (rights, needs) = example();
    assert_eq!(unused(&rights, &needs), [""; 0]);
    let table = resolve("SettingsTable.Arn");
    let mut more = rights.clone();
    more.push(Grant {
        action: "dynamodb:DeleteItem".to_owned(),
        ..rights[0].clone()
    });
    assert_eq!(
        unused(&more, &needs),
        [format!("Keep: dynamodb:DeleteItem on {table}")]
    );
    // As is a further value of a condition, and what another right covers already.
    let mut wider = rights.clone();
    wider[0].conditions[0].values.push("c".to_owned());
    let what = format!("Keep: dynamodb:GetItem on {table}");
    assert_eq!(
        unused(&wider, &needs),
        [format!("{what} where dynamodb:LeadingKeys is c")]
    );
    let twice = [rights.clone(), vec![rights[0].clone()]].concat();
    assert_eq!(unused(&twice, &needs), [what.clone(), what]);
}

#[test]
fn conditions_mean_what_iam_says() {
    for (operator, values, given, holds) in [
        ("StringEquals", "a", vec![], false),
        ("StringEquals", "a", vec!["a"], true),
        ("StringEquals", "a*", vec!["ab"], false),
        ("StringLike", "a*", vec!["ab"], true),
        ("StringLike", "a?c*e", vec!["abcde"], true),
        ("StringLike", "a?", vec!["a"], false),
        ("ForAllValues:StringLike", "a*", vec![], true),
        ("ForAllValues:StringLike", "a*", vec!["ab", "b"], false),
        ("ForAllValues:StringNotLike", "a*", vec!["b"], true),
        ("ForAllValues:StringNotLike", "a*", vec!["b", "ab"], false),
        ("Null", "false", vec![], false),
        ("Null", "false", vec!["a"], true),
        ("Null", "true", vec![], true),
    ] {
        let condition = Condition {
            operator: Operator::parse(operator),
            key: "key".to_owned(),
            values: vec![values.to_owned()],
        };
        let mut access = access("s:A", "*".to_owned());
        for value in &given {
            access = with(access, "key", value);
        }
        assert_eq!(
            condition.holds(&access.context),
            holds,
            "{operator} {values} {given:?}"
        );
    }
}
