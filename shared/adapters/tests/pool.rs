//! The pools of SMTP connections and the ceiling above them, with scripted servers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "pool/ceiling.rs"]
mod ceiling;
#[path = "pool/dropped.rs"]
mod dropped;
#[path = "pool/idle.rs"]
mod idle;
#[path = "pool/refused.rs"]
mod refused;

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, HttpClients, Message, OwnSender, Provider, SocketStatistics, Sockets,
    egress::Resolver,
    sendgrid::{SendgridConfig, SendgridProvider},
    smtp::{Granted, Security, SmtpConfig, SmtpProvider},
    sockets::Retirements,
    tls::TlsConfigs,
};
use comms_core::{
    BaseUrl, DeliveryId, Disposition, EmailAddress, ErrorKind, Host, Mailbox, ProviderError,
    Receipt, Secret,
    request::{Content, Target},
};
use comms_testkit::{
    clock::ManualClock,
    http::{HttpServer, Reply},
    smtp::{Action, Event, SmtpServer, SmtpServerBuilder, Stage, TlsMode},
    tls::TestCa,
};
use futures_util::future::join_all;
use tokio::time::Instant;

/// As long as a worker has at most.
const TIME: Duration = Duration::from_secs(28);

/// Gives loopback for every name.
struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

fn guard() -> EgressGuard {
    EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback))
}

/// One process: its sockets and its clock.
struct Process {
    ca: TestCa,
    sockets: Sockets,
    clock: Arc<ManualClock>,
}

/// A clinic with a mail server of its own.
struct Clinic {
    server: SmtpServer,
    provider: SmtpProvider,
}

impl Process {
    fn new(ceiling: usize) -> Self {
        Self {
            ca: TestCa::new(),
            sockets: Sockets::new(ceiling),
            clock: Arc::new(ManualClock::new()),
        }
    }

    async fn clinic(
        &self,
        max_connections: u8,
        script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder,
    ) -> Clinic {
        let builder = SmtpServer::builder()
            .tls(TlsMode::Implicit, self.ca.server_config(&["127.0.0.1"]))
            .credentials("clinic-user", "planted-password");
        let server = script(builder).start().await;
        let provider = self.provider(&server, max_connections, self.sockets.clone());
        Clinic { server, provider }
    }

    /// The same mailbox as another process has it.
    fn another_process(&self, server: &SmtpServer) -> SmtpProvider {
        self.provider(server, 1, Sockets::default())
    }

    fn provider(&self, server: &SmtpServer, max_connections: u8, sockets: Sockets) -> SmtpProvider {
        let settings = SmtpConfig {
            host: Host::parse("127.0.0.1").unwrap(),
            port: server.port(),
            security: Security::ImplicitTls,
            user: "clinic-user".into(),
            password: Secret::new("planted-password".to_owned()),
            ca_pem: None,
            max_connections,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let provider = SmtpProvider::new(
            settings,
            mailbox("appointments@clinic.example"),
            &self.tls(),
            guard(),
            sockets,
            self.clock.clone(),
        );
        provider.unwrap()
    }

    fn tls(&self) -> TlsConfigs {
        TlsConfigs::new(Some(&self.ca.pem())).unwrap()
    }

    fn statistics(&self) -> SocketStatistics {
        self.sockets.statistics()
    }

    /// What is held when nothing is under way: the idle connections and nothing else.
    fn assert_nothing_is_lost(&self) {
        let now = self.statistics();
        assert_eq!(
            (now.waiting, now.held, now.open),
            (0, now.idle, now.idle),
            "{now:?}"
        );
    }
}

impl Clinic {
    async fn send(&self) -> Result<Receipt, ProviderError> {
        self.provider.send(&message(1), Deadline::after(TIME)).await
    }

    async fn send_at_once(&self, messages: u32) -> Vec<Result<Receipt, ProviderError>> {
        let messages: Vec<_> = (1..=messages).map(message).collect();
        let sends = messages
            .iter()
            .map(|message| self.provider.send(message, Deadline::after(TIME)));
        join_all(sends).await
    }

    fn sent(&self) -> usize {
        self.server.messages().len()
    }

    /// How often the server said what begins so.
    fn said(&self, start: &str) -> usize {
        let start = format!("S: {start}");
        let lines = self.server.transcript().into_iter();
        lines.filter(|line| line.starts_with(&start)).count()
    }

    async fn until_closed(&self, closed: u64) {
        let is_it = |event: &Event| *event == Event::Closed { connection: closed };
        self.server.wait_for_event(is_it).await;
    }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

fn message(number: u32) -> Message {
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

fn all_sent(results: &[Result<Receipt, ProviderError>]) {
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn statistics_add_up_and_are_counted_from_one_look_to_the_next() {
    let process = Process::new(100);
    let clinic = process.clinic(2, |server| server).await;
    all_sent(&clinic.send_at_once(4).await);
    let first = process.sockets.take_statistics();
    assert_eq!(
        SocketStatistics {
            waited_milliseconds: 0,
            ..first
        },
        SocketStatistics {
            held: 2,
            open: 2,
            idle: 2,
            opened: 2,
            reused: 2,
            waited: 2,
            ..SocketStatistics::default()
        }
    );
    // One is too old, one is found closed, one is cut short by its server, one stays.
    process.clock.advance(Duration::from_secs(290));
    clinic.send().await.unwrap();
    clinic.server.close_idle_connections().await;
    clinic.server.on(Stage::Rcpt, Action::Close);
    clinic.send().await.unwrap_err();
    clinic.send().await.unwrap();
    let second = process.sockets.take_statistics();
    assert_eq!(
        second,
        SocketStatistics {
            held: 1,
            open: 1,
            idle: 1,
            opened: 3,
            retired: Retirements {
                idle: 2,
                server_closed: 1,
                dropped: 1,
                ..Retirements::default()
            },
            ..SocketStatistics::default()
        }
    );
    assert_eq!(
        first.open + second.opened,
        second.open + second.retired.total()
    );
    let third = process.sockets.take_statistics();
    assert_eq!((third.open, third.opened), (1, 0));
    assert_eq!(third.retired, Retirements::default());
}
