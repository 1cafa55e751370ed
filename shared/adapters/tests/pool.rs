//! The pools of SMTP connections and the ceiling above them, with scripted servers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

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
async fn no_more_sockets_are_open_than_the_ceiling_allows_whoever_sends() {
    let process = Process::new(3);
    let peak = Arc::new(Mutex::new(0));
    let watched = |server: SmtpServerBuilder| {
        let (peak, sockets) = (peak.clone(), process.sockets.clone());
        server.on_message(Arc::new(move |_| {
            let now = sockets.statistics();
            let mut peak = peak.lock().unwrap();
            *peak = now.held.max(now.open).max(*peak);
        }))
    };
    let one = process.clinic(5, watched).await;
    let other = process.clinic(5, watched).await;
    let (of_one, of_other) = tokio::join!(one.send_at_once(10), other.send_at_once(10));
    all_sent(&of_one);
    all_sent(&of_other);
    assert_eq!((one.sent(), other.sent()), (10, 10));
    assert_eq!(*peak.lock().unwrap(), 3);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn at_the_ceiling_the_connection_that_was_idle_for_the_longest_makes_room() {
    let process = Process::new(2);
    let first = process.clinic(5, |server| server).await;
    let second = process.clinic(5, |server| server).await;
    let third = process.clinic(5, |server| server).await;
    first.send().await.unwrap();
    second.send().await.unwrap();
    first.send().await.unwrap();
    third.send().await.unwrap();
    second.until_closed(1).await;
    let said: Vec<_> = second.server.transcript_of(1);
    assert!(said.contains(&"C: QUIT".to_owned()), "{said:?}");
    first.send().await.unwrap();
    assert_eq!(
        (first.server.connections(), process.statistics().retired),
        (
            1,
            Retirements {
                ceiling: 1,
                ..Retirements::default()
            }
        )
    );
}

#[tokio::test]
async fn a_clinic_with_much_to_send_does_not_keep_another_waiting_for_more_than_its_connections() {
    let process = Process::new(2);
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = |name: &'static str| {
        let order = order.clone();
        move |server: SmtpServerBuilder| {
            server.on_message(Arc::new(move |_| order.lock().unwrap().push(name)))
        }
    };
    let busy = process.clinic(5, noted("busy")).await;
    let quiet = process.clinic(5, noted("quiet")).await;
    // In this order, so that the fifty are there before the one.
    let (many, one) = tokio::join!(busy.send_at_once(50), quiet.send());
    all_sent(&many);
    one.unwrap();
    let order = order.lock().unwrap();
    let before = order.iter().position(|name| *name == "quiet").unwrap();
    // Two connections are in use, three more are waited for, and one ends while the one is made.
    assert!(before <= 6, "{before} messages went before");
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn at_the_ceiling_a_connection_goes_to_the_next_message_of_its_own_where_nobody_else_waits() {
    let process = Process::new(1);
    let clinic = process.clinic(5, |server| server).await;
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.server.connections()), (10, 1));
}

#[tokio::test]
async fn a_request_over_http_takes_its_place_under_the_ceiling_and_gives_it_back() {
    let process = Process::new(1);
    let clinic = process.clinic(5, |server| server).await;
    clinic.send().await.unwrap();
    let config = process.ca.server_config(&["localhost"]);
    let api = HttpServer::builder().tls(config).start().await.unwrap();
    let path = "/v3/mail/send";
    api.on("POST", path, Reply::new(202).header("x-message-id", "id"));
    api.on("POST", path, Reply::hang());
    let settings = SendgridConfig {
        api_key: Secret::new("planted-key".to_owned()),
        from: OwnSender::default(),
        api_url: Some(BaseUrl::parse(&api.url()).unwrap()),
        sandbox: false,
    };
    let http = HttpClients::new(
        process.tls(),
        guard(),
        process.sockets.clone(),
        process.clock.clone(),
    );
    let sendgrid =
        SendgridProvider::new(settings, mailbox("appointments@clinic.example"), http).unwrap();
    let first = message(1);
    sendgrid.send(&first, Deadline::after(TIME)).await.unwrap();
    clinic.until_closed(1).await;
    assert_eq!(process.statistics().held, 0);

    // While a request is under way, nobody else has a place.
    let hanging = sendgrid.send(&first, Deadline::after(TIME));
    let refused = async {
        api.wait_for_requests(2).await;
        assert_eq!(process.statistics().held, 1);
        let deadline = Deadline::after(Duration::from_millis(2_100));
        clinic.provider.send(&first, deadline).await.unwrap_err()
    };
    tokio::select! {
        _ = hanging => panic!("the API hangs"),
        error = refused => assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Transient, ErrorKind::Timeout, false)
        ),
    }
    assert_eq!(process.statistics().timed_out, 1);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_provider_that_is_dropped_takes_its_connections_along_and_their_places_are_free() {
    let process = Process::new(2);
    let old = process.clinic(2, |server| server).await;
    let new = process.clinic(2, |server| server).await;
    all_sent(&old.send_at_once(2).await);
    assert_eq!(process.statistics().idle, 2);
    let Clinic { server, provider } = old;
    drop(provider);
    let now = process.statistics();
    assert_eq!((now.held, now.open, now.retired.dropped), (0, 0, 2));
    for connection in 1..=2 {
        let closed = |event: &Event| *event == Event::Closed { connection };
        server.wait_for_event(closed).await;
    }
    all_sent(&new.send_at_once(4).await);
    assert_eq!(process.statistics().retired.ceiling, 0);
}

/// Every way in which a server ends a connection that is idle, or at the next message before it has the
/// whole of it.
#[tokio::test]
async fn a_kept_connection_that_the_server_ended_costs_no_message_and_makes_no_second_copy() {
    let good_bye = || Action::reply_then_close("421 4.4.2 idle for too long");
    for action in [Action::Close, Action::Reset, good_bye()] {
        let process = Process::new(10);
        let clinic = process.clinic(2, |server| server).await;
        clinic.send().await.unwrap();
        clinic.server.end_idle_connections(action.clone()).await;
        clinic.send().await.unwrap();
        let now = process.statistics();
        assert_eq!(
            (clinic.sent(), clinic.server.connections()),
            (2, 2),
            "{action:?}"
        );
        // It was seen before anything was said.
        assert_eq!((now.stale_retried, now.retired.server_closed), (0, 1));
    }
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
        for action in [Action::Close, Action::Reset, good_bye()] {
            for pipelining in [true, false] {
                let process = Process::new(10);
                let script = |server: SmtpServerBuilder| {
                    if pipelining {
                        server
                    } else {
                        server.without_extension("PIPELINING")
                    }
                };
                let clinic = process.clinic(2, script).await;
                clinic.send().await.unwrap();
                clinic.server.on(stage, action.clone());
                clinic.send().await.unwrap();
                let now = process.statistics();
                assert_eq!(
                    (clinic.sent(), clinic.server.connections()),
                    (2, 2),
                    "{stage:?} {action:?}"
                );
                assert_eq!((now.stale_retried, now.retired.server_closed), (1, 1));
                process.assert_nothing_is_lost();
            }
        }
    }
}

#[tokio::test]
async fn an_end_on_a_new_connection_is_the_servers_word_and_not_tried_again() {
    let process = Process::new(10);
    let clinic = process
        .clinic(2, |server| server.on(Stage::Mail, Action::Close))
        .await;
    let error = clinic.send().await.unwrap_err();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Transient, ErrorKind::Unavailable)
    );
    assert_eq!(clinic.server.connections(), 1);
    process.assert_nothing_is_lost();
}

/// Sends while the server does not answer MAIL on a connection that was kept, and says how long that
/// took. The clock stands still until then, and runs again when the client has come back.
async fn send_to_a_peer_that_is_gone(
    clinic: &Clinic,
    deadline: Duration,
) -> (Result<Receipt, ProviderError>, Duration) {
    let mails =
        |event: &&Event| matches!(event, Event::Reached { stage, .. } if *stage == Stage::Mail);
    let before = clinic.server.events().iter().filter(mails).count();
    let connections = clinic.server.connections();
    clinic.server.on(Stage::Mail, Action::Hang);
    let first = message(1);
    let sending = async {
        let result = clinic
            .provider
            .send(&first, Deadline::after(deadline))
            .await;
        (result, Instant::now())
    };
    let pausing = async {
        clinic.server.wait_for_stage(Stage::Mail, before + 1).await;
        tokio::time::pause();
        let hung = Instant::now();
        let next = connections + 1;
        let back = |event: &Event| *event == Event::Connected { connection: next };
        tokio::select! {
            _ = clinic.server.wait_for_event(back) => {}
            // Where it does not come back, the clock is needed for that.
            () = tokio::time::sleep(TIME) => {}
        }
        tokio::time::resume();
        hung
    };
    let ((result, end), hung) = tokio::join!(sending, pausing);
    (result, end.saturating_duration_since(hung))
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_costs_no_message_and_seconds_once() {
    let process = Process::new(10);
    let clinic = process.clinic(3, |server| server).await;
    all_sent(&clinic.send_at_once(3).await);
    assert_eq!(process.statistics().idle, 3);
    // As after a freeze: nothing was heard of the connections for a while.
    process.clock.advance(Duration::from_mins(1));
    let (result, time) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(20)).await;
    result.unwrap();
    assert_eq!((clinic.sent(), clinic.server.connections()), (4, 4));
    assert!(time < Duration::from_secs(6), "{time:?}");
    let now = process.statistics();
    // The two others would have cost as much each.
    assert_eq!(
        (now.stale_retried, now.idle, now.retired.server_closed),
        (1, 1, 3)
    );
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_server_that_was_heard_just_now_has_the_full_time_for_its_reply() {
    let process = Process::new(10);
    let clinic = process.clinic(1, |server| server).await;
    clinic.send().await.unwrap();
    let (result, time) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(20)).await;
    result.unwrap();
    assert_eq!((clinic.sent(), clinic.server.connections()), (2, 2));
    // Eight seconds, less what went by before the clock was stopped.
    assert!(time > Duration::from_secs(6), "{time:?}");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_not_replaced_when_there_is_no_time_for_a_message_any_more() {
    let process = Process::new(10);
    let clinic = process.clinic(1, |server| server).await;
    clinic.send().await.unwrap();
    let (result, _) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(10)).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Transient, ErrorKind::Timeout)
    );
    assert_eq!((clinic.sent(), clinic.server.connections()), (1, 1));
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_limit_of_messages_per_connection_is_met_once_and_then_kept_until_it_is_forgotten() {
    let process = Process::new(10);
    let limited = |server: SmtpServerBuilder| server.max_messages_per_session(3);
    let clinic = process.clinic(1, limited).await;
    for _ in 0..12 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (12, 1));
    assert_eq!(clinic.server.connections(), 4);
    let now = process.statistics();
    assert_eq!(
        (now.retired.server_closed, now.retired.learned),
        (1, 3),
        "{now:?}"
    );

    process.clock.advance(Duration::from_mins(10));
    for _ in 0..6 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (18, 2));
}

#[tokio::test]
async fn a_limit_of_messages_that_the_server_announces_is_never_met() {
    let process = Process::new(10);
    let limited = |server: SmtpServerBuilder| {
        server
            .extensions(&["PIPELINING", "LIMITS RCPTMAX=50 MAILMAX=2"])
            .max_messages_per_session(2)
    };
    let clinic = process.clinic(1, limited).await;
    for _ in 0..6 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (6, 0));
    assert_eq!(clinic.server.connections(), 3);
    assert_eq!(process.statistics().retired.messages, 3);
}

#[tokio::test]
async fn a_server_that_allows_fewer_connections_than_the_settings_costs_no_message() {
    let process = Process::new(100);
    let limited = |server: SmtpServerBuilder| server.max_connections(2);
    let clinic = process.clinic(5, limited).await;
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.said("421")), (10, 3));
    // From now on it is known.
    all_sent(&clinic.send_at_once(20).await);
    let now = process.statistics();
    assert_eq!((clinic.sent(), clinic.said("421")), (30, 3));
    assert_eq!((now.opened, now.open, now.one_too_many), (2, 2, 3));
    process.assert_nothing_is_lost();

    process.clock.advance(Duration::from_mins(10));
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.said("421")), (40, 6));
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn idle_connections_stay_at_a_server_without_a_limit_until_it_refuses_one() {
    let process = Process::new(100);
    let clinic = process
        .clinic(5, |server| server.max_connections(100))
        .await;
    let limit = clinic.provider.connection_limit().unwrap().clone();
    limit.grant(Granted::Unlimited, true);
    all_sent(&clinic.send_at_once(4).await);
    process.sockets.close_at_invocation_end(TIME).await;
    let kept = process.statistics().idle;
    assert!(kept > 0, "{kept}");
    limit.grant(Granted::Connections(5), true);
    process.sockets.close_at_invocation_end(TIME).await;
    assert_eq!(process.statistics().idle, 0);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn idle_connections_end_with_the_invocation_and_say_goodbye() {
    let process = Process::new(100);
    let limited = |server: SmtpServerBuilder| server.max_connections(2);
    let clinic = process.clinic(2, limited).await;
    all_sent(&clinic.send_at_once(4).await);
    assert_eq!(clinic.server.open_connections(), 2);
    process.sockets.close_at_invocation_end(TIME).await;
    for connection in [1, 2] {
        let is_closed = |event: &Event| *event == Event::Closed { connection };
        clinic.server.wait_for_event(is_closed).await;
    }
    assert_eq!(clinic.said("221"), 2);
    let now = process.statistics();
    assert_eq!((now.open, now.idle, now.retired.invocation_end), (0, 0, 2));
    // Another client of the mailbox has its turn while this process is idle.
    let other = process.another_process(&clinic.server);
    assert!(other.send(&message(9), Deadline::after(TIME)).await.is_ok());
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_login_or_a_sender_that_is_refused_beside_another_connection_waits_for_that_one() {
    for (stage, reply) in [
        (Stage::Greeting, "421 4.7.0 Too many connections"),
        (Stage::Ehlo, "421 4.3.2 Too many connections"),
        (Stage::Auth, "454 4.7.0 Too many login attempts"),
        (
            Stage::Mail,
            "432 4.3.2 Concurrent connections limit exceeded",
        ),
    ] {
        let process = Process::new(100);
        let refusing = |server: SmtpServerBuilder| server.on(stage, Action::reply(reply));
        let clinic = process.clinic(2, refusing).await;
        all_sent(&clinic.send_at_once(6).await);
        let now = process.statistics();
        assert_eq!(clinic.sent(), 6, "{reply}");
        assert_eq!((now.open, now.one_too_many), (1, 1), "{reply}");
        process.assert_nothing_is_lost();
    }
}

#[tokio::test]
async fn a_refusal_that_is_not_for_the_number_of_connections_is_an_error_at_once() {
    let process = Process::new(100);
    let refusal = "432 4.7.12 A password transition is needed";
    let refusing = |server: SmtpServerBuilder| server.on(Stage::Auth, Action::reply(refusal));
    let clinic = process.clinic(2, refusing).await;
    let results = clinic.send_at_once(2).await;
    let errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{results:?}");
    assert_eq!(errors[0].kind, ErrorKind::Unauthenticated);
    assert_eq!(process.statistics().one_too_many, 0);
}

#[tokio::test]
async fn a_server_that_refuses_every_connection_is_asked_a_few_times_and_then_each_message_fails() {
    let process = Process::new(100);
    let refusing =
        |server: SmtpServerBuilder| server.always(Stage::Greeting, Action::reply("421 4.3.2 no"));
    let clinic = process.clinic(5, refusing).await;
    // No other process has a connection of the login.
    let limit = clinic.provider.connection_limit().unwrap();
    limit.grant(Granted::Connections(5), false);
    let results = clinic.send_at_once(5).await;
    for result in results {
        assert_eq!(result.unwrap_err().disposition, Disposition::Transient);
    }
    // Each asks once, and three times more at most.
    assert!(clinic.server.connections() <= 20);
    process.assert_nothing_is_lost();

    // When it takes connections again, it has as many as before.
    clinic.server.clear_script();
    limit.grant(Granted::Connections(5), false);
    assert!(clinic.send_at_once(5).await.iter().all(Result::is_ok));
    assert_eq!(clinic.server.open_connections(), 5);
}

#[tokio::test]
async fn a_message_that_waits_for_the_other_connection_does_not_wait_beyond_its_time() {
    let process = Process::new(100);
    let hanging =
        |server: SmtpServerBuilder| server.max_connections(1).on(Stage::Body, Action::Hang);
    let clinic = process.clinic(2, hanging).await;
    let (first, second) = (message(1), message(2));
    let blocked = clinic.provider.send(&first, Deadline::after(TIME));
    let refused = async {
        clinic.server.wait_for_stage(Stage::Body, 1).await;
        let deadline = Deadline::after(Duration::from_secs(3));
        clinic.provider.send(&second, deadline).await.unwrap_err()
    };
    tokio::select! {
        _ = blocked => panic!("the server hangs"),
        error = refused => assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Transient, ErrorKind::Timeout, false)
        ),
    }
    let now = process.statistics();
    assert_eq!((now.one_too_many, now.timed_out), (1, 1));
    process.assert_nothing_is_lost();
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

/// A future that is polled so often and not more.
struct Polled<F> {
    inner: F,
    left: u32,
}

impl<F: Future + Unpin> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let polled = Pin::new(&mut self.inner).poll(context).map(Some);
        if polled.is_pending() && self.left == 0 {
            return Poll::Ready(None);
        }
        polled
    }
}

/// Lets go of a send at each of its awaits in turn, on new and on kept connections: neither the slot nor
/// the place is lost, and nothing of a conversation that was cut short is used again.
#[tokio::test]
async fn a_send_that_is_dropped_at_any_await_gives_back_what_it_held() {
    let process = Process::new(1);
    let clinic = process.clinic(1, |server| server).await;
    for keep in [false, true] {
        for polls in 1.. {
            if keep {
                clinic.send().await.unwrap();
            } else {
                clinic.server.close_idle_connections().await;
            }
            let dropped = message(2);
            let inner = clinic.provider.send(&dropped, Deadline::after(TIME));
            let sent = Polled { inner, left: polls }.await;
            process.assert_nothing_is_lost();
            if let Some(result) = sent {
                result.unwrap();
                assert!(polls > 2, "{polls}");
                break;
            }
        }
    }
    clinic.send().await.unwrap();
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_send_that_is_dropped_while_it_waits_leaves_its_turn_to_the_next() {
    let process = Process::new(1);
    let clinic = process
        .clinic(1, |server| server.on(Stage::Body, Action::Hang))
        .await;
    let other = process.clinic(1, |server| server).await;
    let (first, second, third) = (message(1), message(2), message(3));
    let mut hanging = clinic.provider.send(&first, Deadline::after(TIME));
    tokio::select! {
        _ = &mut hanging => panic!("the server hangs"),
        () = clinic.server.wait_for_stage(Stage::Body, 1) => {}
    }
    // One waits for the clinic's only slot, one at the ceiling.
    for provider in [&clinic.provider, &other.provider] {
        let inner = provider.send(&second, Deadline::after(TIME));
        let sent = Polled { inner, left: 1 }.await;
        assert!(sent.is_none());
        assert_eq!(process.statistics().waiting, 0);
    }
    let mut waiting = pin!(other.provider.send(&third, Deadline::after(TIME)));
    let is_waiting = Polled {
        inner: &mut waiting,
        left: 1,
    };
    assert!(is_waiting.await.is_none());
    assert_eq!(process.statistics().waiting, 1);
    drop(hanging);
    waiting.await.unwrap();
    clinic.send().await.unwrap();
    assert_eq!((clinic.sent(), other.sent()), (1, 1));
    process.assert_nothing_is_lost();
}
