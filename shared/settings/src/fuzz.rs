//! Fuzz targets of what is stored and of what is to be: see [`comms_testkit::fuzz`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the target's failure"
)]

use std::sync::LazyLock;

use comms_aws::TableError;
use comms_core::{Channel, PhoneNumber, Problems, Secret, Tenant, json};
use comms_testkit::{
    dynamodb::{MAX_ITEM_BYTES, item, item_bytes},
    fuzz::PLANTED,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    document::{CommunicationSettings, wipe},
    item::{CURRENT, Item, SettingsItem, StoredItem, attribute, is_expired, version_number},
    store::StoreError,
};

comms_testkit::fuzz_targets! {
    /// Items of the settings table.
    settings_items = crate::fuzz::items, 50_000 + 300 * length;
    /// Settings documents as a clinic sends them.
    // A provider's credentials are written into 350 KB that do not grow, so that no copy of them is left behind; and
    // the regular expressions of a numbering plan, compiled when its first number comes, take some MB.
    settings_documents = crate::fuzz::documents, 10_000_000 + 300 * length;
}

/// The numbering plans of all countries, once read, stay.
static NUMBERING_PLANS: LazyLock<()> = LazyLock::new(|| {
    allocation_counter::opt_out(|| assert!(PhoneNumber::parse("+15550100").is_ok()));
});

fn tenant() -> Tenant {
    Tenant::parse("clinic-1").unwrap()
}

/// An item is read as what it is or not at all: what was read and is written again is the same item, and an attribute
/// of a kind that is never written there is an error that names it.
fn items(input: &[u8]) {
    let Some(item) = serde_json::from_slice(input).ok().as_ref().and_then(item) else {
        return;
    };
    let _ = (
        is_expired(&item, Timestamp::UNIX_EPOCH),
        version_number(&item),
    );
    let read = StoredItem::from_item(&item);
    if let Some(name) = wrong_kind(&item) {
        assert!(
            matches!(read, Err(StoreError::Table(TableError::Corrupt(_)))),
            "{name} was passed over"
        );
    }
    let tenant = tenant();
    match read {
        Ok(StoredItem::Settings(settings)) => {
            let written = settings.to_item(&tenant, CURRENT);
            assert!(
                settings.size() <= item_bytes(&written),
                "what can be long is part of it"
            );
            assert_eq!(SettingsItem::from_item(&written), Ok(settings.clone()));
            if let Ok(outline) = settings.outline() {
                // Without its credentials it is never settings by accident.
                let _ = CommunicationSettings::read_stored(outline, &tenant);
            }
        }
        Ok(StoredItem::Tombstone(tombstone)) => {
            let written = tombstone.to_item(&tenant, CURRENT);
            assert_eq!(
                StoredItem::from_item(&written),
                Ok(StoredItem::Tombstone(tombstone))
            );
        }
        Ok(StoredItem::Record(_)) => {}
        Err(StoreError::Table(TableError::Corrupt(name))) => {
            assert!(attribute_names().contains(&name));
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn attribute_names() -> [&'static str; 14] {
    use attribute::{
        CHANGE, CHANGED, DATA_KEY, DOCUMENT, EXPIRES_AT, KEY_ARN, PURGE_AT, RESTORED_FROM,
        SAVED_AT, SAVED_BY, SEAL, SEALED, SOURCE_ADDRESS, VERSION,
    };
    [
        VERSION,
        DOCUMENT,
        SEALED,
        DATA_KEY,
        KEY_ARN,
        SAVED_AT,
        SAVED_BY,
        SOURCE_ADDRESS,
        CHANGE,
        RESTORED_FROM,
        CHANGED,
        EXPIRES_AT,
        SEAL,
        PURGE_AT,
    ]
}

/// An attribute of every version that is of a kind that it never has.
fn wrong_kind(item: &Item) -> Option<&'static str> {
    let scalars = [
        attribute::VERSION,
        attribute::SAVED_AT,
        attribute::SAVED_BY,
        attribute::SOURCE_ADDRESS,
        attribute::CHANGE,
        attribute::EXPIRES_AT,
    ];
    let is_scalar = |name: &&str| {
        item.get(*name)
            .is_none_or(|value| value.is_s() || value.is_n())
    };
    let is_list = item
        .get(attribute::CHANGED)
        .is_none_or(aws_sdk_dynamodb::types::AttributeValue::is_l);
    let scalar = scalars.into_iter().find(|name| !is_scalar(name));
    scalar.or((!is_list).then_some(attribute::CHANGED))
}

/// What is accepted can be shown, sent back, stored and read again without becoming something else or unreadable; what is
/// refused is refused without repeating it.
fn documents(input: &[u8]) {
    LazyLock::force(&NUMBERING_PLANS);
    let Ok(document) = json::parse(input) else {
        return;
    };
    let tenant = tenant();
    let mut problems = Problems::default();
    let read = CommunicationSettings::read(document, "/settings", &tenant, None, &mut problems);
    assert!(problems.as_slice().len() <= Problems::MOST);
    for problem in problems.as_slice() {
        assert!(!problem.detail.contains(PLANTED), "{problem:?}");
    }
    assert!(!problems.known_pointers().join(" ").contains(PLANTED));
    let Ok(settings) = problems.or(read) else {
        return;
    };

    assert!(
        !hidden_in(&settings, &settings.view().to_string()),
        "the view shows a secret"
    );
    assert!(
        !hidden_in(&settings, &format!("{settings:?}")),
        "Debug shows a secret"
    );

    let mut problems = Problems::default();
    let again =
        CommunicationSettings::read(settings.view(), "", &tenant, Some(&settings), &mut problems);
    let again = problems.or(again).expect("what is shown can be sent back");
    assert_eq!(again.changed_fields(Some(&settings)), Vec::<String>::new());

    let stored = CommunicationSettings::read_stored(stored(&settings), &tenant);
    let stored = stored.expect("what is saved can be read again");
    assert_eq!(stored.changed_fields(Some(&settings)), Vec::<String>::new());
    // Whatever of it is too large is refused before it is sent to DynamoDB.
    assert!(settings.outline().to_string().len() < MAX_ITEM_BYTES);
}

/// The document as it is when its credentials have been opened.
fn stored(settings: &CommunicationSettings) -> Value {
    let mut document = settings.outline();
    for channel in Channel::ALL {
        let Some(chain) = settings.channel(channel) else {
            continue;
        };
        for (index, (_, entry)) in chain.entries().enumerate() {
            let place = match index.checked_sub(1) {
                None => format!("/{channel}/primary"),
                Some(index) => format!("/{channel}/fallback/{index}"),
            };
            let plaintext = entry.plaintext().unwrap();
            document.pointer_mut(&place).unwrap()["credentials"] =
                serde_json::from_slice(&plaintext).unwrap();
        }
    }
    document
}

/// Whether a secret stands in `text`. One that is short, or part of what is no secret, would stand there anyway.
fn hidden_in(settings: &CommunicationSettings, text: &str) -> bool {
    let secrets = std::cell::RefCell::new(Vec::new());
    let collect = |secret: &Secret| {
        secrets
            .borrow_mut()
            .push(secret.expose().unwrap().to_string());
        Value::Null
    };
    let mut others = String::new();
    for (_, entry) in settings.entries() {
        let mut open = entry.config.to_json(&collect);
        others.push_str(&open.to_string());
        wipe(&mut open);
    }
    others.push_str(&settings.outline().to_string());
    let secrets = secrets.into_inner();
    secrets.iter().any(|secret| {
        secret.len() > 8 && text.contains(secret.as_str()) && !others.contains(secret.as_str())
    })
}
