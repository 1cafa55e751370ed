//! Providers that send without end, or one byte at a time, and a second clinic in the same process and on the same
//! thread: it loses at most 100 ms.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use comms_adapters::{
    Deadline, EgressGuard, Message, OwnSender, Provider, Sockets,
    egress::SystemResolver,
    http::HttpClients,
    sendgrid::{SendgridConfig, SendgridProvider},
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{
    BaseUrl, DeliveryId, Disposition, EmailAddress, Host, Mailbox, ProviderError, Receipt, Secret,
    SystemClock,
    request::{Content, Target},
};
use comms_testkit::{
    hostile::{HostileServer, Step},
    http::{HttpServer, Reply},
    tls::TestCa,
};
use rustls::ServerConfig;

/// What a neighbor may lose.
const MAX_LOSS: Duration = Duration::from_millis(100);
/// Messages of the neighbor before an attack, and at least during one.
const NEIGHBOR_MESSAGES: usize = 20;
/// Attempts of the attacked clinic.
const ATTEMPTS: usize = 5;
/// What an attempt may take that is not given up by a timeout.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The head of an answer without its end.
const HEAD: &[u8] = b"HTTP/1.1 202 Accepted\r\nx-message-id: id\r\n";

/// Everything that the clinics share: they are in one process.
struct Process {
    ca: TestCa,
    tls: TlsConfigs,
    egress: EgressGuard,
    sockets: Sockets,
    clients: HttpClients,
    /// The neighbor's API, which works.
    api: HttpServer,
}

impl Process {
    async fn new() -> Self {
        let ca = TestCa::new();
        let tls = TlsConfigs::new(Some(&ca.pem())).unwrap();
        let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(SystemResolver));
        let sockets = Sockets::default();
        let clock = Arc::new(SystemClock);
        let api = HttpServer::builder()
            .tls(ca.server_config(&["localhost"]))
            .start()
            .await
            .unwrap();
        let accepted = Reply::new(202).header("x-message-id", "id");
        api.always("POST", "/v3/mail/send", accepted);
        Self {
            clients: HttpClients::new(tls.clone(), egress.clone(), sockets.clone(), clock),
            ca,
            tls,
            egress,
            sockets,
            api,
        }
    }

    fn sendgrid(&self, url: &str) -> SendgridProvider {
        let settings = SendgridConfig {
            api_key: Secret::new("SG.key".to_owned()),
            from: OwnSender::default(),
            api_url: Some(BaseUrl::parse(url).unwrap()),
            sandbox: false,
        };
        SendgridProvider::new(
            settings,
            mailbox("desk@clinic.example"),
            self.clients.clone(),
        )
        .unwrap()
    }

    fn smtp(&self, port: u16, security: Security) -> SmtpProvider {
        let settings = SmtpConfig {
            host: Host::parse("127.0.0.1").unwrap(),
            port,
            security,
            user: "clinic-user".into(),
            password: Secret::new("password".to_owned()),
            ca_pem: None,
            max_connections: 5,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let (egress, sockets) = (self.egress.clone(), self.sockets.clone());
        SmtpProvider::new(
            settings,
            mailbox("desk@clinic.example"),
            &self.tls,
            egress,
            sockets,
            Arc::new(SystemClock),
        )
        .unwrap()
    }

    fn certificate(&self) -> Arc<ServerConfig> {
        self.ca.server_config(&["127.0.0.1"])
    }

    /// How long the neighbor's messages take, all but the slowest twentieth of them: that is what else the machine does.
    async fn neighbor(&self, is_over: impl Fn() -> bool) -> Duration {
        let provider = self.sendgrid(&self.api.url());
        let mut times = Vec::new();
        while times.len() < NEIGHBOR_MESSAGES || !is_over() {
            let begin = Instant::now();
            send(&provider).await.unwrap();
            times.push(begin.elapsed());
        }
        times.sort();
        times[times.len() * 95 / 100]
    }

    /// Some attempts of `attacked`, and what the neighbor loses meanwhile.
    async fn attack(&self, name: &str, attacked: &dyn Provider) -> Attacked {
        let quiet = self.neighbor(|| true).await;
        let is_over = Cell::new(false);
        let attacking = async {
            let mut longest = Duration::ZERO;
            let mut ended = None;
            for _ in 0..ATTEMPTS {
                let begin = Instant::now();
                let result = send(attacked).await;
                longest = longest.max(begin.elapsed());
                ended = result.err().map(|error| error.disposition);
            }
            is_over.set(true);
            (ended, longest)
        };
        let ((ended, longest), under_attack) =
            tokio::join!(attacking, self.neighbor(|| is_over.get()));
        println!(
            "{name}: neighbor {quiet:?}, attacked {under_attack:?}; attempt {longest:?}: {ended:?}"
        );
        Attacked {
            name: name.to_owned(),
            loss: under_attack.saturating_sub(quiet),
            longest,
            ended,
        }
    }
}

struct Attacked {
    name: String,
    loss: Duration,
    longest: Duration,
    /// `None`: the message was accepted.
    ended: Option<Disposition>,
}

impl Attacked {
    /// What is wrong with it, where the attempt may end in one of these ways.
    fn verdict(&self, endings: &[Option<Disposition>]) -> Option<String> {
        let is_right =
            self.loss < MAX_LOSS && self.longest < AT_ONCE && endings.contains(&self.ended);
        (!is_right).then(|| {
            let Self {
                name,
                loss,
                longest,
                ended,
            } = self;
            format!("{name}: neighbor loses {loss:?}, attempt {longest:?}, {ended:?}")
        })
    }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

async fn send(provider: &dyn Provider) -> Result<Receipt, ProviderError> {
    let message = Message {
        delivery: DeliveryId::parse(&format!("{:032x}", 7)).unwrap(),
        target: Target::Email(mailbox("patient@example.com")),
        content: Arc::new(Content {
            title: Some("Appointment".into()),
            body: Some("See you on Monday.".into()),
            ..Content::default()
        }),
        reply_to: None,
    };
    provider
        .send(&message, Deadline::after(Duration::from_secs(20)))
        .await
}

fn lines(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

/// A script that answers a request with `beginning` and then with `unit` without end.
fn answer(beginning: impl Into<Vec<u8>>, unit: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![
        Step::ReadUntil(b"\r\n\r\n"),
        Step::Say(beginning.into()),
        Step::Flood(unit.into()),
    ]
}

/// A TLS record, as it goes over the wire in clear.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3, high, low], content].concat()
}

fn chunked(rest: &str) -> Vec<u8> {
    [HEAD, &lines("transfer-encoding: chunked\n\n"), &lines(rest)].concat()
}

#[tokio::test]
async fn an_api_that_floods_costs_its_neighbor_nothing() {
    let process = Process::new().await;
    let mut failures = Vec::new();
    for (name, script) in [
        (
            "1xx",
            answer("", lines("HTTP/1.1 103 Early Hints\nlink: </x>\n\n")),
        ),
        ("short 1xx", answer("", lines("HTTP/1.1 100 \n\n"))),
        ("empty lines", answer("", lines("\n"))),
        (
            "headers",
            answer(HEAD, lines("x-filler: aaaaaaaaaaaaaaaaaa\n")),
        ),
        ("one header", answer(HEAD, "x")),
        ("status line", answer("HTTP/1.1 202 ", "a")),
        ("body", answer([HEAD, b"\r\n"].concat(), " ")),
        ("1-byte chunks", answer(chunked(""), lines("1\n \n"))),
        ("chunk extension", answer(chunked("1;"), "a")),
        (
            "chunk extensions",
            answer(chunked(""), lines("1;aaaaaaaaaaaaaaaa\n \n")),
        ),
        ("chunk length", answer(chunked(""), "0")),
        (
            "trailers",
            answer(chunked("0\n"), lines("x: aaaaaaaaaaaaaaaaaa\n")),
        ),
        ("one trailer", answer(chunked("0\nx: "), "a")),
    ] {
        let server = HostileServer::start(Some(process.certificate()), script).unwrap();
        let provider = process.sendgrid(&format!("https://127.0.0.1:{}", server.port()));
        let attacked = process.attack(name, &provider).await;
        failures.extend(attacked.verdict(&[Some(Disposition::Ambiguous)]));
    }
    assert_eq!(failures, Vec::<String>::new());
}

#[tokio::test]
async fn tls_that_floods_costs_its_neighbor_nothing() {
    let process = Process::new().await;
    let mut failures = Vec::new();
    let mut tickets = ServerConfig::clone(&process.certificate());
    tickets.send_tls13_tickets = 4_000;
    let raw = |unit: Vec<u8>| (None, vec![Step::ReadUntil(b"\x03\x03"), Step::Flood(unit)]);
    for (name, (tls, script)) in [
        (
            "tickets",
            (Some(Arc::new(tickets)), vec![Step::ReadUntil(b"never")]),
        ),
        // ServerHello, 65,535 bytes of it, one at a time.
        ("handshake", raw(record(22, &[2]))),
        ("empty handshake records", raw(record(22, &[]))),
        ("change cipher spec", raw(record(20, &[1]))),
        ("warnings", raw(record(21, &[1, 90]))),
        ("no records", raw(vec![0])),
    ] {
        let server = HostileServer::start(tls, script).unwrap();
        let https = process.sendgrid(&format!("https://127.0.0.1:{}", server.port()));
        let smtps = process.smtp(server.port(), Security::ImplicitTls);
        for (kind, provider) in [("https", &https as &dyn Provider), ("smtps", &smtps)] {
            let name = format!("{name} over {kind}");
            let attacked = process.attack(&name, provider).await;
            // What comes as tickets comes after the handshake: the request may have left.
            let mut endings = vec![
                Some(Disposition::Transient),
                Some(Disposition::ProviderDown),
            ];
            if name == "tickets over https" {
                endings = vec![Some(Disposition::Ambiguous)];
            }
            failures.extend(attacked.verdict(&endings));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// The replies up to a command, each when the command has come.
fn smtp(replies: &[&str], unit: &str) -> Vec<Step> {
    let mut script: Vec<Step> = Vec::new();
    for reply in replies {
        script.push(Step::Say(lines(&format!("{reply}\n"))));
        let ends_message = reply.starts_with("354");
        script.push(Step::ReadUntil(if ends_message {
            b"\r\n.\r\n"
        } else {
            b"\r\n"
        }));
    }
    script.push(Step::Flood(lines(unit)));
    script
}

const TO_AUTH: [&str; 3] = [
    "220 smtp.example",
    "250-smtp.example\n250 AUTH PLAIN",
    "235 ok",
];

#[tokio::test]
async fn a_mail_server_that_floods_costs_its_neighbor_nothing() {
    let (transient, ambiguous) = (Some(Disposition::Transient), Some(Disposition::Ambiguous));
    let process = Process::new().await;
    let mut failures = Vec::new();
    let to_body: Vec<_> = TO_AUTH
        .into_iter()
        .chain(["250 ok", "250 ok", "354 go on"])
        .collect();
    for (name, script, ending) in [
        ("greeting", smtp(&[], "220-smtp.example\n"), transient),
        ("one line", smtp(&[], "2"), transient),
        ("1-byte lines", smtp(&[], "\n"), transient),
        (
            "greetings",
            smtp(&[], "220 smtp.example\n250 AUTH PLAIN\n235 ok\n"),
            transient,
        ),
        ("EHLO", smtp(&TO_AUTH[..1], "250-X-FILLER\n"), transient),
        (
            "EHLO, no end of line",
            smtp(&TO_AUTH[..1], "250-X"),
            transient,
        ),
        (
            "replies in advance",
            smtp(&TO_AUTH[..2], "235 ok\n250 ok\n"),
            transient,
        ),
        ("MAIL", smtp(&TO_AUTH, "250-ok\n"), transient),
        ("end of the message", smtp(&to_body, "250-ok\n"), ambiguous),
        ("accepted, then more", smtp(&to_body, "250 ok\n"), None),
    ] {
        let server = HostileServer::start(Some(process.certificate()), script.clone()).unwrap();
        let provider = process.smtp(server.port(), Security::ImplicitTls);
        let attacked = process.attack(name, &provider).await;
        failures.extend(attacked.verdict(&[ending]));
    }
    for (name, script) in [
        ("clear greeting", smtp(&[], "220-smtp.example\n")),
        ("clear EHLO", smtp(&TO_AUTH[..1], "250-STARTTLS\n")),
        (
            "clear STARTTLS",
            smtp(&["220 smtp.example", "250 STARTTLS"], "220 go\n"),
        ),
        (
            "clear, for TLS",
            smtp(&["220 smtp.example", "250 STARTTLS", "220 go"], "\0"),
        ),
    ] {
        let server = HostileServer::start(None, script).unwrap();
        let provider = process.smtp(server.port(), Security::StartTls);
        let attacked = process.attack(name, &provider).await;
        let endings = [
            Some(Disposition::Transient),
            Some(Disposition::ProviderDown),
        ];
        failures.extend(attacked.verdict(&endings));
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// A byte every 20 ms, of what would be right if it came to an end: total time counts, not time without a byte.
#[tokio::test]
async fn a_server_that_drips_is_given_up_in_the_time_of_its_stage() {
    let process = Process::new().await;
    let drip = |unit: Vec<u8>| Step::Drip(unit, Duration::from_millis(20));
    let http = |beginning: &[u8], unit: Vec<u8>| {
        vec![
            Step::ReadUntil(b"\r\n\r\n"),
            Step::Say(beginning.to_vec()),
            drip(unit),
        ]
    };
    let mail = |replies: &[&str], unit: &str| {
        let mut script = smtp(replies, "");
        script.pop();
        script.push(drip(lines(unit)));
        script
    };
    let certificate = || Some(process.certificate());
    let mut servers = Vec::new();
    let mut providers: Vec<(&str, Box<dyn Provider>)> = Vec::new();
    for (name, script) in [
        ("1xx", http(b"", lines("HTTP/1.1 103 Early Hints\n\n"))),
        ("headers", http(HEAD, lines("x: a\n"))),
        ("chunks", http(&chunked(""), lines("1\n \n"))),
        ("trailers", http(&chunked("0\n"), lines("x: a\n"))),
    ] {
        let server = HostileServer::start(certificate(), script).unwrap();
        let url = format!("https://127.0.0.1:{}", server.port());
        providers.push((name, Box::new(process.sendgrid(&url))));
        servers.push(server);
    }
    for (name, script) in [
        ("greeting", mail(&[], "220-smtp.example\n")),
        ("EHLO", mail(&TO_AUTH[..1], "250-X\n")),
        ("MAIL", mail(&TO_AUTH, "250-ok\n")),
    ] {
        let server = HostileServer::start(certificate(), script).unwrap();
        let provider = process.smtp(server.port(), Security::ImplicitTls);
        providers.push((name, Box::new(provider)));
        servers.push(server);
    }
    let server = HostileServer::start(
        None,
        vec![Step::ReadUntil(b"\x03\x03"), drip(record(22, &[2]))],
    );
    let server = server.unwrap();
    let url = format!("https://127.0.0.1:{}", server.port());
    providers.push(("handshake", Box::new(process.sendgrid(&url))));
    servers.push(server);

    let quiet = process.neighbor(|| true).await;
    let is_over = Cell::new(false);
    let attacking = providers.iter().map(|(name, provider)| async move {
        let begin = Instant::now();
        let error = send(&**provider).await.unwrap_err();
        println!("{name}: {:?} {error:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(13), "{name}");
    });
    let attacking = async {
        futures_util::future::join_all(attacking).await;
        is_over.set(true);
    };
    let ((), attacked) = tokio::join!(attacking, process.neighbor(|| is_over.get()));
    assert!(attacked < quiet + MAX_LOSS, "{attacked:?} after {quiet:?}");
}
