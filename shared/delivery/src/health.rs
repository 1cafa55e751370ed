//! What the processes tell each other about providers' health: one item per tenant and settings
//! version, in the deliveries table.
//!
//! A change of state costs one write, by whoever saw it. Each process reads a tenant's item at most once
//! per [`MAX_AGE`]; in between it goes by what it sees itself. Nothing here can keep a message from being
//! sent: what cannot be read or written in [`SHARE_TIMEOUT`] is left for the next time.
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
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_adapters::{Chain, Deadline};
use comms_aws::{
    ConditionalWrite, Item, TableError, clients,
    item::{find_number, find_text, key, number, number_value, text},
};
use comms_core::{
    Channel, Clock, EntryId, ErrorKind, HashKey, HealthRecord, HealthState, Recent, Tenant,
    hash::Digest,
};
use futures_util::{FutureExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

pub use recovery::PassedTest;

/// How old what the others said may be before it is read again.
pub const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// The longest that reading or telling may hold anything up.
pub const SHARE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a record is kept, as long as the usage: DynamoDB's time to live removes items after it. An entry that works
/// changes once, so an item that is still read is renewed when half of the time is over.
const RETENTION: SignedDuration = SignedDuration::from_hours(400 * 24);
/// Tenants of which it is remembered when they were read last.
const REMEMBERED_TENANTS: usize = 1_000;

const STATE: &str = "state";
const SINCE: &str = "since";
const LAST_ERROR: &str = "lastError";
const MAC: &str = "mac";
const EXPIRES_AT: &str = "expiresAt";

/// What was said of a tenant's entries, by [`name`].
pub type Records = HashMap<String, HealthRecord>;

/// Tells other processes of changes of providers' health, and hears of theirs.
pub struct SharedHealth {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    heard: Mutex<Recent<Tenant, Heard>>,
}

/// Which record of the entry a write replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaces {
    /// None: it is written only where there is none.
    Nothing,
    /// One that is older.
    Older,
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
            client: clients::dynamodb(config, "health"),
            table: table.into(),
            clock,
            heard: Mutex::new(Recent::new(REMEMBERED_TENANTS)),
        }
    }

    /// Lets the entries of `chain`, which is the tenant's own at `version`, know what other processes
    /// have seen of them.
    pub async fn refresh(
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
            let read = Box::pin(self.read_and_renew(key, tenant, version));
            match deadline.bound(SHARE_TIMEOUT, read).await {
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
    pub async fn publish(
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
                let over = if change.is_first() {
                    Replaces::Nothing
                } else {
                    Replaces::Older
                };
                let write = self.write(tenant, version, &name, record, mac, over);
                match deadline.bound(SHARE_TIMEOUT, write).await {
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
    ) -> Result<Records, TableError> {
        let item = self.item(tenant, version).await?;
        Ok(authentic_records(&item, key, tenant, version))
    }

    /// The same, and one write where half of the time is over for which the item is kept.
    async fn read_and_renew(
        &self,
        key: &HashKey,
        tenant: &Tenant,
        version: u64,
    ) -> Result<Records, TableError> {
        let item = self.item(tenant, version).await?;
        let expires_at = find_number::<i64>(&item, EXPIRES_AT);
        let half = self.clock.now().saturating_add(RETENTION / 2);
        if expires_at.is_some_and(|at| half.is_ok_and(|half| at < half.as_second()))
            && let Err(error) = self.renew(tenant, version).await
        {
            warn!(%error, "what is known of providers will be forgotten");
        }
        Ok(authentic_records(&item, key, tenant, version))
    }

    async fn renew(&self, tenant: &Tenant, version: u64) -> Result<(), TableError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .update_expression("SET expiresAt = :expiresAt")
            // Nobody brings back an item that was deleted.
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":expiresAt", number_value(self.expires_at()))
            .send()
            .boxed()
            .await
            .map(drop)
            .map_err(|error| TableError::new("UpdateItem", &error))
    }

    /// The second after which an item that is written now is forgotten.
    fn expires_at(&self) -> i64 {
        let expires_at = self.clock.now().saturating_add(RETENTION);
        expires_at.unwrap_or(Timestamp::MAX).as_second()
    }

    async fn item(&self, tenant: &Tenant, version: u64) -> Result<Item, TableError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .send()
            .boxed()
            .await
            .map_err(|error| TableError::new("GetItem", &error))?;
        Ok(answer.item.unwrap_or_default())
    }

    /// One write. A newer change that somebody else has told of stays, and so does every record where it `replaces` none.
    async fn write(
        &self,
        tenant: &Tenant,
        version: u64,
        name: &str,
        record: &HealthRecord,
        mac: Digest,
        replaces: Replaces,
    ) -> Result<(), TableError> {
        let mut value = HashMap::from([
            text(STATE, record.state.as_str()),
            number(SINCE, record.since.as_microsecond()),
            text(MAC, &mac.hex128()),
        ]);
        value.extend(
            record
                .last_error
                .map(|kind| text(LAST_ERROR, kind.as_str())),
        );
        let write = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(tenant, version)))
            .update_expression("SET #entry = :value, expiresAt = :expiresAt")
            .expression_attribute_names("#entry", name)
            .expression_attribute_values(":value", AttributeValue::M(value))
            .expression_attribute_values(":expiresAt", number_value(self.expires_at()));
        let write = match replaces {
            Replaces::Nothing => write.condition_expression("attribute_not_exists(#entry)"),
            Replaces::Older => write
                .condition_expression("attribute_not_exists(#entry) OR #entry.#since < :since")
                .expression_attribute_names("#since", SINCE)
                .expression_attribute_values(":since", number_value(record.since.as_microsecond())),
        };
        if ConditionalWrite::of_update(write.send().boxed().await)?.is_done() {
            info!(
                entry = name,
                state = record.state.as_str(),
                "told others of a provider's health"
            );
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Tenant, Heard>> {
        // Nothing panics while the lock is held.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read of the tenant, where that is young enough.
    fn remembered(&self, tenant: &Tenant, version: u64) -> Option<Arc<Records>> {
        let now = self.clock.now();
        let heard = self.lock();
        let known = heard
            .peek(tenant)
            .filter(|known| known.version == version)?;
        let age = now.duration_since(known.at);
        // A clock that went backwards proves nothing about age.
        (age >= SignedDuration::ZERO && age < MAX_AGE).then(|| known.records.clone())
    }

    fn remember(&self, tenant: &Tenant, version: u64, records: Option<Arc<Records>>) {
        let at = self.clock.now();
        let mut heard = self.lock();
        let records = records.unwrap_or_else(|| {
            heard
                .peek(tenant)
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

/// The records of an item whose MACs are right.
fn authentic_records(item: &Item, key: &HashKey, tenant: &Tenant, version: u64) -> Records {
    let mut ignored = 0_usize;
    let mut records = Records::new();
    for (name, value) in item.iter().filter(|(_, value)| value.is_m()) {
        let authentic = record(value).filter(|record| {
            let given = value.as_m().ok().and_then(|value| find_text(value, MAC));
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
    records
}

/// How an entry is named in the item.
pub fn name(channel: Channel, entry: &EntryId) -> String {
    format!("{channel}/{entry}")
}

fn item_key(tenant: &Tenant, version: u64) -> Item {
    key(&format!("health#{tenant}"), &version.to_string())
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

/// What a record says, whoever wrote it.
pub(crate) fn record(value: &AttributeValue) -> Option<HealthRecord> {
    let value = value.as_m().ok()?;
    Some(HealthRecord {
        state: HealthState::parse(find_text(value, STATE)?)?,
        since: Timestamp::from_microsecond(find_number(value, SINCE)?).ok()?,
        last_error: find_text(value, LAST_ERROR).and_then(|text| ErrorKind::parse(text)),
    })
}
