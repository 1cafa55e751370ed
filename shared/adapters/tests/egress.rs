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

/// What becomes of a spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is no host: settings with it are not saved.
    NoHost,
    /// It is an address, and refused as one; nothing is resolved.
    Address,
    /// It is a name, resolved once, and refused for what that gave.
    Name,
}
use Fate::{Address, Name, NoHost};

/// Spellings of places that a clinic must not reach: the text, its fate as an SMTP host, and its fate as
/// the host in a URL. URLs are read as WHATWG has it, which takes more spellings for an address.
const SPELLINGS: &[(&str, Fate, Fate)] = &[
    // IPv4 as it should be.
    ("127.0.0.1", Address, Address),
    ("127.255.255.254", Address, Address),
    ("0.0.0.0", Address, Address),
    ("10.0.0.1", Address, Address),
    ("100.64.0.1", Address, Address),
    ("169.254.169.254", Address, Address),
    ("169.254.170.2", Address, Address),
    ("172.31.0.2", Address, Address),
    ("192.168.0.1", Address, Address),
    ("192.0.0.192", Address, Address),
    ("100.100.100.200", Address, Address),
    ("255.255.255.255", Address, Address),
    // Short forms (inet_aton).
    ("127.1", NoHost, Address),
    ("127.0.1", NoHost, Address),
    ("0", NoHost, Address),
    ("10.1", NoHost, Address),
    ("169.254.43518", NoHost, Address),
    // Decimal.
    ("2130706433", NoHost, Address),
    ("2852039166", NoHost, Address),
    ("4294967295", NoHost, Address),
    ("4294967296", NoHost, NoHost),
    ("6425673729", NoHost, NoHost),
    // Octal, leading zeros.
    ("0177.0.0.1", NoHost, Address),
    ("0177.0.0.01", NoHost, Address),
    ("017700000001", NoHost, Address),
    ("127.0.0.01", NoHost, Address),
    ("00000177.0.0.1", NoHost, Address),
    ("0251.0376.0251.0376", NoHost, Address),
    // Hexadecimal.
    ("0x7f.0.0.1", NoHost, Address),
    ("0x7f.0x0.0x0.0x1", NoHost, Address),
    ("0x7f000001", NoHost, Address),
    ("0X7F000001", NoHost, Address),
    ("0x7f.1", NoHost, Address),
    ("0xa9.0xfe.0xa9.0xfe", NoHost, Address),
    ("0xA9FEA9FE", NoHost, Address),
    ("0x", NoHost, Address),
    ("127.0.0.0x1", NoHost, Address),
    // Mixed.
    ("0x7f.0.01", NoHost, Address),
    ("0251.254.169.254", NoHost, Address),
    ("169.0xfe.0251.254", NoHost, Address),
    // Out of range, too many, signs, blanks.
    ("256.0.0.1", NoHost, NoHost),
    ("127.0.0.1.1", NoHost, NoHost),
    ("127.0.0.256", NoHost, NoHost),
    ("+127.0.0.1", NoHost, NoHost),
    ("-127.0.0.1", NoHost, NoHost),
    ("127. 0.0.1", NoHost, NoHost),
    ("127.0.0.1/8", NoHost, Address),
    ("127.0.0.1\0", NoHost, NoHost),
    ("127.0.0.1\n", NoHost, Address),
    ("12\t7.0.0.1", NoHost, Address),
    // Trailing and doubled dots.
    ("127.0.0.1.", NoHost, Address),
    ("127.0.0.1..", NoHost, NoHost),
    ("127..0.0.1", NoHost, NoHost),
    (".127.0.0.1", NoHost, NoHost),
    ("localhost.", NoHost, NoHost),
    ("api.example.", NoHost, NoHost),
    // Digits of other kinds: full-width, circled, mathematical, superscript, Arabic-Indic, Devanagari.
    ("１２７.０.０.１", Address, Address),
    ("１６９.２５４.１６９.２５４", Address, Address),
    ("①②⑦.⓪.⓪.①", Address, Address),
    ("①⑥⑨.②⑤④.①⑥⑨.②⑤④", Address, Address),
    ("𝟏𝟐𝟕.𝟎.𝟎.𝟏", Address, Address),
    ("𝟙𝟚𝟟.𝟘.𝟘.𝟙", Address, Address),
    ("¹²⁷.⁰.⁰.¹", Address, Address),
    ("١٢٧.٠.٠.١", NoHost, NoHost),
    ("१२७.०.०.१", Name, Name),
    ("０ｘ７ｆ.1", NoHost, Address),
    ("２１３０７０６４３３", NoHost, Address),
    ("⑴⑵⑺.0.0.1", NoHost, NoHost),
    ("⒈⒉⒎.0.0.1", NoHost, NoHost),
    // Dots of other kinds.
    ("127。0。0。1", Address, Address),
    ("127．0．0．1", Address, Address),
    ("127｡0｡0｡1", Address, Address),
    ("127․0․0․1", NoHost, NoHost),
    ("127。0。0。1。", NoHost, Address),
    // Characters that are not seen: soft hyphen, zero-width space, joiners, word joiner, byte order mark.
    ("127.0.0.1\u{ad}", Address, Address),
    ("1\u{ad}27.0.0.1", Address, Address),
    ("12\u{200b}7.0.0.1", Address, Address),
    ("12\u{200c}7.0.0.1", NoHost, NoHost),
    ("12\u{200d}7.0.0.1", NoHost, NoHost),
    ("12\u{2060}7.0.0.1", Address, Address),
    ("\u{feff}127.0.0.1", Address, Address),
    ("127.0.0.1\u{fe0f}", Address, Address),
    ("\u{202e}1.0.0.721", NoHost, NoHost),
    // Percent-encoding.
    ("%31%32%37.0.0.1", NoHost, Address),
    ("127%2e0%2e0%2e1", NoHost, Address),
    ("127.0.0.1%00", NoHost, NoHost),
    ("%6c%6f%63%61%6c%68%6f%73%74", NoHost, Name),
    // Users, ports, paths and backslashes.
    ("good.example@127.0.0.1", NoHost, NoHost),
    ("good.example:443@127.0.0.1", NoHost, NoHost),
    ("@127.0.0.1", NoHost, Address),
    ("127.0.0.1:25", NoHost, NoHost),
    ("127.0.0.1\\@good.example", NoHost, Address),
    ("good.example\\@127.0.0.1", NoHost, Name),
    ("127.0.0.1#@good.example", NoHost, NoHost),
    ("127.0.0.1?@good.example", NoHost, NoHost),
    ("127.0.0.1/@good.example", NoHost, Address),
    ("//127.0.0.1", NoHost, Address),
    ("\\\\127.0.0.1", NoHost, Address),
    ("127.0.0.1,good.example", NoHost, NoHost),
    ("127.0.0.1 good.example", NoHost, NoHost),
    // IPv6.
    ("::1", Address, Address),
    ("[::1]", Address, Address),
    ("0:0:0:0:0:0:0:1", Address, Address),
    ("0000:0000:0000:0000:0000:0000:0000:0001", Address, Address),
    ("::", Address, Address),
    ("fd00:ec2::254", Address, Address),
    ("FD00:EC2:0::254", Address, Address),
    ("fd00::1", Address, Address),
    ("fe80::1", Address, Address),
    ("fec0::1", Address, Address),
    ("ff02::1", Address, Address),
    ("2001:db8::1", Address, Address),
    ("3fff::1", Address, Address),
    ("100::1", Address, Address),
    ("5f00::1", Address, Address),
    ("[::1]:25", NoHost, NoHost),
    ("[::1", NoHost, NoHost),
    ("::1]", NoHost, NoHost),
    ("[[::1]]", NoHost, NoHost),
    ("[127.0.0.1]", NoHost, NoHost),
    ("[::1].", NoHost, NoHost),
    ("[1::2::3]", NoHost, NoHost),
    ("[v1.fe80::a]", NoHost, NoHost),
    // Zones.
    ("fe80::1%eth0", NoHost, NoHost),
    ("[fe80::1%eth0]", NoHost, NoHost),
    ("[fe80::1%25eth0]", NoHost, NoHost),
    ("::1%1", NoHost, NoHost),
    // IPv4 in IPv6: mapped, compatible, translated, NAT64, local NAT64, 6to4, Teredo, ISATAP.
    ("::ffff:127.0.0.1", Address, Address),
    ("::ffff:7f00:1", Address, Address),
    ("::FFFF:7F00:0001", Address, Address),
    ("[0:0:0:0:0:ffff:127.0.0.1]", Address, Address),
    ("::ffff:a9fe:a9fe", Address, Address),
    ("::ffff:127.1", NoHost, NoHost),
    ("::ffff:0177.0.0.1", NoHost, NoHost),
    ("::127.0.0.1", Address, Address),
    ("::7f00:1", Address, Address),
    ("::ffff:0:127.0.0.1", Address, Address),
    ("::ffff:0:7f00:1", Address, Address),
    ("64:ff9b::7f00:1", Address, Address),
    ("64:ff9b::127.0.0.1", Address, Address),
    ("64:ff9b::169.254.169.254", Address, Address),
    ("64:ff9b:1::7f00:1", Address, Address),
    ("64:ff9b:1:ffff::127.0.0.1", Address, Address),
    ("2002:7f00:1::", Address, Address),
    ("2002:7f00:0001::1", Address, Address),
    ("2002:a9fe:a9fe::1", Address, Address),
    ("2001::7f00:1", Address, Address),
    ("2001:0:7f00:1::80ff:fffe", Address, Address),
    ("fe80::5efe:7f00:1", Address, Address),
    ("2606:4700::5efe:7f00:1", Address, Address),
    ("2606:4700::200:5efe:127.0.0.1", Address, Address),
    // Names.
    ("localhost", Name, Name),
    ("LOCALHOST", Name, Name),
    ("ｌｏｃａｌｈｏｓｔ", Name, Name),
    ("loc\u{ad}alhost", Name, Name),
    ("localhost.localdomain", Name, Name),
    ("ip6-localhost", Name, Name),
    ("metadata.google.internal", Name, Name),
    ("instance-data.ec2.internal", Name, Name),
    ("127.0.0.1.nip.io", Name, Name),
    ("7f000001.rbndr.example", Name, Name),
    ("host.docker.internal", Name, Name),
    ("0x7f.1.example", Name, Name),
    ("xn--bcher-kva.example", Name, Name),
    ("xn--11h.0.0.1", NoHost, NoHost),
    ("xn--", NoHost, NoHost),
    ("", NoHost, NoHost),
    (".", NoHost, NoHost),
    ("*", NoHost, NoHost),
];

/// Addresses off the public internet, one of each range that there is.
const FORBIDDEN: &[&str] = &[
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:2::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2606:4700::5efe:7f00:1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

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

/// An address as it stands in a URL.
fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

async fn fate_as_smtp_host(text: &str, trap: &Trap) -> Fate {
    let Ok(host) = Host::parse(text) else {
        return NoHost;
    };
    let names = Names::answering(&[]);
    let provider = Egress::new("", names.clone()).smtp(host, trap.port);
    let refused = smtp_refusal(EgressError::Address);
    assert_eq!(refusal(&provider).await, refused, "{text:?}");
    let asked = names.asked();
    assert_eq!(
        verified(&provider).await,
        (vec![VerifyStage::Resolve], refused.detail),
        "{text:?}"
    );
    match (asked, names.asked()) {
        (0, 0) => Address,
        (1, 2) => Name,
        other => panic!("{text:?} was resolved {other:?} times"),
    }
}

async fn fate_in_url(text: &str, trap: &Trap) -> Fate {
    let Ok(url) = BaseUrl::parse(&format!("https://{}:{}/", in_url(text), trap.port)) else {
        return NoHost;
    };
    let names = Names::answering(&[]);
    let provider = Egress::new("", names.clone()).sendgrid(url);
    let refused = refusal(&provider).await;
    assert_eq!(
        (refused.disposition, refused.detail),
        (Disposition::ProviderDown, URL_ADDRESS),
        "{text:?}"
    );
    let asked = names.asked();
    assert_eq!(
        verified(&provider).await,
        (vec![VerifyStage::Resolve], URL_ADDRESS),
        "{text:?}"
    );
    match (asked, names.asked()) {
        (0, 0) => Address,
        (1, 2) => Name,
        other => panic!("{text:?} was resolved {other:?} times"),
    }
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_place_is_connected_to() {
    let trap = Trap::set();
    let mut wrong = Vec::new();
    for (text, as_host, as_url) in SPELLINGS {
        let found = (
            fate_as_smtp_host(text, &trap).await,
            fate_in_url(text, &trap).await,
        );
        if found != (*as_host, *as_url) {
            wrong.push(format!("{text:?}: {found:?}"));
        }
        assert!(!trap.was_sprung(), "{text:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn the_trap_notices_a_connection() {
    let trap = Trap::set();
    let egress = Egress::new("127.0.0.0/8", Names::answering(&[]));
    let url = format!("http://127.0.0.1:{}", trap.port);
    let (provider, sprung) = (egress.sendgrid_at(&url), async {
        while !trap.was_sprung() {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        () = sprung => {}
        result = send(&provider) => panic!("{result:?}"),
    }
}

#[tokio::test]
async fn a_name_is_refused_for_every_range_that_it_may_resolve_to() {
    for forbidden in FORBIDDEN {
        let twice: &[&[&str]] = &[&[forbidden], &[forbidden, forbidden]];
        let names = Names::answering(twice);
        let egress = Egress::new("", names.clone());
        // An alias shows nothing of itself but the addresses at its end.
        let smtp = egress.smtp(Host::parse("alias.example").unwrap(), 587);
        for _ in twice {
            assert_eq!(
                refusal(&smtp).await,
                smtp_refusal(EgressError::Address),
                "{forbidden}"
            );
        }
        assert_eq!(names.asked(), 2);

        let names = Names::answering(twice);
        let sendgrid = Egress::new("", names.clone()).sendgrid_at("https://alias.example");
        for _ in twice {
            assert_eq!(refusal(&sendgrid).await.detail, URL_ADDRESS, "{forbidden}");
        }
        assert_eq!(names.asked(), 2);
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

/// Where the child of the next test finds the APIs that it is to send through, and their authority.
const CHILD_APIS: &str = "EGRESS_TEST_APIS";
const CHILD_ROOTS: &str = "EGRESS_TEST_ROOTS";
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Runs itself again in an environment that names a proxy.
#[tokio::test]
async fn a_proxy_that_the_environment_names_is_not_used() {
    if let Ok(apis) = env::var(CHILD_APIS) {
        return send_in_an_environment_with_a_proxy(&apis).await;
    }
    let servers = Servers::start().await;
    let plain = HttpServer::builder().start().await.unwrap();
    let accepted = Reply::new(202).header("x-message-id", "id");
    plain.on("POST", "/v3/mail/send", accepted);
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());

    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", "a_proxy_that_the_environment_names_is_not_used"])
        .env(
            CHILD_APIS,
            format!("{} http://{API}:{}", servers.api_url(), plain.port()),
        )
        .env(CHILD_ROOTS, &servers.roots)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    for name in PROXIES {
        child.env(name, &proxy_url);
    }
    let mut child = tokio::task::spawn_blocking(move || child.output().unwrap());
    let asked = async {
        let mut asked = Vec::new();
        loop {
            let (mut socket, _) = proxy.accept().await.unwrap();
            let mut line = String::new();
            BufReader::new(&mut socket)
                .read_line(&mut line)
                .await
                .unwrap();
            let last = line.starts_with(CONTROL);
            asked.push(line);
            let answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
            if last {
                return asked;
            }
        }
    };
    let said = |child: &std::process::Output| String::from_utf8_lossy(&child.stdout).into_owned();
    let asked = tokio::select! {
        biased;
        asked = asked => asked,
        child = &mut child => panic!("{}", said(&child.unwrap())),
    };
    let child = child.await.unwrap();
    assert!(child.status.success(), "{}", said(&child));
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(servers.api.requests().len(), 1);
    assert_eq!(plain.requests().len(), 1);
}

/// What a client that does use the proxy asks it for.
const CONTROL: &str = "GET http://control.example/ ";

async fn send_in_an_environment_with_a_proxy(apis: &str) {
    let egress = Egress {
        roots: env::var(CHILD_ROOTS).ok(),
        ..Egress::new("127.0.0.0/8", Names::answering(&[]))
    };
    for api in apis.split(' ') {
        send(&egress.sendgrid_at(api)).await.unwrap();
    }
    // A client as it comes does use it: the environment is one that would have been obeyed.
    let tls = rustls::ClientConfig::clone(&TestCa::new().client_config());
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
    let answer = client
        .build()
        .unwrap()
        .get("http://control.example/")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 502);
}
