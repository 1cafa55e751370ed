//! Connections of one login, counted over processes that know nothing of each other but the table.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::{
    Deadline, EgressGuard, Message, Provider as _, Sockets,
    egress::Resolver,
    smtp::{ConnectionLimit, Security, SmtpProvider, SmtpSettings},
    tls::TlsConfigs,
};
use comms_core::{
    AfterRetries, Clock as _, DeliveryId, EmailAddress, HashKey, Host, Mailbox, ProviderError,
    Receipt, Secret,
    request::{Content, Target},
};
use comms_delivery::connections::{Asking, ConnectionUse, Connections, FIRST_LIMIT};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
    smtp::{SmtpServer, TlsMode},
    tls::TestCa,
};

/// A host whose operator publishes three connections for each mailbox. Nothing connects to it.
const PUBLISHED: &str = "smtp.office365.com";
const INVOCATION: Duration = Duration::from_secs(28);

struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

struct World {
    aws: LocalAws,
    clock: Arc<ManualClock>,
    ca: TestCa,
}

/// A process, with the one mailbox that it sends by.
struct Process {
    connections: Connections,
    provider: SmtpProvider,
    sockets: Sockets,
    key: HashKey,
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

/// One of several queued messages of an invocation.
fn queued() -> Asking {
    Asking {
        is_alone: false,
        is_queued: true,
        receives: 1,
        age: Duration::ZERO,
        deadline: Deadline::after(INVOCATION),
    }
}

impl World {
    async fn new() -> Self {
        Self {
            aws: LocalAws::start().await,
            clock: Arc::new(ManualClock::new()),
            ca: TestCa::new(),
        }
    }

    /// A mail server that allows a login so many connections.
    async fn server(&self, limit: usize) -> SmtpServer {
        SmtpServer::builder()
            .tls(TlsMode::Implicit, self.ca.server_config(&["127.0.0.1"]))
            .credentials("user", "password")
            .max_connections_per_login(limit)
            .start()
            .await
    }

    fn process(&self, host: &str, port: u16, password: &str) -> Process {
        let sockets = Sockets::default();
        let settings = SmtpSettings {
            host: Host::parse(host).unwrap(),
            port,
            security: Security::ImplicitTls,
            user: "user".into(),
            password: Secret::new(password.to_owned()),
            ca_pem: None,
            max_connections: 5,
            sender: mailbox("desk@clinic.example"),
            ehlo_name: None,
        };
        let provider = SmtpProvider::new(
            settings,
            &TlsConfigs::new(Some(&self.ca.pem())).unwrap(),
            EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback)),
            sockets.clone(),
            self.clock.clone(),
        );
        let table = &self.aws.resources().deliveries_table;
        Process {
            connections: Connections::new(&self.aws.sdk_config(), table, self.clock.clone()),
            provider: provider.unwrap(),
            sockets,
            key: HashKey::from_bytes(&[1; HashKey::LENGTH]),
        }
    }

    /// Processes that send by the mailbox of [`PUBLISHED`].
    fn published<const N: usize>(&self) -> [Process; N] {
        std::array::from_fn(|_| self.process(PUBLISHED, 587, "password"))
    }

    fn at<const N: usize>(&self, server: &SmtpServer) -> [Process; N] {
        std::array::from_fn(|_| self.process("127.0.0.1", server.port(), "password"))
    }
}

impl Process {
    fn limit(&self) -> &Arc<ConnectionLimit> {
        self.provider.connection_limit().unwrap()
    }

    async fn ask(&self, asking: Asking) -> Result<Option<ConnectionUse<'_>>, Duration> {
        self.connections
            .begin(&self.key, self.limit(), asking)
            .await
    }

    async fn begin(&self) -> Result<Option<ConnectionUse<'_>>, Duration> {
        self.ask(queued()).await
    }

    async fn send(&self) -> Result<Receipt, ProviderError> {
        let message = Message {
            delivery: DeliveryId::parse(&format!("{:032x}", 1)).unwrap(),
            target: Target::Email(mailbox("patient@example.com")),
            content: Arc::new(Content {
                title: Some("Title".into()),
                body: Some("Body".into()),
                ..Content::default()
            }),
            reply_to: None,
        };
        let deadline = Deadline::after(INVOCATION);
        let sent = self.provider.send(&message, deadline).await;
        self.connections
            .publish(&self.key, self.limit(), deadline)
            .await;
        sent
    }

    async fn end_invocation(&self) {
        let deadline = Deadline::after(INVOCATION);
        self.sockets.close_at_invocation_end(INVOCATION).await;
        self.connections.release(deadline).await;
    }
}

fn seconds(time: u64) -> Duration {
    Duration::from_secs(time)
}

#[tokio::test]
async fn permits_hold_over_all_processes_until_the_invocation_ends() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let wait = processes[3].begin().await.unwrap_err();
    assert!(wait < seconds(2), "{wait:?}");
    // The process that has one uses it for its next message too.
    let next = processes[0].begin().await.unwrap();
    drop((next, used.remove(0)));
    processes[0].end_invocation().await;
    world.clock.advance(seconds(1));
    assert!(processes[3].begin().await.is_ok());
}

#[tokio::test]
async fn permits_of_a_killed_process_expire_with_its_invocation() {
    let world = World::new().await;
    let processes = world.published::<4>();
    for process in &processes[..3] {
        let used = process.begin().await.unwrap();
        std::mem::forget(used);
    }
    world.clock.advance(INVOCATION);
    assert!(processes[3].begin().await.is_err());
    world.clock.advance(seconds(6));
    assert!(processes[3].begin().await.is_ok());
}

#[tokio::test]
async fn limit_of_a_mailbox_does_not_bind_who_lacks_its_password() {
    let world = World::new().await;
    let processes = world.published::<3>();
    let mut used = Vec::new();
    for process in &processes {
        used.push(process.begin().await.unwrap());
    }
    let other = world.process(PUBLISHED, 587, "guessed");
    assert!(other.begin().await.is_ok());
    assert!(world.published::<1>()[0].begin().await.is_err());
}

#[tokio::test]
async fn found_limit_is_told_to_others_and_tried_again_after_its_time() {
    let world = World::new().await;
    let server = world.server(1).await;
    let [one, two, three, four] = world.at::<4>(&server);
    let used = one.begin().await.unwrap();
    one.send().await.unwrap();
    // Its connection is idle and open: the server has no place left.
    let refused = two.begin().await.unwrap();
    let error = two.send().await.unwrap_err();
    assert_eq!(error.after_retries, AfterRetries::WhenConnectionFree);
    assert!(!error.unhealthy);
    drop(refused);
    assert!(three.begin().await.is_err());
    assert_eq!(server.refused_logins(), 1);

    drop(used);
    one.end_invocation().await;
    world.clock.advance(seconds(5));
    let both = (four.begin().await.unwrap(), two.begin().await.unwrap());
    four.send().await.unwrap();
    two.send().await.unwrap_err();
    drop(both);
    assert!(three.begin().await.is_err());
    assert_eq!(server.refused_logins(), 2);
}

#[tokio::test]
async fn limit_grows_while_the_server_takes_every_connection() {
    let world = World::new().await;
    let server = world.server(100).await;
    let first: [Process; FIRST_LIMIT as usize] = world.at(&server);
    let more: [Process; FIRST_LIMIT as usize + 1] = world.at(&server);
    let mut used = Vec::new();
    for process in first.iter().chain(&more) {
        used.push(process.begin().await.unwrap());
        process.send().await.unwrap();
    }
    assert_eq!(server.open_connections(), used.len());
    assert_eq!(server.refused_logins(), 0);
}

#[tokio::test]
async fn single_message_to_an_unknown_server_takes_no_permit() {
    let world = World::new().await;
    let server = world.server(1).await;
    let [one, two] = world.at::<2>(&server);
    let asking = Asking {
        is_alone: true,
        ..queued()
    };
    let used = one.ask(asking).await.unwrap();
    one.send().await.unwrap();
    assert_eq!(one.connections.take_writes(), 0);
    // Refused beside it: from now on connections are counted.
    let refused = two.ask(asking).await.unwrap();
    let error = two.send().await.unwrap_err();
    assert_eq!(error.after_retries, AfterRetries::WhenConnectionFree);
    drop((used, refused));
    one.end_invocation().await;
    two.connections.take_writes();
    let used = two.ask(asking).await.unwrap();
    assert_eq!(two.connections.take_writes(), 1);
    two.send().await.unwrap();
    drop(used);
}

#[tokio::test]
async fn record_without_its_mac_is_ignored() {
    let world = World::new().await;
    let server = world.server(100).await;
    let processes = world.at::<3>(&server);
    let account = processes[0].limit().account(&processes[0].key).unwrap();
    let number = |value: i64| AttributeValue::N(value.to_string());
    let reached = AttributeValue::S("reached".to_owned());
    let since = world.clock.now().as_microsecond();
    let forged = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().deliveries_table)
        .item("pk", AttributeValue::S(format!("connections#{account}")))
        .item("sk", AttributeValue::S("permits".to_owned()))
        .item("limitState", reached)
        .item("limitConnections", number(1))
        .item("limitSince", number(since))
        .item("limitMac", AttributeValue::S("0".repeat(32)));
    forged.send().await.unwrap();
    let mut used = Vec::new();
    for process in &processes {
        used.push(process.begin().await.unwrap());
    }
}

#[tokio::test]
async fn process_goes_by_what_it_knows_while_dynamodb_is_down() {
    let world = World::new().await;
    let [process] = world.published::<1>();
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 50, Fault::AccessDenied);
    let mut used = Vec::new();
    for _ in 0..5 {
        used.push(process.begin().await.unwrap());
    }
    world.aws.clear_faults();
    drop(used);
    world.clock.advance(seconds(3));
    let used = process.begin().await.unwrap();
    assert!(used.is_some());
}

#[tokio::test]
async fn messages_that_find_no_permit_return_together() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let asking = Asking {
        age: Duration::from_mins(2),
        ..queued()
    };
    let mut waits = Vec::new();
    for _ in 0..10 {
        waits.push(processes[3].ask(asking).await.unwrap_err());
    }
    assert!(waits.iter().all(|wait| *wait == waits[0]), "{waits:?}");
}

#[tokio::test]
async fn old_message_makes_no_later_one_wait_as_long() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let old = Asking {
        receives: 75,
        age: Duration::from_hours(2),
        ..queued()
    };
    let long = processes[3].ask(old).await.unwrap_err();
    let short = processes[3].ask(queued()).await.unwrap_err();
    assert!(
        long > Duration::from_secs(100) && short < Duration::from_secs(2),
        "{long:?} {short:?}"
    );
}
