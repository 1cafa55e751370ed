//! A world for one test: AWS, a certificate authority, a mail server, and the functions with what they need.

mod calls;
mod queue;

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_types::SdkConfig;
use comms_core::{Clock, EmailAddress, Tenant};
use comms_delivery::Pipeline;
use comms_runtime::{Environment, http::HttpFunction as _};
use comms_settings::{HashKeys, SaveLimits, SettingsStore, reply_to::ReplyToAddress};
use comms_testkit::{
    aws::{Fault, LocalAws, Moment},
    http::HttpServer,
    smtp::{SmtpServer, SmtpServerBuilder, TlsMode},
    tls::TestCa,
};
use serde_json::Value;
use tempfile::NamedTempFile;

pub use self::queue::Batch;
use crate::{
    documents::{email, entry},
    parts::{pipeline_with, worker_with},
    permissions,
};

/// The functions, by the names of their programs.
pub const FUNCTIONS: [&str; comms_functions::ALL.len()] = comms_functions::NAMES;
/// The clinic of most tests.
pub const CLINIC: &str = "clinic-123";
/// The clinic's sender.
pub const FROM: &str = "appointments@clinic.example";
/// The user at the world's own mail server.
pub const USER: &str = "clinic-user";
/// The user's password.
pub const PASSWORD: &str = "planted-password-7f3a9c";

/// Everything that a test needs.
pub struct World {
    pub aws: LocalAws,
    pub ca: TestCa,
    /// The clinic's own mail server.
    pub smtp: SmtpServer,
    pub send: comms_send::Deps,
    pub status: comms_status::Deps,
    pub worker: comms_worker::Deps,
    pub config: comms_config::Deps,
    pub config_test: comms_config_test::Deps,
    /// Every answer of every HTTP function, as text.
    answers: Mutex<Vec<String>>,
    queue: aws_sdk_sqs::Client,
    roots: NamedTempFile,
}

/// Whatever a test does, no function does what its role does not permit.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            permissions::access::assert_permitted(&self.aws);
        }
    }
}

/// The id of the access key of a function's role, by which the local AWS tells the functions apart.
pub fn access_key_id(function: &str) -> String {
    format!("AKIA{:0<16}", function.to_uppercase().replace('-', ""))
}

/// The environment of a function's process.
fn variables(function: &str, aws: &LocalAws, roots: &NamedTempFile) -> Vec<(String, String)> {
    let mut variables = aws.env();
    variables.retain(|(name, _)| name != "AWS_ACCESS_KEY_ID");
    let access_key_id = access_key_id(function);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", access_key_id.as_str()),
        ("EGRESS_ALLOW", "127.0.0.0/8"),
        ("EXTRA_CA_FILE", roots.path().to_str().unwrap()),
        ("LOG_LEVEL", "trace"),
    ] {
        variables.push((name.to_owned(), value.to_owned()));
    }
    variables
}

/// Reads a function's environment as its process does when it starts.
fn start<D>(
    function: &str,
    aws: &LocalAws,
    roots: &NamedTempFile,
    read: impl FnOnce(&Environment<'_>) -> Result<D, lambda_runtime::Error>,
) -> D {
    let variables = variables(function, aws, roots);
    let environment = Environment::from_lookup(|name| {
        let (_, value) = variables.iter().find(|(known, _)| known == name)?;
        Some(value.clone())
    });
    read(&environment).unwrap()
}

/// The config function, which lets a test change a clinic's settings as often as it has to.
fn config(aws: &LocalAws, roots: &NamedTempFile) -> comms_config::Deps {
    let deps = start("config", aws, roots, comms_config::Deps::from_environment);
    let limits = SaveLimits::new(deps.store.clone(), deps.clock.clone()).with_burst(10_000);
    comms_config::Deps {
        save_limits: limits,
        ..deps
    }
}

impl World {
    /// A world in which nothing is saved.
    pub async fn new() -> Self {
        Self::with(|server, _| server).await
    }

    /// A world in which the clinic's settings name its mail server.
    pub async fn saved() -> Self {
        let world = Self::new().await;
        world.save_clinic().await;
        world
    }

    /// A world whose mail server is scripted.
    pub async fn with(
        script: impl FnOnce(SmtpServerBuilder, &LocalAws) -> SmtpServerBuilder,
    ) -> Self {
        let (aws, ca) = (LocalAws::start().await, TestCa::new());
        let smtp = script(mail_server(&ca, USER, PASSWORD), &aws).start().await;
        let mut roots = NamedTempFile::new().unwrap();
        roots.write_all(ca.pem().as_bytes()).unwrap();
        Self {
            send: start("send", &aws, &roots, comms_send::Deps::from_environment),
            status: start("status", &aws, &roots, comms_status::Deps::from_environment),
            worker: start("worker", &aws, &roots, comms_worker::Deps::from_environment),
            config: config(&aws, &roots),
            config_test: start(
                "config-test",
                &aws,
                &roots,
                comms_config_test::Deps::from_environment,
            ),
            queue: aws_sdk_sqs::Client::new(&aws.sdk_config()),
            answers: Mutex::default(),
            aws,
            ca,
            smtp,
            roots,
        }
    }

    /// New processes of all functions, which know nothing of what the former ones had in memory.
    pub fn restart(&mut self) {
        let (aws, roots) = (&self.aws, &self.roots);
        self.send = start("send", aws, roots, comms_send::Deps::from_environment);
        self.status = start("status", aws, roots, comms_status::Deps::from_environment);
        self.worker = start("worker", aws, roots, comms_worker::Deps::from_environment);
        self.config = config(aws, roots);
        self.config_test = start(
            "config-test",
            aws,
            roots,
            comms_config_test::Deps::from_environment,
        );
    }

    /// The environment of a function's process.
    pub fn variables(&self, function: &str) -> Vec<(String, String)> {
        variables(function, &self.aws, &self.roots)
    }

    /// The SDK's configuration with a function's credentials.
    pub fn sdk_of(&self, function: &str) -> SdkConfig {
        let credentials = Credentials::new(access_key_id(function), "secret", None, None, "test");
        let provider = SharedCredentialsProvider::new(credentials);
        let sdk = self.aws.sdk_config().to_builder();
        sdk.credentials_provider(provider).build()
    }

    /// A provider's API under the same authority.
    pub async fn api(&self) -> HttpServer {
        let config = self.ca.server_config(&["localhost"]);
        HttpServer::builder().tls(config).start().await.unwrap()
    }

    /// A further mail server under the same authority.
    pub fn server(&self, user: &str, password: &str) -> SmtpServerBuilder {
        mail_server(&self.ca, user, password)
    }

    /// The worker as a new process with a clock that the test moves.
    pub fn worker_with_clock(&self, clock: Arc<dyn Clock>) -> comms_worker::Deps {
        let (sdk, resources) = (self.sdk_of("worker"), self.aws.resources());
        worker_with(&sdk, resources, &self.ca.pem(), clock)
    }

    /// The pipeline of a function as a new process with a clock that the test moves.
    pub fn pipeline_with_clock(&self, function: &str, clock: Arc<dyn Clock>) -> Pipeline {
        let (sdk, resources) = (self.sdk_of(function), self.aws.resources());
        pipeline_with(&sdk, resources, &self.ca.pem(), clock)
    }

    /// The send function as a new process with a clock that the test moves and this configuration of the SDK.
    pub fn send_with(&self, sdk: &SdkConfig, clock: Arc<dyn Clock>) -> comms_send::Deps {
        let resources = self.aws.resources();
        comms_send::Deps {
            pipeline: pipeline_with(sdk, resources, &self.ca.pem(), clock),
            queue: comms_send::Queue::new(sdk, &resources.queue_url, &resources.urgent_queue_url),
            claims: self.send.claims.clone(),
            audit_subjects: self.send.audit_subjects,
        }
    }

    /// The entry of the clinic's own mail server.
    pub fn entry(&self) -> Value {
        entry(self.smtp.port(), USER, PASSWORD)
    }

    /// Saves settings for the clinic that name its own mail server.
    pub async fn save_clinic(&self) {
        let answer = self.put_settings(CLINIC, email(&self.entry(), FROM)).await;
        answer.expect(201);
    }

    /// Saves settings for the global account that name a mail server of its own, and starts that.
    pub async fn save_global(&self) -> SmtpServer {
        let server = self
            .server("global-user", "global-password-51c2")
            .start()
            .await;
        let entry = entry(server.port(), "global-user", "global-password-51c2");
        self.put_settings("_global", email(&entry, "platform@global.example"))
            .await
            .expect(201);
        server
    }

    /// Records that the clinic's address was verified for replies through the platform's account.
    pub async fn verify_reply_to(&self, clinic: &str, address: &str) {
        let (sdk, resources) = (self.aws.sdk_config(), self.aws.resources());
        let store = SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
        let keys = HashKeys::new(store.clone());
        let key = keys.get().await.unwrap();
        let tenant = Tenant::parse(clinic).unwrap();
        let address = EmailAddress::parse(address).unwrap();
        let address = ReplyToAddress::new(key, &tenant, &address);
        store
            .confirm_reply_to(key, &address, jiff::Timestamp::now())
            .await
            .unwrap();
    }

    /// Refuses the next `times` writes of deliveries to the ledger.
    pub fn fail_deliveries(&self, times: usize) {
        self.fail_updates(times, |_, sk| sk.starts_with("delivery#"));
    }

    /// Refuses the next `times` updates of the items whose keys are chosen.
    pub fn fail_updates(&self, times: usize, is_chosen: fn(&str, &str) -> bool) {
        let left = Arc::new(Mutex::new(times));
        self.aws.watch(move |call| {
            let key = |name: &str| call.request["Key"][name]["S"].as_str().unwrap_or_default();
            let is_chosen = call.moment == Moment::Arrived
                && call.call.operation == "UpdateItem"
                && is_chosen(key("pk"), key("sk"));
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            let fails = is_chosen && *left > 0;
            if fails {
                *left -= 1;
            }
            Box::pin(async move { fails.then_some(Fault::AccessDenied) })
        });
    }
}

fn mail_server(ca: &TestCa, user: &str, password: &str) -> SmtpServerBuilder {
    SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .require_tls()
        .credentials(user, password)
}
