//! What the processes tell each other about providers' health: one item per tenant and settings
//! version, in the deliveries table.
//!
//! A change of state costs one write, by whoever saw it. Each process reads a tenant's item at most once
//! per [`MAX_AGE`]; in between it goes by what it sees itself. Nothing here can keep a message from being
//! sent: what can not be read or written in [`PATIENCE`] is left for the next time.
//!
//! A record decides whose account a message goes by: an entry that is down comes after the platform's. So each record
//! has a MAC under the deployment's hash key, and one without its MAC counts for nothing.

mod permits;
mod recovery;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{Client, operation::update_item::UpdateItemError, types::AttributeValue};
use comms_adapters::{Chain, Deadline};
use comms_core::{
    Channel, Clock, EntryId, ErrorKind, HashKey, HealthRecord, HealthState, Tenant, hash::Digest,
};
use comms_settings::error_code;
use futures_util::{FutureExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use crate::ledger::LedgerError;

pub use recovery::PassedTest;

/// How old what the others said may be before it is read again.
pub const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// The longest that reading or telling may hold anything up.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// How long a change is kept: DynamoDB's time to live removes items after it.
const RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Tenants of which it is remembered when they were read last.
const REMEMBERED_TENANTS: usize = 1_000;

const STATE: &str = "state";
const SINCE: &str = "since";
const LAST_ERROR: &str = "lastError";
const MAC: &str = "mac";

/// What was said of a tenant's entries, by [`name`].
pub type Records = HashMap<String, HealthRecord>;

/// Tells other processes of changes of providers' health, and hears of theirs.
pub struct SharedHealth {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    heard: Mutex<HashMap<Tenant, Heard>>,
}

struct Heard {
    version: u64,
    at: Timestamp,
    records: Arc<Records>,
}

impl SharedHealth {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client: Client::new(config),
            table: table.into(),
            clock,
            heard: Mutex::default(),
        }
    }

    /// Lets the entries of `chain`, which is the tenant's own at `version`, know what other processes
    /// have seen of them.
    pub async fn hear(
        &self,
        key: &HashKey,
        tenant: &Tenant,
        version: u64,
        channel: Channel,
        chain: &Chain,
        deadline: Deadline,
    ) {
        let mut records = self.remembered(tenant, version);
        if records.is_none() {
            // Who comes next goes by what was known until the answer is there.
            self.remember(tenant, version, None);
            // Boxed, as it is rare and would make every delivery's future as large as itself.
            let read = Box::pin(self.read(key, tenant, version));
            match deadline.bound(PATIENCE, read).await {
                Ok(Ok(read)) => {
                    let read = Arc::new(read);
                    self.remember(tenant, version, Some(read.clone()));
                    records = Some(read);
                }
                Ok(Err(error)) => warn!(%error, "what others know of providers was not read"),
                Err(_) => warn!("what others know of providers was not read in time"),
            }
        }
        for entry in &chain.entries {
            let record = records
                .as_ref()
                .and_then(|records| records.get(&name(channel, &entry.id)));
            if let Some(record) = record {
                entry.health.adopt(record);
            }
        }
    }

    /// Tells the others of what changed in `chain`, which is the tenant's own at `version`.
    pub async fn tell(
        &self,
        key: &HashKey,
        tenant: &Tenant,
        version: u64,
        channel: Channel,
        chain: &Chain,
        deadline: Deadline,
    ) {
        let changes = chain.entries.iter().filter_map(|entry| {
            let change = entry.health.unshared()?;
            Some(async move {
                let name = name(channel, &entry.id);
                let record = change.record();
                let mac = mac(key, tenant, version, &name, record);
                let write = self.write(tenant, version, &name, record, mac);
                match deadline.bound(PATIENCE, write).await {
                    Ok(Ok(())) => change.done(),
                    Ok(Err(error)) => warn!(%error, "a provider's health was not told to others"),
                    Err(_) => warn!("a provider's health was not told to others in time"),
                }
            })
        });
        join_all(changes).await;
    }

    /// What was said of the tenant's entries at `version`, as far as its MACs are right. One eventually consistent
    /// read.
    pub async fn read(
        &self,
        key: &HashKey,
        tenant: &Tenant,
        version: u64,
    ) -> Result<Records, LedgerError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .send()
            .boxed()
            .await
            .map_err(|error| LedgerError::Database {
                operation: "GetItem",
                code: error_code(&error),
            })?;
        let item = answer.item.unwrap_or_default();
        let entries = item.iter().filter(|(_, value)| value.is_m());
        let mut ignored = 0_usize;
        let mut records = Records::new();
        for (name, value) in entries {
            let authentic = record(value).filter(|record| {
                let given = value
                    .as_m()
                    .ok()
                    .and_then(|value| value.get(MAC)?.as_s().ok());
                let expected = mac(key, tenant, version, name, record);
                given.is_some_and(|given| expected.is_hex128(given))
            });
            match authentic {
                Some(record) => {
                    records.insert(name.clone(), record);
                }
                None => ignored += 1,
            }
        }
        if ignored > 0 {
            warn!(ignored, "health records without a valid MAC were ignored");
        }
        Ok(records)
    }

    /// One write; a newer change that somebody else has told of stays.
    async fn write(
        &self,
        tenant: &Tenant,
        version: u64,
        name: &str,
        record: &HealthRecord,
        mac: Digest,
    ) -> Result<(), LedgerError> {
        let mut value = HashMap::from([
            (
                STATE.to_owned(),
                AttributeValue::S(record.state.as_str().to_owned()),
            ),
            (SINCE.to_owned(), number(record.since.as_microsecond())),
            (MAC.to_owned(), AttributeValue::S(mac.hex128())),
        ]);
        if let Some(kind) = record.last_error {
            let kind = AttributeValue::S(kind.as_str().to_owned());
            value.insert(LAST_ERROR.to_owned(), kind);
        }
        let expires_at = self.clock.now().saturating_add(RETENTION);
        let expires_at = expires_at.unwrap_or(Timestamp::MAX).as_second();
        let written = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .update_expression("SET #entry = :value, expiresAt = :expiresAt")
            .condition_expression("attribute_not_exists(#entry) OR #entry.#since < :since")
            .expression_attribute_names("#entry", name)
            .expression_attribute_names("#since", SINCE)
            .expression_attribute_values(":value", AttributeValue::M(value))
            .expression_attribute_values(":expiresAt", number(expires_at))
            .expression_attribute_values(":since", number(record.since.as_microsecond()))
            .send()
            .boxed()
            .await;
        match written {
            Ok(_) => {
                info!(
                    entry = name,
                    state = record.state.as_str(),
                    "told others of a provider's health"
                );
                Ok(())
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(LedgerError::Database {
                operation: "UpdateItem",
                code: error_code(&error),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Heard>> {
        // Nothing panics while the lock is held.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read of the tenant, where that is young enough.
    fn remembered(&self, tenant: &Tenant, version: u64) -> Option<Arc<Records>> {
        let now = self.clock.now();
        let heard = self.lock();
        let known = heard.get(tenant).filter(|known| known.version == version)?;
        let age = now.duration_since(known.at);
        // A clock that went backwards proves nothing about age.
        (age >= SignedDuration::ZERO && age < MAX_AGE).then(|| known.records.clone())
    }

    fn remember(&self, tenant: &Tenant, version: u64, records: Option<Arc<Records>>) {
        let at = self.clock.now();
        let mut heard = self.lock();
        if heard.len() >= REMEMBERED_TENANTS && !heard.contains_key(tenant) {
            let oldest = heard.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) {
                heard.remove(&oldest);
            }
        }
        let records = records.unwrap_or_else(|| {
            heard
                .get(tenant)
                .filter(|known| known.version == version)
                .map(|known| known.records.clone())
                .unwrap_or_default()
        });
        heard.insert(
            tenant.clone(),
            Heard {
                version,
                at,
                records,
            },
        );
    }
}

impl std::fmt::Debug for SharedHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedHealth(…)")
    }
}

/// How an entry is named in the item.
pub fn name(channel: Channel, entry: &EntryId) -> String {
    format!("{channel}/{entry}")
}

fn item_key(tenant: &Tenant, version: u64) -> HashMap<String, AttributeValue> {
    HashMap::from([
        (
            "pk".to_owned(),
            AttributeValue::S(format!("health#{tenant}")),
        ),
        ("sk".to_owned(), AttributeValue::S(version.to_string())),
    ])
}

/// The MAC of a record: over all that is believed of it, and where it belongs.
fn mac(key: &HashKey, tenant: &Tenant, version: u64, name: &str, record: &HealthRecord) -> Digest {
    let parts = [
        tenant.as_str().as_bytes(),
        &version.to_be_bytes(),
        name.as_bytes(),
        record.state.as_str().as_bytes(),
        &record.since.as_microsecond().to_be_bytes(),
        record.last_error.map_or("", ErrorKind::as_str).as_bytes(),
    ];
    key.digest("health", &parts)
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// What a record says, whoever wrote it.
pub(crate) fn record(value: &AttributeValue) -> Option<HealthRecord> {
    let value = value.as_m().ok()?;
    let text = |name: &str| value.get(name)?.as_s().ok();
    let since = value.get(SINCE)?.as_n().ok()?.parse().ok()?;
    Some(HealthRecord {
        state: HealthState::parse(text(STATE)?)?,
        since: Timestamp::from_microsecond(since).ok()?,
        last_error: text(LAST_ERROR).and_then(|text| ErrorKind::parse(text)),
    })
}
