//! Items of the settings table, read and written past the store.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::world::{CLINIC, World};

/// An item as it is stored.
pub type Item = HashMap<String, AttributeValue>;

/// An item of the settings table as it is stored.
pub async fn item(world: &World, tenant: &str, sk: &str) -> Option<Item> {
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .get_item()
        .table_name(&world.aws.resources().settings_table)
        .key("pk", AttributeValue::S(tenant.to_owned()))
        .key("sk", AttributeValue::S(sk.to_owned()))
        .consistent_read(true)
        .send()
        .await
        .unwrap()
        .item
}

/// Every item of the settings table but the limits of saves, in an order of their own.
pub async fn items(world: &World) -> Vec<Item> {
    let scanned = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .scan()
        .table_name(&world.aws.resources().settings_table)
        .consistent_read(true)
        .send()
        .await
        .unwrap();
    let mut items = scanned.items.unwrap();
    items.retain(|item| !item["pk"].as_s().unwrap().starts_with("_save-limit#"));
    items.sort_by_key(|item| ["pk", "sk"].map(|name| item[name].as_s().unwrap().clone()));
    items
}

/// Writes an item of the settings table past the store.
pub async fn put_item(world: &World, item: Item) {
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().settings_table)
        .set_item(Some(item))
        .send()
        .await
        .unwrap();
}

/// Changes the sender in the clinic's settings past the store, which its seal contradicts.
pub async fn change_sender(world: &World) {
    let mut settings = item(world, CLINIC, "settings").await.unwrap();
    let document = settings["document"].as_s().unwrap();
    let forged = document.replace("appointments@", "fraud@");
    assert_ne!(forged, *document);
    settings.insert("document".to_owned(), AttributeValue::S(forged));
    put_item(world, settings).await;
}
