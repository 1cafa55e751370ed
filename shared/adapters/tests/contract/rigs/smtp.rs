//! A mail server.

use super::*;

pub(super) struct SmtpRig {
    server: Option<SmtpServer>,
    provider: SmtpProvider,
}

impl SmtpRig {
    pub(super) async fn new(trust: Trust) -> Self {
        let ca = TestCa::new();
        let server = SmtpServer::builder()
            .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
            .credentials("clinic-user", "planted-password")
            .start()
            .await;
        let settings = SmtpConfig {
            host: Host::parse("127.0.0.1").unwrap(),
            port: server.port(),
            security: Security::StartTls,
            user: "clinic-user".into(),
            password: secret("password"),
            ca_pem: (trust == Trust::Given).then(|| ca.pem()),
            max_connections: 1,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let tls = TlsConfigs::new(None).unwrap();
        let provider = SmtpProvider::new(
            settings,
            mailbox("appointments@clinic.example", "Clinic"),
            &tls,
            guard(),
            Sockets::default(),
            Arc::new(SystemClock),
        )
        .unwrap();
        Self {
            server: Some(server),
            provider,
        }
    }

    fn server(&self) -> &SmtpServer {
        self.server.as_ref().unwrap()
    }
}

#[async_trait(?Send)]
impl Rig for SmtpRig {
    fn name(&self) -> &'static str {
        "smtp"
    }

    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn message(&self) -> Message {
        email()
    }

    fn message_id(&self) -> String {
        format!("<{DELIVERY}@clinic.example>")
    }

    fn script(&self, scenario: Scenario) -> bool {
        let (stage, action) = match scenario {
            Scenario::Accept => return true,
            Scenario::RefuseForGood => (Stage::Rcpt, Action::reply(format!("550 5.1.1 {ECHO}"))),
            Scenario::RefuseSender => (Stage::Mail, Action::reply(format!("550 5.7.1 {ECHO}"))),
            Scenario::RefuseForNow => (Stage::Rcpt, Action::reply(format!("451 4.3.0 {ECHO}"))),
            // Whatever it replies would be a decision: it fails without one.
            Scenario::FailWithMessage => (Stage::Body, Action::Close),
            Scenario::HangBeforeTls => (Stage::Connect, Action::Hang),
            Scenario::CloseAtOnce => (Stage::Connect, Action::Close),
            Scenario::HangAfterMessage => (Stage::Body, Action::Hang),
            Scenario::CloseAfterMessage => (Stage::Body, Action::AcceptThenClose),
            Scenario::ResetAfterMessage => (Stage::Body, Action::Reset),
            // A line that promises another.
            Scenario::CutAnswer => (Stage::Body, Action::reply_then_close(format!("250-{ECHO}"))),
            Scenario::StallInAnswer => (Stage::Body, Action::reply(format!("250-{ECHO}"))),
            Scenario::EndlessAnswer => (
                Stage::Body,
                Action::reply(format!("250-{ECHO}\n").repeat(2_000)),
            ),
            Scenario::GarbageBody => (Stage::Body, Action::reply(format!("{{{ECHO}"))),
            Scenario::NotTheProtocol => (Stage::Body, Action::reply("HTTP/1.1 200 OK")),
            Scenario::WrongContentType | Scenario::ForeignNotFound | Scenario::Redirect => {
                return false;
            }
        };
        self.server().on(stage, action);
        true
    }

    fn clear_script(&self) {
        self.server().clear_script();
    }

    fn script_verification(&self, verification: Verification) {
        match verification {
            Verification::Good => {}
            Verification::BadCredentials => self
                .server()
                .on(Stage::Auth, Action::reply(format!("535 5.7.8 {ECHO}"))),
        }
    }

    fn verified_stages(&self) -> Vec<VerifyStage> {
        reachable_and(&[VerifyStage::Authenticate])
    }

    fn taken(&self) -> usize {
        let events = self.server().events();
        events
            .iter()
            .filter(|event| {
                matches!(
                    event,
                    Event::Reached {
                        stage: Stage::Body,
                        ..
                    }
                )
            })
            .count()
    }

    fn connections(&self) -> u64 {
        self.server().connections()
    }

    fn bytes_written(&self) -> u64 {
        0
    }

    fn wire(&self) -> String {
        let conversation = self.server().transcript().join("\n");
        let message = self.server().messages().pop().unwrap().text();
        let message: Vec<_> = message
            .lines()
            .map(|line| {
                if line.starts_with("Date: ") {
                    "Date: …"
                } else {
                    line
                }
            })
            .collect();
        format!("{conversation}\n\n{}", message.join("\n"))
    }

    fn assert_nothing_unexpected(&self) {}

    fn impossible_messages(&self) -> Vec<Message> {
        impossible_emails()
    }

    async fn until_connected(&self) {
        self.server()
            .wait_for_event(|event| matches!(event, Event::Connected { .. }))
            .await;
    }

    async fn until_received(&self) {
        self.server()
            .wait_for_event(|event| {
                matches!(
                    event,
                    Event::Reached {
                        stage: Stage::Body,
                        ..
                    }
                )
            })
            .await;
    }

    fn stop(&mut self) {
        self.server = None;
    }
}
