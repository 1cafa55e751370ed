//! AWS on one loopback port: DynamoDB, KMS, SQS, SES v2 and STS for the real SDK clients.
//!
//! One HTTP endpoint serves all five. A request says which service it is for in the credential scope of its
//! `Authorization` header, as every signed AWS request does, so the production clients need nothing but
//! `AWS_ENDPOINT_URL`. DynamoDB is `dynoxide` (conditions and transactions are atomic), KMS, SQS and SES
//! are the `winterbaume` services, and STS is `AssumeRole` alone, which lets everybody have any role. Signatures are
//! not verified.
//!
//! Three things make it more than an emulator: every call is recorded ([`LocalAws::calls`]), with what IAM would be
//! asked because of it ([`LocalAws::accesses`]; everything is allowed); faults can be scripted per operation
//! ([`LocalAws::fail_next`]) in the shape in which the real service reports them, so what a test sees is what the SDK
//! makes of it, its retries included; and a test can be asked about every call, when it arrives and when its answer is
//! ready ([`LocalAws::watch`]). What SES was given to send is kept whole
//! ([`LocalAws::ses_messages`]), and so is which roles were assumed ([`LocalAws::assumed_roles`]).
//!
//! The services' own state lives in memory, or in a directory when one is given: the tables as an `SQLite` file,
//! and the KMS keys beside it, because a table full of sealed settings is worthless once the key is gone. Queues
//! are always in memory.

mod access;
mod messages;
mod tables;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dynoxide::actions::create_table::CreateTableRequest;
use dynoxide::actions::get_item::GetItemRequest;
use dynoxide::actions::scan::ScanRequest;
use dynoxide::actions::update_time_to_live::{TimeToLiveSpecification, UpdateTimeToLiveRequest};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use winterbaume_core::{MockRequest, MockService, StatefulService};
use winterbaume_kms::KmsService;
use winterbaume_kms::views::KmsStateView;
use winterbaume_sesv2::SesV2Service;
use winterbaume_sqs::SqsService;

pub use self::access::Access;
use self::messages::Messages;
use crate::host_guard::{AllowedHost, CrossOrigin, HostGuard};

/// The region of every resource that is created at start.
pub const REGION: &str = "us-east-1";

/// The account of every resource.
pub const ACCOUNT: &str = "123456789012";

/// How many calls [`LocalAws::calls`] remembers: the newest ones.
pub const MAX_CALLS: usize = 100_000;

/// The largest request body, in bytes. `DynamoDB`'s own limit is the largest of the four services.
const MAX_BODY: usize = 16 * 1024 * 1024;

const ACCESS_KEY_ID: &str = "AKIALOCALLOCALLOCAL0";
const SECRET_ACCESS_KEY: &str = "local-only-not-a-secret";

const SETTINGS_TABLE: &str = "clinic-comms-settings";
const DELIVERIES_TABLE: &str = "clinic-comms-deliveries";
const KEY_ALIAS: &str = "alias/clinic-comms";
const QUEUE: &str = "clinic-comms";
const URGENT_QUEUE: &str = "clinic-comms-urgent";
const DLQ: &str = "clinic-comms-dlq";

/// The attribute of an item of either table that says when it may be forgotten, in Unix seconds.
const TTL_ATTRIBUTE: &str = "expiresAt";

/// The tables' file inside the data directory.
const DATABASE_FILE: &str = "dynamodb.sqlite3";

/// The KMS keys' file inside the data directory.
const KEYS_FILE: &str = "kms.json";

/// Why the local AWS did not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalAwsError {
    /// The listener or a file could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The table engine refused.
    #[error("tables: {0}")]
    Tables(String),
    /// A resource could not be created.
    #[error("{operation} failed: {detail}")]
    Setup {
        /// The AWS operation.
        operation: &'static str,
        /// What the service answered.
        detail: String,
    },
    /// The saved KMS keys cannot be read. Starting with a new key would make every saved setting unreadable.
    #[error("the saved KMS keys in {} cannot be read: {detail}", path.display())]
    Keys {
        /// The keys' file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// The names and ids of what exists after a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Table of clinics' settings; keys `pk` (S) and `sk` (S), time to live by `expiresAt` (N, Unix seconds).
    pub settings_table: String,
    /// Table of deliveries; keys `pk` (S) and `sk` (S), time to live by `expiresAt` (N, Unix seconds).
    pub deliveries_table: String,
    /// ARN of the symmetric KMS key, which `alias/clinic-comms` names too.
    pub kms_key_id: String,
    /// URL of the standard queue (visibility timeout 180 s, 100 receives, then the dead-letter queue).
    pub queue_url: String,
    /// URL of the queue for what is urgent, which is like the other one.
    pub urgent_queue_url: String,
    /// URL of the dead-letter queue of both.
    pub dlq_url: String,
}

/// One call that arrived, whether it was answered or failed by a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCall {
    /// The service's name in the credential scope: `dynamodb`, `kms`, `sqs`, `ses`, …
    pub service: String,
    /// The operation as AWS spells it, such as `GetItem`.
    pub operation: String,
}

impl fmt::Display for AwsCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.operation)
    }
}

/// A message that SES took over.
#[derive(Clone, PartialEq)]
pub struct SesMessage {
    /// The region whose SES took it.
    pub region: String,
    /// The id of the access key that signed the request.
    pub access_key_id: String,
    /// The session token that came with it, as temporary credentials have one.
    pub session_token: Option<String>,
    /// The id that SES answered with.
    pub message_id: String,
    /// The request's body (SES v2, `SendEmail`).
    pub request: Value,
}

impl fmt::Debug for SesMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SesMessage({}, …)", self.message_id)
    }
}

/// A role for which STS gave temporary credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumedRole {
    /// The region whose STS was asked.
    pub region: String,
    /// The role.
    pub role_arn: String,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// The name that the caller gave to the session.
    pub session_name: String,
    /// The id of the temporary access key.
    pub access_key_id: String,
}

/// A scripted failure, in the shape in which the service itself reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Too many requests: `ProvisionedThroughputExceededException` (DynamoDB), `ThrottlingException` (KMS),
    /// `RequestThrottled` (SQS), `TooManyRequestsException` (SES), `Throttling` (STS). The SDK retries it.
    Throttle,
    /// The service is broken: a 500 with its own internal error. The SDK retries it.
    ServerError,
    /// The caller may not do this. Not retried.
    AccessDenied,
    /// The connection is closed without an answer. Whether the call had an effect is unknown to the caller; here it
    /// never has.
    Drop,
    /// The call has its effect, and the connection is closed in place of its answer.
    LoseAnswer,
    /// Of a batch of SQS every second entry, the first among them, fails with SQS's own internal error; the others
    /// have their effect. A call that has no entries fails as a whole ([`Fault::ServerError`]).
    SomeEntries,
}

/// When a call is shown to whom [`LocalAws::watch`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has arrived, and has had no effect yet.
    Arrived,
    /// It has had its effect, if it was to have one, and this is the status of the answer, which has not left yet.
    Answered(StatusCode),
}

/// A call as it passes. Its `Debug` does not show what it says.
#[derive(Clone)]
pub struct PassingCall {
    /// Which call.
    pub call: AwsCall,
    /// The id of the access key that signed it: who has one of its own is known by it.
    pub access_key_id: String,
    /// The body as JSON, [`Value::Null`] where it is none.
    pub request: Arc<Value>,
    /// Where it is on its way.
    pub moment: Moment,
}

impl fmt::Debug for PassingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.call, self.moment)
    }
}

/// What a watcher makes of a call, in its own time.
pub type Verdict = Pin<Box<dyn Future<Output = Option<Fault>> + Send>>;

type Watcher = Arc<dyn Fn(PassingCall) -> Verdict + Send + Sync>;

#[derive(Debug)]
struct ScriptedFault {
    service: String,
    operation: String,
    remaining: usize,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Record {
    calls: VecDeque<AwsCall>,
    accesses: BTreeSet<Access>,
    faults: Vec<ScriptedFault>,
    ses_messages: VecDeque<SesMessage>,
    assumed_roles: VecDeque<AssumedRole>,
}

/// AWS on a loopback port. Clones share one endpoint; it closes when the last clone is dropped.
#[derive(Clone)]
pub struct LocalAws {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    resources: Resources,
    services: Arc<Services>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for LocalAws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAws")
            .field("endpoint", &self.endpoint())
            .field("resources", &self.inner.resources)
            .finish_non_exhaustive()
    }
}

/// What answers the requests.
struct Services {
    tables: dynoxide::Database,
    guard: HostGuard,
    kms: KmsService,
    sqs: SqsService,
    ses: SesV2Service,
    messages: Mutex<Messages>,
    record: Mutex<Record>,
    watcher: Mutex<Option<Watcher>>,
}

impl LocalAws {
    /// Starts with everything in memory on a free loopback port.
    ///
    /// # Panics
    /// When no loopback port can be had: a test cannot go on without it.
    #[allow(
        clippy::panic,
        reason = "for tests, which want to stop here; start_on reports instead"
    )]
    pub async fn start() -> Self {
        let started = match TcpListener::bind(("127.0.0.1", 0)).await {
            Ok(listener) => Self::start_on(listener, None, &[]).await,
            Err(source) => Err(LocalAwsError::Io {
                what: "bind 127.0.0.1".to_owned(),
                source,
            }),
        };
        match started {
            Ok(aws) => aws,
            Err(error) => panic!("local AWS does not start: {error}"),
        }
    }

    /// Starts on `listener`. With `data`, tables and KMS keys are kept in that directory (made when missing, the
    /// keys' file readable by its owner only) and found again by the next start. It answers by the listener's own names
    /// and `allowed_hosts` ([`HostGuard`]).
    pub async fn start_on(
        listener: TcpListener,
        data: Option<&Path>,
        allowed_hosts: &[AllowedHost],
    ) -> Result<Self, LocalAwsError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| LocalAwsError::Io { what, source }
        };
        let address = listener
            .local_addr()
            .map_err(io("the AWS endpoint's address"))?;

        let tables = match data {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(io(&format!("create {}", dir.display())))?;
                let file = dir.join(DATABASE_FILE);
                let file = file.to_str().ok_or_else(|| {
                    LocalAwsError::Tables(format!("{} is not UTF-8", file.display()))
                })?;
                dynoxide::Database::new(file)
            }
            None => dynoxide::Database::memory(),
        }
        .map_err(tables_error)?;
        create_table(&tables, SETTINGS_TABLE)?;
        create_table(&tables, DELIVERIES_TABLE)?;
        enable_time_to_live(&tables, SETTINGS_TABLE)?;
        enable_time_to_live(&tables, DELIVERIES_TABLE)?;

        let services = Arc::new(Services {
            tables,
            guard: HostGuard::new(address, CrossOrigin::Nothing, allowed_hosts),
            kms: KmsService::new(),
            sqs: SqsService::new(),
            ses: SesV2Service::new(),
            messages: Mutex::default(),
            record: Mutex::default(),
            watcher: Mutex::default(),
        });

        let kms_key_id = ensure_key(&services.kms, data).await?;
        create_queues(&services.sqs).await?;

        let base = format!("http://{address}");
        let resources = Resources {
            settings_table: SETTINGS_TABLE.to_owned(),
            deliveries_table: DELIVERIES_TABLE.to_owned(),
            kms_key_id,
            queue_url: format!("{base}/{ACCOUNT}/{QUEUE}"),
            urgent_queue_url: format!("{base}/{ACCOUNT}/{URGENT_QUEUE}"),
            dlq_url: format!("{base}/{ACCOUNT}/{DLQ}"),
        };
        let tasks = vec![tokio::spawn(serve(listener, Arc::clone(&services)))];
        Ok(Self {
            inner: Arc::new(Inner {
                address,
                resources,
                services,
                tasks,
            }),
        })
    }

    /// The endpoint's URL, without a slash at the end: the value for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.inner.address)
    }

    /// Names and ids of the tables, the key and the queues.
    pub fn resources(&self) -> &Resources {
        &self.inner.resources
    }

    /// The environment with which a function process finds this AWS and nothing else.
    pub fn env(&self) -> Vec<(String, String)> {
        let resources = self.resources();
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
            // Without it, an SDK that misses something asks the instance metadata address and waits.
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("STACK_ACCOUNT_ID", ACCOUNT.to_owned()),
            ("SETTINGS_TABLE", resources.settings_table.clone()),
            ("DELIVERIES_TABLE", resources.deliveries_table.clone()),
            ("KMS_KEY_ID", resources.kms_key_id.clone()),
            ("QUEUE_URL", resources.queue_url.clone()),
            ("URGENT_QUEUE_URL", resources.urgent_queue_url.clone()),
            ("DEAD_LETTER_QUEUE_URL", resources.dlq_url.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// An SDK configuration for this endpoint with the SDK's default retries and time-outs.
    ///
    /// Nothing is read from the environment or from files, and the HTTP client has no TLS, which saves the time to
    /// read the system's certificates.
    pub fn sdk_config(&self) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                ACCESS_KEY_ID,
                SECRET_ACCESS_KEY,
                None,
                None,
                "local",
            )))
            .endpoint_url(self.endpoint())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build()
    }

    /// The calls that arrived since the start or the last [`clear_calls`](Self::clear_calls), oldest first, the
    /// newest [`MAX_CALLS`] of them. An SDK's retries are calls of their own.
    pub fn calls(&self) -> Vec<AwsCall> {
        self.record().calls.iter().cloned().collect()
    }

    /// How often `operation` of `service` was called, as [`calls`](Self::calls) counts.
    pub fn count(&self, service: &str, operation: &str) -> usize {
        self.record()
            .calls
            .iter()
            .filter(|call| call.service == service && call.operation == operation)
            .count()
    }

    /// The messages that SES took over since the start, oldest first, the newest [`MAX_CALLS`] of them.
    pub fn ses_messages(&self) -> Vec<SesMessage> {
        self.record().ses_messages.iter().cloned().collect()
    }

    /// The roles that were assumed since the start, oldest first, the newest [`MAX_CALLS`] of them.
    pub fn assumed_roles(&self) -> Vec<AssumedRole> {
        self.record().assumed_roles.iter().cloned().collect()
    }

    /// What IAM would have been asked since the start, each question once; [`clear_calls`](Self::clear_calls) leaves
    /// them.
    pub fn accesses(&self) -> BTreeSet<Access> {
        self.record().accesses.clone()
    }

    /// Forgets the recorded calls.
    pub fn clear_calls(&self) {
        self.record().calls.clear();
    }

    /// Fails the next `times` calls of `operation` of `service`, before they have any effect unless the fault says
    /// otherwise. Scripts are used up
    /// in the order in which they were given. `operation` `"*"` stands for every operation of the service. The SDK
    /// makes up to three attempts of what it may retry: to fail a call for good, script three.
    pub fn fail_next(&self, service: &str, operation: &str, times: usize, fault: Fault) {
        self.record().faults.push(ScriptedFault {
            service: service.to_owned(),
            operation: operation.to_owned(),
            remaining: times,
            fault,
        });
    }

    /// Shows every call to `watcher` from now on, twice: when it has arrived (unless a scripted fault has used it
    /// up), and when its answer is ready. The call waits for as long as the watcher takes. A fault that it returns
    /// happens in place of what would have: at [`Moment::Arrived`] as a scripted one, at [`Moment::Answered`] in
    /// place of the answer, although the call has had its effect. When the caller goes away, the call is forgotten
    /// where it is, and so is what the watcher was doing.
    pub fn watch(&self, watcher: impl Fn(PassingCall) -> Verdict + Send + Sync + 'static) {
        *self.inner.services.watcher() = Some(Arc::new(watcher));
    }

    /// An item as DynamoDB JSON, read past the endpoint: no call, and no fault. `None` where there is none.
    pub async fn item(
        &self,
        table: &str,
        pk: &str,
        sk: &str,
    ) -> Result<Option<Value>, LocalAwsError> {
        let request = json!({"TableName": table, "Key": {"pk": {"S": pk}, "sk": {"S": sk}}});
        let request: GetItemRequest = serde_json::from_value(request).map_err(tables_error)?;
        let tables = self.inner.services.tables.clone();
        read_tables(move || {
            let found = tables.get_item(request).map_err(tables_error)?.item;
            found
                .map(|item| serde_json::to_value(item).map_err(tables_error))
                .transpose()
        })
        .await
    }

    /// Every item of a table as DynamoDB JSON, read as [`item`](Self::item) reads.
    pub async fn items(&self, table: &str) -> Result<Vec<Value>, LocalAwsError> {
        let (tables, table) = (self.inner.services.tables.clone(), table.to_owned());
        read_tables(move || scan(&tables, &table)).await
    }

    /// Takes back every scripted fault that has not happened yet.
    pub fn clear_faults(&self) {
        self.record().faults.clear();
    }

    /// Every item of both tables as text: the items as DynamoDB JSON, and after them every binary value once more
    /// as (lossy) text, so that a search for a secret finds it in binary attributes too.
    ///
    /// # Panics
    /// When the tables cannot be read: a test that searches a dump must not pass on an empty one.
    #[allow(
        clippy::panic,
        reason = "for tests, which must not pass on an unread table"
    )]
    pub async fn dump_tables(&self) -> String {
        let tables = self.inner.services.tables.clone();
        let dumped = tokio::task::spawn_blocking(move || {
            [SETTINGS_TABLE, DELIVERIES_TABLE]
                .into_iter()
                .map(|table| dump_table(&tables, table))
                .collect::<Result<String, _>>()
        })
        .await;
        match dumped {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => panic!("{error}"),
            Err(error) => panic!("the dump did not finish: {error}"),
        }
    }

    /// Deletes the items whose time to live is over, as DynamoDB does some time after it, and returns how many.
    /// Nothing does so on its own here.
    pub async fn sweep_expired(&self) -> Result<usize, LocalAwsError> {
        let tables = self.inner.services.tables.clone();
        read_tables(move || tables.sweep_ttl().map_err(tables_error)).await
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.inner.services.record()
    }
}

fn tables_error(error: impl fmt::Display) -> LocalAwsError {
    LocalAwsError::Tables(error.to_string())
}

/// Works on the tables where that holds nobody up.
async fn read_tables<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalAwsError> + Send + 'static,
) -> Result<T, LocalAwsError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(tables_error)?
}

fn create_table(tables: &dynoxide::Database, name: &str) -> Result<(), LocalAwsError> {
    if tables
        .get_table_metadata(name)
        .map_err(tables_error)?
        .is_some()
    {
        return Ok(());
    }
    let request: CreateTableRequest = serde_json::from_value(json!({
        "TableName": name,
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        "BillingMode": "PAY_PER_REQUEST",
    }))
    .map_err(tables_error)?;
    tables.create_table(request).map_err(tables_error)?;
    Ok(())
}

fn enable_time_to_live(tables: &dynoxide::Database, name: &str) -> Result<(), LocalAwsError> {
    let enabled = tables
        .get_table_metadata(name)
        .map_err(tables_error)?
        .is_some_and(|table| table.ttl_attribute.is_some());
    if enabled {
        return Ok(());
    }
    tables
        .update_time_to_live(UpdateTimeToLiveRequest {
            table_name: name.to_owned(),
            time_to_live_specification: TimeToLiveSpecification {
                attribute_name: TTL_ATTRIBUTE.to_owned(),
                enabled: true,
            },
        })
        .map_err(tables_error)?;
    Ok(())
}

fn dump_table(tables: &dynoxide::Database, name: &str) -> Result<String, LocalAwsError> {
    let mut text = format!("# {name}\n");
    for item in scan(tables, name)? {
        text.push_str(&item.to_string());
        text.push('\n');
        push_binary(&item, &mut text);
    }
    Ok(text)
}

/// Every item of a table as DynamoDB JSON.
fn scan(tables: &dynoxide::Database, name: &str) -> Result<Vec<Value>, LocalAwsError> {
    let mut items = Vec::new();
    let mut start = None;
    loop {
        let page = tables
            .scan(ScanRequest {
                table_name: name.to_owned(),
                exclusive_start_key: start.take(),
                ..ScanRequest::default()
            })
            .map_err(tables_error)?;
        for item in page.items.unwrap_or_default() {
            items.push(serde_json::to_value(&item).map_err(tables_error)?);
        }
        match page.last_evaluated_key {
            Some(key) => start = Some(key),
            None => return Ok(items),
        }
    }
}

/// Appends what every `{"B": …}` and `{"BS": […]}` below `value` holds, one line each.
fn push_binary(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("B", Value::String(encoded)) => push_decoded(encoded, text),
                    ("BS", Value::Array(values)) => {
                        for encoded in values.iter().filter_map(Value::as_str) {
                            push_decoded(encoded, text);
                        }
                    }
                    _ => push_binary(member, text),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                push_binary(value, text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn push_decoded(encoded: &str, text: &mut String) {
    if let Ok(bytes) = BASE64.decode(encoded) {
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.push('\n');
    }
}

/// Calls one of the emulated services directly, for the resources that exist before the endpoint opens.
async fn call(
    service: &impl MockService,
    target: &'static str,
    operation: &'static str,
    body: Value,
) -> Result<Value, LocalAwsError> {
    let setup = |detail: String| LocalAwsError::Setup { operation, detail };
    let mut headers = HeaderMap::new();
    let target = HeaderValue::from_str(&format!("{target}.{operation}"))
        .map_err(|e| setup(e.to_string()))?;
    headers.insert("x-amz-target", target);
    let response = service
        .handle(MockRequest {
            method: "POST".to_owned(),
            uri: service_uri(service.service_name(), REGION, "/"),
            headers,
            body: body.to_string().into(),
        })
        .await;
    if response.status != 200 {
        return Err(setup(String::from_utf8_lossy(&response.body).into_owned()));
    }
    if response.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&response.body).map_err(|e| setup(e.to_string()))
}

/// The emulated services read the region from the host name, as of the real endpoints.
fn service_uri(service: &str, region: &str, path_and_query: &str) -> String {
    format!("https://{service}.{region}.amazonaws.com{path_and_query}")
}

/// Finds or makes the key, and keeps the keys' file in step with the service from then on.
async fn ensure_key(kms: &KmsService, data: Option<&Path>) -> Result<String, LocalAwsError> {
    if let Some(dir) = data {
        let path = dir.join(KEYS_FILE);
        let keys_error = |path: &Path, detail: String| LocalAwsError::Keys {
            path: path.to_owned(),
            detail,
        };
        match std::fs::read(&path) {
            Ok(saved) => {
                let view: KmsStateView =
                    serde_json::from_slice(&saved).map_err(|e| keys_error(&path, e.to_string()))?;
                kms.restore(ACCOUNT, REGION, view)
                    .await
                    .map_err(|e| keys_error(&path, e.to_string()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(keys_error(&path, error.to_string())),
        }
    }

    let view = kms.snapshot(ACCOUNT, REGION).await;
    let saved = view
        .aliases
        .get(KEY_ALIAS)
        .and_then(|alias| view.keys.get(&alias.target_key_id))
        .map(|key| key.arn.clone());
    let arn = if let Some(arn) = saved {
        arn
    } else {
        let created = call(
            kms,
            "TrentService",
            "CreateKey",
            json!({"Description": "clinic-comms settings"}),
        )
        .await?;
        let metadata = |name: &str| {
            created["KeyMetadata"][name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| LocalAwsError::Setup {
                    operation: "CreateKey",
                    detail: created.to_string(),
                })
        };
        call(
            kms,
            "TrentService",
            "CreateAlias",
            json!({"AliasName": KEY_ALIAS, "TargetKeyId": metadata("KeyId")?}),
        )
        .await?;
        metadata("Arn")?
    };

    if let Some(dir) = data {
        let path = dir.join(KEYS_FILE);
        let view = kms.snapshot(ACCOUNT, REGION).await;
        save_keys(&path, &view)?;
        // The service reports a change after every successful call, reads included; only real ones are written.
        let written = Mutex::new(serde_json::to_value(&view).unwrap_or_default());
        kms.notifier().subscribe(move |_, region, view| {
            let Ok(now) = serde_json::to_value(view) else {
                return;
            };
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if region == REGION && *written != now && save_keys(&path, view).is_ok() {
                *written = now;
            }
        });
    }
    Ok(arn)
}

/// Writes the keys beside their file and renames: a stop halfway must not cost the key.
fn save_keys(path: &Path, view: &KmsStateView) -> Result<(), LocalAwsError> {
    let io = |source| LocalAwsError::Io {
        what: format!("write {}", path.display()),
        source,
    };
    let text = serde_json::to_vec_pretty(view).map_err(|e| LocalAwsError::Keys {
        path: path.to_owned(),
        detail: e.to_string(),
    })?;
    let dir = path.parent().unwrap_or(Path::new("."));
    // Temporary files are made with mode 0600, which stays.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    std::io::Write::write_all(&mut file, &text).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

async fn create_queues(sqs: &SqsService) -> Result<(), LocalAwsError> {
    let create = |body| call(sqs, "AmazonSQS", "CreateQueue", body);
    create(json!({
        "QueueName": DLQ,
        "Attributes": {"MessageRetentionPeriod": "1209600"},
    }))
    .await?;
    let redrive = json!({
        "deadLetterTargetArn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{DLQ}"),
        "maxReceiveCount": 100,
    });
    for queue in [QUEUE, URGENT_QUEUE] {
        create(json!({
            "QueueName": queue,
            "Attributes": {"VisibilityTimeout": "180", "RedrivePolicy": redrive.to_string()},
        }))
        .await?;
    }
    Ok(())
}

async fn serve(listener: TcpListener, services: Arc<Services>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve_connection(stream, Arc::clone(&services)));
            } else {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, services: Arc<Services>) {
    // Small answers must not wait for the other side's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let services = Arc::clone(&services);
        async move { services.answer(request).await }
    });
    // An error here is a client that went away, or a scripted Fault::Drop.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hang up")]
struct HangUp;

impl Services {
    fn record(&self) -> MutexGuard<'_, Record> {
        // The record is valid after every statement, so a panic elsewhere does not spoil it.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watcher(&self) -> MutexGuard<'_, Option<Watcher>> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, HangUp> {
        let (parts, body) = request.into_parts();
        let checked = self.guard.check(&parts.method, &parts.uri, &parts.headers);
        if let Err(refusal) = checked {
            let kind = "RequestRefusedException";
            return Ok(error_answer(refusal.status, kind, &refusal.message));
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(error_answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                "the body cannot be read or is too large",
            ));
        };
        let body = body.to_bytes();
        let Some((service, region)) = credential_scope(&parts.headers) else {
            return Ok(error_answer(
                StatusCode::FORBIDDEN,
                "MissingAuthenticationTokenException",
                "Missing Authentication Token",
            ));
        };
        let path = parts.uri.path();
        let call = AwsCall {
            operation: operation(&service, &parts.headers, &parts.method, path, &body),
            service,
        };
        let caller = access_key_id(&parts.headers).unwrap_or_default();
        let accesses = access::Call {
            access_key_id: &caller,
            region: &region,
            service: &call.service,
            operation: &call.operation,
            path,
            body: &body,
        }
        .accesses();
        let mut fault = self.arrived(&call, accesses);
        let watcher = self.watcher().clone();
        let mut passing = watcher.map(|watcher| {
            let passing = PassingCall {
                call: call.clone(),
                access_key_id: caller,
                request: Arc::new(serde_json::from_slice(&body).unwrap_or_default()),
                moment: Moment::Arrived,
            };
            (watcher, passing)
        });
        if let Some((watcher, passing)) = passing.as_ref().filter(|_| fault.is_none()) {
            fault = watcher(passing.clone()).await;
        }
        let service = &call.service;
        let mut answer = match fault {
            None | Some(Fault::LoseAnswer) => self.serve(&call, &region, parts, body).await,
            Some(Fault::SomeEntries) => match some_entries(&body) {
                Some(divided) => {
                    let answer = self.serve(&call, &region, parts, divided.passed_on()).await;
                    divided.add_failed(answer).await
                }
                None => fault_answer(service, Fault::ServerError)?,
            },
            Some(
                fault @ (Fault::Throttle | Fault::ServerError | Fault::AccessDenied | Fault::Drop),
            ) => fault_answer(service, fault)?,
        };
        if let Some((watcher, passing)) = &mut passing {
            passing.moment = Moment::Answered(answer.status());
            if let Some(fault) = watcher(passing.clone()).await {
                answer = fault_answer(service, fault)?;
            }
        }
        if fault == Some(Fault::LoseAnswer) {
            return Err(HangUp);
        }
        Ok(answer)
    }

    /// What the service itself makes of a call.
    async fn serve(
        &self,
        call: &AwsCall,
        region: &str,
        parts: http::request::Parts,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let AwsCall { service, operation } = call;
        let emulated: &dyn MockService = match service.as_str() {
            "dynamodb" => return tables::answer(&self.tables, operation, &body),
            "kms" => &self.kms,
            "sqs" => &self.sqs,
            "ses" => &self.ses,
            "sts" => return self.answer_sts(region, &body),
            other => {
                return error_answer(
                    StatusCode::NOT_IMPLEMENTED,
                    "UnknownOperationException",
                    &format!("there is no {other} here"),
                );
            }
        };
        let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut answer = emulated
            .handle(MockRequest {
                method: parts.method.to_string(),
                uri: service_uri(service, region, path_and_query),
                headers: parts.headers.clone(),
                body: body.clone(),
            })
            .await;
        if service == "sqs" && answer.status == 200 {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(body) = messages.pass(operation, &body, &answer.body) {
                answer.body = body;
            }
        }
        if service == "ses" && operation == "SendEmail" && answer.status == 200 {
            self.keep_message(region, &parts.headers, &body, &answer.body);
        }
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = answer.headers;
        response
    }

    /// Records a call, and uses up a script for it if there is one.
    fn arrived(&self, call: &AwsCall, accesses: Vec<Access>) -> Option<Fault> {
        let mut record = self.record();
        record.accesses.extend(accesses);
        if record.calls.len() >= MAX_CALLS {
            record.calls.pop_front();
        }
        record.calls.push_back(call.clone());
        let script = record.faults.iter_mut().find(|script| {
            script.remaining > 0
                && script.service == call.service
                && (script.operation == call.operation || script.operation == "*")
        })?;
        script.remaining -= 1;
        Some(script.fault)
    }

    fn keep_message(&self, region: &str, headers: &HeaderMap, request: &[u8], answer: &[u8]) {
        let (Ok(request), Ok(answer)) = (
            serde_json::from_slice(request),
            serde_json::from_slice::<Value>(answer),
        ) else {
            return;
        };
        let token = headers.get("x-amz-security-token");
        let message = SesMessage {
            region: region.to_owned(),
            access_key_id: access_key_id(headers).unwrap_or_default(),
            session_token: token
                .and_then(|token| token.to_str().ok())
                .map(str::to_owned),
            message_id: answer["MessageId"].as_str().unwrap_or_default().to_owned(),
            request,
        };
        let mut record = self.record();
        if record.ses_messages.len() >= MAX_CALLS {
            record.ses_messages.pop_front();
        }
        record.ses_messages.push_back(message);
    }

    /// `AssumeRole` (STS API reference, version 2011-06-15), in the query protocol. The role's trust policy is not
    /// part of this: script a [`Fault::AccessDenied`] for a role that may not be assumed.
    fn answer_sts(&self, region: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let mut form: HashMap<String, String> = form(body);
        let action = form.remove("Action").unwrap_or_default();
        if action != "AssumeRole" || form.remove("Version").as_deref() != Some("2011-06-15") {
            return sts_error(
                StatusCode::BAD_REQUEST,
                "InvalidAction",
                "Could not find this operation for this version",
            );
        }
        let role_arn = form.remove("RoleArn").unwrap_or_default();
        let session_name = form.remove("RoleSessionName").unwrap_or_default();
        let external_id = form.remove("ExternalId");
        let of = |text: &str, lengths: std::ops::RangeInclusive<usize>, more: &str| {
            lengths.contains(&text.len())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let role = role_arn.strip_prefix("arn:aws:iam::");
        let role_ok =
            role.and_then(|rest| rest.split_once(":role/"))
                .is_some_and(|(account, name)| {
                    account.len() == 12
                        && account.bytes().all(|b| b.is_ascii_digit())
                        && of(name, 1..=512, "_+=,.@-/")
                });
        let external_ok = external_id
            .as_deref()
            .is_none_or(|id| of(id, 2..=1224, "_+=,.@:/-"));
        if !role_ok || !of(&session_name, 2..=64, "_+=,.@-") || !external_ok {
            return sts_error(
                StatusCode::BAD_REQUEST,
                "ValidationError",
                "RoleArn, RoleSessionName or ExternalId is missing or malformed",
            );
        }
        let unique = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        let access_key_id = format!("ASIA{}", &unique[..16]);
        let (_, role_name) = role_arn.split_at(role_arn.find("role/").unwrap_or_default() + 5);
        let account = role_arn.split(':').nth(4).unwrap_or_default();
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let answer = format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
             <AssumedRoleUser><AssumedRoleId>AROALOCAL:{session_name}</AssumedRoleId>\
             <Arn>arn:aws:sts::{account}:assumed-role/{role_name}/{session_name}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{access_key_id}</AccessKeyId><SecretAccessKey>local-{unique}</SecretAccessKey>\
             <SessionToken>token-of-{access_key_id}</SessionToken><Expiration>{until:.0}</Expiration></Credentials>\
             </AssumeRoleResult><ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></AssumeRoleResponse>",
            uuid::Uuid::new_v4(),
        );
        let assumed = AssumedRole {
            region: region.to_owned(),
            role_arn,
            external_id,
            session_name,
            access_key_id,
        };
        let mut record = self.record();
        if record.assumed_roles.len() >= MAX_CALLS {
            record.assumed_roles.pop_front();
        }
        record.assumed_roles.push_back(assumed);
        xml(StatusCode::OK, answer)
    }
}

/// A batch of SQS of which some entries fail and the others are passed on.
struct DividedBatch {
    request: Value,
    /// The ids of those that fail.
    failed: Vec<Value>,
}

/// Divides a batch; `None` where a call has no entries.
fn some_entries(body: &[u8]) -> Option<DividedBatch> {
    let mut request: Value = serde_json::from_slice(body).ok()?;
    let entries = request["Entries"].as_array_mut()?;
    let mut failed = Vec::new();
    let mut fails = false;
    entries.retain(|entry| {
        fails = !fails;
        if fails {
            failed.push(entry["Id"].clone());
        }
        !fails
    });
    Some(DividedBatch { request, failed })
}

impl DividedBatch {
    /// The batch without those that fail.
    fn passed_on(&self) -> Bytes {
        self.request.to_string().into()
    }

    /// The answer with those that fail (SQS API reference, `BatchResultErrorEntry`).
    async fn add_failed(self, answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let nothing_passed_on = self.request["Entries"]
            .as_array()
            .is_some_and(Vec::is_empty);
        let (mut parts, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let mut document: Value = match body {
            // SQS refuses a batch without entries, and this one had some.
            Ok(_) if nothing_passed_on => {
                parts.status = StatusCode::OK;
                json!({"Successful": []})
            }
            Ok(body) if parts.status == StatusCode::OK => {
                serde_json::from_slice(&body).unwrap_or_default()
            }
            Ok(body) => return Response::from_parts(parts, Full::new(body)),
            Err(never) => match never {},
        };
        let failed = self.failed.into_iter().map(|id| {
            json!({"Id": id, "SenderFault": false, "Code": "InternalError",
                "Message": "We encountered an internal error. Please try again."})
        });
        let mut all = document["Failed"].take();
        match all.as_array_mut() {
            Some(known) => known.extend(failed),
            None => all = failed.collect(),
        }
        document["Failed"] = all;
        parts.headers.remove(http::header::CONTENT_LENGTH);
        Response::from_parts(parts, Full::new(document.to_string().into()))
    }
}

/// Service and region from `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn credential_scope(headers: &HeaderMap) -> Option<(String, String)> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = authorization.split_once("Credential=")?;
    let credential = credential.split([',', ' ']).next()?;
    let mut fields = credential.rsplit('/');
    if fields.next()? != "aws4_request" {
        return None;
    }
    let service = fields.next()?.to_owned();
    let region = fields.next()?.to_owned();
    Some((service, region))
}

/// The access key's id from `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn access_key_id(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = authorization.split_once("Credential=")?;
    credential.split('/').next().map(str::to_owned)
}

/// The fields of a form.
fn form(body: &[u8]) -> HashMap<String, String> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

/// The operation's name: from the target header, for SES from the path, for STS from the form.
fn operation(
    service: &str,
    headers: &HeaderMap,
    method: &Method,
    path: &str,
    body: &[u8],
) -> String {
    if service == "sts" {
        return form(body).remove("Action").unwrap_or_default();
    }
    if let Some(target) = headers.get("x-amz-target").and_then(|v| v.to_str().ok()) {
        return target.rsplit('.').next().unwrap_or(target).to_owned();
    }
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let name = match (method.as_str(), segments.as_slice()) {
        ("POST", ["v2", "email", "outbound-emails"]) => "SendEmail",
        ("GET", ["v2", "email", "account"]) => "GetAccount",
        ("GET", ["v2", "email", "identities", _]) => "GetEmailIdentity",
        ("POST", ["v2", "email", "identities"]) => "CreateEmailIdentity",
        ("GET", ["v2", "email", "configuration-sets", _]) => "GetConfigurationSet",
        ("GET", ["v2", "email", "suppression", "addresses", _]) => "GetSuppressedDestination",
        ("POST", ["v2", "email", "tenants", "get"]) => "GetTenant",
        _ => return format!("{method} {path}"),
    };
    name.to_owned()
}

/// A failure as the service words it. `Err` closes the connection.
fn fault_answer(service: &str, fault: Fault) -> Result<Response<Full<Bytes>>, HangUp> {
    let (status, kind, message) = match (fault, service) {
        (Fault::Drop | Fault::LoseAnswer, _) => return Err(HangUp),
        (Fault::Throttle, "sts") => (400, "Throttling", "Rate exceeded"),
        (Fault::ServerError | Fault::SomeEntries, "sts") => {
            (500, "InternalFailure", "An internal error occurred.")
        }
        (Fault::AccessDenied, "sts") => (
            403,
            "AccessDenied",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform: sts:AssumeRole",
        ),
        (Fault::Throttle, "dynamodb") => (
            400,
            "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
             provisioning level with the UpdateTable API.",
        ),
        (Fault::Throttle, "kms") => (
            400,
            "ThrottlingException",
            "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
        ),
        (Fault::Throttle, "sqs") => (
            400,
            "com.amazonaws.sqs#RequestThrottled",
            "Request is throttled.",
        ),
        (Fault::Throttle, _) => (
            429,
            "TooManyRequestsException",
            "Maximum sending rate exceeded.",
        ),
        (Fault::ServerError | Fault::SomeEntries, "dynamodb") => (
            500,
            "com.amazonaws.dynamodb.v20120810#InternalServerError",
            "Internal server error",
        ),
        (Fault::ServerError | Fault::SomeEntries, "kms") => {
            (500, "KMSInternalException", "An internal error occurred.")
        }
        (Fault::ServerError | Fault::SomeEntries, "sqs") => (
            500,
            "com.amazonaws.sqs#InternalFailure",
            "We encountered an internal error. Please try again.",
        ),
        (Fault::ServerError | Fault::SomeEntries, _) => (
            500,
            "InternalServiceErrorException",
            "The request could not be processed.",
        ),
        (Fault::AccessDenied, "dynamodb" | "sqs") => (
            400,
            "com.amazon.coral.service#AccessDeniedException",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform this action",
        ),
        (Fault::AccessDenied, "kms") => (
            400,
            "AccessDeniedException",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform this action",
        ),
        (Fault::AccessDenied, _) => (
            403,
            "AccessDeniedException",
            "User is not authorized to perform this action",
        ),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if service == "sts" {
        return Ok(sts_error(status, kind, message));
    }
    let mut response = error_answer(status, kind, message);
    // SQS names the code of its old query protocol too, and the SDK prefers that one.
    let query_error = match (service, fault) {
        ("sqs", Fault::Throttle) => Some("RequestThrottled;Sender"),
        ("sqs", Fault::ServerError | Fault::SomeEntries) => Some("InternalFailure;Receiver"),
        ("sqs", Fault::AccessDenied) => Some("AccessDenied;Sender"),
        _ => None,
    };
    if let Some(query_error) = query_error {
        response
            .headers_mut()
            .insert("x-amzn-query-error", HeaderValue::from_static(query_error));
    }
    Ok(response)
}

fn xml(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

/// An error in the shape of the query protocol. `message` is XML as it is.
fn sts_error(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let side = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{side}</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        uuid::Uuid::new_v4(),
    );
    xml(status, body)
}

/// An error in the JSON shape that all services but STS share: the kind in `__type` and (for SES) in a header.
fn error_answer(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"__type": kind, "message": message});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.0"),
    );
    let kind = kind.rsplit('#').next().unwrap_or(kind);
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(HeaderName::from_static("x-amzn-errortype"), kind);
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    if let Ok(request_id) = HeaderValue::from_str(&request_id) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), request_id);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use aws_config::retry::RetryConfig;
    use aws_sdk_dynamodb::operation::get_item::GetItemError;
    use aws_sdk_dynamodb::types::AttributeValue;
    use aws_sdk_kms::primitives::Blob;
    use aws_sdk_sqs::types::{
        MessageSystemAttributeName, QueueAttributeName, SendMessageBatchResultEntry,
    };
    use aws_smithy_runtime_api::client::result::SdkError;

    fn s(value: &str) -> AttributeValue {
        AttributeValue::S(value.to_owned())
    }

    async fn put(tables: &aws_sdk_dynamodb::Client, table: &str, secret: &str) {
        tables
            .put_item()
            .table_name(table)
            .item("pk", s("CLINIC#1"))
            .item("sk", s("SETTINGS"))
            .item("sealed", AttributeValue::B(Blob::new(secret)))
            .send()
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn the_sdk_writes_and_reads_items_and_both_calls_are_recorded() {
        let aws = LocalAws::start().await;
        let tables = aws_sdk_dynamodb::Client::new(&aws.sdk_config());
        let table = &aws.resources().settings_table;
        put(&tables, table, "hunter2").await;
        let item = tables
            .get_item()
            .table_name(table)
            .key("pk", s("CLINIC#1"))
            .key("sk", s("SETTINGS"))
            .send()
            .await
            .unwrap();
        assert!(item.item.is_some());
        let calls: Vec<String> = aws.calls().iter().map(ToString::to_string).collect();
        assert_eq!(calls, ["dynamodb:PutItem", "dynamodb:GetItem"]);
        aws.clear_calls();
        assert!(aws.calls().is_empty());
        let dump = aws.dump_tables().await;
        assert!(
            dump.contains("CLINIC#1") && dump.contains("hunter2"),
            "{dump}"
        );
    }

    #[tokio::test]
    async fn deliveries_expire_by_their_time_to_live() {
        let aws = LocalAws::start().await;
        let tables = aws_sdk_dynamodb::Client::new(&aws.sdk_config());
        let ttl = tables
            .describe_time_to_live()
            .table_name(&aws.resources().deliveries_table)
            .send()
            .await
            .unwrap()
            .time_to_live_description
            .unwrap();
        assert_eq!(ttl.attribute_name(), Some("expiresAt"));
        tables
            .put_item()
            .table_name(&aws.resources().deliveries_table)
            .item("pk", s("a"))
            .item("sk", s("a"))
            .item("expiresAt", AttributeValue::N("1700000000".to_owned()))
            .send()
            .await
            .unwrap();
        assert_eq!(aws.sweep_expired().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_data_key_opens_with_its_encryption_context_only() {
        let aws = LocalAws::start().await;
        let kms = aws_sdk_kms::Client::new(&aws.sdk_config());
        let key = &aws.resources().kms_key_id;
        let data_key = kms
            .generate_data_key()
            .key_id("alias/clinic-comms")
            .key_spec(aws_sdk_kms::types::DataKeySpec::Aes256)
            .encryption_context("clinicId", "a")
            .send()
            .await
            .unwrap();
        assert_eq!(data_key.key_id(), Some(key.as_str()));
        let decrypt = |clinic: &'static str| {
            kms.decrypt()
                .key_id(key)
                .ciphertext_blob(data_key.ciphertext_blob.clone().unwrap())
                .encryption_context("clinicId", clinic)
                .send()
        };
        assert_eq!(decrypt("a").await.unwrap().plaintext, data_key.plaintext);
        let refused = decrypt("b").await.unwrap_err().into_service_error();
        assert!(refused.is_invalid_ciphertext_exception(), "{refused:?}");
    }

    #[tokio::test]
    async fn a_queued_message_is_received_with_its_group_and_deleted() {
        let aws = LocalAws::start().await;
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let queue = &aws.resources().queue_url;
        sqs.send_message()
            .queue_url(queue)
            .message_body("{}")
            .message_group_id("clinic-1")
            .send()
            .await
            .unwrap();
        let received = sqs
            .receive_message()
            .queue_url(queue)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await
            .unwrap();
        let attributes = received.messages()[0].attributes().unwrap();
        assert_eq!(
            attributes[&MessageSystemAttributeName::MessageGroupId],
            "clinic-1"
        );
        let handle = received.messages()[0].receipt_handle().unwrap();
        sqs.delete_message()
            .queue_url(queue)
            .receipt_handle(handle)
            .send()
            .await
            .unwrap();
        assert_eq!(aws.count("sqs", "ReceiveMessage"), 1);
    }

    #[tokio::test]
    async fn a_message_that_was_given_back_is_counted_as_one_that_can_be_received() {
        let aws = LocalAws::start().await;
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let queue = &aws.resources().dlq_url;
        let counts = async || {
            let answer = sqs
                .get_queue_attributes()
                .queue_url(queue)
                .attribute_names(QueueAttributeName::All)
                .send()
                .await
                .unwrap();
            [
                QueueAttributeName::ApproximateNumberOfMessages,
                QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            ]
            .map(|name| answer.attributes().unwrap()[&name].clone())
        };
        for body in ["a", "b", "c"] {
            let request = sqs.send_message().queue_url(queue).message_body(body);
            request.send().await.unwrap();
        }
        assert_eq!(counts().await, ["3", "0"]);
        let request = sqs.receive_message().queue_url(queue);
        let received = request.max_number_of_messages(2).send().await.unwrap();
        assert_eq!(counts().await, ["1", "2"]);
        let handle = |n: usize| received.messages()[n].receipt_handle().unwrap();
        sqs.change_message_visibility()
            .queue_url(queue)
            .receipt_handle(handle(0))
            .visibility_timeout(0)
            .send()
            .await
            .unwrap();
        assert_eq!(counts().await, ["2", "1"]);
        sqs.delete_message()
            .queue_url(queue)
            .receipt_handle(handle(1))
            .send()
            .await
            .unwrap();
        assert_eq!(counts().await, ["2", "0"]);
    }

    #[tokio::test]
    async fn message_received_too_often_is_a_dead_letter_with_its_source()
    {
        let aws = LocalAws::start().await;
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let (queue, dlq) = (&aws.resources().urgent_queue_url, &aws.resources().dlq_url);
        let policy = format!(
            r#"{{"deadLetterTargetArn":"arn:aws:sqs:{REGION}:{ACCOUNT}:{DLQ}","maxReceiveCount":1}}"#
        );
        sqs.set_queue_attributes()
            .queue_url(queue)
            .attributes(QueueAttributeName::RedrivePolicy, policy)
            .send()
            .await
            .unwrap();
        let request = sqs.send_message().queue_url(queue).message_body("{}");
        let sent = request.message_group_id("clinic-1").send().await.unwrap();
        let receive = async |url: &str| {
            let request = sqs
                .receive_message()
                .queue_url(url)
                .message_system_attribute_names(MessageSystemAttributeName::All);
            request.send().await.unwrap().messages.unwrap_or_default()
        };
        let first = receive(queue).await;
        sqs.change_message_visibility()
            .queue_url(queue)
            .set_receipt_handle(first[0].receipt_handle.clone())
            .visibility_timeout(0)
            .send()
            .await
            .unwrap();
        assert!(receive(queue).await.is_empty());
        let dead = receive(dlq).await;
        assert_eq!(dead[0].message_id, sent.message_id);
        let attributes = dead[0].attributes().unwrap();
        assert_eq!(
            attributes[&MessageSystemAttributeName::DeadLetterQueueSourceArn],
            format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{URGENT_QUEUE}")
        );
        assert_eq!(
            attributes[&MessageSystemAttributeName::MessageGroupId],
            "clinic-1"
        );
    }

    #[tokio::test]
    async fn scripted_faults_reach_the_sdk_as_the_services_own_errors() {
        let aws = LocalAws::start().await;
        let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
        let config = aws
            .sdk_config()
            .into_builder()
            .retry_config(retries)
            .build();
        let tables = aws_sdk_dynamodb::Client::new(&config);
        let get = || {
            tables
                .get_item()
                .table_name(&aws.resources().settings_table)
                .key("pk", s("x"))
                .key("sk", s("x"))
                .send()
        };
        aws.fail_next("dynamodb", "GetItem", 3, Fault::Throttle);
        let error = get().await.unwrap_err().into_service_error();
        assert!(
            matches!(
                error,
                GetItemError::ProvisionedThroughputExceededException(_)
            ),
            "{error:?}"
        );
        assert_eq!(aws.count("dynamodb", "GetItem"), 3, "the SDK's own retries");
        get().await.unwrap();

        aws.fail_next("dynamodb", "*", 1, Fault::AccessDenied);
        let error = get().await.unwrap_err().into_service_error();
        assert_eq!(error.meta().code(), Some("AccessDeniedException"));

        aws.fail_next("dynamodb", "GetItem", 3, Fault::Drop);
        let error = get().await.unwrap_err();
        assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");

        let kms = aws_sdk_kms::Client::new(&config);
        aws.fail_next("kms", "Decrypt", 3, Fault::ServerError);
        let error = kms
            .decrypt()
            .ciphertext_blob(Blob::new("x"))
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        assert!(error.is_kms_internal_exception(), "{error:?}");

        let sqs = aws_sdk_sqs::Client::new(&config);
        aws.fail_next("sqs", "SendMessage", 3, Fault::Throttle);
        let error = sqs
            .send_message()
            .queue_url(&aws.resources().queue_url)
            .message_body("x")
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        assert!(error.is_request_throttled(), "{error:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_leaves_the_effect_that_the_call_had() {
        let aws = LocalAws::start().await;
        let retries = RetryConfig::standard().with_max_attempts(1);
        let config = aws
            .sdk_config()
            .into_builder()
            .retry_config(retries)
            .build();
        let tables = aws_sdk_dynamodb::Client::new(&config);
        let table = aws.resources().settings_table.as_str();
        let put = |pk: &'static str| {
            tables
                .put_item()
                .table_name(table)
                .item("pk", s(pk))
                .item("sk", s("x"))
                .send()
        };
        for (fault, pk, is_there) in [(Fault::Drop, "a", false), (Fault::LoseAnswer, "b", true)] {
            aws.fail_next("dynamodb", "PutItem", 1, fault);
            let error = put(pk).await.unwrap_err();
            assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
            let item = aws.item(table, pk, "x").await.unwrap();
            assert_eq!(item.is_some(), is_there, "{fault:?}");
        }
        let item = json!({"pk": {"S": "b"}, "sk": {"S": "x"}});
        assert_eq!(aws.items(table).await.unwrap(), [item]);
        put("a").await.unwrap();
    }

    #[tokio::test]
    async fn every_second_entry_of_a_partly_failing_batch_has_its_effect() {
        let aws = LocalAws::start().await;
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let queue = &aws.resources().queue_url;
        let send = |ids: &'static [&'static str]| {
            let entry = |id: &&str| {
                aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder()
                    .id(*id)
                    .message_body(*id)
                    .build()
                    .unwrap()
            };
            sqs.send_message_batch()
                .queue_url(queue)
                .set_entries(Some(ids.iter().map(entry).collect()))
                .send()
        };
        for (ids, sent) in [(&["a", "b", "c"][..], &["b"][..]), (&["d"], &[])] {
            aws.fail_next("sqs", "SendMessageBatch", 1, Fault::SomeEntries);
            let answer = send(ids).await.unwrap();
            let successful: Vec<_> = answer
                .successful()
                .iter()
                .map(SendMessageBatchResultEntry::id)
                .collect();
            assert_eq!(successful, sent);
            assert_eq!(answer.failed().len(), ids.len() - sent.len());
            assert!(answer.failed().iter().all(|entry| !entry.sender_fault()));
        }
        let received = sqs
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(10)
            .send()
            .await
            .unwrap();
        let bodies: Vec<_> = received.messages().iter().map(|m| m.body()).collect();
        assert_eq!(bodies, [Some("b")]);
    }

    #[tokio::test]
    async fn watcher_sees_and_may_fail_each_call_before_and_after_its_effect() {
        let aws = LocalAws::start().await;
        let retries = RetryConfig::standard().with_max_attempts(1);
        let config = aws
            .sdk_config()
            .into_builder()
            .retry_config(retries)
            .build();
        let tables = aws_sdk_dynamodb::Client::new(&config);
        let table = aws.resources().settings_table.clone();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (watched, notes, in_table) = (aws.clone(), seen.clone(), table.clone());
        aws.watch(move |passing| {
            let (aws, notes, table) = (watched.clone(), notes.clone(), in_table.clone());
            Box::pin(async move {
                let pk = passing.request["Item"]["pk"]["S"].as_str().unwrap();
                let is_there = aws.item(&table, pk, "x").await.unwrap().is_some();
                let note = format!("{pk} {:?} {is_there}", passing.moment);
                notes.lock().unwrap().push(note);
                assert_eq!(passing.access_key_id, ACCESS_KEY_ID);
                match (pk, passing.moment) {
                    ("before", Moment::Arrived) | ("after", Moment::Answered(_)) => {
                        Some(Fault::ServerError)
                    }
                    _ => None,
                }
            })
        });
        let mut results = Vec::new();
        for pk in ["before", "after", "never"] {
            let put = tables.put_item().table_name(&table).item("pk", s(pk));
            results.push(put.item("sk", s("x")).send().await.is_ok());
        }
        assert_eq!(results, [false, false, true]);
        let expected = [
            "before Arrived false",
            "before Answered(500) false",
            "after Arrived false",
            "after Answered(200) true",
            "never Arrived false",
            "never Answered(200) true",
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn sts_gives_an_hour_for_a_role_and_refuses_what_is_malformed() {
        let aws = LocalAws::start().await;
        let sts = aws_sdk_sts::Client::new(&aws.sdk_config());
        let assume = |role: &str, session: &str, external: &str| {
            sts.assume_role()
                .role_arn(role)
                .role_session_name(session)
                .external_id(external)
                .send()
        };
        let role = "arn:aws:iam::210987654321:role/path/clinic-mail";
        let given = assume(role, "clinic-comms", "a:b").await.unwrap();
        let given = given.credentials.unwrap();
        let left = given.expiration.secs() - jiff::Timestamp::now().as_second();
        assert!((3500..=3600).contains(&left), "{left}");
        let assumed = aws.assumed_roles();
        assert_eq!(assumed.len(), 1);
        assert_eq!(assumed[0].role_arn, role);
        assert_eq!(assumed[0].external_id.as_deref(), Some("a:b"));
        assert_eq!(assumed[0].access_key_id, given.access_key_id);

        for (role, session, external) in [
            ("arn:aws:iam::210987654321:user/mail", "clinic-comms", "ab"),
            ("arn:aws:iam::2109:role/mail", "clinic-comms", "ab"),
            (role, "clinic comms", "ab"),
            (role, "clinic-comms", "a"),
            (role, "clinic-comms", "<ab>"),
        ] {
            let error = assume(role, session, external).await.unwrap_err();
            let error = error.into_service_error();
            assert_eq!(error.meta().code(), Some("ValidationError"), "{error:?}");
        }
        assert_eq!(aws.assumed_roles().len(), 1);

        aws.fail_next("sts", "AssumeRole", 1, Fault::AccessDenied);
        let error = assume(role, "clinic-comms", "ab").await.unwrap_err();
        let error = error.into_service_error();
        assert_eq!(error.meta().code(), Some("AccessDenied"));
    }

    /// A page whose name resolves to this machine is of the endpoint's own origin, and signs with any key.
    #[tokio::test]
    async fn a_request_by_another_host_name_is_refused() {
        let aws = LocalAws::start().await;
        let ask = async |host: &str| {
            let client =
                hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
            let request = Request::post(aws.endpoint())
                .header("host", host)
                .header(CONTENT_TYPE, "application/x-amz-json-1.0")
                .header("x-amz-target", "DynamoDB_20120810.ListTables")
                .header("x-amz-date", "20260101T000000Z")
                .header(
                    AUTHORIZATION,
                    "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request",
                )
                .body(Full::new(Bytes::from("{}")))
                .unwrap();
            let answer = client.build_http::<Full<Bytes>>().request(request).await;
            let (parts, body) = answer.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (
                parts.status.as_u16(),
                String::from_utf8_lossy(&body).into_owned(),
            )
        };
        let port = aws.inner.address.port();
        let (status, body) = ask(&format!("localhost:{port}")).await;
        assert_eq!(status, 200, "{body}");
        let (status, body) = ask(&format!("attacker.example:{port}")).await;
        assert_eq!(status, 421, "{body}");
        assert!(
            body.contains("--allow-host") && !body.contains("attacker"),
            "{body}"
        );
        assert!(
            aws.calls()
                .iter()
                .all(|call| call.operation == "ListTables")
        );
        assert_eq!(aws.calls().len(), 1);
    }

    #[tokio::test]
    async fn data_sealed_before_a_restart_opens_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let start = || async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            LocalAws::start_on(listener, Some(dir.path()), &[])
                .await
                .unwrap()
        };
        let first = start().await;
        let config = first.sdk_config();
        let sealed = aws_sdk_kms::Client::new(&config)
            .encrypt()
            .key_id(&first.resources().kms_key_id)
            .plaintext(Blob::new("hunter2"))
            .send()
            .await
            .unwrap()
            .ciphertext_blob
            .unwrap();
        let tables = aws_sdk_dynamodb::Client::new(&config);
        put(&tables, &first.resources().settings_table, "sealed").await;
        let key = first.resources().kms_key_id.clone();
        drop(first);

        let second = start().await;
        assert_eq!(second.resources().kms_key_id, key);
        let opened = aws_sdk_kms::Client::new(&second.sdk_config())
            .decrypt()
            .key_id(&key)
            .ciphertext_blob(sealed)
            .send()
            .await
            .unwrap();
        assert_eq!(opened.plaintext.unwrap(), Blob::new("hunter2"));
        assert!(second.dump_tables().await.contains("CLINIC#1"));

        let mode = std::fs::metadata(dir.path().join(KEYS_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn unreadable_keys_stop_the_start_instead_of_being_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEYS_FILE), "{").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let error = LocalAws::start_on(listener, Some(dir.path()), &[])
            .await
            .unwrap_err();
        assert!(matches!(error, LocalAwsError::Keys { .. }), "{error}");
    }

    #[test]
    fn the_credential_scope_names_service_and_region() {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static(
                "AWS4-HMAC-SHA256 Credential=AK/20260101/eu-west-1/ses/aws4_request, SignedHeaders=host, Signature=0",
            ),
        );
        assert_eq!(
            credential_scope(&headers),
            Some(("ses".to_owned(), "eu-west-1".to_owned()))
        );
    }
}
