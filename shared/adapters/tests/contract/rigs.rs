//! Every adapter with a scripted provider at the other end, behind one trait, so that the suite asks
//! all of them the same.

mod meta;
mod postmark;
mod sendgrid;
mod ses;
mod smtp;
mod twilio;
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
    rigs.push(Box::new(smtp::SmtpRig::new(trust).await));
    rigs
}

pub(crate) async fn http(trust: Trust) -> Vec<Box<dyn Rig>> {
    vec![
        Box::new(HttpRig::new(ses::api(), trust).await),
        Box::new(HttpRig::new(sendgrid::api(), trust).await),
        Box::new(HttpRig::new(postmark::api(), trust).await),
        Box::new(HttpRig::new(zeptomail::api(), trust).await),
        Box::new(HttpRig::new(meta::api(), trust).await),
        Box::new(HttpRig::new(twilio::api(), trust).await),
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

const REACHABLE: [VerifyStage; 4] = [
    VerifyStage::Resolve,
    VerifyStage::Egress,
    VerifyStage::Connect,
    VerifyStage::Tls,
];

fn reachable_and(stages: &[VerifyStage]) -> Vec<VerifyStage> {
    [&REACHABLE, stages].concat()
}
