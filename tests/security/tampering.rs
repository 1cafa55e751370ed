//! Somebody writes to the settings table past the service. Whatever they change, nothing goes out with it, nor by the
//! platform's account instead: callers get 500, and messages wait on the queue.

use aws_sdk_dynamodb::types::AttributeValue;
use comms_tests::{
    CLINIC, World, communication, immediate,
    items::{Item, item, put_item},
};
use serde_json::json;

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// Takes an item away past the service.
async fn take_away(world: &World, sk: &str) {
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .delete_item()
        .table_name(&world.aws.resources().settings_table)
        .key("pk", text(CLINIC))
        .key("sk", text(sk))
        .send()
        .await
        .unwrap();
}

/// The present item with another attribute.
async fn with(world: &World, name: &str, value: AttributeValue) -> Item {
    let mut present = item(world, CLINIC, "settings").await.unwrap();
    present.insert(name.to_owned(), value);
    present
}

/// What the attacker does. Each leaves the table as it was found by `restore`.
#[derive(Debug, Clone, Copy)]
enum Attack {
    From,
    PrimaryOff,
    NoChannel,
    Deletion,
    EarlierVersion,
    NoSettings,
    NoCounter,
    NoSeal,
}

impl Attack {
    const ALL: [Self; 8] = [
        Self::From,
        Self::PrimaryOff,
        Self::NoChannel,
        Self::Deletion,
        Self::EarlierVersion,
        Self::NoSettings,
        Self::NoCounter,
        Self::NoSeal,
    ];

    async fn carry_out(self, world: &World) {
        let present = item(world, CLINIC, "settings").await.unwrap();
        let document = present["document"].as_s().unwrap();
        let changed = match self {
            Self::From => {
                let forged = document.replace("appointments@", "fraud@");
                assert_ne!(forged, *document);
                with(world, "document", text(&forged)).await
            }
            Self::PrimaryOff => {
                let forged = document.replace(r#""enabled":true"#, r#""enabled":false"#);
                assert_ne!(forged, *document);
                with(world, "document", text(&forged)).await
            }
            Self::NoChannel => with(world, "document", text("{}")).await,
            Self::Deletion => {
                let mut deletion = with(world, "change", text("deleted")).await;
                for name in ["document", "sealed", "dataKey", "keyArn", "seal"] {
                    deletion.remove(name);
                }
                deletion
            }
            Self::EarlierVersion => {
                let mut earlier = item(world, CLINIC, "version#0000000001").await.unwrap();
                earlier.remove("expiresAt");
                earlier.insert("sk".to_owned(), text("settings"));
                earlier
            }
            Self::NoSettings => return take_away(world, "settings").await,
            Self::NoCounter => return take_away(world, "counter").await,
            Self::NoSeal => {
                let mut unsealed = present.clone();
                unsealed.remove("seal");
                unsealed
            }
        };
        put_item(world, changed).await;
    }
}

#[tokio::test]
async fn nothing_goes_out_with_settings_that_were_tampered_with() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    let patch = json!({"email": {"defaultFromName": "Front desk"}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let settings = item(&world, CLINIC, "settings").await.unwrap();
    let counter = item(&world, CLINIC, "counter").await.unwrap();
    for attack in Attack::ALL {
        attack.carry_out(&world).await;
        // Processes that have read nothing yet.
        world.restart();
        let sent = world.post(&immediate()).await;
        let code = sent.body["code"].clone();
        assert_eq!((sent.status, code), (500, json!("unreadable_settings")));
        let mut queued = communication();
        queued["priority"] = json!("normal");
        world.post(&queued).await.expect(202);
        let batch = world.run_worker().await;
        let mails = (world.smtp.messages().len(), global.messages().len());
        assert_eq!((batch.failed.len(), mails), (1, (0, 0)), "{attack:?}");
        let read = world.get_settings(CLINIC).await.expect(500);
        assert_eq!(read.body["code"], "unreadable_settings", "{attack:?}");
        let tested = world.test_email(CLINIC, &json!({"verifyOnly": true})).await;
        assert_eq!(tested.status, 500, "{attack:?}");
        put_item(&world, settings.clone()).await;
        put_item(&world, counter.clone()).await;
        // What waited goes out by the clinic's own provider.
        world.restart();
        let batch = world.run_worker().await;
        assert_eq!((batch.failed.len(), world.smtp.messages().len()), (0, 1));
        world.smtp.clear_messages();
    }
}

#[tokio::test]
async fn tampered_settings_are_replaced_restored_or_deleted() {
    let world = World::saved().await;
    let document =
        world.get_settings(CLINIC).await.expect(200).body["settings"]["communicationSettings"]
            .clone();
    let forged = with(&world, "document", text("{}")).await;
    put_item(&world, forged).await;
    let renamed = json!({"email": {"defaultFromName": "Front desk"}});
    world.patch_settings(CLINIC, renamed).await.expect(409);
    // The clinic's own people would be rid of what the platform allows them.
    let admin = || comms_tests::claims("CLINIC_ADMIN", Some(CLINIC));
    let path = format!("/api/v1/clinics/{CLINIC}");
    let restore = format!("{path}/communication/versions/1/restore");
    let whole = comms_tests::email(&world.entry(), comms_tests::FROM);
    let whole = json!({"settings": {"communicationSettings": whole}}).to_string();
    for (method, path, body) in [
        ("PUT", &path, Some(whole.as_str())),
        ("DELETE", &path, None),
        ("POST", &restore, None),
    ] {
        let refused = world.config(method, path, body, admin(), &[]);
        refused.await.expect(403);
    }
    let restored = world.restore(CLINIC, "1", &[]).await.expect(200);
    assert_eq!(restored.header("etag"), "\"2\"");

    take_away(&world, "settings").await;
    // Without its secrets the document is no replacement.
    world.put_settings(CLINIC, document).await.expect(422);
    // Nor is one that says nothing of the ceilings: they would be lifted in silence.
    let mut replacement = comms_tests::email(&world.entry(), comms_tests::FROM);
    let refused = world.put_settings(CLINIC, replacement.clone()).await;
    let pointer = "/settings/communicationSettings/ceilings";
    assert_eq!(refused.expect(422).pointers(), [pointer]);
    replacement["ceilings"] = json!({"useGlobal": false});
    let replaced = world.put_settings(CLINIC, replacement).await.expect(200);
    assert_eq!(replaced.header("etag"), "\"3\"");

    take_away(&world, "counter").await;
    world.get_settings(CLINIC).await.expect(500);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    world.get_settings(CLINIC).await.expect(404);
}
