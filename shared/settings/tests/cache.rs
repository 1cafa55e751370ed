//! What the settings cache asks of DynamoDB and KMS, counted at their endpoint, and what it keeps.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use comms_core::{Problems, Tenant};
use comms_settings::{
    Author, CommunicationSettings, SettingsCache, SettingsStore, StoreError, StoredSettings,
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CALLERS: usize = 1_000;

type Found = Result<Option<Arc<StoredSettings>>, StoreError>;

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

    /// A world in which these have settings, and a cache of them with room for ten.
    async fn with_settings_of(ids: &[&str]) -> (Self, Arc<SettingsCache>) {
        let world = Self::new().await;
        for id in ids {
            world.save(id).await;
        }
        world.aws.clear_calls();
        let cache = Arc::new(world.cache(10));
        (world, cache)
    }

    fn cache(&self, capacity: usize) -> SettingsCache {
        SettingsCache::new(self.store.clone(), self.clock.clone(), capacity)
    }

    /// Saves the next version.
    async fn save(&self, id: &str) {
        self.save_with(id, "").await;
    }

    async fn save_with(&self, id: &str, ca_pem: &str) {
        let previous = self.store.load(&tenant(id)).await.unwrap();
        let author = Author {
            subject: "admin-1".into(),
            source_address: None,
        };
        let settings = settings(&tenant(id), ca_pem);
        self.store
            .save(
                &tenant(id),
                &settings,
                previous.as_ref(),
                &author,
                &*self.clock,
            )
            .await
            .unwrap();
    }

    async fn delete(&self, id: &str) {
        let (tenant, kept) = (tenant(id), json!({}));
        let number = self.store.present_number(&tenant).await.unwrap().unwrap();
        let author = Author {
            subject: "admin-1".into(),
            source_address: None,
        };
        self.store
            .delete(&tenant, number, &kept, &author, &*self.clock)
            .await
            .unwrap();
    }

    /// Reads of DynamoDB and decryptions of KMS since this was asked last: two and one where settings are loaded, of which
    /// the counter is read at the same time, and one and none where the counter alone is.
    fn calls(&self) -> (usize, usize) {
        let calls = (
            self.aws.count("dynamodb", "GetItem"),
            self.aws.count("kms", "Decrypt"),
        );
        self.aws.clear_calls();
        calls
    }

    /// Runs `question` up to where its read is under way, and no further.
    async fn until_it_reads<T>(&self, question: &mut Pin<Box<impl Future<Output = T>>>) {
        let before = self.aws.count("dynamodb", "GetItem");
        while self.aws.count("dynamodb", "GetItem") == before {
            assert!(!is_ready(question).await);
            tokio::task::yield_now().await;
        }
    }
}

/// Polls once.
async fn is_ready<T>(question: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
    poll_fn(|context| Poll::Ready(question.as_mut().poll(context).is_ready())).await
}

fn tenant(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}

fn settings(tenant: &Tenant, ca_pem: &str) -> CommunicationSettings {
    let mut credentials = json!({"host": "smtp.clinic.example", "port": 587, "secure": false,
        "user": "user", "password": "planted-password"});
    if !ca_pem.is_empty() {
        credentials["caPem"] = json!(ca_pem);
    }
    let document: Value = json!({
        "email": {"primary": {"provider": "smtp", "credentials": credentials}, "defaultFrom": "desk@clinic.example"},
        "whatsapp": {"primary": {"provider": "meta_business",
            "credentials": {"apiKey": "planted-token", "phoneNumberId": "123456789"}}}});
    let mut problems = Problems::default();
    CommunicationSettings::read(document, "", tenant, None, &mut problems)
        .unwrap_or_else(|| panic!("{problems}"))
}

fn version(found: &Found) -> Option<u64> {
    let found = found.as_ref().unwrap().as_ref();
    found.map(|settings| settings.version.number)
}

/// Whether the cache still holds what was found.
fn is_kept(found: &Weak<StoredSettings>) -> bool {
    found.strong_count() > 0
}

async fn weak(cache: &SettingsCache, id: &str) -> Weak<StoredSettings> {
    Arc::downgrade(&cache.get(&tenant(id)).await.unwrap().unwrap())
}

/// What a thousand callers get who ask at once, each in a task of its own.
async fn all_at_once<F>(question: impl Fn() -> F) -> Vec<Found>
where
    F: Future<Output = Found> + Send + 'static,
{
    let callers: JoinSet<_> = (0..CALLERS).map(|_| question()).collect();
    callers.join_all().await
}

/// A hundred callers who ask now and wait.
async fn waiting<F: Future<Output = Found>>(question: impl Fn() -> F) -> Vec<Pin<Box<F>>> {
    let mut callers: Vec<_> = (0..100).map(|_| Box::pin(question())).collect();
    for caller in &mut callers {
        assert!(!is_ready(caller).await);
    }
    callers
}

fn get(cache: &Arc<SettingsCache>, id: &str) -> impl Future<Output = Found> + Send + use<> {
    let (cache, tenant) = (cache.clone(), tenant(id));
    async move { cache.get(&tenant).await }
}

fn newest(cache: &Arc<SettingsCache>, id: &str) -> impl Future<Output = Found> + Send + use<> {
    let (cache, tenant) = (cache.clone(), tenant(id));
    async move {
        let found = cache.newest(&tenant, cache.moment()).await;
        found.map(|found| found.settings)
    }
}

fn remembered(cache: &Arc<SettingsCache>, id: &str) -> impl Future<Output = Found> + Send + use<> {
    let (cache, tenant) = (cache.clone(), tenant(id));
    async move {
        let found = cache.remembered(&tenant).await;
        found.map(|found| found.settings)
    }
}

#[tokio::test]
async fn a_thousand_callers_of_a_cold_clinic_share_one_read_and_one_decryption() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    let found = all_at_once(|| get(&cache, "clinic-a")).await;
    assert!(found.iter().all(|found| version(found) == Some(1)));
    assert_eq!(world.calls(), (2, 1));
}

#[tokio::test]
async fn a_thousand_callers_whose_login_was_refused_share_one_read_and_decrypt_nothing() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    cache.get(&tenant("clinic-a")).await.unwrap();
    assert_eq!(world.calls(), (2, 1));
    let found = all_at_once(|| newest(&cache, "clinic-a")).await;
    assert!(found.iter().all(|found| version(found) == Some(1)));
    assert_eq!(world.calls(), (1, 0), "nothing has moved");
    // Those of the next refusal want to know again.
    newest(&cache, "clinic-a").await.unwrap();
    assert_eq!(world.calls(), (1, 0));

    world.save("clinic-a").await;
    world.aws.clear_calls();
    let found = all_at_once(|| newest(&cache, "clinic-a")).await;
    assert!(found.iter().all(|found| version(found) == Some(2)));
    assert_eq!(world.calls(), (3, 1), "one decryption for the version");
}

#[tokio::test]
async fn a_read_that_began_before_the_login_was_refused_does_not_answer_for_it() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    cache.get(&tenant("clinic-a")).await.unwrap();
    world.aws.clear_calls();
    let mut earlier = Box::pin(newest(&cache, "clinic-a"));
    world.until_it_reads(&mut earlier).await;
    // What it reads may be older than their refusal.
    let later = waiting(|| newest(&cache, "clinic-a")).await;
    let (earlier, later) = tokio::join!(earlier, join_all(later));
    assert_eq!(version(&earlier), Some(1));
    assert!(later.iter().all(|found| version(found) == Some(1)));
    assert_eq!(world.calls(), (2, 0), "one read for all who asked later");
}

#[tokio::test]
async fn remembered_settings_are_there_while_their_version_is_read() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    cache.get(&tenant("clinic-a")).await.unwrap();
    let mut refused = Box::pin(newest(&cache, "clinic-a"));
    world.until_it_reads(&mut refused).await;
    assert!(is_ready(&mut Box::pin(remembered(&cache, "clinic-a"))).await);
    assert_eq!(version(&refused.await), Some(1));
}

#[tokio::test]
async fn a_thousand_callers_share_one_look_at_the_version_however_old_the_settings_are() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    cache.get(&tenant("clinic-a")).await.unwrap();
    world.aws.clear_calls();
    for age in [Duration::ZERO, Duration::from_hours(8)] {
        world.clock.advance(age);
        let found = all_at_once(|| get(&cache, "clinic-a")).await;
        assert!(found.iter().all(|found| version(found) == Some(1)));
        assert_eq!(world.calls(), (1, 0));
    }
}

#[tokio::test]
async fn that_a_clinic_has_no_settings_is_remembered_until_its_first_save() {
    let (world, cache) = World::with_settings_of(&[]).await;
    let found = all_at_once(|| get(&cache, "clinic-a")).await;
    assert!(found.iter().all(|found| version(found).is_none()));
    assert_eq!(world.calls(), (2, 0));
    assert_eq!(version(&get(&cache, "clinic-a").await), None);
    assert_eq!(world.calls(), (1, 0));
    world.save("clinic-a").await;
    world.aws.clear_calls();
    assert_eq!(version(&get(&cache, "clinic-a").await), Some(1));
    assert_eq!(world.calls(), (3, 1));
    world.delete("clinic-a").await;
    assert_eq!(version(&get(&cache, "clinic-a").await), None);
}

#[tokio::test]
async fn settings_that_are_known_to_be_replaced_are_not_used() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    get(&cache, "clinic-a").await.unwrap();
    world.save("clinic-a").await;
    world
        .aws
        .fail_next("kms", "Decrypt", CALLERS, Fault::AccessDenied);
    assert!(get(&cache, "clinic-a").await.is_err());
    // They are younger than a minute, and DynamoDB says nothing.
    world
        .aws
        .fail_next("dynamodb", "GetItem", CALLERS, Fault::AccessDenied);
    assert!(get(&cache, "clinic-a").await.is_err());
    assert!(remembered(&cache, "clinic-a").await.is_err());
    world.aws.clear_faults();
    assert_eq!(version(&remembered(&cache, "clinic-a").await), Some(2));
}

#[tokio::test]
async fn who_waited_for_a_read_that_failed_gets_its_error_and_who_comes_later_tries_again() {
    for (service, operation, decryptions) in [("dynamodb", "GetItem", 0), ("kms", "Decrypt", 1)] {
        // Both reads of a load are on their way before one of them fails.
        let loads = |world: &World| {
            let (reads, decryptions) = world.calls();
            (reads.div_ceil(2), decryptions)
        };
        let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
        world
            .aws
            .fail_next(service, operation, CALLERS, Fault::AccessDenied);
        let found = all_at_once(|| get(&cache, "clinic-a")).await;
        assert!(found.iter().all(Result::is_err), "an error is never `None`");
        assert!(
            found
                .windows(2)
                .all(|pair| pair[0].as_ref().err() == pair[1].as_ref().err())
        );
        assert_eq!(
            loads(&world),
            (1, decryptions),
            "nobody has tried after the first"
        );

        // Those as well who came when the read was under way.
        let mut first = Box::pin(get(&cache, "clinic-a"));
        world.until_it_reads(&mut first).await;
        let others = waiting(|| get(&cache, "clinic-a")).await;
        let (first, others) = tokio::join!(first, join_all(others));
        assert!(first.is_err() && others.iter().all(Result::is_err));
        assert_eq!(loads(&world), (1, decryptions));

        world.aws.clear_faults();
        assert_eq!(version(&get(&cache, "clinic-a").await), Some(1));
    }
}

#[tokio::test]
async fn an_error_does_not_take_away_what_is_remembered_for_as_long_as_that_is_young() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    get(&cache, "clinic-a").await.unwrap();
    world
        .aws
        .fail_next("dynamodb", "GetItem", CALLERS, Fault::AccessDenied);
    assert!(newest(&cache, "clinic-a").await.is_err());
    assert_eq!(version(&get(&cache, "clinic-a").await), Some(1));
    world.clock.advance(Duration::from_mins(1));
    assert!(get(&cache, "clinic-a").await.is_err(), "too old to be used");
    world.aws.clear_faults();
    world.aws.clear_calls();
    assert_eq!(version(&get(&cache, "clinic-a").await), Some(1));
    assert_eq!(world.calls(), (1, 0), "it is still known what it was");
}

#[tokio::test]
async fn when_the_one_who_reads_goes_away_the_next_one_reads() {
    let (world, cache) = World::with_settings_of(&["clinic-a"]).await;
    let mut leader = Box::pin(get(&cache, "clinic-a"));
    world.until_it_reads(&mut leader).await;
    let others = waiting(|| get(&cache, "clinic-a")).await;
    drop(leader);
    let others = join_all(others).await;
    assert!(others.iter().all(|found| version(found) == Some(1)));
    let (reads, decryptions) = world.calls();
    assert_eq!((reads.div_ceil(2), decryptions), (2, 1));
}

#[tokio::test]
async fn settings_that_are_forgotten_or_replaced_are_gone_from_memory() {
    let (world, _) = World::with_settings_of(&["a", "b", "c", "d"]).await;
    let cache = Arc::new(world.cache(2));
    let a = weak(&cache, "a").await;
    assert!(is_kept(&a), "remembered by the cache alone");
    let b = weak(&cache, "b").await;
    weak(&cache, "a").await;
    let c = weak(&cache, "c").await;
    assert_eq!(
        [&a, &b, &c].map(is_kept),
        [true, false, true],
        "the least recently used one is forgotten"
    );

    world.save("c").await;
    newest(&cache, "c").await.unwrap();
    assert!(!is_kept(&c), "another version is in its place");

    world.delete("a").await;
    assert!(newest(&cache, "a").await.unwrap().is_none());
    assert!(!is_kept(&a), "there is nothing in its place");
}

#[tokio::test]
async fn what_is_remembered_is_bounded_by_its_weight() {
    let world = World::new().await;
    let heavy = format!("-----BEGIN CERTIFICATE-----{}", "x".repeat(30_000));
    for id in ["a", "b", "c"] {
        world.save_with(id, &heavy).await;
    }
    world.save("light").await;
    // Each is 30 KB of certificates and a little more.
    let cache = world.cache(500).with_max_bytes(100_000);
    let light = weak(&cache, "light").await;
    let a = weak(&cache, "a").await;
    let b = weak(&cache, "b").await;
    assert_eq!([&light, &a, &b].map(is_kept), [true; 3]);
    weak(&cache, "light").await;
    let c = weak(&cache, "c").await;
    assert_eq!(
        [&light, &a, &b, &c].map(is_kept),
        [true, false, true, true],
        "as many are forgotten as need be, and no more"
    );
    // One that is too heavy by itself is given out, and not kept beside others.
    let cache = world.cache(500).with_max_bytes(1);
    let a = weak(&cache, "a").await;
    let b = weak(&cache, "b").await;
    assert_eq!([&a, &b].map(is_kept), [false, true]);
}

#[tokio::test]
async fn clinics_that_do_not_exist_take_nobodys_place() {
    let (world, _) = World::with_settings_of(&["a", "b"]).await;
    let cache = world.cache(2);
    let (a, b) = (weak(&cache, "a").await, weak(&cache, "b").await);
    for n in 0..50 {
        let nobody = tenant(&format!("nobody-{n}"));
        assert!(cache.get(&nobody).await.unwrap().is_none());
    }
    // They have as many places of their own.
    let shown = format!("{cache:?}");
    assert!(shown.contains("tenants: 4"), "{shown}");
    world.aws.clear_calls();
    let kept = [&a, &b].map(is_kept);
    for id in ["a", "b"] {
        cache.remembered(&tenant(id)).await.unwrap();
    }
    assert_eq!((kept, world.calls()), ([true, true], (0, 0)));
}

#[tokio::test]
async fn more_clinics_at_once_than_are_remembered_still_cost_one_read_each() {
    let ids = ["a", "b", "c", "d", "e"];
    let (world, _) = World::with_settings_of(&ids).await;
    let cache = Arc::new(world.cache(1));
    let callers: JoinSet<_> = (0..CALLERS).map(|n| get(&cache, ids[n % 5])).collect();
    let found = callers.join_all().await;
    assert!(found.iter().all(|found| version(found) == Some(1)));
    assert_eq!(world.calls(), (10, 5));
}
