//! Where a clinic's settings cannot lead: every spelling of a place that is not on the public
//! internet, through the same door as settings come in by (`Host::parse`, `BaseUrl::parse`), with the
//! real SMTP and HTTP adapters behind it.
//!
//! The fake resolver gives loopback for every name it is not told otherwise about: what gets past the
//! reader as a name must be stopped by what it resolves to.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "egress/proxy.rs"]
mod proxy;
#[path = "egress/spellings.rs"]
mod spellings;

use std::{
    collections::VecDeque,
    env, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, HttpClients, Message, OwnSender, Provider, Sockets, StageOutcome,
    VerifyStage,
    egress::{EgressError, Resolver},
    sendgrid::{SendgridConfig, SendgridProvider},
    smtp::{Cause, Failure, Security, SmtpConfig, SmtpProvider, Stage, classify},
    tls::TlsConfigs,
};
use comms_core::{
    BaseUrl, DeliveryId, Disposition, EmailAddress, Host, Mailbox, ProviderError, Secret,
    SystemClock,
    request::{Content, Target},
};
use comms_testkit::{
    http::{HttpServer, Reply},
    smtp::{SmtpServer, TlsMode},
    tls::TestCa,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// What the adapters say of a host that may not be connected to.
const URL_ADDRESS: &str =
    "The address of apiUrl is not one that may be connected to; use the provider's public API.";
/// What they say of a port.
const URL_PORT: &str = "apiUrl must be https on port 443.";
/// A name that no test's resolver is told about.
const API: &str = "api.example";

/// Gives what it is told, in order, and then loopback; remembers what it was asked.
#[derive(Default)]
struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn answering(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers
            .iter()
            .map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect());
        Arc::new(Self {
            answers: Mutex::new(answers.collect()),
            ..Self::default()
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let next = self.answers.lock().unwrap().pop_front();
        Ok(next.unwrap_or_else(|| vec![Ipv4Addr::LOCALHOST.into()]))
    }
}

/// What the adapters are made with.
struct Egress {
    allow: &'static str,
    names: Arc<Names>,
    roots: Option<String>,
}

impl Egress {
    fn new(allow: &'static str, names: Arc<Names>) -> Self {
        Self {
            allow,
            names,
            roots: None,
        }
    }

    fn guard(&self) -> EgressGuard {
        EgressGuard::new(self.allow.parse().unwrap(), self.names.clone())
    }

    fn tls(&self) -> TlsConfigs {
        TlsConfigs::new(self.roots.as_deref()).unwrap()
    }

    fn smtp(&self, host: Host, port: u16) -> SmtpProvider {
        let settings = SmtpConfig {
            host,
            port,
            security: Security::StartTls,
            user: "clinic-user".into(),
            password: Secret::new("planted-password".to_owned()),
            ca_pem: None,
            max_connections: 5,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        SmtpProvider::new(
            settings,
            mailbox("desk@clinic.example"),
            &self.tls(),
            self.guard(),
            Sockets::default(),
            Arc::new(SystemClock),
        )
        .unwrap()
    }

    fn sendgrid(&self, api_url: BaseUrl) -> SendgridProvider {
        let settings = SendgridConfig {
            api_key: Secret::new("planted-key".to_owned()),
            from: OwnSender::default(),
            api_url: Some(api_url),
            sandbox: false,
        };
        let http = HttpClients::new(
            self.tls(),
            self.guard(),
            Sockets::default(),
            Arc::new(SystemClock),
        );
        SendgridProvider::new(settings, mailbox("desk@clinic.example"), http).unwrap()
    }

    fn sendgrid_at(&self, url: &str) -> SendgridProvider {
        self.sendgrid(BaseUrl::parse(url).unwrap())
    }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

fn message() -> Message {
    Message {
        delivery: DeliveryId::parse(&"0".repeat(32)).unwrap(),
        target: Target::Email(mailbox("patient@example.com")),
        content: Arc::new(Content {
            title: Some("Appointment confirmed".into()),
            body: Some("See you on Monday.".into()),
            ..Content::default()
        }),
        reply_to: None,
    }
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

async fn send(provider: &dyn Provider) -> Result<(), ProviderError> {
    provider.send(&message(), deadline()).await.map(drop)
}

async fn refusal(provider: &dyn Provider) -> ProviderError {
    send(provider).await.unwrap_err()
}

/// The stages of a check that passed, and the text of the one that did not.
async fn verified(provider: &dyn Provider) -> (Vec<VerifyStage>, &'static str) {
    let mut passed = Vec::new();
    for stage in provider.verify(deadline()).await {
        match stage.outcome {
            StageOutcome::Passed => passed.push(stage.stage),
            StageOutcome::Failed { detail, .. } => return (passed, detail),
        }
    }
    (passed, "")
}

/// What the SMTP adapter says of a host that may not be connected to.
fn smtp_refusal(error: EgressError) -> ProviderError {
    classify(Failure {
        stage: Stage::Connect,
        cause: Cause::Egress(error),
    })
}

/// Sockets on loopback that nobody may connect to.
struct Trap {
    listeners: Vec<std::net::TcpListener>,
    port: u16,
}

impl Trap {
    fn set() -> Self {
        let v4 = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = v4.local_addr().unwrap().port();
        // Not every machine has IPv6.
        let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok();
        let listeners: Vec<_> = [v4].into_iter().chain(v6).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        Self { listeners, port }
    }

    /// Whether somebody has connected. The kernel completes a connection to loopback before the one who
    /// asked for it is told, so that none is still under way.
    fn was_sprung(&self) -> bool {
        self.listeners
            .iter()
            .any(|listener| match listener.accept() {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    false
                }
            })
    }
}

/// A mail server and an API on loopback under one authority, for any name.
struct Servers {
    smtp: SmtpServer,
    api: HttpServer,
    roots: String,
}

impl Servers {
    async fn start() -> Self {
        let ca = TestCa::new();
        let config = ca.server_config(&[API, "127.0.0.1"]);
        let smtp = SmtpServer::builder()
            .tls(TlsMode::StartTls, config.clone())
            .credentials("clinic-user", "planted-password");
        let api = HttpServer::builder().tls(config).start().await.unwrap();
        let accepted = Reply::new(202).header("x-message-id", "id");
        api.always("POST", "/v3/mail/send", accepted);
        Self {
            smtp: smtp.start().await,
            api,
            roots: ca.pem(),
        }
    }

    /// Loopback plays the public internet; everything else is as it is in production.
    fn egress(&self, names: &Arc<Names>) -> Egress {
        Egress {
            roots: Some(self.roots.clone()),
            ..Egress::new("127.0.0.0/8", names.clone())
        }
    }

    fn api_url(&self) -> String {
        format!("https://{API}:{}", self.api.port())
    }
}

#[tokio::test]
async fn of_a_names_addresses_only_those_that_may_be_are_connected_to() {
    // As many as are tried at all come before the good one.
    let mixed: &[&str] = &["10.0.0.1", "169.254.169.254", "fd00:ec2::254", "127.0.0.1"];
    let servers = Servers::start().await;
    let names = Names::answering(&[mixed, mixed]);
    let egress = servers.egress(&names);
    send(&egress.smtp(Host::parse(API).unwrap(), servers.smtp.port()))
        .await
        .unwrap();
    send(&egress.sendgrid_at(&servers.api_url())).await.unwrap();
    assert_eq!(servers.smtp.messages().len(), 1);
    assert_eq!(servers.api.requests().len(), 1);
    assert_eq!(names.asked(), 2);
}

#[tokio::test]
async fn a_name_that_resolves_to_something_else_the_next_time_is_asked_once_per_connection() {
    let servers = Servers::start().await;
    let rebinding: &[&[&str]] = &[&["127.0.0.1"], &["169.254.169.254"]];

    let names = Names::answering(rebinding);
    let provider = servers
        .egress(&names)
        .smtp(Host::parse(API).unwrap(), servers.smtp.port());
    send(&provider).await.unwrap();
    send(&provider).await.unwrap();
    assert_eq!(names.asked(), 1, "the connection is kept");
    assert_eq!(servers.smtp.messages().len(), 2);
    servers.smtp.close_idle_connections().await;
    assert_eq!(
        refusal(&provider).await,
        smtp_refusal(EgressError::Address),
        "a new connection is checked anew"
    );
    assert_eq!(names.asked(), 2);
    assert_eq!(servers.smtp.connections(), 1);

    let names = Names::answering(rebinding);
    let egress = servers.egress(&names);
    let provider = egress.sendgrid_at(&servers.api_url());
    send(&provider).await.unwrap();
    send(&provider).await.unwrap();
    assert_eq!(names.asked(), 1, "the connection is kept");
    let elsewhere = egress.sendgrid_at(&servers.api_url());
    assert_eq!(refusal(&elsewhere).await.detail, URL_ADDRESS);
    assert_eq!(names.asked(), 2);
    assert_eq!(servers.api.connections(), 1);
}

#[tokio::test]
async fn the_checked_address_is_the_one_that_is_connected_to() {
    // Had anybody resolved the name again, it would have been the second answer.
    let servers = Servers::start().await;
    for check in [false, true] {
        let names = Names::answering(&[&["127.0.0.1"], &["10.0.0.1"]]);
        let egress = servers.egress(&names);
        let provider = egress.smtp(Host::parse(API).unwrap(), servers.smtp.port());
        if check {
            let (passed, detail) = verified(&provider).await;
            assert_eq!((passed.len(), detail), (5, ""));
        } else {
            send(&provider).await.unwrap();
        }
        assert_eq!(names.asked(), 1);
    }
}

#[tokio::test]
async fn a_redirect_to_a_forbidden_place_is_not_followed() {
    let trap = Trap::set();
    let servers = Servers::start().await;
    for status in [301, 302, 303, 307, 308] {
        for location in [
            format!("http://127.0.0.1:{}/v3/mail/send", trap.port),
            format!("https://127.0.0.1:{}/", trap.port),
            format!("//127.0.0.1:{}/", trap.port),
        ] {
            let reply = Reply::new(status).header("location", &location);
            servers.api.on("POST", "/v3/mail/send", reply.clone());
            servers.api.on("GET", "/v3/scopes", reply);
            // Even where the operator allows the place.
            let provider = servers
                .egress(&Names::answering(&[]))
                .sendgrid_at(&servers.api_url());
            let refused = refusal(&provider).await;
            assert_eq!(refused.disposition, Disposition::ProviderDown, "{status}");
            assert!(
                refused.detail.contains("redirects are not followed"),
                "{status}"
            );
            let (passed, detail) = verified(&provider).await;
            assert_eq!(passed.last(), Some(&VerifyStage::Tls));
            assert!(detail.contains("redirects are not followed"), "{detail}");
            assert!(!trap.was_sprung(), "{status} {location}");
        }
    }
    assert!(servers.api.unexpected().is_empty());
}

#[tokio::test]
async fn only_the_protocols_ports_may_be_connected_to() {
    // A public address, which no test reaches: the port is looked at before.
    let public = || Names::answering(&[&["1.1.1.1"][..]; 10]);
    let egress = Egress::new("127.0.0.0/8", public());
    for port in [1, 21, 22, 25, 80, 110, 143, 443, 2526, 3306, 6379, 9001] {
        for host in ["1.1.1.1", "[2606:4700::1111]", "64:ff9b::101:101"] {
            let smtp = egress.smtp(Host::parse(host).unwrap(), port);
            assert_eq!(refusal(&smtp).await, smtp_refusal(EgressError::Port));
        }
    }
    for url in [
        "https://1.1.1.1:80",
        "https://1.1.1.1:8443",
        "https://[2606:4700::1111]:22",
        "https://api.example:587",
        "https://api.example:9001",
        "http://1.1.1.1",
        "http://api.example",
        "http://api.example:443",
    ] {
        let sendgrid = egress.sendgrid_at(url);
        assert_eq!(refusal(&sendgrid).await.detail, URL_PORT, "{url}");
    }
}

#[tokio::test]
async fn what_is_sent_in_clear_goes_only_where_the_operator_allows_it() {
    let trap = Trap::set();
    for allow in ["", "10.0.0.0/8", "127.0.0.0/8:1"] {
        let egress = Egress::new(allow, Names::answering(&[]));
        for host in ["127.0.0.1", API] {
            let sendgrid = egress.sendgrid_at(&format!("http://{host}:{}", trap.port));
            assert_eq!(refusal(&sendgrid).await.detail, URL_ADDRESS, "{allow}");
        }
    }
    assert!(!trap.was_sprung());
    let plain = HttpServer::builder().start().await.unwrap();
    let accepted = Reply::new(202).header("x-message-id", "id");
    plain.on("POST", "/v3/mail/send", accepted);
    let egress = Egress::new("127.0.0.0/8", Names::answering(&[]));
    send(&egress.sendgrid_at(&format!("http://{API}:{}", plain.port())))
        .await
        .unwrap();
}
