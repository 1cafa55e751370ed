//! A process with a connection pool of its own, and the mailbox's owner.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, OwnSender, Provider as _, Sockets,
    egress::Resolver,
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{Host, Secret, SystemClock, request::Content};
use comms_testkit::{smtp::SmtpServer, tls::TestCa};
use futures_util::{StreamExt as _, stream};

use crate::message::{appointment, clinic, message};

/// The owner gives up after this time.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(20);
/// The wait between two attempts of the owner.
const RETRY: Duration = Duration::from_millis(100);

struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

pub(crate) struct Client {
    provider: SmtpProvider,
    content: Arc<Content>,
}

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
            clinic(),
            &TlsConfigs::new(Some(&ca.pem())).unwrap(),
            EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback)),
            Sockets::default(),
            Arc::new(SystemClock),
        );
        Self {
            provider: provider.unwrap(),
            content: appointment(),
        }
    }

    /// Sends `messages`, `at_once` at a time. Returns the time that took.
    pub(crate) async fn send_all(&self, messages: usize, at_once: usize) -> Duration {
        let started = Instant::now();
        stream::iter(0..messages)
            .for_each_concurrent(at_once, async |number| {
                let deadline = Deadline::after(Duration::from_mins(2));
                let message = message(number, &self.content);
                self.provider.send(&message, deadline).await.unwrap();
            })
            .await;
        started.elapsed()
    }

    /// Tries to send one message until it is accepted. Returns the time that took.
    pub(crate) async fn get_in(&self) -> Option<Duration> {
        let (message, started) = (message(1, &self.content), Instant::now());
        while started.elapsed() < MAX_WAIT {
            let deadline = Deadline::after(Duration::from_secs(5));
            if self.provider.send(&message, deadline).await.is_ok() {
                return Some(started.elapsed());
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }
}
