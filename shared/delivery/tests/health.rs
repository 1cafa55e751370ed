//! What processes tell each other of providers' health, and what happens when they cannot.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::{
    Chain, ChainSpec, Deadline, EgressGuard, EntrySpec, OwnSender, ProviderFactory,
    chain::AmbiguityPolicy,
    egress::{EgressAllow, SystemResolver},
    health::Sample,
    sendgrid::SendgridConfig,
    tls::TlsConfigs,
};
use comms_core::{
    BaseUrl, Channel, EmailAddress, EntryId, ErrorKind, HashKey, HealthState, Mailbox, Position,
    Secret, Tenant,
};
use comms_delivery::{
    SharedHealth,
    health::{Records, name},
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};

const REFUSED: Sample = Sample::Failure {
    kind: ErrorKind::Unauthenticated,
    is_conclusive: true,
};

type Item = HashMap<String, AttributeValue>;

struct World {
    aws: LocalAws,
    clock: Arc<ManualClock>,
    tenant: Tenant,
}

/// A process: what it was told, and its own view of the one entry.
struct Process {
    shared: SharedHealth,
    key: HashKey,
    chain: Arc<Chain>,
    tenant: Tenant,
}

impl World {
    async fn new() -> Self {
        Self {
            aws: LocalAws::start().await,
            clock: Arc::new(ManualClock::new()),
            tenant: Tenant::parse("clinic-a").unwrap(),
        }
    }

    fn process(&self) -> Process {
        let factory = ProviderFactory::new(
            TlsConfigs::new(None).unwrap(),
            EgressGuard::new(EgressAllow::default(), Arc::new(SystemResolver)),
            SdkConfig::builder().build(),
            self.clock.clone(),
            1,
        );
        let sendgrid = SendgridConfig {
            api_key: Secret::new("key".to_owned()),
            from: OwnSender::default(),
            api_url: Some(BaseUrl::parse(SendgridConfig::GLOBAL_URL).unwrap()),
            sandbox: false,
        };
        let entry = EntrySpec {
            id: EntryId::primary(),
            position: Position::Primary,
            config: Arc::new(sendgrid),
            sender: Some(Mailbox {
                address: EmailAddress::parse("desk@clinic.example").unwrap(),
                name: None,
            }),
            retries: 0,
            max_per_second: None,
        };
        let table = &self.aws.resources().deliveries_table;
        Process {
            shared: SharedHealth::new(&self.aws.sdk_config(), table, self.clock.clone()),
            key: HashKey::from_bytes(&[1; HashKey::LENGTH]),
            chain: factory.own_chain(&self.tenant, Channel::Email, 1, || ChainSpec {
                entries: vec![entry],
                on_ambiguous: AmbiguityPolicy::Failover,
                reply_to: None,
            }),
            tenant: self.tenant.clone(),
        }
    }

    async fn item(&self) -> Item {
        let pk = AttributeValue::S(format!("health#{}", self.tenant));
        let item = aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .get_item()
            .table_name(&self.aws.resources().deliveries_table)
            .key("pk", pk)
            .key("sk", AttributeValue::S("1".to_owned()))
            .send();
        item.await.unwrap().item.unwrap()
    }

    async fn put(&self, item: &Item) {
        let put = aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .put_item()
            .table_name(&self.aws.resources().deliveries_table)
            .set_item(Some(item.clone()))
            .send();
        put.await.unwrap();
    }

    fn calls(&self, operation: &str) -> usize {
        self.aws.count("dynamodb", operation)
    }
}

impl Process {
    async fn refresh(&self) {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.shared
            .refresh(
                &self.key,
                &self.tenant,
                1,
                Channel::Email,
                &self.chain,
                deadline,
            )
            .await;
    }

    async fn publish(&self) {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.shared
            .publish(
                &self.key,
                &self.tenant,
                1,
                Channel::Email,
                &self.chain,
                deadline,
            )
            .await;
    }

    async fn read(&self, version: u64) -> Records {
        let read = self.shared.read(&self.key, &self.tenant, version);
        read.await.unwrap()
    }

    fn record(&self, sample: Sample) {
        self.chain.entries[0].health.record(sample);
    }

    fn state(&self) -> HealthState {
        self.chain.entries[0].health.state()
    }
}

#[tokio::test]
async fn a_change_costs_one_write_and_nothing_is_written_without_one() {
    let world = World::new().await;
    let (here, there) = (world.process(), world.process());
    // That an entry has sent at all is a change, once.
    for _ in 0..3 {
        here.record(Sample::Success);
        here.publish().await;
    }
    assert_eq!(world.calls("UpdateItem"), 1);
    here.record(REFUSED);
    for _ in 0..3 {
        here.record(REFUSED);
        here.publish().await;
    }
    assert_eq!(world.calls("UpdateItem"), 2);

    there.refresh().await;
    assert_eq!(there.state(), HealthState::Down);
    there.publish().await;
    assert_eq!(world.calls("UpdateItem"), 2, "it is no news");
    let records = there.read(1).await;
    let record = &records[&name(Channel::Email, &EntryId::primary())];
    assert_eq!(
        (record.state, record.last_error),
        (HealthState::Down, Some(ErrorKind::Unauthenticated))
    );
    assert!(there.read(2).await.is_empty());
}

#[tokio::test]
async fn a_thousand_messages_at_once_read_once_and_tell_once() {
    let world = World::new().await;
    let process = world.process();
    let refreshes = (0..1000).map(|_| process.refresh());
    futures_util::future::join_all(refreshes).await;
    assert_eq!(world.calls("GetItem"), 1);
    process.record(REFUSED);
    let published = (0..1000).map(|_| process.publish());
    futures_util::future::join_all(published).await;
    assert_eq!(world.calls("UpdateItem"), 1);
}

#[tokio::test]
async fn an_older_change_does_not_take_the_place_of_a_newer_one() {
    let world = World::new().await;
    let (slow, quick) = (world.process(), world.process());
    slow.record(REFUSED);
    world.clock.advance(Duration::from_secs(1));
    quick.record(REFUSED);
    quick.record(Sample::Success);
    quick.publish().await;
    slow.publish().await;
    let other = world.process();
    other.refresh().await;
    assert_eq!(other.state(), HealthState::Healthy);
    world.clock.advance(Duration::from_mins(1));
    slow.refresh().await;
    assert_eq!(slow.state(), HealthState::Healthy);
}

#[tokio::test]
async fn what_cannot_be_read_holds_nothing_up_and_what_cannot_be_told_is_told_later() {
    let world = World::new().await;
    let process = world.process();
    world.aws.fail_next("dynamodb", "*", 1, Fault::AccessDenied);
    process.refresh().await;
    assert_eq!(process.state(), HealthState::Healthy);
    process.refresh().await;
    assert_eq!(world.calls("GetItem"), 1, "not again for every message");

    process.record(REFUSED);
    world.aws.fail_next("dynamodb", "*", 1, Fault::AccessDenied);
    process.publish().await;
    process.publish().await;
    assert_eq!(world.calls("UpdateItem"), 2);
    process.publish().await;
    assert_eq!(world.calls("UpdateItem"), 2);
}

#[tokio::test]
async fn a_record_is_believed_where_it_was_written_as_it_was_written() {
    const ENTRY: &str = "email/primary";
    let world = World::new().await;
    let teller = world.process();
    teller.record(REFUSED);
    teller.publish().await;
    let genuine = world.item().await;
    let hears = async |item: &Item| {
        world.put(item).await;
        let process = world.process();
        process.refresh().await;
        process.state()
    };
    assert_eq!(hears(&genuine).await, HealthState::Down);

    let AttributeValue::M(record) = &genuine[ENTRY] else {
        panic!("{genuine:?}");
    };
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let changes = [
        ("state", Some(text("degraded"))),
        ("since", Some(AttributeValue::N("1".to_owned()))),
        ("lastError", Some(text("account_suspended"))),
        ("lastError", None),
        ("mac", Some(text(&"0".repeat(32)))),
        ("mac", Some(text(""))),
        ("mac", None),
    ];
    for (field, value) in changes {
        let mut record = record.clone();
        match value {
            Some(value) => record.insert(field.to_owned(), value),
            None => record.remove(field),
        };
        let mut forged = genuine.clone();
        forged.insert(ENTRY.to_owned(), AttributeValue::M(record));
        assert_eq!(hears(&forged).await, HealthState::Healthy, "{field}");
        assert!(world.process().read(1).await.is_empty(), "{field}");
    }

    let mut other_entry = genuine.clone();
    let record = other_entry[ENTRY].clone();
    other_entry.insert("email/fallback-1".to_owned(), record);
    world.put(&other_entry).await;
    assert_eq!(world.process().read(1).await.len(), 1);

    let mut other_version = genuine.clone();
    other_version.insert("sk".to_owned(), text("2"));
    world.put(&other_version).await;
    assert!(world.process().read(2).await.is_empty());

    let mut other_tenant = genuine.clone();
    other_tenant.insert("pk".to_owned(), text("health#clinic-b"));
    world.put(&other_tenant).await;
    let other_clinic = Tenant::parse("clinic-b").unwrap();
    let process = world.process();
    let read = process.shared.read(&process.key, &other_clinic, 1).await;
    assert!(read.unwrap().is_empty());

    let other_key = HashKey::from_bytes(&[2; HashKey::LENGTH]);
    let read = process.shared.read(&other_key, &world.tenant, 1).await;
    assert!(read.unwrap().is_empty());
}
