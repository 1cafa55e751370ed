//! Processes that send by one mailbox.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, Message, OwnSender, Provider as _, Sockets,
    egress::Resolver,
    smtp::{ConnectionLimit, Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{
    DeliveryId, EmailAddress, HashKey, Host, Mailbox, ProviderError, Receipt, Secret,
    request::{Content, Target},
};
use comms_delivery::{
    ShareLimits,
    connections::{Asking, ConnectionUse, Connections},
};
use comms_testkit::{
    aws::LocalAws,
    clock::ManualClock,
    smtp::{SmtpServer, TlsMode},
    tls::TestCa,
};

/// A host whose operator publishes three connections for each mailbox. Nothing connects to it.
pub(crate) const PUBLISHED: &str = "smtp.office365.com";
/// Too short for waiting in front.
pub(crate) const INVOCATION: Duration = Duration::from_secs(15);

struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

pub(crate) struct World {
    pub(crate) aws: LocalAws,
    pub(crate) clock: Arc<ManualClock>,
    ca: TestCa,
}

/// A process, with the one mailbox that it sends by.
pub(crate) struct Process {
    pub(crate) connections: Connections,
    pub(crate) provider: SmtpProvider,
    pub(crate) sockets: Sockets,
    pub(crate) key: HashKey,
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

/// One of several queued messages of an invocation.
pub(crate) fn queued() -> Asking {
    Asking {
        is_alone: false,
        is_queued: true,
        is_urgent: false,
        receives: 1,
        age: Duration::ZERO,
        deadline: Deadline::after(INVOCATION),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self {
            aws: LocalAws::start().await,
            clock: Arc::new(ManualClock::new()),
            ca: TestCa::new(),
        }
    }

    /// A mail server that allows a login so many connections.
    pub(crate) async fn server(&self, limit: usize) -> SmtpServer {
        SmtpServer::builder()
            .tls(TlsMode::Implicit, self.ca.server_config(&["127.0.0.1"]))
            .credentials("user", "password")
            .max_connections_per_login(limit)
            .start()
            .await
    }

    pub(crate) fn process(&self, host: &str, port: u16, password: &str) -> Process {
        let sockets = Sockets::default();
        let settings = SmtpConfig {
            host: Host::parse(host).unwrap(),
            port,
            security: Security::ImplicitTls,
            user: "user".into(),
            password: Secret::new(password.to_owned()),
            ca_pem: None,
            max_connections: 5,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let provider = SmtpProvider::new(
            settings,
            mailbox("desk@clinic.example"),
            &TlsConfigs::new(Some(&self.ca.pem())).unwrap(),
            EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback)),
            sockets.clone(),
            self.clock.clone(),
        );
        let table = &self.aws.resources().deliveries_table;
        Process {
            connections: Connections::new(
                &self.aws.sdk_config(),
                table,
                self.clock.clone(),
                ShareLimits::default().workers,
            ),
            provider: provider.unwrap(),
            sockets,
            key: HashKey::from_bytes(&[1; HashKey::LENGTH]),
        }
    }

    /// Processes that send by the mailbox of [`PUBLISHED`].
    pub(crate) fn published<const N: usize>(&self) -> [Process; N] {
        std::array::from_fn(|_| self.process(PUBLISHED, 587, "password"))
    }

    pub(crate) fn at<const N: usize>(&self, server: &SmtpServer) -> [Process; N] {
        std::array::from_fn(|_| self.process("127.0.0.1", server.port(), "password"))
    }
}

impl Process {
    pub(crate) fn limit(&self) -> &Arc<ConnectionLimit> {
        self.provider.connection_limit().unwrap()
    }

    pub(crate) async fn ask(&self, asking: Asking) -> Result<Option<ConnectionUse<'_>>, Duration> {
        self.connections
            .begin(&self.key, self.limit(), asking)
            .await
    }

    pub(crate) async fn begin(&self) -> Result<Option<ConnectionUse<'_>>, Duration> {
        self.ask(queued()).await
    }

    pub(crate) async fn send(&self) -> Result<Receipt, ProviderError> {
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

    pub(crate) async fn end_invocation(&self) {
        let deadline = Deadline::after(INVOCATION);
        self.sockets.close_at_invocation_end(INVOCATION).await;
        self.connections.release(deadline).await;
    }
}

pub(crate) fn seconds(time: u64) -> Duration {
    Duration::from_secs(time)
}
