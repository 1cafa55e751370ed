//! A world for one test: AWS, a certificate authority, a mail server, and the functions with what they need.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_sqs::{
    config::{Credentials, SharedCredentialsProvider},
    types::MessageSystemAttributeName,
};
use aws_types::SdkConfig;
use comms_adapters::{EgressGuard, ProviderFactory, egress::SystemResolver, tls::TlsConfigs};
use comms_core::{Clock, EmailAddress, Tenant};
use comms_delivery::{
    Ledger, Parts, Pipeline, Quotas, ShareLimits, SharedHealth, SharedRateLimiter, Shares, Usage,
};
use comms_runtime::{Environment, http::invocation, sqs::SqsEvent};
use comms_settings::{
    HashKeys, SaveLimits, SettingsCache, SettingsStore, reply_to::ReplyToAddress,
};
use comms_testkit::{
    aws::{Fault, LocalAws, Moment, Resources},
    http::HttpServer,
    jwt,
    smtp::{ReceivedMessage, SmtpServer, SmtpServerBuilder, TlsMode},
    tls::TestCa,
};
use lambda_http::{Body, Request, RequestExt, Response};
use lambda_runtime::{Context, LambdaEvent};
use mail_parser::MessageParser;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tracing::Instrument;

use crate::permissions;

/// The functions, by the names of their programs.
pub(crate) const FUNCTIONS: [&str; comms_functions::ALL.len()] = comms_functions::NAMES;
/// The clinic of most tests.
pub(crate) const CLINIC: &str = "clinic-123";
/// The clinic's sender.
pub(crate) const FROM: &str = "appointments@clinic.example";
/// The user at the world's own mail server.
pub(crate) const USER: &str = "clinic-user";
/// The user's password.
pub(crate) const PASSWORD: &str = "planted-password-7f3a9c";

/// What an HTTP function answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The headers and the body as text, to be searched.
    pub(crate) text: String,
    /// The body.
    pub(crate) body: Value,
    headers: lambda_http::http::HeaderMap,
}

impl Answer {
    fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = match body {
            Body::Text(text) => text.into_bytes(),
            Body::Binary(bytes) => bytes,
            Body::Empty => Vec::new(),
            other => panic!("an answer has a body or none, not {other:?}"),
        };
        let text = String::from_utf8(bytes).unwrap();
        // 204 and 304 have none (RFC 9110 sections 15.3.5 and 15.4.5).
        assert_eq!(text.is_empty(), [204, 304].contains(&parts.status.as_u16()));
        Self {
            status: parts.status.as_u16(),
            body: match text.as_str() {
                "" => Value::Null,
                html if html.starts_with("<!doctype html>") => Value::Null,
                text => serde_json::from_str(text).unwrap(),
            },
            text: format!("{:?} {text}", parts.headers),
            headers: parts.headers,
        }
    }

    /// A header, or an empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The status, for an `assert_eq!` that shows the body when it fails.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The pointers of a problem's errors, sorted.
    pub(crate) fn pointers(&self) -> Vec<String> {
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        let mut pointers: Vec<_> = errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect();
        pointers.sort();
        pointers
    }

    /// The request's id.
    pub(crate) fn request_id(&self) -> String {
        self.body["requestId"].as_str().unwrap().to_owned()
    }
}

/// What the worker was given and what it gave back.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The records of the event.
    pub(crate) records: Vec<Value>,
    /// The ids in `batchItemFailures`.
    pub(crate) failed: Vec<String>,
}

/// Everything that a test needs.
pub(crate) struct World {
    pub(crate) aws: LocalAws,
    pub(crate) ca: TestCa,
    /// The clinic's own mail server.
    pub(crate) smtp: SmtpServer,
    pub(crate) send: comms_send::Deps,
    pub(crate) status: comms_status::Deps,
    pub(crate) worker: comms_worker::Deps,
    pub(crate) config: comms_config::Deps,
    pub(crate) config_test: comms_config_test::Deps,
    /// Every answer of every HTTP function, as text.
    answers: Mutex<Vec<String>>,
    queue: aws_sdk_sqs::Client,
    roots: NamedTempFile,
}

/// Whatever a test does, no function does what its role does not permit.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            permissions::assert_permitted(&self.aws);
        }
    }
}

/// The id of the access key of a function's role, by which the local AWS tells the functions apart.
pub(crate) fn access_key_id(function: &str) -> String {
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
    pub(crate) async fn new() -> Self {
        Self::with(|server, _| server).await
    }

    /// A world in which the clinic's settings name its mail server.
    pub(crate) async fn saved() -> Self {
        let world = Self::new().await;
        world.save_clinic().await;
        world
    }

    /// A world whose mail server is scripted.
    pub(crate) async fn with(
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
    pub(crate) fn restart(&mut self) {
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
    pub(crate) fn variables(&self, function: &str) -> Vec<(String, String)> {
        variables(function, &self.aws, &self.roots)
    }

    /// The SDK's configuration with a function's credentials.
    pub(crate) fn sdk_of(&self, function: &str) -> SdkConfig {
        let credentials = Credentials::new(access_key_id(function), "secret", None, None, "test");
        let provider = SharedCredentialsProvider::new(credentials);
        let sdk = self.aws.sdk_config().to_builder();
        sdk.credentials_provider(provider).build()
    }

    /// A provider's API under the same authority.
    pub(crate) async fn api(&self) -> HttpServer {
        let config = self.ca.server_config(&["localhost"]);
        HttpServer::builder().tls(config).start().await.unwrap()
    }

    /// A further mail server under the same authority.
    pub(crate) fn server(&self, user: &str, password: &str) -> SmtpServerBuilder {
        mail_server(&self.ca, user, password)
    }

    /// The worker as a new process with a clock that the test moves.
    pub(crate) fn worker_with_clock(&self, clock: Arc<dyn Clock>) -> comms_worker::Deps {
        let (sdk, resources) = (self.sdk_of("worker"), self.aws.resources());
        worker_with(&sdk, resources, &self.ca.pem(), clock)
    }

    /// The pipeline of a function as a new process with a clock that the test moves.
    pub(crate) fn pipeline_with_clock(&self, function: &str, clock: Arc<dyn Clock>) -> Pipeline {
        let (sdk, resources) = (self.sdk_of(function), self.aws.resources());
        pipeline_with(&sdk, resources, &self.ca.pem(), clock)
    }

    /// The send function as a new process with a clock that the test moves and this configuration of the SDK.
    pub(crate) fn send_with(&self, sdk: &SdkConfig, clock: Arc<dyn Clock>) -> comms_send::Deps {
        let resources = self.aws.resources();
        comms_send::Deps {
            pipeline: pipeline_with(sdk, resources, &self.ca.pem(), clock),
            queue: comms_send::Queue::new(sdk, &resources.queue_url, &resources.urgent_queue_url),
            claims: self.send.claims.clone(),
            audit_subjects: self.send.audit_subjects,
        }
    }

    /// The entry of the clinic's own mail server.
    pub(crate) fn entry(&self) -> Value {
        entry(self.smtp.port(), USER, PASSWORD)
    }

    /// Saves settings for the clinic that name its own mail server.
    pub(crate) async fn save_clinic(&self) {
        let answer = self.put_settings(CLINIC, email(&self.entry(), FROM)).await;
        answer.expect(201);
    }

    /// Saves settings for the global account that name a mail server of its own, and starts that.
    pub(crate) async fn save_global(&self) -> SmtpServer {
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
    pub(crate) async fn verify_reply_to(&self, clinic: &str, address: &str) {
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

    /// PUTs the `communicationSettings` of a tenant as the platform's own people.
    pub(crate) async fn put_settings(&self, tenant: &str, document: Value) -> Answer {
        self.put_settings_if(tenant, document, &[]).await
    }

    /// The same with headers.
    pub(crate) async fn put_settings_if(
        &self,
        tenant: &str,
        document: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let body = json!({"settings": {"communicationSettings": document}}).to_string();
        self.config(
            "PUT",
            &clinic_path(tenant),
            Some(&body),
            super_admin(),
            headers,
        )
        .await
    }

    /// Patches the `communicationSettings` of a tenant as the platform's own people.
    pub(crate) async fn patch_settings(&self, tenant: &str, patch: Value) -> Answer {
        self.patch_settings_if(tenant, patch, &[]).await
    }

    /// The same with headers.
    pub(crate) async fn patch_settings_if(
        &self,
        tenant: &str,
        patch: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let body = json!({"settings": {"communicationSettings": patch}}).to_string();
        let clinic = clinic_path(tenant);
        self.config("PATCH", &clinic, Some(&body), super_admin(), headers)
            .await
    }

    /// DELETEs the settings of a tenant as the platform's own people.
    pub(crate) async fn delete_settings(&self, tenant: &str, headers: &[(&str, &str)]) -> Answer {
        self.config("DELETE", &clinic_path(tenant), None, super_admin(), headers)
            .await
    }

    /// Brings a version of a tenant's settings back, as the platform's own people.
    pub(crate) async fn restore(
        &self,
        tenant: &str,
        version: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let path = format!(
            "{}/communication/versions/{version}/restore",
            clinic_path(tenant)
        );
        self.config("POST", &path, None, super_admin(), headers)
            .await
    }

    /// GETs the versions of a tenant's settings; `query` begins with `?` or is empty.
    pub(crate) async fn versions(&self, tenant: &str, query: &str) -> Answer {
        let path = format!("{}/communication/versions{query}", clinic_path(tenant));
        self.config("GET", &path, None, super_admin(), &[]).await
    }

    /// GETs the settings of a tenant.
    pub(crate) async fn get_settings(&self, tenant: &str) -> Answer {
        self.config("GET", &clinic_path(tenant), None, super_admin(), &[])
            .await
    }

    /// Asks the config function.
    pub(crate) async fn config(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let event = http_event(method, path, body, &claims, headers);
        self.ask_config(&event).await
    }

    /// POSTs to `test-email` of a clinic as the platform's own people.
    pub(crate) async fn test_email(&self, tenant: &str, body: &Value) -> Answer {
        self.test_settings(tenant, "test-email", body).await
    }

    /// POSTs to `test-email` or `test-whatsapp` of a clinic as the platform's own people.
    pub(crate) async fn test_settings(&self, tenant: &str, test: &str, body: &Value) -> Answer {
        let path = format!("{}/communication/{test}", clinic_path(tenant));
        let body = body.to_string();
        let event = http_event("POST", &path, Some(&body), &super_admin(), &[]);
        self.ask_config_test(&event).await
    }

    /// POSTs a communication as a backend of the platform.
    pub(crate) async fn post(&self, communication: &Value) -> Answer {
        self.post_as(communication, service(), &[]).await
    }

    /// The same with an idempotency key.
    pub(crate) async fn post_with_key(&self, communication: &Value, key: &str) -> Answer {
        self.post_as(communication, service(), &[("idempotency-key", key)])
            .await
    }

    /// The same with claims and headers.
    pub(crate) async fn post_as(
        &self,
        communication: &Value,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        self.post_text(&communication.to_string(), claims, headers)
            .await
    }

    /// The same with any text.
    pub(crate) async fn post_text(
        &self,
        body: &str,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let path = "/api/v1/communications";
        let event = http_event("POST", path, Some(body), &claims, headers);
        self.ask_send(&event).await
    }

    /// POSTs a communication to an invocation that may last `time`.
    pub(crate) async fn post_within(&self, communication: &Value, time: Duration) -> Answer {
        self.remember(post_to(&self.send, communication, &[], time).await)
    }

    /// GETs a communication.
    pub(crate) async fn status(&self, id: &str) -> Answer {
        let path = format!("/api/v1/communications/{id}");
        let event = http_event("GET", &path, None, &service(), &[]);
        self.ask_status(&event).await
    }

    /// Gives an event to the send function.
    pub(crate) async fn ask_send(&self, event: &str) -> Answer {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_send::handle(&self.send, request).instrument(span)).await;
        self.remember(Answer::of(answer))
    }

    /// Gives an event to the status function.
    pub(crate) async fn ask_status(&self, event: &str) -> Answer {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_status::handle(&self.status, request).instrument(span)).await;
        self.remember(Answer::of(answer))
    }

    /// Gives an event to the config function.
    pub(crate) async fn ask_config(&self, event: &str) -> Answer {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_config::handle(&self.config, request).instrument(span)).await;
        self.remember(Answer::of(answer))
    }

    /// Gives an event to the config-test function.
    pub(crate) async fn ask_config_test(&self, event: &str) -> Answer {
        let request = request(event);
        let span = invocation(&request);
        let tested = comms_config_test::handle(&self.config_test, request).instrument(span);
        let answer = Box::pin(tested).await;
        self.remember(Answer::of(answer))
    }

    fn remember(&self, answer: Answer) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer.text.clone());
        answer
    }

    /// Every answer that was given, as text.
    pub(crate) fn answers(&self) -> String {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.join("\n")
    }

    /// Refuses the next `times` writes of deliveries to the ledger.
    pub(crate) fn fail_deliveries(&self, times: usize) {
        self.fail_updates(times, |_, sk| sk.starts_with("delivery#"));
    }

    /// Refuses the next `times` updates of the items whose keys are chosen.
    pub(crate) fn fail_updates(&self, times: usize, is_chosen: fn(&str, &str) -> bool) {
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

    /// Puts a body on the queue, as a producer does that does not come by HTTP.
    pub(crate) async fn enqueue(&self, body: &str) {
        self.queue
            .send_message()
            .queue_url(&self.aws.resources().queue_url)
            .message_body(body)
            .send()
            .await
            .unwrap();
    }

    /// Up to ten messages of a queue.
    async fn receive(&self, url: &str) -> Vec<aws_sdk_sqs::types::Message> {
        let received = self
            .queue
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .unwrap();
        received.messages.unwrap_or_default()
    }

    /// Up to ten messages of the urgent queue, else of the other, as they are received and as Lambda hands them on; and
    /// the URL of the queue.
    pub(crate) async fn take_batch(&self) -> (&str, Vec<aws_sdk_sqs::types::Message>, Vec<Value>) {
        let resources = self.aws.resources();
        let mut url = &resources.urgent_queue_url;
        let mut received = self.receive(url).await;
        if received.is_empty() {
            url = &resources.queue_url;
            received = self.receive(url).await;
        }
        let name = url.rsplit('/').next().unwrap();
        let arn = format!("arn:aws:sqs:us-east-1:123456789012:{name}");
        let records = received.iter().map(|message| {
            let attributes: serde_json::Map<_, _> = message
                .attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str().to_owned(), json!(value)))
                .collect();
            let own: serde_json::Map<_, _> = message
                .message_attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    let json =
                        json!({"stringValue": value.string_value(), "dataType": value.data_type()});
                    (name.clone(), json)
                })
                .collect();
            let mut record = record(message.message_id().unwrap(), message.body().unwrap());
            record["eventSourceARN"] = json!(arn);
            record["receiptHandle"] = json!(message.receipt_handle());
            record["attributes"] = attributes.into();
            record["messageAttributes"] = own.into();
            record
        });
        let records = records.collect();
        (url, received, records)
    }

    /// Lets the worker handle what is on the queues, the urgent one first, as Lambda does: the messages that it does not
    /// give back are deleted. Those that it gives back can be received again at once.
    pub(crate) async fn run_worker(&self) -> Batch {
        self.run_worker_with(&self.worker, Duration::from_secs(30))
            .await
    }

    /// The same by another worker, in an invocation that may last `time`.
    pub(crate) async fn run_worker_with(
        &self,
        worker: &comms_worker::Deps,
        time: Duration,
    ) -> Batch {
        let (url, received, records) = self.take_batch().await;
        let failed = handle_records(worker, &records, time).await;
        for message in &received {
            let handle = message.receipt_handle().unwrap();
            if failed
                .iter()
                .any(|id| Some(id.as_str()) == message.message_id())
            {
                self.queue
                    .change_message_visibility()
                    .queue_url(url)
                    .receipt_handle(handle)
                    .visibility_timeout(0)
                    .send()
                    .await
                    .unwrap();
            } else {
                self.queue
                    .delete_message()
                    .queue_url(url)
                    .receipt_handle(handle)
                    .send()
                    .await
                    .unwrap();
            }
        }
        Batch { records, failed }
    }

    /// What lies in the dead-letter queue: body, attributes, group and trace of each message.
    pub(crate) async fn dead_letters(&self) -> Vec<Value> {
        let mut letters = Vec::new();
        loop {
            let messages = self.receive(&self.aws.resources().dlq_url).await;
            if messages.is_empty() {
                return letters;
            }
            for message in messages {
                let attributes: serde_json::Map<_, _> = message
                    .message_attributes()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), json!(value.string_value())))
                    .collect();
                let types: serde_json::Map<_, _> = message
                    .message_attributes()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), json!(value.data_type())))
                    .collect();
                let group = message
                    .attributes()
                    .and_then(|all| all.get(&MessageSystemAttributeName::MessageGroupId));
                let trace = message
                    .attributes()
                    .and_then(|all| all.get(&MessageSystemAttributeName::AwsTraceHeader));
                letters.push(json!({
                    "body": message.body(), "attributes": attributes, "types": types, "group": group,
                    "trace": trace,
                }));
            }
        }
    }

    /// Gives records to the worker and returns the ids in `batchItemFailures`.
    pub(crate) async fn work_on(&self, records: &[Value]) -> Vec<String> {
        handle_records(&self.worker, records, Duration::from_secs(30)).await
    }
}

/// A worker at these resources, with this trust root and this clock.
pub(crate) fn worker_with(
    sdk: &SdkConfig,
    resources: &Resources,
    ca: &str,
    clock: Arc<dyn Clock>,
) -> comms_worker::Deps {
    comms_worker::Deps {
        pipeline: pipeline_with(sdk, resources, ca, clock),
        queues: comms_worker::Queues::new(
            sdk,
            [&resources.queue_url, &resources.urgent_queue_url],
            &resources.dlq_url,
        ),
    }
}

/// A pipeline at these resources, with this trust root and this clock.
pub(crate) fn pipeline_with(
    sdk: &SdkConfig,
    resources: &Resources,
    ca: &str,
    clock: Arc<dyn Clock>,
) -> Pipeline {
    let store = SettingsStore::new(sdk, &resources.settings_table, &resources.kms_key_id);
    let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(SystemResolver));
    let tls = TlsConfigs::new(Some(ca)).unwrap();
    Pipeline::new(Parts {
        settings: Arc::new(SettingsCache::new(store.clone(), clock.clone(), 500)),
        hash_keys: HashKeys::new(store),
        factory: ProviderFactory::new(tls, egress, sdk.clone(), clock.clone(), 1_000),
        health: SharedHealth::new(sdk, &resources.deliveries_table, clock.clone()),
        quotas: Quotas::new(sdk, &resources.deliveries_table, clock.clone()),
        rate_limiter: SharedRateLimiter::new(sdk, &resources.deliveries_table, clock.clone()),
        usage: Usage::new(sdk, &resources.deliveries_table),
        shares: Shares::new(
            sdk,
            &resources.deliveries_table,
            clock.clone(),
            ShareLimits::default(),
        ),
        ledger: Ledger::new(sdk, &resources.deliveries_table),
        clock,
    })
}

/// POSTs a communication to a process of the send function, in an invocation that may last `time`.
pub(crate) async fn post_to(
    send: &comms_send::Deps,
    communication: &Value,
    headers: &[(&str, &str)],
    time: Duration,
) -> Answer {
    let (path, body) = ("/api/v1/communications", communication.to_string());
    let event = http_event("POST", path, Some(&body), &service(), headers);
    let request = lambda_http::request::from_str(&event).unwrap();
    let request = request.with_lambda_context(context(time));
    Answer::of(Box::pin(comms_send::handle(send, request)).await)
}

/// Gives records to a worker in an invocation that may last `time`.
pub(crate) async fn handle_records(
    worker: &comms_worker::Deps,
    records: &[Value],
    time: Duration,
) -> Vec<String> {
    let event: SqsEvent = serde_json::from_value(json!({"Records": records})).unwrap();
    let response = Box::pin(comms_worker::handle(
        worker,
        LambdaEvent::new(event, context(time)),
    ))
    .await;
    response
        .batch_item_failures
        .into_iter()
        .map(|failure| failure.item_identifier)
        .collect()
}

/// A record of an SQS event.
pub(crate) fn record(id: &str, body: &str) -> Value {
    json!({
        "messageId": id, "receiptHandle": "handle", "body": body, "md5OfBody": "",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": CLINIC}, "messageAttributes": {},
        "eventSource": "aws:sqs", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms",
    })
}

fn context(time: Duration) -> Context {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
    let mut context = Context::default();
    context.request_id = String::from("8476a536-e9f4-11e8-9739-2dfe598c3fcd");
    context.deadline = u64::try_from(deadline.as_millis()).unwrap();
    context
}

fn request(event: &str) -> Request {
    lambda_http::request::from_str(event)
        .unwrap()
        .with_lambda_context(context(Duration::from_secs(29)))
}

fn clinic_path(tenant: &str) -> String {
    format!("/api/v1/clinics/{tenant}")
}

/// An event of API Gateway's payload format 2.0. `claims` are those of the verified token, which is in the
/// `authorization` header unless `headers` has another; `null` is a request that no authorizer has seen.
pub(crate) fn http_event(
    method: &str,
    path: &str,
    body: Option<&str>,
    claims: &Value,
    headers: &[(&str, &str)],
) -> String {
    let mut all = json!({"host": "api.clinic-comms.example", "content-type": "application/json"});
    if !claims.is_null() {
        all["authorization"] = json!(format!("Bearer {}", jwt::token(claims)));
    }
    for (name, value) in headers {
        all[*name] = json!(value);
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut event = json!({
        "version": "2.0", "routeKey": format!("{method} {path}"), "rawPath": path, "rawQueryString": query,
        "headers": all, "isBase64Encoded": false,
        "requestContext": {
            "accountId": "123456789012", "apiId": "api123", "domainName": "api.clinic-comms.example",
            "domainPrefix": "api", "requestId": "JKJaXmPLvHcESHA=", "routeKey": "route", "stage": "$default",
            "time": "01/Dec/2026:09:00:00 +0000", "timeEpoch": 1_796_115_600_000_u64,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.10",
                     "userAgent": "test"},
        },
    });
    if !claims.is_null() {
        let rendered = jwt::rendered_claims(claims);
        event["requestContext"]["authorizer"] =
            json!({"jwt": {"claims": rendered, "scopes": null}});
    }
    if let Some(body) = body {
        event["body"] = json!(body);
    }
    event.to_string()
}

/// The claims of a token with these roles, separated by blanks, and this clinic if there is one.
pub(crate) fn claims(roles: &str, clinic: Option<&str>) -> Value {
    let mut claims = json!({"sub": "user-1", "iss": "https://issuer.example.com/", "aud": "clinic-comms",
        "iat": 1_796_115_600, "exp": 4_102_444_800_u64});
    if !roles.is_empty() {
        claims["roles"] = roles.split(' ').collect();
    }
    if let Some(clinic) = clinic {
        claims["clinic_id"] = json!(clinic);
    }
    claims
}

/// A backend of the platform.
pub(crate) fn service() -> Value {
    claims("SERVICE", None)
}

/// The platform's own people.
pub(crate) fn super_admin() -> Value {
    claims("SUPER_ADMIN", None)
}

fn mail_server(ca: &TestCa, user: &str, password: &str) -> SmtpServerBuilder {
    SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .require_tls()
        .credentials(user, password)
}

/// An smtp entry of a settings document.
pub(crate) fn entry(port: u16, user: &str, password: &str) -> Value {
    json!({"provider": "smtp", "enabled": true, "credentials": {
        "host": "127.0.0.1", "port": port.to_string(), "secure": "false", "user": user, "password": password}})
}

/// A settings document with a primary for e-mail. Nothing is tried again, so that no test waits.
pub(crate) fn email(primary: &Value, from: &str) -> Value {
    json!({"email": {
        "primary": primary, "fallback": [], "defaultFrom": from, "defaultFromName": "Example Clinic",
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}, "onAmbiguous": "failover"}})
}

/// A queued communication of the clinic to one patient by e-mail.
pub(crate) fn communication() -> Value {
    json!({
        "category": "appointment", "priority": "high", "strategy": "queued",
        "title": "Appointment confirmed", "body": "See you on Monday at 10:00.",
        "recipients": [{"email": "patient@example.com", "name": "Pat Example"}],
        "channels": ["email"], "metadata": {"clinicId": CLINIC, "appointmentId": "appt-456"}})
}

/// The same, sent while the caller waits.
pub(crate) fn immediate() -> Value {
    let mut communication = communication();
    communication["strategy"] = json!("immediate");
    communication
}

/// What a patient sees of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reply_to: Option<String>,
    pub(crate) subject: String,
    pub(crate) message_id: String,
}

impl Mail {
    pub(crate) fn of(message: &ReceivedMessage) -> Self {
        let parsed = MessageParser::default().parse(&message.data).unwrap();
        let address = |address: &mail_parser::Address<'_>| {
            assert_eq!(address.iter().count(), 1, "{address:?}");
            address.first().unwrap().address().unwrap().to_owned()
        };
        Self {
            from: address(parsed.from().unwrap()),
            to: address(parsed.to().unwrap()),
            reply_to: parsed.reply_to().map(address),
            subject: parsed.subject().unwrap().to_owned(),
            message_id: parsed.message_id().unwrap().to_owned(),
        }
    }
}
