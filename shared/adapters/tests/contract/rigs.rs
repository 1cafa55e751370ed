//! Every adapter with a scripted provider at the other end, behind one trait, so that the suite asks
//! all of them the same.

mod postmark;
mod zeptomail;

use std::{io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::tls::{self, TrustStore, rustls_provider::CryptoMode};
use comms_adapters::{
    EgressGuard, HttpClients, Message, OwnSender, Provider, Sockets, VerifyStage,
    egress::Resolver,
    meta::{MetaConfig, MetaProvider},
    sendgrid::{SendgridConfig, SendgridProvider},
    ses::{SesAccount, SesConfig, SesProvider},
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
    twilio::{TwilioConfig, TwilioLogin, TwilioProvider, TwilioSender},
};
use comms_core::{
    BaseUrl, DeliveryId, EmailAddress, Host, Mailbox, PhoneNumber, Secret, SystemClock,
    account::{AwsAccessKeyId, AwsRegion, GraphId, TwilioAccountSid},
    request::{Content, Target, Template, TemplateParams, TemplateValues},
};
use comms_testkit::{
    http::{ConnectAction, HttpServer, Reply},
    smtp::{Action, Event, SmtpServer, Stage, TlsMode},
    tls::TestCa,
};
use serde_json::{Value, json};

/// What goes wrong, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Accept,
    RefuseForGood,
    RefuseSender,
    /// With the wish to be left alone for 7 seconds, where the protocol has such a thing.
    RefuseForNow,
    FailWithMessage,
    HangBeforeTls,
    CloseAtOnce,
    HangAfterMessage,
    CloseAfterMessage,
    ResetAfterMessage,
    CutAnswer,
    StallInAnswer,
    EndlessAnswer,
    WrongContentType,
    GarbageBody,
    NotTheProtocol,
    ForeignNotFound,
    Redirect,
}

/// Where a scenario hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hang {
    BeforeTls,
    AfterMessage,
}

impl Scenario {
    pub(crate) fn hangs(self) -> Option<Hang> {
        if self == Self::HangBeforeTls {
            Some(Hang::BeforeTls)
        } else {
            matches!(self, Self::HangAfterMessage | Self::StallInAnswer)
                .then_some(Hang::AfterMessage)
        }
    }
}

/// Whether the provider's certificate is one that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Given,
    Missing,
}

/// What a check meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    Good,
    BadCredentials,
}

/// An adapter and the provider it talks to.
#[async_trait(?Send)]
pub(crate) trait Rig {
    fn name(&self) -> &'static str;
    fn provider(&self) -> &dyn Provider;
    fn message(&self) -> Message;
    /// The id that the provider gives to an accepted message.
    fn message_id(&self) -> String;
    /// Prepares for one message; `false` where the protocol knows no such thing.
    fn script(&self, scenario: Scenario) -> bool;
    fn clear_script(&self);
    fn script_verification(&self, verification: Verification);
    fn verified_stages(&self) -> Vec<VerifyStage>;
    /// Messages that reached the provider whole.
    fn taken(&self) -> usize;
    fn connections(&self) -> u64;
    fn bytes_written(&self) -> u64;
    /// The conversation as it went over the wire, credentials and what differs from run to run masked.
    fn wire(&self) -> String;
    fn assert_nothing_unexpected(&self);
    /// Messages that the provider could not take, as is known beforehand.
    fn impossible_messages(&self) -> Vec<Message>;
    async fn until_connected(&self);
    async fn until_received(&self);
    /// Nobody listens any more.
    fn stop(&mut self);
}

pub(crate) async fn all(trust: Trust) -> Vec<Box<dyn Rig>> {
    let mut rigs = http(trust).await;
    rigs.push(Box::new(SmtpRig::new(trust).await));
    rigs
}

pub(crate) async fn http(trust: Trust) -> Vec<Box<dyn Rig>> {
    vec![
        Box::new(HttpRig::new(ses(), trust).await),
        Box::new(HttpRig::new(sendgrid(), trust).await),
        Box::new(HttpRig::new(postmark::api(), trust).await),
        Box::new(HttpRig::new(zeptomail::api(), trust).await),
        Box::new(HttpRig::new(meta(), trust).await),
        Box::new(HttpRig::new(twilio(), trust).await),
    ]
}

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

const DELIVERY: &str = "0123456789abcdef0123456789abcdef";
/// What providers write into their answers: texts that repeat what they were sent.
const ECHO: &str = "planted: patient@example.com +15550100";

fn secret(name: &str) -> Secret {
    Secret::new(format!("planted-{name}"))
}

fn mailbox(address: &str, name: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: Some(name.into()),
    }
}

fn email() -> Message {
    Message {
        delivery: DeliveryId::parse(DELIVERY).unwrap(),
        target: Target::Email(mailbox("patient@example.com", "planted Patient")),
        content: Arc::new(Content {
            title: Some("planted title".into()),
            body: Some("planted text".into()),
            cc: vec![EmailAddress::parse("family@example.com").unwrap()],
            bcc: vec![EmailAddress::parse("archive@clinic.example").unwrap()],
            ..Content::default()
        }),
        reply_to: Some(EmailAddress::parse("desk@clinic.example").unwrap()),
    }
}

fn whatsapp(template: Option<Template>) -> Message {
    Message {
        delivery: DeliveryId::parse(DELIVERY).unwrap(),
        target: Target::Whatsapp(PhoneNumber::parse("+15550100").unwrap()),
        content: Arc::new(Content {
            body: Some("planted text".into()),
            template,
            ..Content::default()
        }),
        reply_to: None,
    }
}

fn template(id: &str) -> Template {
    Template {
        id: id.into(),
        language: Some("en_US".into()),
        values: TemplateValues::Params(TemplateParams {
            header: vec!["planted header".into()],
            body: vec!["planted Monday".into(), "planted 10:00".into()],
            buttons: vec!["planted-code".into()],
        }),
    }
}

fn with_content(message: &Message, change: impl FnOnce(&mut Content)) -> Message {
    let mut content = (*message.content).clone();
    change(&mut content);
    Message {
        content: Arc::new(content),
        ..message.clone()
    }
}

/// An e-mail provider can take neither a WhatsApp message nor an e-mail without a body.
fn impossible_emails() -> Vec<Message> {
    vec![
        whatsapp(None),
        with_content(&email(), |content| content.body = None),
    ]
}

/// What one HTTP provider's API is like.
struct Api {
    name: &'static str,
    provider: fn(&HttpServer, HttpClients, &SdkConfig) -> Box<dyn Provider>,
    path: String,
    message: Message,
    message_id: &'static str,
    accepted: Reply,
    /// For good, the sender, for now (429), failed.
    refusals: [Reply; 4],
    impossible: Vec<Message>,
    /// Questions that a check asks, with good answers; and the answer to bad credentials to the first.
    questions: Vec<(String, Reply)>,
    bad_credentials: Reply,
    verified_stages: Vec<VerifyStage>,
}

struct HttpRig {
    api: Api,
    server: Option<HttpServer>,
    provider: Box<dyn Provider>,
}

impl HttpRig {
    async fn new(api: Api, trust: Trust) -> Self {
        let ca = TestCa::new();
        let server = HttpServer::builder()
            .tls(ca.server_config(&["localhost"]))
            .start()
            .await
            .unwrap();
        let trusted = match trust {
            Trust::Given => ca.pem(),
            Trust::Missing => TestCa::new().pem(),
        };
        let tls = TlsConfigs::new(Some(&trusted)).unwrap();
        let clients = HttpClients::new(tls, guard(), Sockets::default(), Arc::new(SystemClock));
        let sdk = sdk_config(&server.url(), &trusted);
        let provider = (api.provider)(&server, clients, &sdk);
        Self {
            api,
            server: Some(server),
            provider,
        }
    }

    fn server(&self) -> &HttpServer {
        self.server.as_ref().unwrap()
    }
}

/// As the functions have it, with the trust roots of the test.
fn sdk_config(endpoint: &str, trusted: &str) -> SdkConfig {
    let roots = TrustStore::empty().with_pem_certificate(trusted.as_bytes());
    let context = tls::TlsContext::builder()
        .with_trust_store(roots)
        .build()
        .unwrap();
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https();
    let credentials = Credentials::new(
        "AKIAPLATFORM00000",
        "planted-platform-key",
        None,
        None,
        "test",
    );
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http)
        .endpoint_url(endpoint)
        .build()
}

#[async_trait(?Send)]
impl Rig for HttpRig {
    fn name(&self) -> &'static str {
        self.api.name
    }

    fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    fn message(&self) -> Message {
        self.api.message.clone()
    }

    fn message_id(&self) -> String {
        self.api.message_id.to_owned()
    }

    fn script(&self, scenario: Scenario) -> bool {
        let [for_good, sender, for_now, failed] = self.api.refusals.clone();
        let accepted = self.api.accepted.clone();
        let long = || Reply::json(200, json!({"text": ECHO.repeat(20)}));
        let reply = match scenario {
            Scenario::Accept => accepted,
            Scenario::RefuseForGood => for_good,
            Scenario::RefuseSender => sender,
            Scenario::RefuseForNow => for_now.header("retry-after", "7"),
            Scenario::FailWithMessage => failed,
            Scenario::HangBeforeTls => {
                self.server().on_connect(ConnectAction::Hang);
                return true;
            }
            Scenario::CloseAtOnce => {
                // Some clients try a second time what they know was never sent.
                for _ in 0..4 {
                    self.server().on_connect(ConnectAction::Close);
                }
                return true;
            }
            Scenario::HangAfterMessage => Reply::hang(),
            Scenario::CloseAfterMessage => Reply::close(),
            Scenario::ResetAfterMessage => Reply::reset(),
            Scenario::CutAnswer => long().cut(10),
            Scenario::StallInAnswer => long().stall(10),
            Scenario::EndlessAnswer => Reply::endless(200, "application/json"),
            Scenario::WrongContentType => Reply::new(200)
                .content_type("text/html")
                .body(format!("<p>{ECHO}</p>")),
            Scenario::GarbageBody => Reply::new(200)
                .content_type("application/json")
                .body(format!("{{\"{ECHO}")),
            Scenario::NotTheProtocol => Reply::raw("220 mail.example ESMTP planted\r\n"),
            Scenario::ForeignNotFound => Reply::new(404)
                .content_type("text/html")
                .body(format!("<p>{ECHO}</p>")),
            Scenario::Redirect => {
                Reply::new(307).header("location", &format!("{}/elsewhere", self.server().url()))
            }
        };
        self.server().on("POST", &self.api.path, reply);
        true
    }

    fn clear_script(&self) {
        self.server().clear_script();
    }

    fn script_verification(&self, verification: Verification) {
        for (index, (path, reply)) in self.api.questions.iter().enumerate() {
            let reply = match verification {
                Verification::BadCredentials if index == 0 => self.api.bad_credentials.clone(),
                Verification::BadCredentials | Verification::Good => reply.clone(),
            };
            // Where messages are posted, a question is a POST that is none.
            let method = if *path == self.api.path {
                "POST"
            } else {
                "GET"
            };
            self.server().always(method, path, reply);
        }
    }

    fn verified_stages(&self) -> Vec<VerifyStage> {
        self.api.verified_stages.clone()
    }

    fn taken(&self) -> usize {
        let requests = self.server().requests();
        requests
            .iter()
            .filter(|request| request.method == "POST" && request.body != b"{}")
            .count()
    }

    fn connections(&self) -> u64 {
        self.server().connections()
    }

    fn bytes_written(&self) -> u64 {
        self.server().bytes_written()
    }

    fn wire(&self) -> String {
        let requests = self.server().requests();
        let transcripts: Vec<_> = requests
            .iter()
            .map(|request| {
                let mut text = request.transcript();
                // Readable where it is JSON; the order of fields is as it was sent.
                if let (Some((head, _)), json @ Value::Object(_)) =
                    (text.split_once("\n\n"), request.json())
                {
                    text = format!("{head}\n\n{}", serde_json::to_string_pretty(&json).unwrap());
                }
                text
            })
            .collect();
        transcripts.join("\n\n")
    }

    fn assert_nothing_unexpected(&self) {
        assert_eq!(self.server().unexpected(), [""; 0], "{}", self.name());
    }

    fn impossible_messages(&self) -> Vec<Message> {
        self.api.impossible.clone()
    }

    async fn until_connected(&self) {
        self.server().wait_for_connections(1).await;
    }

    async fn until_received(&self) {
        self.server().wait_for_requests(1).await;
    }

    fn stop(&mut self) {
        self.server = None;
    }
}

fn ses() -> Api {
    let error = |status: u16, code: &str| {
        Reply::json(status, json!({"message": ECHO})).header("x-amzn-errortype", code)
    };
    Api {
        name: "aws_ses",
        provider: |_, _, sdk| {
            let settings = SesConfig {
                region: AwsRegion::parse("eu-central-1").unwrap(),
                account: SesAccount::Keys {
                    access_key_id: AwsAccessKeyId::parse("AKIAIOSFODNN7EXAMPLE").unwrap(),
                    secret_access_key: secret("secret-access-key"),
                },
                from: OwnSender::default(),
                configuration_set: None,
            };
            Box::new(SesProvider::new(
                settings,
                mailbox("appointments@clinic.example", "Clinic"),
                sdk,
            ))
        },
        path: "/v2/email/outbound-emails".into(),
        message: email(),
        message_id: "0100018c-ses-message-id",
        accepted: Reply::json(200, json!({"MessageId": "0100018c-ses-message-id"})),
        refusals: [
            error(400, "MessageRejected"),
            error(400, "MailFromDomainNotVerifiedException"),
            error(429, "TooManyRequestsException"),
            error(500, "InternalFailure"),
        ],
        impossible: impossible_emails(),
        questions: vec![
            (
                "/v2/email/account".into(),
                Reply::json(
                    200,
                    json!({"SendingEnabled": true, "ProductionAccessEnabled": true, "EnforcementStatus": "HEALTHY",
                        "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 12.0}}),
                ),
            ),
            (
                "/v2/email/identities/appointments%40clinic.example".into(),
                Reply::json(
                    200,
                    json!({"IdentityType": "EMAIL_ADDRESS", "VerifiedForSendingStatus": true}),
                ),
            ),
        ],
        bad_credentials: error(403, "InvalidClientTokenId"),
        verified_stages: vec![
            VerifyStage::Authenticate,
            VerifyStage::Sender,
            VerifyStage::Quota,
        ],
    }
}

const REACHABLE: [VerifyStage; 4] = [
    VerifyStage::Resolve,
    VerifyStage::Egress,
    VerifyStage::Connect,
    VerifyStage::Tls,
];

fn reachable_and(stages: &[VerifyStage]) -> Vec<VerifyStage> {
    [&REACHABLE, stages].concat()
}

fn sendgrid() -> Api {
    let error = |status: u16, field: Value| {
        Reply::json(
            status,
            json!({"errors": [{"message": ECHO, "field": field, "help": null}]}),
        )
    };
    Api {
        name: "sendgrid",
        provider: |server, http, _| {
            let settings = SendgridConfig {
                api_key: secret("sendgrid-key"),
                from: OwnSender::default(),
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
                sandbox: false,
            };
            Box::new(
                SendgridProvider::new(
                    settings,
                    mailbox("appointments@clinic.example", "Clinic"),
                    http,
                )
                .unwrap(),
            )
        },
        path: "/v3/mail/send".into(),
        message: email(),
        message_id: "sendgrid-message-id",
        accepted: Reply::new(202).header("x-message-id", "sendgrid-message-id"),
        refusals: [
            error(400, json!("personalizations.0.to.0.email")),
            error(403, json!("from")),
            error(429, Value::Null),
            error(500, Value::Null),
        ],
        impossible: impossible_emails(),
        questions: vec![(
            "/v3/scopes".into(),
            Reply::json(200, json!({"scopes": ["alerts.read", "mail.send"]})),
        )],
        bad_credentials: error(401, Value::Null),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}

fn meta() -> Api {
    let error = |status: u16, code: u32| {
        Reply::json(
            status,
            json!({"error": {"message": ECHO, "type": "OAuthException", "code": code,
                "error_data": {"messaging_product": "whatsapp", "details": ECHO}, "fbtrace_id": "planted"}}),
        )
    };
    Api {
        name: "meta_business",
        provider: |server, http, _| {
            let settings = MetaConfig {
                access_token: secret("meta-token"),
                phone_number_id: GraphId::parse("123456789").unwrap(),
                api_url: Some(BaseUrl::parse(&format!("{}/v23.0", server.url())).unwrap()),
                business_account_id: None,
            };
            Box::new(MetaProvider::new(settings, None, http).unwrap())
        },
        path: "/v23.0/123456789/messages".into(),
        message: whatsapp(Some(template("appointment_confirmed"))),
        message_id: "wamid.HBgLMTU1NTAxMDA=",
        accepted: Reply::json(
            200,
            json!({"messaging_product": "whatsapp", "contacts": [{"input": "+15550100", "wa_id": "15550100"}],
                "messages": [{"id": "wamid.HBgLMTU1NTAxMDA="}]}),
        ),
        refusals: [
            error(400, 131_026),
            error(400, 131_045),
            error(429, 130_429),
            error(500, 131_000),
        ],
        impossible: vec![
            email(),
            with_content(&whatsapp(None), |content| {
                content.body = Some("x".repeat(4_097));
            }),
            with_content(&whatsapp(None), |content| content.body = None),
        ],
        questions: vec![(
            "/v23.0/123456789".into(),
            Reply::json(
                200,
                json!({"verified_name": "Clinic", "code_verification_status": "VERIFIED", "quality_rating": "GREEN",
                    "name_status": "APPROVED", "throughput": {"level": "STANDARD"}, "id": "123456789"}),
            ),
        )],
        bad_credentials: error(401, 190),
        verified_stages: reachable_and(&[VerifyStage::Authenticate, VerifyStage::Sender]),
    }
}

const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const CONTENT: &str = "HX0123456789abcdef0123456789abcdef";

fn twilio() -> Api {
    let error = |status: u16, code: u32| {
        Reply::json(
            status,
            json!({"code": code, "message": ECHO, "status": status,
                "more_info": format!("https://www.twilio.com/docs/errors/{code}")}),
        )
    };
    Api {
        name: "twilio",
        provider: |server, http, _| {
            let settings = TwilioConfig {
                account_sid: TwilioAccountSid::parse(ACCOUNT).unwrap(),
                login: TwilioLogin::AuthToken(secret("auth-token")),
                sender: TwilioSender::Number(PhoneNumber::parse("+14155238886").unwrap()),
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
                status_callback: Some("https://clinic.example/status".into()),
                templates: std::collections::BTreeMap::new(),
            };
            Box::new(TwilioProvider::new(settings, None, http).unwrap())
        },
        path: format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json"),
        message: whatsapp(Some(template(CONTENT))),
        message_id: "SM0123456789abcdef0123456789abcdef",
        accepted: Reply::json(
            201,
            json!({"sid": "SM0123456789abcdef0123456789abcdef", "status": "queued", "error_code": null,
                "error_message": null, "to": "whatsapp:+15550100", "body": ECHO}),
        ),
        refusals: [
            error(400, 21_211),
            error(400, 63_007),
            error(429, 20_429),
            error(500, 20_500),
        ],
        impossible: vec![
            email(),
            with_content(&whatsapp(None), |content| {
                content.body = Some("x".repeat(1_601));
            }),
            with_content(&whatsapp(None), |content| content.body = None),
        ],
        questions: vec![(
            format!("/2010-04-01/Accounts/{ACCOUNT}.json"),
            Reply::json(
                200,
                json!({"sid": ACCOUNT, "status": "active", "auth_token": "planted-auth-token"}),
            ),
        )],
        bad_credentials: error(401, 20_003),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}

struct SmtpRig {
    server: Option<SmtpServer>,
    provider: SmtpProvider,
}

impl SmtpRig {
    async fn new(trust: Trust) -> Self {
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
