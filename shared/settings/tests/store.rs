//! The settings store against DynamoDB and KMS, over the wire with the real SDK.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{Channel, Problems, Tenant};
use comms_settings::{
    Author, Change, CommunicationSettings, HashKeys, Past, Present, Refusal, SettingsCache,
    SettingsStore, StoreError, StoredSettings, envelope::EnvelopeError,
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use serde_json::{Value, json};

const PASSWORD: &str = "planted-password-0123456789";

struct World {
    aws: LocalAws,
    store: SettingsStore,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new() -> Self {
        let aws = LocalAws::start().await;
        let resources = aws.resources();
        let store = SettingsStore::new(
            &aws.sdk_config(),
            &resources.settings_table,
            &resources.kms_key_id,
        );
        Self {
            store,
            clock: Arc::new(ManualClock::new()),
            aws,
        }
    }

    async fn save(
        &self,
        clinic: &str,
        password: &str,
        previous: Option<&StoredSettings>,
    ) -> Result<u64, StoreError> {
        let author = author();
        let saved = self
            .store
            .save(
                &tenant(clinic),
                &settings(clinic, password),
                previous,
                &author,
                &*self.clock,
            )
            .await?;
        Ok(saved.number)
    }

    fn cache(&self, capacity: usize) -> SettingsCache {
        SettingsCache::new(self.store.clone(), self.clock.clone(), capacity)
    }

    /// Reads an item of the settings table as it is stored.
    async fn item(&self, pk: &str) -> std::collections::HashMap<String, AttributeValue> {
        aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .get_item()
            .table_name(&self.aws.resources().settings_table)
            .key("pk", AttributeValue::S(pk.into()))
            .key("sk", AttributeValue::S("settings".into()))
            .send()
            .await
            .unwrap()
            .item
            .unwrap()
    }

    /// Every item of the settings table, in an order of their own.
    async fn items(&self) -> Vec<std::collections::HashMap<String, AttributeValue>> {
        let scanned = aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .scan()
            .table_name(&self.aws.resources().settings_table)
            .send()
            .await
            .unwrap();
        let mut items = scanned.items.unwrap();
        items.sort_by_key(|item| ["pk", "sk"].map(|name| item[name].as_s().unwrap().clone()));
        items
    }

    /// Writes an item of the settings table past the store.
    async fn put(&self, item: std::collections::HashMap<String, AttributeValue>) {
        aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .put_item()
            .table_name(&self.aws.resources().settings_table)
            .set_item(Some(item))
            .send()
            .await
            .unwrap();
    }
}

fn author() -> Author {
    Author {
        subject: "admin-1".into(),
        source_address: Some("192.0.2.7".into()),
    }
}

fn tenant(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}

fn document(clinic: &str, password: &str) -> Value {
    let entry = |host: &str, password: &str| {
        json!({"provider": "smtp", "credentials": {"host": host, "port": 587, "secure": false,
               "user": format!("{clinic}-user"), "password": password}})
    };
    json!({"email": {
        "primary": entry("smtp.primary.example", password),
        "fallback": [entry("smtp.fallback.example", &format!("fallback-{password}"))],
        "defaultFrom": "desk@clinic.example"
    }})
}

fn settings(clinic: &str, password: &str) -> CommunicationSettings {
    let mut problems = Problems::default();
    CommunicationSettings::read(
        document(clinic, password),
        "",
        &Tenant::parse(clinic).unwrap(),
        None,
        &mut problems,
    )
    .unwrap_or_else(|| panic!("{problems}"))
}

fn passwords(stored: &StoredSettings) -> Vec<String> {
    let channel = stored.settings.channel(Channel::Email).unwrap();
    channel
        .entries()
        .map(|(_, entry)| {
            let smtp: &comms_adapters::smtp::SmtpConfig = entry.config.get().unwrap();
            smtp.password.expose().unwrap().to_string()
        })
        .collect()
}

#[tokio::test]
async fn what_is_saved_is_loaded_with_every_entrys_own_credentials() {
    let world = World::new().await;
    assert_eq!(world.save("clinic-a", PASSWORD, None).await, Ok(1));
    let stored = world
        .store
        .load(&tenant("clinic-a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        passwords(&stored),
        [PASSWORD.to_owned(), format!("fallback-{PASSWORD}")]
    );
    assert_eq!(stored.version.saved_by, "admin-1");
    assert_eq!(stored.version.source_address.as_deref(), Some("192.0.2.7"));
    assert!(
        world
            .store
            .load(&tenant("clinic-b"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_dump_of_the_tables_contains_no_secret() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let dump = world.aws.dump_tables().await;
    assert!(
        dump.contains("desk@clinic.example"),
        "the dump does show the document"
    );
    for planted in [PASSWORD, "planted", "clinic-a-user", "smtp.primary.example"] {
        assert!(!dump.contains(planted), "{planted}");
    }
    // Binary attributes are base64 in a dump.
    let shifted: Vec<String> = (0..3)
        .map(|n| BASE64_STANDARD.encode(&PASSWORD.as_bytes()[n..24 + n])[..28].to_owned())
        .collect();
    assert!(!shifted.iter().any(|text| dump.contains(text)));
}

#[tokio::test]
async fn one_data_key_per_save_seals_all_entries_and_one_decrypt_opens_them() {
    let world = World::new().await;
    // The key of the hashes is there.
    world.save("clinic-b", PASSWORD, None).await.unwrap();
    world.aws.clear_calls();
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    assert_eq!(world.aws.count("kms", "GenerateDataKey"), 1);
    assert_eq!(world.aws.count("dynamodb", "TransactWriteItems"), 1);
    world.store.load(&tenant("clinic-a")).await.unwrap();
    assert_eq!(world.aws.count("kms", "Decrypt"), 1);
}

#[tokio::test]
async fn entries_that_were_swapped_do_not_open() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let mut item = world.item("clinic-a").await;
    let AttributeValue::M(sealed) = item.get_mut("sealed").unwrap() else {
        panic!("a map")
    };
    let primary = sealed.remove("email/primary").unwrap();
    let fallback = sealed.insert("email/fallback-1".into(), primary).unwrap();
    sealed.insert("email/primary".into(), fallback);
    world.put(item).await;
    let error = world.store.load(&tenant("clinic-a")).await.unwrap_err();
    assert_eq!(error, StoreError::Envelope(EnvelopeError::WrongEntry));
}

#[tokio::test]
async fn another_clinics_item_does_not_open_under_this_clinics_name() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    world.save("clinic-b", "other", None).await.unwrap();
    let mut item = world.item("clinic-a").await;
    item.insert("pk".into(), AttributeValue::S("clinic-b".into()));
    world.put(item).await;
    let error = world.store.load(&tenant("clinic-b")).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Envelope(EnvelopeError::WrongDataKey { .. })
        ),
        "{error:?}"
    );
    assert!(!error.is_worth_a_retry());
}

#[tokio::test]
async fn sealed_entries_of_an_earlier_version_do_not_open_in_a_later_one() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let mut replayed = world.item("clinic-a").await;
    replayed.insert("version".into(), AttributeValue::N("2".into()));
    world.put(replayed).await;
    let error = world.store.load(&tenant("clinic-a")).await.unwrap_err();
    assert_eq!(error, StoreError::Refused(Refusal::OtherVersion));
}

#[tokio::test]
async fn every_flipped_byte_of_a_sealed_entry_or_data_key_is_noticed() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let whole = world.item("clinic-a").await;
    let AttributeValue::M(sealed) = &whole["sealed"] else {
        panic!("a map")
    };
    let AttributeValue::B(primary) = &sealed["email/primary"] else {
        panic!("bytes")
    };
    let AttributeValue::B(data_key) = &whole["dataKey"] else {
        panic!("bytes")
    };
    let (entry_length, key_length) = (primary.as_ref().len(), data_key.as_ref().len());
    // Every bit is flipped in the unit tests; here a byte at a time through DynamoDB and KMS.
    for at in (0..entry_length).step_by(7) {
        let mut item = whole.clone();
        let AttributeValue::M(sealed) = item.get_mut("sealed").unwrap() else {
            panic!("a map")
        };
        let AttributeValue::B(bytes) = sealed.get_mut("email/primary").unwrap() else {
            panic!("bytes")
        };
        let mut flipped = bytes.as_ref().to_vec();
        flipped[at] ^= 1;
        *bytes = flipped.into();
        world.put(item).await;
        assert!(
            world.store.load(&tenant("clinic-a")).await.is_err(),
            "entry byte {at}"
        );
    }
    for at in (0..key_length).step_by(5) {
        let mut item = whole.clone();
        let mut flipped = data_key.as_ref().to_vec();
        flipped[at] ^= 1;
        item.insert("dataKey".into(), AttributeValue::B(flipped.into()));
        world.put(item).await;
        assert!(
            world.store.load(&tenant("clinic-a")).await.is_err(),
            "data key byte {at}"
        );
    }
}

#[tokio::test]
async fn of_concurrent_writers_one_wins_and_nothing_is_half_written() {
    let world = World::new().await;
    world.save("clinic-a", "first", None).await.unwrap();
    let previous = world
        .store
        .load(&tenant("clinic-a"))
        .await
        .unwrap()
        .unwrap();
    let attempts = (0..8).map(|n| {
        let (world, previous) = (&world, &previous);
        async move {
            world
                .save("clinic-a", &format!("password-{n}"), Some(previous))
                .await
        }
    });
    let results = futures_util::future::join_all(attempts).await;
    assert_eq!(
        results.iter().filter(|result| **result == Ok(2)).count(),
        1,
        "{results:?}"
    );
    assert_eq!(
        results
            .iter()
            .filter(|result| **result == Err(StoreError::Conflict))
            .count(),
        7
    );
    let stored = world
        .store
        .load(&tenant("clinic-a"))
        .await
        .unwrap()
        .unwrap();
    let winner = results.iter().position(|result| *result == Ok(2)).unwrap();
    assert_eq!(passwords(&stored)[0], format!("password-{winner}"));
    assert_eq!(
        world.save("clinic-a", "late first", None).await,
        Err(StoreError::Conflict)
    );
}

#[tokio::test]
async fn deleted_settings_are_absent_to_every_reader_and_the_next_ones_count_on() {
    let world = World::new().await;
    let clinic = tenant("clinic-a");
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let cache = world.cache(10);
    cache.get(&clinic).await.unwrap().unwrap();
    let (store, clock) = (&world.store, &*world.clock);
    assert_eq!(
        store.delete(&clinic, 7, &json!({}), &author(), clock).await,
        Err(StoreError::Conflict)
    );
    let deleted = store
        .delete(&clinic, 1, &json!({}), &author(), clock)
        .await
        .unwrap();
    assert_eq!((deleted.number, deleted.change), (2, Change::Deleted));
    assert!(store.load(&clinic).await.unwrap().is_none());
    assert_eq!(store.present_number(&clinic).await, Ok(None));
    let newest = cache.newest(&clinic, cache.moment()).await.unwrap();
    assert!(newest.settings.is_none());
    assert!(cache.get(&clinic).await.unwrap().is_none());
    let again = store.delete(&clinic, 1, &json!({}), &author(), clock).await;
    assert_eq!(again, Err(StoreError::Conflict));
    let unaware = world.save("clinic-a", PASSWORD, None).await;
    assert_eq!(unaware, Err(StoreError::Conflict));

    let present = store.load_present(&clinic).await.unwrap();
    let Present::Deleted(deleted) = &present else {
        panic!("{present:?}")
    };
    assert_eq!(deleted.number, 2);
    assert!(deleted.kept.ceilings.is_empty());
    let saved = store
        .save(
            &clinic,
            &settings("clinic-a", "new"),
            present.basis(),
            &author(),
            clock,
        )
        .await
        .unwrap();
    assert_eq!(saved.number, 3);
    let found = cache.get(&clinic).await.unwrap().unwrap();
    assert_eq!(
        (found.version.number, passwords(&found)[0].as_str()),
        (3, "new")
    );
}

#[tokio::test]
async fn each_version_opens_with_its_own_data_key_and_is_found_under_its_own_number_only() {
    let world = World::new().await;
    let clinic = tenant("clinic-a");
    world.save("clinic-a", "first", None).await.unwrap();
    let first = world.store.load(&clinic).await.unwrap();
    world
        .save("clinic-a", "second", first.as_ref())
        .await
        .unwrap();
    let clock = &*world.clock;
    for (number, password) in [(1, "first"), (2, "second")] {
        let past = world.store.load_version(&clinic, number, clock).await;
        let Ok(Past::Settings { settings: past, .. }) = past else {
            panic!("{past:?}")
        };
        assert_eq!(passwords(&past)[0], password);
    }
    let absent = world.store.load_version(&clinic, 3, clock).await.unwrap();
    assert!(matches!(absent, Past::Nothing));
    let mut moved = world.item("clinic-a").await;
    moved.insert("sk".into(), AttributeValue::S("version#0000000003".into()));
    world.put(moved).await;
    let error = world
        .store
        .load_version(&clinic, 3, clock)
        .await
        .unwrap_err();
    assert_eq!(error, StoreError::corrupt("version"));
}

#[tokio::test]
async fn a_number_under_which_something_is_stored_is_not_written_over() {
    let world = World::new().await;
    let clinic = tenant("clinic-a");
    world.save("clinic-a", "first", None).await.unwrap();
    let stored = world.store.load(&clinic).await.unwrap();
    let mut foreign = world.item("clinic-a").await;
    foreign.insert("sk".into(), AttributeValue::S("version#0000000002".into()));
    world.put(foreign).await;
    let before = world.items().await;
    let refused = world.save("clinic-a", "second", stored.as_ref()).await;
    assert_eq!(refused, Err(StoreError::corrupt("version")));
    assert_eq!(world.items().await, before);
}

#[tokio::test]
async fn settings_that_do_not_open_are_told_from_a_store_that_does_not_answer() {
    let world = World::new().await;
    let clinic = tenant("clinic-a");
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    world
        .aws
        .fail_next("kms", "Decrypt", 1, Fault::AccessDenied);
    let error = world.store.load_present(&clinic).await.unwrap_err();
    assert!(error.is_worth_a_retry(), "{error:?}");
    let mut broken = world.item("clinic-a").await;
    broken.remove("sealed");
    world.put(broken).await;
    let present = world.store.load_present(&clinic).await.unwrap();
    let Present::Unreadable { number: 1, error } = &present else {
        panic!("{present:?}")
    };
    assert_eq!(*error, StoreError::corrupt("sealed"));
    assert_eq!(world.store.present_number(&clinic).await, Ok(Some(1)));
    assert!(world.store.load(&clinic).await.is_err());
}

#[tokio::test]
async fn a_failing_store_is_an_error_and_never_not_found() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let cache = world.cache(10);
    for (service, operation, fault) in [
        ("dynamodb", "GetItem", Fault::Throttle),
        ("dynamodb", "GetItem", Fault::AccessDenied),
        ("kms", "Decrypt", Fault::Throttle),
        ("kms", "Decrypt", Fault::AccessDenied),
    ] {
        // More often than the SDK tries.
        world.aws.fail_next(service, operation, 10, fault);
        let error = cache.get(&tenant("clinic-a")).await.unwrap_err();
        assert!(error.is_worth_a_retry(), "{error:?}");
        world.aws.clear_faults();
    }
    assert!(cache.get(&tenant("clinic-a")).await.unwrap().is_some());
}

#[tokio::test]
async fn settings_are_used_as_long_as_their_version_is_the_last_one() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let cache = world.cache(10);
    let clinic = tenant("clinic-a");
    world.aws.clear_calls();
    let calls = || {
        let calls = ["GetItem", "Decrypt"].map(|operation| {
            let service = if operation == "Decrypt" {
                "kms"
            } else {
                "dynamodb"
            };
            world.aws.count(service, operation)
        });
        world.aws.clear_calls();
        calls
    };
    cache.get(&clinic).await.unwrap().unwrap();
    assert_eq!(calls(), [2, 1], "the settings, and the counter beside them");
    for age in [Duration::ZERO, Duration::from_mins(1)] {
        world.clock.advance(age);
        cache.get(&clinic).await.unwrap().unwrap();
        assert_eq!(calls(), [1, 0], "the counter alone");
    }
    let previous = world.store.load(&clinic).await.unwrap().unwrap();
    world
        .save("clinic-a", "rotated", Some(&previous))
        .await
        .unwrap();
    world.aws.clear_calls();
    let rotated = cache.get(&clinic).await.unwrap().unwrap();
    assert_eq!(passwords(&rotated)[0], "rotated");
    assert_eq!(calls(), [3, 1]);
}

#[tokio::test]
async fn many_callers_of_one_clinic_share_one_load() {
    let world = World::new().await;
    world.save("clinic-a", PASSWORD, None).await.unwrap();
    let (cache, clinic) = (world.cache(10), tenant("clinic-a"));
    world.aws.clear_calls();
    let loads = futures_util::future::join_all((0..200).map(|_| cache.get(&clinic))).await;
    assert!(loads.into_iter().all(|load| load.unwrap().is_some()));
    assert_eq!(
        (
            world.aws.count("dynamodb", "GetItem"),
            world.aws.count("kms", "Decrypt")
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn the_least_recently_used_clinic_is_forgotten_first() {
    let world = World::new().await;
    for clinic in ["a", "b", "c"] {
        world.save(clinic, PASSWORD, None).await.unwrap();
    }
    let cache = world.cache(2);
    for clinic in ["a", "b", "a", "c"] {
        cache.get(&tenant(clinic)).await.unwrap();
    }
    world.aws.clear_calls();
    cache.get(&tenant("a")).await.unwrap();
    assert_eq!(world.aws.count("kms", "Decrypt"), 0);
    cache.get(&tenant("b")).await.unwrap();
    assert_eq!(world.aws.count("kms", "Decrypt"), 1);
}

#[tokio::test]
async fn that_there_is_nothing_is_remembered_and_costs_one_read_to_confirm() {
    let world = World::new().await;
    let cache = world.cache(10);
    let mut reads = Vec::new();
    for id in ["_global", "_global", "clinic-a", "clinic-a"] {
        world.aws.clear_calls();
        assert!(cache.get(&tenant(id)).await.unwrap().is_none());
        reads.push(world.aws.count("dynamodb", "GetItem"));
    }
    assert_eq!(reads, [2, 1, 2, 1]);
    world.save("_global", PASSWORD, None).await.unwrap();
    world.clock.advance(Duration::from_mins(1));
    assert!(cache.get(&tenant("_global")).await.unwrap().is_some());
}

#[tokio::test]
async fn all_processes_agree_on_one_hash_key_and_it_is_not_stored_in_clear() {
    let world = World::new().await;
    let keys: Vec<_> = (0..6).map(|_| HashKeys::new(world.store.clone())).collect();
    let digests = futures_util::future::join_all(
        keys.iter()
            .map(|keys| async { keys.get().await.unwrap().digest("p", &[b"x"]).hex128() }),
    )
    .await;
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    world.aws.clear_calls();
    keys[0].get().await.unwrap();
    assert!(world.aws.calls().is_empty());
}
