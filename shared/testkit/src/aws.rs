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
mod batch;
mod calls;
mod dump;
mod fault;
mod messages;
mod serve;
mod setup;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use dynoxide::actions::get_item::GetItemRequest;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use winterbaume_kms::KmsService;
use winterbaume_sesv2::SesV2Service;
use winterbaume_sqs::SqsService;

pub use self::access::Access;
use self::messages::Messages;
use crate::host_guard::{AllowedHost, CrossOrigin, HostGuard};

use self::{
    dump::{dump_table, scan},
    fault::{ScriptedFault, Watcher},
    serve::serve,
    setup::{
        create_queues, create_table, enable_time_to_live, ensure_key, read_tables, tables_error,
    },
};

pub use self::{
    calls::{AssumedRole, AwsCall, SesMessage},
    fault::{Fault, Intervention, Moment, PassingCall},
};

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
    pub fn watch(&self, watcher: impl Fn(PassingCall) -> Intervention + Send + Sync + 'static) {
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
