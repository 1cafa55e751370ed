//! What the roles and the keys' policies permit, and to which functions.

use std::collections::BTreeSet;

use comms_testkit::aws::{ACCOUNT, Access, REGION};
use comms_tests::{
    FUNCTIONS,
    permissions::{
        access::{access, with},
        template::{
            KEY, RIGHTS, TEMPLATE, arn, entries, logical_name, policy, properties, resolve,
            statements_of_the_key, texts,
        },
    },
};
use serde_json::json;

use super::{data_key, decrypt};

fn item(action: &str, table: &str, key: &str) -> Access {
    let access = access(
        &format!("dynamodb:{action}"),
        resolve(&format!("{table}.Arn")),
    );
    with(access, "dynamodb:LeadingKeys", key)
}

/// The functions whose roles permit an access.
fn permitted(access: &Access) -> Vec<&'static str> {
    let permits = |function: &&str| RIGHTS[*function].iter().any(|grant| grant.permits(access));
    FUNCTIONS.into_iter().filter(permits).collect()
}

#[test]
fn data_keys_are_bound_to_a_clinic_and_a_purpose() {
    let with_settings = ["send", "worker", "config", "config-test"];
    let generate = "kms:GenerateDataKey";
    for (access, functions) in [
        (decrypt("settings", Some("clinic-1")), &with_settings[..]),
        (decrypt("hash-key", Some("_hash-key")), &FUNCTIONS),
        (
            data_key(generate, "settings", Some("clinic-1")),
            &["config"],
        ),
        (
            data_key(generate, "hash-key", Some("_hash-key")),
            &["send", "worker", "config"],
        ),
        (data_key(generate, "hash-key", Some("clinic-1")), &[]),
        // Without saying whose, or for anything else.
        (decrypt("settings", None), &[]),
        (data_key(generate, "settings", None), &[]),
        (decrypt("backup", Some("clinic-1")), &[]),
        (self::access("kms:Decrypt", arn("kms", KEY)), &[]),
        // Nobody moves data keys to another key, or encrypts with this one.
        (
            data_key("kms:ReEncryptFrom", "settings", Some("clinic-1")),
            &[],
        ),
        (data_key("kms:Encrypt", "settings", Some("clinic-1")), &[]),
        // The queues' key is for SQS to use.
        (self::access("kms:Decrypt", resolve("QueueKey.Arn")), &[]),
    ] {
        assert_eq!(permitted(&access), functions, "{access:?}");
    }
}

#[test]
fn items_are_changed_only_by_their_function() {
    let (settings, deliveries) = ("SettingsTable", "DeliveriesTable");
    let request = "5f1d7a84e2fb4f2e8a3c9b0d6e7f8091";
    for (access, functions) in [
        (item("PutItem", settings, "clinic-1"), &["config"][..]),
        (item("PutItem", settings, "_global"), &["config"]),
        (
            item("PutItem", settings, "_hash-key"),
            &["send", "worker", "config"],
        ),
        (
            item("UpdateItem", settings, "_test-limit#clinic#clinic-1"),
            &["config-test"],
        ),
        (item("UpdateItem", settings, "clinic-1"), &["config"]),
        (item("UpdateItem", settings, "_hash-key"), &[]),
        (
            item("PutItem", settings, "_test-limit#clinic#clinic-1"),
            &[],
        ),
        (item("DeleteItem", settings, "clinic-1"), &[]),
        (item("PutItem", deliveries, "r-1"), &["send", "worker"]),
        (item("UpdateItem", deliveries, "r-1"), &["send", "worker"]),
        (
            item("UpdateItem", deliveries, "quota#_global#email"),
            &["send", "worker", "config-test"],
        ),
        (
            item("UpdateItem", deliveries, "quota#clinic-1#email"),
            &["send", "worker"],
        ),
        (
            item("UpdateItem", deliveries, "health#clinic-1"),
            &["send", "worker", "config-test"],
        ),
        (item("GetItem", deliveries, "r-1"), &[]),
        (item("Query", deliveries, "r-1"), &[]),
        (item("Query", deliveries, request), &["send", "status"]),
        (item("Query", deliveries, "usage#clinic-1"), &["config"]),
        (item("DeleteItem", deliveries, "r-1"), &[]),
    ] {
        assert_eq!(permitted(&access), functions, "{access:?}");
    }
    let scan = self::access("dynamodb:Scan", resolve("SettingsTable.Arn"));
    assert_eq!(permitted(&scan), [""; 0]);
}

#[test]
fn platform_mail_names_a_tenant_and_roles_match_the_pattern() {
    let identity = access("ses:SendEmail", arn("ses", "identity/clinic.example"));
    assert_eq!(permitted(&identity), [""; 0]);
    let of_tenant = with(identity, "ses:TenantName", "clinic-1");
    assert_eq!(permitted(&of_tenant), ["send", "worker", "config-test"]);
    // What is in MIME form has no tenant, and a sender.
    let identity = access("ses:SendRawEmail", arn("ses", "identity/clinic.example"));
    assert_eq!(permitted(&identity), [""; 0]);
    let from_somebody = with(identity, "ses:FromAddress", "desk@clinic.example");
    assert_eq!(permitted(&from_somebody), ["send", "worker"]);
    for (role, statement) in ["SendRole", "WorkerRole"].map(|role| (role, policy(role))) {
        let raw = statement
            .iter()
            .find(|statement| statement["Action"] == "ses:SendRawEmail");
        assert_eq!(
            raw.unwrap()["Condition"],
            json!({"StringLike": {"ses:FromAddress": "SesTenantSenders"}}),
            "{role}"
        );
    }
    let assume = |name| {
        access(
            "sts:AssumeRole",
            format!("arn:aws:iam::210987654321:role/{name}"),
        )
    };
    assert_eq!(
        permitted(&assume("clinic-ses/mail")),
        ["send", "worker", "config-test"]
    );
    assert_eq!(permitted(&assume("admin")), [""; 0]);
    let own = arn("iam", "role/clinic-ses/mail").replace(REGION, "");
    let own = with(
        access("sts:AssumeRole", own),
        "aws:ResourceAccount",
        ACCOUNT,
    );
    assert_eq!(permitted(&own), [""; 0]);
}

#[test]
fn only_functions_have_roles_and_no_right_is_to_everything() {
    let used: BTreeSet<_> = FUNCTIONS
        .iter()
        .map(|function| {
            properties(&logical_name(function))["Role"]
                .as_str()
                .unwrap()
        })
        .map(|role| role.strip_suffix(".Arn").unwrap())
        .collect();
    let iam = entries(&TEMPLATE["Resources"])
        .filter(|(_, resource)| resource["Type"].as_str().unwrap().starts_with("AWS::IAM::"))
        .map(|(name, _)| name.as_str());
    // Neither of these is a function's: CodeDeploy's own, and what Lambda does for all of them in a VPC.
    let others = BTreeSet::from(["DeploymentRole", "VpcAccess"]);
    assert_eq!(iam.collect::<BTreeSet<_>>(), &used | &others);
    for grant in RIGHTS.values().flatten() {
        assert!(!grant.action.contains('*'), "{grant:?}");
        // The actions here that know no resources (Service Authorization Reference, Amazon SES v2 and AWS X-Ray).
        let knows_none = [
            "ses:GetAccount",
            "xray:PutTraceSegments",
            "xray:PutTelemetryRecords",
        ]
        .contains(&grant.action.as_str());
        assert_eq!(grant.resource == "*", knows_none, "{grant:?}");
    }
}

/// What makes use of a key, rather than looks after it.
fn uses_a_key(action: &str) -> bool {
    let action = action.strip_prefix("kms:").unwrap();
    ["*", "CreateGrant", "Decrypt"].contains(&action)
        || [
            "Encrypt",
            "GenerateDataKey",
            "ReEncrypt",
            "Generate",
            "Verify",
        ]
        .iter()
        .any(|use_| action.starts_with(use_))
}

#[test]
fn iam_alone_gives_nobody_the_key_of_the_credentials() {
    for (role, body) in entries(&TEMPLATE["Resources"]) {
        if body["Type"] == "AWS::IAM::Role" {
            let policies = body["Properties"]["Policies"].to_string();
            assert!(!policies.contains("\"Key.Arn\""), "{role}");
        }
    }
    let mut accounts = 0;
    for statement in properties("Key")["KeyPolicy"]["Statement"]
        .as_array()
        .unwrap()
    {
        // What the template's conditions let in is held to the same.
        let statement = if statement.is_array() {
            &statement[1]
        } else {
            statement
        };
        let uses = texts(&statement["Action"])
            .iter()
            .any(|action| uses_a_key(action));
        if statement["Principal"].to_string().contains(":root") {
            accounts += 1;
            assert!(!uses, "{statement}");
        } else {
            assert!(uses, "{statement}");
            let purpose = &statement["Condition"]["StringEquals"]["kms:EncryptionContext:purpose"];
            assert!(!purpose.is_null(), "{statement}");
        }
    }
    assert_eq!(accounts, 2);
}

#[test]
fn the_queues_key_is_used_through_sqs_alone() {
    let through =
        json!({"StringEquals": {"kms:ViaService": "sqs.${AWS::Region}.${AWS::URLSuffix}"}});
    let mut used = Vec::new();
    for statement in statements_of_the_key("QueueKey") {
        let actions = texts(&statement["Action"]);
        if actions.iter().any(|action| uses_a_key(action)) {
            assert_eq!(statement["Condition"], through, "{statement}");
            used.extend(actions);
        }
    }
    assert_eq!(used, ["kms:GenerateDataKey", "kms:Decrypt"]);
}
