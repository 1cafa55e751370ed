//! One process of its own: the pool that is compared with, and the mailbox's owner.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, Message, OwnSender, Provider as _, Sockets,
    egress::Resolver,
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{
    DeliveryId, EmailAddress, Host, Mailbox, Secret, SystemClock,
    request::{Content, Target},
};
use comms_testkit::{smtp::SmtpServer, tls::TestCa};
use futures_util::{StreamExt as _, stream};

/// How long the owner tries.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(20);
/// Between two tries of the owner.
const RETRY: Duration = Duration::from_millis(100);

struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

fn message(number: usize) -> Message {
    Message {
        delivery: DeliveryId::parse(&format!("{number:032x}")).unwrap(),
        target: Target::Email(mailbox("patient@example.com")),
        content: Arc::new(Content {
            title: Some("Appointment confirmed".into()),
            body: Some("See you on Monday.".into()),
            ..Content::default()
        }),
        reply_to: None,
    }
}

pub(crate) struct Client(SmtpProvider);

impl Client {
    pub(crate) fn new(ca: &TestCa, server: &SmtpServer, connections: u8) -> Self {
        let settings = SmtpConfig {
            host: Host::parse("127.0.0.1").unwrap(),
            port: server.port(),
            security: Security::StartTls,
            user: "user".into(),
            password: Secret::new("password".to_owned()),
            ca_pem: None,
            max_connections: connections,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let provider = SmtpProvider::new(
            settings,
            mailbox("desk@clinic.example"),
            &TlsConfigs::new(Some(&ca.pem())).unwrap(),
            EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback)),
            Sockets::default(),
            Arc::new(SystemClock),
        );
        Self(provider.unwrap())
    }

    /// Sends so many messages, and says how long it took.
    pub(crate) async fn send_all(&self, messages: usize, at_once: usize) -> Duration {
        let started = Instant::now();
        stream::iter(0..messages)
            .for_each_concurrent(at_once, async |number| {
                let deadline = Deadline::after(Duration::from_mins(2));
                self.0.send(&message(number), deadline).await.unwrap();
            })
            .await;
        started.elapsed()
    }

    /// Tries to send one message until it is taken.
    pub(crate) async fn get_in(&self) -> Option<Duration> {
        let started = Instant::now();
        while started.elapsed() < MAX_WAIT {
            let deadline = Deadline::after(Duration::from_secs(5));
            if self.0.send(&message(1), deadline).await.is_ok() {
                return Some(started.elapsed());
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }
}
