//! The SMTP adapter in real conversations with a scripted server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can not go on has failed"
)]

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, Message, Provider, StageOutcome, VerifyStage,
    egress::Resolver,
    smtp::{Security, SmtpProvider, SmtpSettings},
    tls::TlsConfigs,
};
use comms_core::{
    DeliveryId, Disposition, EmailAddress, ErrorKind, Host, Mailbox, ProviderError, Receipt,
    Secret,
    request::{Content, Target},
};
use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, SmtpServer, SmtpServerBuilder, Stage, TlsMode},
    tls::TestCa,
};

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
    allow: &'static str,
    password: &'static str,
    max_connections: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: TlsMode::StartTls,
            host: "127.0.0.1",
            names: &["127.0.0.1"],
            trusted: true,
            expired: false,
            allow: "127.0.0.0/8",
            password: PASSWORD,
            max_connections: 5,
        }
    }
}

impl World {
    async fn new(
        options: Options,
        script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder,
    ) -> Self {
        let ca = TestCa::new();
        let config = if options.expired {
            ca.expired_server_config(options.names)
        } else {
            ca.server_config(options.names)
        };
        let builder = SmtpServer::builder()
            .tls(options.tls, config)
            .credentials("clinic-user", PASSWORD);
        let server = script(builder).start().await;
        let settings = SmtpSettings {
            host: Host::parse(options.host).unwrap(),
            port: server.port(),
            security: match options.tls {
                TlsMode::Implicit => Security::ImplicitTls,
                TlsMode::StartTls | TlsMode::None => Security::StartTls,
            },
            user: "clinic-user".into(),
            password: Secret::new(options.password.to_owned()),
            ca_pem: options.trusted.then(|| ca.pem()),
            max_connections: options.max_connections,
            sender: Mailbox {
                address: EmailAddress::parse("appointments@clinic.example").unwrap(),
                name: Some("Clinic".into()),
            },
            ehlo_name: None,
        };
        let clock = Arc::new(ManualClock::new());
        let guard = EgressGuard::new(options.allow.parse().unwrap(), Arc::new(Loopback));
        let tls = TlsConfigs::new(None).unwrap();
        let provider = SmtpProvider::new(settings, &tls, guard, clock.clone()).unwrap();
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

    async fn send_within(&self, time: Duration) -> Result<Receipt, ProviderError> {
        self.provider.send(&message(1), Deadline::after(time)).await
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

fn verdict(result: &Result<Receipt, ProviderError>) -> (Disposition, ErrorKind) {
    let error = result.as_ref().unwrap_err();
    (error.disposition, error.kind)
}

#[tokio::test]
async fn a_message_goes_out_over_starttls_and_over_implicit_tls() {
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let world = World::new(
            Options {
                tls,
                ..Options::default()
            },
            |server| server,
        )
        .await;
        let receipt = world.send().await.unwrap();
        let messages = world.server.messages();
        assert_eq!(messages.len(), 1);
        let got = &messages[0];
        assert!(got.over_tls);
        assert_eq!(got.authenticated_as.as_deref(), Some("clinic-user"));
        assert_eq!(got.mail_from, "appointments@clinic.example");
        assert_eq!(got.rcpt_to, ["patient@example.com"]);
        let text = got.text();
        assert!(
            text.contains(&format!("Message-ID: {}\r\n", receipt.message_id)),
            "{text}"
        );
        assert!(
            text.contains("\r\n.\r\nA line with a dot"),
            "dots arrive as they were: {text}"
        );
        assert_eq!(receipt.message_id, format!("<{:032x}@clinic.example>", 1));
    }
}

#[tokio::test]
async fn names_are_resolved_and_the_certificate_is_for_the_name() {
    let options = || Options {
        host: "smtp.clinic.example",
        names: &["smtp.clinic.example"],
        ..Options::default()
    };
    let world = World::new(options(), |server| server).await;
    world.send().await.unwrap();
    let world = World::new(
        Options {
            names: &["other.example"],
            ..options()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_conversation_before_the_password() {
    for options in [
        Options {
            trusted: false,
            ..Options::default()
        },
        Options {
            expired: true,
            ..Options::default()
        },
        Options {
            tls: TlsMode::Implicit,
            trusted: false,
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unauthenticated)
        );
        assert!(
            !world
                .server
                .transcript()
                .iter()
                .any(|line| line.contains("AUTH P")),
            "{:?}",
            world.server.transcript()
        );
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_without_starttls() {
    let world = World::plain(|server| server.without_extension("STARTTLS")).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    let said: Vec<_> = world
        .server
        .transcript()
        .into_iter()
        .filter(|line| line.contains("C: "))
        .collect();
    assert_eq!(said.len(), 1, "EHLO and nothing after it: {said:?}");
}

#[tokio::test]
async fn what_arrives_in_clear_with_the_starttls_reply_is_never_taken_for_tls() {
    let injected = b"250-injected\r\n250 AUTH PLAIN\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::StartTls, Action::Inject(injected))).await;
    let (disposition, _) = verdict(&world.send().await);
    assert!(matches!(
        disposition,
        Disposition::ProviderDown | Disposition::Transient
    ));
    assert!(world.server.messages().is_empty());
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("AUTH PLAIN ") && line.contains("C: "))
    );
}

#[tokio::test]
async fn a_wrong_password_is_provider_down_with_the_servers_code() {
    let world = World::new(
        Options {
            password: "wrong",
            ..Options::default()
        },
        |server| server,
    )
    .await;
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert_eq!(result.unwrap_err().code.unwrap().as_str(), "535 5.7.8");
}

#[tokio::test]
async fn auth_login_is_used_where_plain_is_not_offered() {
    let world = World::plain(|server| server.auth_mechanisms(&["LOGIN"])).await;
    world.send().await.unwrap();
    let world = World::plain(|server| server.auth_mechanisms(&["CRAM-MD5"])).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
}

#[tokio::test]
async fn refusals_are_classified_by_their_stage() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, SenderNotAllowed, Timeout, Unavailable,
    };
    for (stage, action, disposition, kind) in [
        (Stage::Connect, Action::Close, Transient, Unavailable),
        (
            Stage::Greeting,
            Action::reply_then_close("554 no service"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Ehlo,
            Action::reply("421 4.3.2 closing"),
            Transient,
            Unavailable,
        ),
        (
            Stage::StartTls,
            Action::reply("454 4.7.0 TLS not available"),
            Transient,
            Unavailable,
        ),
        (Stage::Tls, Action::Close, Transient, Unavailable),
        (Stage::EhloAfterTls, Action::Close, Transient, Unavailable),
        (
            Stage::Auth,
            Action::reply("454 4.7.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Mail,
            Action::reply("550 5.7.1 not your sender"),
            ProviderDown,
            SenderNotAllowed,
        ),
        (
            Stage::Mail,
            Action::reply("451 4.3.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Rcpt,
            Action::reply("550 5.1.1 patient@example.com unknown"),
            Final,
            InvalidRecipient,
        ),
        (
            Stage::Rcpt,
            Action::reply("450 4.2.0 greylisted"),
            Transient,
            Unavailable,
        ),
        (Stage::Data, Action::Close, Transient, Unavailable),
        (Stage::Data, Action::Reset, Transient, Unavailable),
        (
            Stage::Body,
            Action::reply("451 4.3.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Body,
            Action::reply("554 5.6.0 malformed"),
            Final,
            InvalidMessage,
        ),
        (
            Stage::Body,
            Action::reply("554 5.7.1 spam"),
            ProviderDown,
            PolicyRefused,
        ),
        (
            Stage::Body,
            Action::reply_then_close("421 4.4.2 closing"),
            Ambiguous,
            Timeout,
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
async fn a_server_that_hangs_costs_no_more_than_the_deadline() {
    for stage in [
        Stage::Greeting,
        Stage::Ehlo,
        Stage::StartTls,
        Stage::Tls,
        Stage::EhloAfterTls,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
    ] {
        let world = World::plain(|server| server.on(stage, Action::Hang)).await;
        // A body is not begun with less than two seconds left.
        let time = if stage == Stage::Body { 3_500 } else { 150 };
        let result = world.send_within(Duration::from_millis(time)).await;
        let expected = if stage == Stage::Body {
            Disposition::Ambiguous
        } else {
            Disposition::Transient
        };
        assert_eq!(
            verdict(&result),
            (expected, ErrorKind::Timeout),
            "{stage:?}"
        );
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_costs_no_more_than_the_deadline() {
    let options = Options {
        host: "hangs.example",
        names: &["hangs.example"],
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    let result = world.send_within(Duration::from_millis(150)).await;
    assert_eq!(
        verdict(&result),
        (Disposition::Transient, ErrorKind::Timeout)
    );
}

#[tokio::test]
async fn a_body_that_the_deadline_would_cut_off_is_not_begun() {
    let world = World::plain(|server| server).await;
    let result = world.send_within(Duration::from_millis(1_900)).await;
    assert_eq!(
        verdict(&result),
        (Disposition::Transient, ErrorKind::Timeout)
    );
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn odd_replies_do_not_panic_and_do_not_turn_an_acceptance_into_a_doubt() {
    let blank = "250-mail.example\n250- \n250 AUTH PLAIN";
    let world = World::plain(|server| server.on(Stage::EhloAfterTls, Action::reply(blank))).await;
    assert_eq!(
        verdict(&world.send().await).0,
        Disposition::Transient,
        "a blank line in the EHLO reply"
    );
    let world = World::plain(|server| server.on(Stage::Body, Action::reply("250 Grüße"))).await;
    world.send().await.unwrap();
}

#[tokio::test]
async fn a_connection_is_used_again_without_another_word() {
    let world = World::plain(|server| server).await;
    for number in 1..=3 {
        world
            .provider
            .send(&message(number), Deadline::after(Duration::from_secs(20)))
            .await
            .unwrap();
    }
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (3, 1)
    );
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("NOOP"))
    );
}

#[tokio::test]
async fn a_connection_whose_conversation_was_cut_short_is_never_used_again() {
    let world = World::plain(|server| server.on(Stage::Body, Action::Hang)).await;
    let cut = world.send_within(Duration::from_millis(3_500)).await;
    assert_eq!(cut.unwrap_err().disposition, Disposition::Ambiguous);
    // Were the connection used again, the reply to the first body would pass for the second's.
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
    assert_eq!(world.server.messages().len(), 1);
}

#[tokio::test]
async fn a_send_that_is_dropped_midway_does_not_leave_its_connection_behind() {
    let world = World::plain(|server| server.on(Stage::Rcpt, Action::Hang)).await;
    let message = message(1);
    let mut send = world
        .provider
        .send(&message, Deadline::after(Duration::from_secs(20)));
    tokio::select! {
        _ = &mut send => panic!("the server hangs"),
        () = world.server.wait_for_stage(Stage::Rcpt, 1) => {}
    }
    drop(send);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_refused_recipient_does_not_cost_the_connection() {
    let world =
        World::plain(|server| server.on(Stage::Rcpt, Action::reply("550 5.1.1 unknown"))).await;
    assert_eq!(verdict(&world.send().await).0, Disposition::Final);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn connections_that_the_server_closed_while_idle_cost_no_message() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.server.close_idle_connections().await;
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_connection_that_closes_at_the_next_message_costs_no_message() {
    for action in [
        Action::Close,
        Action::reply_then_close("421 4.7.0 too many messages"),
    ] {
        let world = World::plain(|server| server).await;
        world.send().await.unwrap();
        world.server.on(Stage::Mail, action);
        world.send().await.unwrap();
        assert_eq!(
            (world.server.messages().len(), world.server.connections()),
            (2, 2)
        );
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.clock.advance(Duration::from_mins(5));
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let world = World::new(options, |server| server.max_connections(2)).await;
    let messages: Vec<_> = (1..=40).map(message).collect();
    let sends = messages.iter().map(|message| {
        world
            .provider
            .send(message, Deadline::after(Duration::from_secs(20)))
    });
    let results = futures_util::future::join_all(sends).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (40, 2)
    );
}

#[tokio::test]
async fn when_no_connection_comes_free_the_message_is_not_sent_and_the_provider_not_blamed() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server.on(Stage::Body, Action::Hang)).await;
    let (first, second) = (message(1), message(2));
    let blocked = world
        .provider
        .send(&first, Deadline::after(Duration::from_secs(20)));
    let waiting = async {
        world.server.wait_for_stage(Stage::Body, 1).await;
        world
            .provider
            .send(&second, Deadline::after(Duration::from_millis(100)))
            .await
    };
    tokio::select! {
        _ = blocked => panic!("the server hangs"),
        result = waiting => {
            let error = result.unwrap_err();
            assert_eq!((error.disposition, error.kind, error.unhealthy),
                       (Disposition::Transient, ErrorKind::Timeout, false));
        }
    }
}

#[tokio::test]
async fn addresses_and_ports_that_are_not_allowed_are_not_connected_to() {
    for options in [
        Options {
            allow: "",
            ..Options::default()
        },
        Options {
            allow: "",
            host: "rebinding.example",
            names: &["rebinding.example"],
            ..Options::default()
        },
        Options {
            allow: "127.0.0.0/8:1",
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unavailable)
        );
        assert_eq!(world.server.connections(), 0);
    }
    let world = World::new(
        Options {
            host: "unknown.example",
            names: &["x"],
            ..Options::default()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::Transient, ErrorKind::Unavailable)
    );
}

#[tokio::test]
async fn a_check_goes_through_every_stage_and_sends_nothing() {
    use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};

    let world = World::plain(|server| server).await;
    let report = world
        .provider
        .verify(Deadline::after(Duration::from_secs(20)))
        .await;
    let stages: Vec<_> = report.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages, [Resolve, Egress, Connect, Tls, Authenticate]);
    assert!(
        report
            .iter()
            .all(|stage| stage.outcome == StageOutcome::Passed),
        "{report:?}"
    );
    assert!(world.server.messages().is_empty());
    assert!(
        world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("QUIT"))
    );
}

#[tokio::test]
async fn a_check_stops_at_the_stage_that_fails() {
    use ErrorKind::{Unauthenticated, Unavailable};

    let failed = async |options: Options| {
        let world = World::new(options, |server| server).await;
        let report = world
            .provider
            .verify(Deadline::after(Duration::from_secs(20)))
            .await;
        let last = report.last().unwrap().clone();
        assert!(
            report[..report.len() - 1]
                .iter()
                .all(|stage| stage.outcome == StageOutcome::Passed)
        );
        let StageOutcome::Failed { kind, detail, .. } = last.outcome else {
            panic!("{report:?}")
        };
        assert!(detail.ends_with('.'));
        (last.stage, kind)
    };
    let unknown = Options {
        host: "unknown.example",
        ..Options::default()
    };
    assert_eq!(failed(unknown).await, (VerifyStage::Resolve, Unavailable));
    assert_eq!(
        failed(Options {
            allow: "",
            ..Options::default()
        })
        .await,
        (VerifyStage::Egress, Unavailable)
    );
    assert_eq!(
        failed(Options {
            expired: true,
            ..Options::default()
        })
        .await,
        (VerifyStage::Tls, Unauthenticated)
    );
    assert_eq!(
        failed(Options {
            password: "wrong",
            ..Options::default()
        })
        .await,
        (VerifyStage::Authenticate, Unauthenticated)
    );
}
