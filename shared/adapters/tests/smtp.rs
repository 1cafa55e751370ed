//! The SMTP adapter in real conversations with a scripted server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "smtp/checks.rs"]
mod checks;
#[path = "smtp/conversation.rs"]
mod conversation;
#[path = "smtp/login.rs"]
mod login;
#[path = "smtp/reuse.rs"]
mod reuse;
#[path = "smtp/time.rs"]
mod time;
#[path = "smtp/tls.rs"]
mod tls;
#[path = "smtp/unicode.rs"]
mod unicode;

#[path = "smtp/further.rs"]
mod further;
#[path = "smtp/refusals.rs"]
mod refusals;
#[path = "smtp/replies.rs"]
mod replies;
#[path = "smtp/resumption.rs"]
mod resumption;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, Message, OwnSender, Provider, Sockets, StageOutcome, VerifyStage,
    egress::Resolver,
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{
    CopyField, DeliveryId, Disposition, EmailAddress, ErrorKind, Host, Mailbox, PhoneNumber,
    ProviderError, Receipt, Secret,
    request::{Content, Target},
};
use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, Event, SmtpServer, SmtpServerBuilder, Stage, TlsMode},
    tls::{OwnCertificate, TestCa},
};
use tokio::time::Instant;

const PASSWORD: &str = "planted-password";

/// Gives loopback for every name, so that names can be tested without DNS.
struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "hangs.example" {
            return std::future::pending().await;
        }
        if name == "unknown.example" {
            return Err(io::Error::other("no such name"));
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

struct World {
    server: SmtpServer,
    provider: SmtpProvider,
    clock: Arc<ManualClock>,
}

struct Options {
    tls: TlsMode,
    host: &'static str,
    names: &'static [&'static str],
    trusted: bool,
    expired: bool,
    /// The server shows a certificate of its own for `names`, and that is what is given as `caPem`.
    shows_given: bool,
    allow: &'static str,
    password: &'static str,
    max_connections: u8,
    sender: &'static str,
    ehlo_name: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: TlsMode::StartTls,
            host: "127.0.0.1",
            names: &["127.0.0.1"],
            trusted: true,
            expired: false,
            shows_given: false,
            allow: "127.0.0.0/8",
            password: PASSWORD,
            max_connections: 5,
            sender: "appointments@clinic.example",
            ehlo_name: None,
        }
    }
}

impl World {
    async fn new(
        options: Options,
        script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder,
    ) -> Self {
        let ca = TestCa::new();
        let own = OwnCertificate::authority(options.names);
        let config = if options.shows_given {
            own.server_config()
        } else if options.expired {
            ca.expired_server_config(options.names)
        } else {
            ca.server_config(options.names)
        };
        let builder = SmtpServer::builder()
            .tls(options.tls, config)
            .credentials("clinic-user", PASSWORD);
        let server = script(builder).start().await;
        let settings = SmtpConfig {
            host: Host::parse(options.host).unwrap(),
            port: server.port(),
            security: match options.tls {
                TlsMode::Implicit => Security::ImplicitTls,
                TlsMode::StartTls | TlsMode::None => Security::StartTls,
            },
            user: "clinic-user".into(),
            password: Secret::new(options.password.to_owned()),
            ca_pem: options.trusted.then(|| {
                if options.shows_given {
                    own.pem()
                } else {
                    ca.pem()
                }
            }),
            max_connections: options.max_connections,
            from: OwnSender::default(),
            ehlo_name: options.ehlo_name.map(|name| Host::parse(name).unwrap()),
        };
        let clock = Arc::new(ManualClock::new());
        let guard = EgressGuard::new(options.allow.parse().unwrap(), Arc::new(Loopback));
        let tls = TlsConfigs::new(None).unwrap();
        let provider = SmtpProvider::new(
            settings,
            Mailbox {
                address: EmailAddress::parse(options.sender).unwrap(),
                name: Some("Clinic".into()),
            },
            &tls,
            guard,
            Sockets::default(),
            clock.clone(),
        )
        .unwrap();
        Self {
            server,
            provider,
            clock,
        }
    }

    async fn plain(script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder) -> Self {
        Self::new(Options::default(), script).await
    }

    async fn send(&self) -> Result<Receipt, ProviderError> {
        self.send_within(Duration::from_secs(20)).await
    }

    /// Sends within 20 seconds to a server that says nothing any more at `stage`, and says how long
    /// that took. The clock stands still until the server is there, and then goes at once to what is
    /// waited for.
    async fn send_to_a_server_that_hangs(
        &self,
        stage: Stage,
    ) -> (Result<Receipt, ProviderError>, Duration) {
        let sending = async {
            let result = self.send().await;
            (result, Instant::now())
        };
        let pausing = async {
            self.server.wait_for_stage(stage, 1).await;
            tokio::time::pause();
            Instant::now()
        };
        let ((result, end), hung) = tokio::join!(sending, pausing);
        tokio::time::resume();
        (result, end - hung)
    }

    async fn send_within(&self, time: Duration) -> Result<Receipt, ProviderError> {
        self.provider.send(&message(1), Deadline::after(time)).await
    }

    async fn send_message(&self, message: &Message) -> Result<Receipt, ProviderError> {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.provider.send(message, deadline).await
    }

    /// What the client said on the first connection that begins with `start`.
    fn said(&self, start: &str) -> Vec<String> {
        let lines = self.server.transcript_of(1).into_iter();
        lines
            .filter_map(|line| line.strip_prefix("C: ").map(ToOwned::to_owned))
            .filter(|line| line.starts_with(start))
            .collect()
    }
}

fn message(number: u8) -> Message {
    Message {
        delivery: DeliveryId::parse(&format!("{number:032x}")).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("Appointment confirmed".into()),
            body: Some("See you on Monday.\n.\nA line with a dot of its own.".into()),
            html: Some("<p>See you on Monday.</p>".into()),
            ..Content::default()
        }),
        reply_to: None,
    }
}

/// The same with copies.
fn message_with(cc: &[&str], bcc: &[&str]) -> Message {
    let addresses = |texts: &[&str]| {
        let addresses = texts.iter().map(|text| EmailAddress::parse(text).unwrap());
        addresses.collect()
    };
    changed(|content| {
        content.cc = addresses(cc);
        content.bcc = addresses(bcc);
    })
}

fn changed(change: impl FnOnce(&mut Content)) -> Message {
    let mut message = message(1);
    let mut content = (*message.content).clone();
    change(&mut content);
    message.content = Arc::new(content);
    message
}

fn message_to(address: &str) -> Message {
    let mut message = message(1);
    message.target = Target::Email(Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    });
    message
}

fn refused_copies(receipt: &Receipt) -> Vec<(CopyField, u8, Option<&str>)> {
    let copies = receipt.refused_copies.iter();
    copies
        .map(|copy| {
            let code = copy.code.as_ref().map(comms_core::ProviderCode::as_str);
            (copy.field, copy.index, code)
        })
        .collect()
}

fn verdict(result: &Result<Receipt, ProviderError>) -> (Disposition, ErrorKind) {
    let error = result.as_ref().unwrap_err();
    (error.disposition, error.kind)
}

#[tokio::test]
async fn refusals_are_classified_by_their_stage() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, SenderNotAllowed, Timeout, Unavailable,
    };
    let replied = |stage, text, disposition, kind| (stage, Action::reply(text), disposition, kind);
    for (stage, action, disposition, kind) in [
        (Stage::Connect, Action::Close, Transient, Unavailable),
        (
            Stage::Greeting,
            Action::reply_then_close("554 no service"),
            Transient,
            Unavailable,
        ),
        replied(Stage::Ehlo, "421 4.3.2 closing", Transient, Unavailable),
        replied(
            Stage::StartTls,
            "454 4.7.0 TLS not available",
            Transient,
            Unavailable,
        ),
        (Stage::Tls, Action::Close, Transient, Unavailable),
        (Stage::EhloAfterTls, Action::Close, Transient, Unavailable),
        replied(Stage::Auth, "454 4.7.0 later", Transient, Unavailable),
        replied(
            Stage::Mail,
            "550 5.7.1 not your sender",
            ProviderDown,
            SenderNotAllowed,
        ),
        replied(Stage::Mail, "451 4.3.0 later", Transient, Unavailable),
        replied(
            Stage::Rcpt,
            "550 5.1.1 patient@example.com unknown",
            Final,
            InvalidRecipient,
        ),
        replied(Stage::Rcpt, "450 4.2.0 greylisted", Transient, Unavailable),
        (Stage::Data, Action::Close, Transient, Unavailable),
        (Stage::Data, Action::Reset, Transient, Unavailable),
        replied(Stage::Body, "451 4.3.0 later", Transient, Unavailable),
        replied(Stage::Body, "554 5.6.0 malformed", Final, InvalidMessage),
        replied(Stage::Body, "554 5.7.1 spam", ProviderDown, PolicyRefused),
        replied(
            Stage::Body,
            "571 Delivery not authorized",
            ProviderDown,
            PolicyRefused,
        ),
        (
            Stage::Body,
            Action::reply_then_close("421 4.4.2 closing"),
            Transient,
            Unavailable,
        ),
        (Stage::Body, Action::Close, Ambiguous, Timeout),
        (Stage::Body, Action::Reset, Ambiguous, Timeout),
        (Stage::Body, Action::AcceptThenClose, Ambiguous, Timeout),
    ] {
        let label = format!("{stage:?} {action:?}");
        let world = World::plain(|server| server.on(stage, action)).await;
        let result = world.send().await;
        assert_eq!(verdict(&result), (disposition, kind), "{label}");
        let error = result.unwrap_err();
        assert!(
            !format!("{error:?} {error}").contains("patient"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_message_of_another_channel_is_refused_and_nothing_is_connected_to() {
    let world = World::plain(|server| server).await;
    let mut message = message(1);
    message.target = Target::Whatsapp(PhoneNumber::parse("+15550100").unwrap());
    assert_eq!(
        verdict(&world.send_message(&message).await),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
    assert_eq!(world.server.connections(), 0);
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let world = World::plain(|server| server).await;
    let body = (0..40_000).fold(String::new(), |text, number| {
        text + &format!(".line {number} with some text\n")
    });
    let large = changed(|content| {
        content.html = None;
        content.body = Some(body.clone());
    });
    world.send_message(&large).await.unwrap();
    let text = world.server.messages()[0].text();
    let (_, got) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(got.replace("\r\n", "\n").trim_end(), body.trim_end());
}
