//! What somebody can do who writes to the settings table and may not use KMS: nothing that a reader believes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_core::{Channel, Problems, Tenant};
use comms_settings::{
    Author, CommunicationSettings, Past, Present, Refusal, SettingsCache, SettingsStore,
    StoreError, envelope::EnvelopeError,
};
use comms_testkit::{aws::LocalAws, clock::ManualClock};
use serde_json::json;

const CLINIC: &str = "clinic-a";

type Item = HashMap<String, AttributeValue>;

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A table with what its attacker can do.
struct World {
    aws: LocalAws,
    store: SettingsStore,
    clock: Arc<ManualClock>,
}

impl World {
    /// A world in which the clinic has saved twice.
    async fn new() -> Self {
        let aws = LocalAws::start().await;
        let store = Self::process(&aws);
        let world = Self {
            aws,
            store,
            clock: Arc::new(ManualClock::new()),
        };
        world.save("first.example").await;
        world.save("second.example").await;
        world
    }

    /// The store of a process that has read nothing yet.
    fn process(aws: &LocalAws) -> SettingsStore {
        let resources = aws.resources();
        let (table, key) = (&resources.settings_table, &resources.kms_key_id);
        SettingsStore::new(&aws.sdk_config(), table, key)
    }

    fn another_process(&self) -> SettingsStore {
        Self::process(&self.aws)
    }

    async fn save(&self, domain: &str) -> u64 {
        let present = self.store.load_present(&tenant()).await.unwrap();
        let settings = settings(domain);
        let (tenant, author, clock) = (tenant(), author(), &*self.clock);
        let basis = present.basis();
        let saved = self.store.save(&tenant, &settings, basis, &author, clock);
        saved.await.unwrap().number
    }

    async fn delete(&self) -> u64 {
        let number = self.store.present_number(&tenant()).await.unwrap().unwrap();
        let (tenant, author) = (tenant(), author());
        let (clock, kept) = (&*self.clock, json!({}));
        let deleted = self.store.delete(&tenant, number, &kept, &author, clock);
        deleted.await.unwrap().number
    }

    fn dynamodb(&self) -> Client {
        Client::new(&self.aws.sdk_config())
    }

    fn key(sk: &str) -> Item {
        Item::from([("pk".to_owned(), text(CLINIC)), ("sk".to_owned(), text(sk))])
    }

    async fn item(&self, sk: &str) -> Item {
        let get = self.dynamodb().get_item();
        let get = get.table_name(&self.aws.resources().settings_table);
        let got = get.set_key(Some(Self::key(sk))).send().await.unwrap();
        got.item.unwrap()
    }

    async fn put(&self, item: Item) {
        let put = self.dynamodb().put_item();
        let put = put.table_name(&self.aws.resources().settings_table);
        put.set_item(Some(item)).send().await.unwrap();
    }

    async fn take_away(&self, sk: &str) {
        let delete = self.dynamodb().delete_item();
        let delete = delete.table_name(&self.aws.resources().settings_table);
        let delete = delete.set_key(Some(Self::key(sk)));
        delete.send().await.unwrap();
    }

    /// Changes the present item as `change` says.
    async fn tamper(&self, change: impl FnOnce(&mut Item)) {
        let mut item = self.item("settings").await;
        change(&mut item);
        self.put(item).await;
    }

    /// Why a new process refuses the settings.
    async fn refusal(&self) -> Option<StoreError> {
        self.another_process().load(&tenant()).await.err()
    }

    async fn assert_refused(&self, refusal: Refusal) {
        assert_eq!(self.refusal().await, Some(StoreError::Refused(refusal)));
    }
}

fn tenant() -> Tenant {
    Tenant::parse(CLINIC).unwrap()
}

fn author() -> Author {
    Author {
        subject: "admin-1".into(),
        source_address: Some("192.0.2.7".into()),
    }
}

fn settings(domain: &str) -> CommunicationSettings {
    let entry = |host: &str| {
        json!({"provider": "smtp", "credentials": {"host": host, "port": 587, "secure": false,
               "user": "user", "password": "password"}})
    };
    let document = json!({"email": {
        "primary": entry("smtp.primary.example"),
        "fallback": [entry("smtp.fallback.example")],
        "defaultFrom": format!("desk@{domain}")
    }});
    let mut problems = Problems::default();
    CommunicationSettings::read(document, "", &tenant(), None, &mut problems)
        .unwrap_or_else(|| panic!("{problems}"))
}

#[tokio::test]
async fn a_changed_document_is_refused() {
    let world = World::new().await;
    let honest = world.item("settings").await["document"]
        .as_s()
        .unwrap()
        .clone();
    for (from, to) in [
        ("desk@second.example", "fraud@second.example"),
        (r#""enabled":true"#, r#""enabled":false"#),
        (r#""email""#, r#""whatsapp""#),
    ] {
        assert!(honest.contains(from), "{honest}");
        let forged = honest.replacen(from, to, 1);
        world
            .tamper(|item| drop(item.insert("document".into(), text(&forged))))
            .await;
        world.assert_refused(Refusal::WrongSeal).await;
    }
    // No channel at all: nothing of the item would have to be opened.
    world
        .tamper(|item| drop(item.insert("document".into(), text("{}"))))
        .await;
    world.assert_refused(Refusal::WrongSeal).await;
}

#[tokio::test]
async fn changed_audit_fields_and_taken_entries_are_refused() {
    let world = World::new().await;
    let honest = world.item("settings").await;
    for (name, value) in [
        ("savedBy", text("nobody")),
        ("savedAt", text("2020-01-01T00:00:00Z")),
        ("sourceAddress", text("198.51.100.1")),
        ("change", text("saved-by-hand")),
        ("changed", AttributeValue::L(vec![text("/email")])),
        ("sealed", AttributeValue::M(HashMap::new())),
    ] {
        let mut forged = honest.clone();
        forged.insert(name.to_owned(), value);
        world.put(forged).await;
        assert!(world.refusal().await.is_some(), "{name}");
    }
    let mut without = honest.clone();
    without.remove("sourceAddress");
    world.put(without).await;
    world.assert_refused(Refusal::WrongSeal).await;
    world.put(honest).await;
    assert_eq!(world.refusal().await, None);
}

#[tokio::test]
async fn settings_without_their_seal_are_refused() {
    let world = World::new().await;
    world.tamper(|item| drop(item.remove("seal"))).await;
    world.assert_refused(Refusal::Unsealed).await;
    // Not even while those of earlier versions are accepted: there is a counter.
    let upgrading = world.another_process().accepting_unsealed(true);
    let error = upgrading.load(&tenant()).await.unwrap_err();
    assert_eq!(error, StoreError::Refused(Refusal::Unsealed));
    world.take_away("counter").await;
    world.assert_refused(Refusal::Unsealed).await;
    // Without the counter as well, their entries do not open: they name their content.
    let upgrading = world.another_process().accepting_unsealed(true);
    let error = upgrading.load(&tenant()).await.unwrap_err();
    assert_eq!(error, StoreError::Envelope(EnvelopeError::WrongEntry));
}

#[tokio::test]
async fn an_earlier_version_in_the_present_ones_place_is_refused() {
    let world = World::new().await;
    let mut earlier = world.item("version#0000000001").await;
    earlier.insert("sk".into(), text("settings"));
    world.put(earlier.clone()).await;
    world.assert_refused(Refusal::OtherVersion).await;
    // Under the present number its seal does not hold.
    earlier.insert("version".into(), number(2));
    world.put(earlier).await;
    world.assert_refused(Refusal::WrongSeal).await;
}

#[tokio::test]
async fn a_forged_deletion_is_refused() {
    let world = World::new().await;
    let honest = world.item("settings").await;
    let mut forged = honest.clone();
    for name in ["document", "sealed", "dataKey", "keyArn", "seal"] {
        forged.remove(name);
    }
    forged.insert("change".into(), text("deleted"));
    world.put(forged.clone()).await;
    world.assert_refused(Refusal::Unsealed).await;
    forged.insert("seal".into(), honest["seal"].clone());
    world.put(forged.clone()).await;
    world.assert_refused(Refusal::WrongSeal).await;
    forged.insert("version".into(), number(3));
    world.put(forged).await;
    world.assert_refused(Refusal::OtherVersion).await;
}

#[tokio::test]
async fn an_earlier_deletion_in_the_present_ones_place_is_refused() {
    let world = World::new().await;
    assert_eq!(world.delete().await, 3);
    let deletion = world.item("settings").await;
    assert_eq!(world.save("third.example").await, 4);
    let honest = world.item("settings").await;
    world.put(deletion.clone()).await;
    world.assert_refused(Refusal::OtherVersion).await;
    let mut renumbered = deletion;
    renumbered.insert("version".into(), number(4));
    world.put(renumbered).await;
    world.assert_refused(Refusal::WrongSeal).await;
    world.put(honest).await;
    assert_eq!(world.refusal().await, None);
}

#[tokio::test]
async fn what_a_deletion_kept_cannot_be_changed() {
    let world = World::new().await;
    world.delete().await;
    assert_eq!(world.refusal().await, None);
    world
        .tamper(|item| drop(item.insert("document".into(), text(r#"{"ceilings":{}}"#))))
        .await;
    world.assert_refused(Refusal::WrongSeal).await;
}

#[tokio::test]
async fn missing_settings_are_refused_while_there_is_a_counter() {
    let world = World::new().await;
    world.take_away("settings").await;
    world.assert_refused(Refusal::Missing).await;
    let present = world.another_process().load_present(&tenant()).await;
    let Ok(Present::Unreadable { number: 2, .. }) = present else {
        panic!("{present:?}");
    };
    // A deletion's place taken is no way back to "never saved" either.
    assert_eq!(world.save("third.example").await, 3);
    world.delete().await;
    world.take_away("settings").await;
    world.assert_refused(Refusal::Missing).await;
}

#[tokio::test]
async fn settings_are_refused_without_their_counter_or_with_another() {
    let world = World::new().await;
    let honest = world.item("counter").await;
    world.take_away("counter").await;
    world.assert_refused(Refusal::CounterMissing).await;
    for (name, value) in [
        ("version", number(3)),
        ("kept", text("1:1,2:1")),
        ("mac", text("00000000000000000000000000000000")),
        ("purgeAt", number(1)),
    ] {
        let mut forged = honest.clone();
        forged.insert(name.to_owned(), value);
        world.put(forged).await;
        world.assert_refused(Refusal::CounterForged).await;
    }
    world.put(honest).await;
    assert_eq!(world.refusal().await, None);
}

#[tokio::test]
async fn a_process_that_saw_a_version_accepts_no_earlier_one() {
    let world = World::new().await;
    let (settings, counter) = (world.item("settings").await, world.item("counter").await);
    world.save("third.example").await;
    let process = world.another_process();
    let cache = |store| SettingsCache::new(store, world.clock.clone(), 1);
    cache(process.clone())
        .get(&tenant())
        .await
        .unwrap()
        .unwrap();
    // The number outlives what the cache remembers.
    let cache = cache(process);
    // A pair that belongs together, from before.
    world.put(settings).await;
    world.put(counter).await;
    let error = cache.newest(&tenant(), cache.moment()).await.unwrap_err();
    assert_eq!(error, StoreError::Refused(Refusal::RolledBack));
    world.take_away("settings").await;
    world.take_away("counter").await;
    let error = cache.newest(&tenant(), cache.moment()).await.unwrap_err();
    assert_eq!(error, StoreError::Refused(Refusal::RolledBack));
    // What remains possible: a process that never saw the later one (ADR 20).
    assert!(world.refusal().await.is_none());
}

#[tokio::test]
async fn the_process_that_saved_a_version_accepts_no_earlier_one() {
    let world = World::new().await;
    let (settings, counter) = (world.item("settings").await, world.item("counter").await);
    world.save("third.example").await;
    world.put(settings).await;
    world.put(counter).await;
    let error = world.store.load(&tenant()).await.unwrap_err();
    assert_eq!(error, StoreError::Refused(Refusal::RolledBack));
}

#[tokio::test]
async fn refused_settings_are_replaced_under_the_next_number() {
    let world = World::new().await;
    let huge = AttributeValue::N("9999999999".to_owned());
    world
        .tamper(|item| drop(item.insert("version".into(), huge)))
        .await;
    world.assert_refused(Refusal::OtherVersion).await;
    assert_eq!(world.save("third.example").await, 3);
    assert_eq!(world.refusal().await, None);
    // Without a counter one begins after the newest version that there is.
    world.take_away("counter").await;
    world
        .tamper(|item| drop(item.insert("version".into(), number(1))))
        .await;
    assert_eq!(
        world
            .another_process()
            .load_present(&tenant())
            .await
            .unwrap()
            .number(),
        Some(1)
    );
    let store = world.another_process();
    let present = store.load_present(&tenant()).await.unwrap();
    let (author, clock, next) = (author(), &*world.clock, settings("fourth.example"));
    let saved = store
        .save(&tenant(), &next, present.basis(), &author, clock)
        .await;
    assert_eq!(saved.unwrap().number, 4);
    assert_eq!(world.refusal().await, None);
}

#[tokio::test]
async fn what_says_no_usable_number_can_be_replaced() {
    const LARGEST: u64 = 9_999_999_999;
    for is_item_gone in [true, false] {
        let world = World::new().await;
        if is_item_gone {
            let mut counter = world.item("counter").await;
            counter.insert("version".into(), number(7));
            world.put(counter).await;
            world.take_away("settings").await;
        } else {
            world.take_away("counter").await;
            let mut item = world.item("settings").await;
            item.insert("version".into(), number(LARGEST));
            world.put(item.clone()).await;
            item.insert("sk".into(), text(&format!("version#{LARGEST}")));
            world.put(item).await;
        }
        assert!(world.refusal().await.is_some());
        assert_eq!(world.save("third.example").await, 3);
        assert_eq!(world.refusal().await, None, "{is_item_gone}");
        assert_eq!(world.save("fourth.example").await, 4);
    }
}

#[tokio::test]
async fn a_changed_version_is_not_restored() {
    let world = World::new().await;
    let mut version = world.item("version#0000000001").await;
    let forged = version["document"]
        .as_s()
        .unwrap()
        .replace("desk@", "fraud@");
    version.insert("document".into(), text(&forged));
    world.put(version.clone()).await;
    let past = world.store.load_version(&tenant(), 1, &*world.clock).await;
    assert_eq!(past.unwrap_err(), StoreError::Refused(Refusal::WrongSeal));
    version.remove("seal");
    world.put(version).await;
    let past = world.store.load_version(&tenant(), 1, &*world.clock).await;
    assert_eq!(past.unwrap_err(), StoreError::Refused(Refusal::Unsealed));
    let past = world.store.load_version(&tenant(), 2, &*world.clock).await;
    assert!(matches!(past, Ok(Past::Settings { .. })), "{past:?}");
}

#[tokio::test]
async fn a_save_between_the_two_reads_is_not_taken_for_tampering() {
    let world = World::new().await;
    let reader = world.another_process();
    let readers = async {
        for _ in 0..40 {
            let stored = reader.load(&tenant()).await.unwrap().unwrap();
            assert!(stored.settings.channel(Channel::Email).is_some());
        }
    };
    let saves = async {
        for n in 0..8 {
            world.save(&format!("race-{n}.example")).await;
        }
    };
    tokio::join!(readers, saves);
}
