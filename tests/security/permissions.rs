//! Least privilege: the functions' roles in `template.yaml` permit what the functions do, and nothing else.
//!
//! The tests here lead the functions through all that they do with AWS, and fail if a right could be taken away without
//! anybody missing it.

mod model;
mod policies;
mod resources;

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{
    aws::{Access, Fault, LocalAws},
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, FUNCTIONS, World, communication, email, immediate,
    outcomes::{SHORT_BATCH, fail_outcomes},
    permissions::{
        access::{access, asked, implied, missing, of_encryption, unused, with},
        template::{KEY, RIGHTS, TEMPLATE, arn},
    },
    reply_to::link_to,
};
use serde_json::{Value, json};

/// A clinic's e-mail by SES, in an account as `account` says.
fn ses(mut account: Value) -> Value {
    account["region"] = json!("eu-central-1");
    account["fromEmail"] = json!(FROM);
    account["configurationSet"] = json!("clinics");
    email(
        &json!({"provider": "aws_ses", "credentials": account}),
        FROM,
    )
}

/// The platform's own account, in which the clinic is a tenant.
fn platform() -> Value {
    ses(json!({"tenantName": CLINIC}))
}

/// The clinic's account, by a role.
fn role() -> Value {
    let name = properties_of_parameter("SesRoleNamePattern").replace('*', "mail");
    ses(json!({"roleArn": format!("arn:aws:iam::210987654321:role/{name}"), "externalId": CLINIC}))
}

fn properties_of_parameter(name: &str) -> &'static str {
    TEMPLATE["Parameters"][name]["Default"].as_str().unwrap()
}

/// A communication of this priority, which says on which queue it goes.
fn of_priority(priority: &str) -> Value {
    let mut communication = communication();
    communication["priority"] = json!(priority);
    communication
}

/// A communication with a file, which goes out in MIME form.
fn with_file(mut communication: Value) -> Value {
    communication["attachments"] = json!([{"filename": "a.txt", "contentType": "text/plain",
        "content": BASE64_STANDARD.encode("See you.")}]);
    communication
}

/// Takes the key of the keyed hashes away, so that whoever needs it next makes it.
async fn forget_hash_key(world: &World) {
    let key = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .delete_item()
        .table_name(&world.aws.resources().settings_table)
        .set_key(Some([key("pk", "_hash-key"), key("sk", "key")].into()))
        .send()
        .await
        .unwrap();
}

/// Settings: saved, read, changed, listed, brought back, deleted; and what the providers' health is.
async fn settings_of_a_clinic(world: &mut World) {
    world.save_clinic().await;
    world.restart();
    world
        .patch_settings(CLINIC, json!({"email": {"defaultFromName": "Changed"}}))
        .await
        .expect(200);
    world.get_settings(CLINIC).await.expect(200);
    world.versions(CLINIC, "").await.expect(200);
    world.restore(CLINIC, "1", &[]).await.expect(200);
    let health = format!("/api/v1/clinics/{CLINIC}/communication/health");
    let admin = comms_tests::super_admin();
    world
        .config("GET", &health, None, admin, &[])
        .await
        .expect(200);
    let stats = format!("/api/v1/clinics/{CLINIC}/communication/stats");
    let admin = comms_tests::super_admin();
    world
        .config("GET", &stats, None, admin, &[])
        .await
        .expect(200);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    let purged = format!("/api/v1/clinics/{CLINIC}?purge=true");
    let admin = comms_tests::super_admin();
    world
        .config("DELETE", &purged, None, admin, &[])
        .await
        .expect(200);
}

/// Leads every function through all that it does with AWS. What a new call to AWS is for belongs here too.
async fn everything() -> LocalAws {
    let mut world = World::new().await;

    // The first to need the key of the hashes makes it, whoever that is; all others find it.
    world.post(&communication()).await.expect(202);
    forget_hash_key(&world).await;
    world.restart();
    world.run_worker().await;
    forget_hash_key(&world).await;
    world.restart();

    settings_of_a_clinic(&mut world).await;
    // Nobody sees settings before the counter's key is opened.
    world.restart();
    let test = json!({"testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &test).await.expect(404);

    for (number, account) in [platform(), role()].into_iter().enumerate() {
        world.put_settings(CLINIC, account).await;
        world.restart();
        if number == 0 {
            world.post(&immediate()).await.expect(200);
        } else {
            world.enqueue(&communication().to_string()).await;
            world.run_worker().await;
        }
        world.restart();

        let sent = world.post(&with_file(immediate())).await.expect(200);
        world.status(&sent.request_id()).await.expect(200);
        world.post(&immediate()).await.expect(200);
        for queued in [
            of_priority("normal"),
            with_file(communication()),
            of_priority("critical"),
        ] {
            world.post(&queued).await.expect(202);
        }
        // One queue after the other.
        world.run_worker().await;
        world.run_worker().await;
        let test = json!({"testEmail": "admin@clinic.example"});
        world.test_email(CLINIC, &test).await.expect(200);
    }

    // A communication that has ended is known by its key, whatever the quota says.
    let mut limited = email(&world.entry(), FROM);
    limited["email"]["rateLimit"] = json!({"maxPerDay": 1});
    world.put_settings(CLINIC, limited).await.expect(200);
    world.restart();
    for _ in 0..2 {
        world.post_with_key(&immediate(), "key").await.expect(200);
    }
    let unlimited = email(&world.entry(), FROM);
    world.put_settings(CLINIC, unlimited).await.expect(200);
    world.restart();

    // An address for replies is verified, by a link that counts under the platform's limit.
    let global = world.save_global().await;
    let limited = json!({"email": {"rateLimit": {"maxPerDay": 1_000}}});
    world.patch_settings("_global", limited).await.expect(200);
    world.restart();
    let link = link_to(&world, &global, "desk@clinic.example").await;
    for method in ["GET", "POST"] {
        world
            .config(method, &link, None, Value::Null, &[])
            .await
            .expect(200);
    }

    // A passed test takes back that an entry is down.
    world
        .smtp
        .on(Stage::Auth, Action::reply("535 5.7.8 refused"));
    world.post(&immediate()).await;
    let test = json!({"verifyOnly": true});
    world.test_email(CLINIC, &test).await.expect(200);

    // What cannot be worked on becomes a dead letter; what has to wait is told for how long, on either queue.
    world.enqueue("{").await;
    world.run_worker().await;
    for queued in ["normal", "critical"].map(of_priority) {
        world.post(&queued).await.expect(202);
        world
            .aws
            .fail_next("dynamodb", "UpdateItem", 100, Fault::AccessDenied);
        assert!(!world.run_worker().await.failed.is_empty());
        world.aws.clear_faults();
    }

    // What could not be recorded goes on the queue, and is recorded from there.
    world.restart();
    while !world.run_worker().await.records.is_empty() {}
    let sent = world.post(&of_priority("normal")).await.expect(202);
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    world.run_worker_with(&world.worker, SHORT_BATCH).await;
    world.aws.watch(|_| Box::pin(async { None }));
    world.run_worker().await;
    let status = world.status(&sent.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"][0]["status"], "sent");
    world.aws.clone()
}

/// All that a function and AWS in its name do.
fn needs(function: &str, asked: &BTreeSet<Access>) -> Vec<Access> {
    let mut needs: Vec<_> = asked.iter().cloned().collect();
    needs.extend(implied(function));
    let encryption: Vec<_> = needs.iter().flat_map(of_encryption).collect();
    needs.extend(encryption);
    needs
}

#[tokio::test]
async fn roles_permit_exactly_what_the_functions_do() {
    let asked = asked(&everything().await);
    let mut wrong = Vec::new();
    for function in FUNCTIONS {
        let (rights, needs) = (&RIGHTS[function], needs(function, &asked[function]));
        let missing = missing(rights, &needs).into_iter();
        wrong.extend(missing.map(|what| format!("{function} may not, but does: {what}")));
        let unused = unused(rights, &needs).into_iter();
        wrong.extend(unused.map(|what| format!("{function} may, but never does: {what}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn decrypt(purpose: &str, clinic: Option<&str>) -> Access {
    data_key("kms:Decrypt", purpose, clinic)
}

fn data_key(action: &str, purpose: &str, clinic: Option<&str>) -> Access {
    let access = access(action, arn("kms", KEY));
    let access = with(access, "kms:EncryptionContext:purpose", purpose);
    match clinic {
        Some(clinic) => with(access, "kms:EncryptionContext:clinicId", clinic),
        None => access,
    }
}
