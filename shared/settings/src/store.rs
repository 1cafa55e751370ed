//! Where settings are kept: one DynamoDB item with a tenant's present settings, and one per version.
//!
//! "Not found" is an answer (`Ok(None)`); every failure of DynamoDB or KMS is an error. Nothing here
//! turns one into the other.
//!
//! Every change is one transaction ([`crate::write`]) of the present item, the version's own and the counter. The
//! version's item is the audit entry too, so that there is no change without one. It expires after the
//! [`VersionRetention`]; the present one never does. A deletion leaves a tombstone with the number, which every reader
//! takes for "not found", and after which the next save counts on.

mod loaded;
pub(crate) mod verified;
mod versions;

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_aws::{TableError, clients};
use comms_core::{Channel, Clock, EntryId, HashKey, ProviderKind, Tenant};
use futures_util::{FutureExt as _, future::try_join};
use serde_json::Value;
use tokio::sync::OnceCell;

pub use self::loaded::{Basis, Deleted, Past, Present, StoredSettings};
use self::verified::{SeenVersions, Verified, count_refusal};
pub use crate::store_error::StoreError;
use crate::{
    counter::COUNTER,
    document::CommunicationSettings,
    envelope::{EntryContext, Kms, Purpose},
    item::{Item, SettingsItem, StoredItem, attribute, is_expired, version_key, version_number},
    store_error::Refusal,
    version::VersionRetention,
};

/// The settings table with the key that seals what is in it.
#[derive(Debug, Clone)]
pub struct SettingsStore {
    pub(crate) dynamodb: Client,
    pub(crate) table: String,
    pub(crate) kms: Kms,
    pub(crate) retention: VersionRetention,
    pub(crate) accepts_unsealed: bool,
    pub(crate) hash_key: Arc<OnceCell<HashKey>>,
    pub(crate) seen: SeenVersions,
}

impl SettingsStore {
    /// Uses the table `table` and the KMS key `kms_key_id`.
    pub fn new(
        config: &SdkConfig,
        table: impl Into<String>,
        kms_key_id: impl Into<String>,
    ) -> Self {
        Self {
            dynamodb: clients::dynamodb(config, "settings"),
            table: table.into(),
            kms: Kms::new(clients::kms(config), kms_key_id),
            retention: VersionRetention::default(),
            accepts_unsealed: false,
            hash_key: Arc::default(),
            seen: SeenVersions::default(),
        }
    }

    /// Whether settings are read that have neither a seal nor a counter: for the upgrade from an earlier version of
    /// this service, until `comms-operator seal` has sealed them.
    #[must_use]
    pub const fn accepting_unsealed(mut self, accepts: bool) -> Self {
        self.accepts_unsealed = accepts;
        self
    }

    /// Keeps the versions that are saved from now on for another time than the usual one.
    #[must_use]
    pub const fn keeping_versions_for(mut self, retention: VersionRetention) -> Self {
        self.retention = retention;
        self
    }

    /// The tenant's present settings. Two strongly consistent reads at the same time and one KMS Decrypt.
    pub async fn load(&self, tenant: &Tenant) -> Result<Option<StoredSettings>, StoreError> {
        match self.load_unless(tenant, None).await?.loaded {
            Loaded::Absent | Loaded::Unchanged => Ok(None),
            Loaded::Settings(settings) => Ok(Some(*settings)),
        }
    }

    /// Like [`SettingsStore::load`], but opens nothing (and asks KMS for nothing) where the version
    /// is still `known`.
    pub(crate) async fn load_unless(
        &self,
        tenant: &Tenant,
        known: Option<u64>,
    ) -> Result<Numbered, StoreError> {
        let loaded = self.load_verified(tenant, known).await;
        loaded.inspect_err(count_refusal)
    }

    async fn load_verified(
        &self,
        tenant: &Tenant,
        known: Option<u64>,
    ) -> Result<Numbered, StoreError> {
        let (reading, verified) = self.read_verified(tenant).await?;
        let number = reading.counter.valid().map(|counter| counter.number);
        let loaded = self.load_item(tenant, verified?, known).await?;
        Ok(Numbered { number, loaded })
    }

    async fn load_item(
        &self,
        tenant: &Tenant,
        verified: Verified,
        known: Option<u64>,
    ) -> Result<Loaded, StoreError> {
        let item = match verified {
            Verified::Nothing => return Ok(Loaded::Absent),
            Verified::Settings(item) => item,
            Verified::Deleted(tombstone) => {
                let ceilings = tombstone.ceilings()?;
                if ceilings.is_empty() {
                    return Ok(Loaded::Absent);
                }
                // What the platform allows the clinic holds on. There is nothing else in these settings.
                return Ok(Loaded::Settings(Box::new(StoredSettings {
                    version: tombstone.version,
                    settings: CommunicationSettings::with_ceilings(ceilings),
                })));
            }
        };
        if known == Some(item.version.number) {
            return Ok(Loaded::Unchanged);
        }
        let settings = self.open(tenant, item).await?;
        Ok(Loaded::Settings(Box::new(settings)))
    }

    /// What is stored of the tenant, for somebody who is about to change it. Settings that cannot be
    /// read are an answer here, and an error only where not even their number can be.
    pub async fn load_present(&self, tenant: &Tenant) -> Result<Present, StoreError> {
        let (reading, verified) = self.read_verified(tenant).await?;
        let opened = match verified {
            Ok(Verified::Nothing) => return Ok(Present::Nothing),
            Ok(Verified::Deleted(tombstone)) => tombstone.ceilings().map(|ceilings| {
                Present::Deleted(Deleted {
                    number: tombstone.version.number,
                    kept: Box::new(CommunicationSettings::with_ceilings(ceilings)),
                })
            }),
            Ok(Verified::Settings(item)) => {
                let stored = self.open(tenant, item).await;
                stored.map(|stored| Present::Settings(Box::new(stored)))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(present) => Ok(present),
            Err(error) if error.is_worth_a_retry() => Err(error),
            Err(error) => {
                count_refusal(&error);
                let number = self.last_number(tenant, &reading).await?;
                let number = number.ok_or(StoreError::corrupt(attribute::VERSION))?;
                Ok(Present::Unreadable { number, error })
            }
        }
    }

    /// The version of the tenant's present settings, readable or not. Nothing is opened.
    pub async fn present_number(&self, tenant: &Tenant) -> Result<Option<u64>, StoreError> {
        let (reading, verified) = self.read_verified(tenant).await?;
        match verified {
            Ok(Verified::Nothing | Verified::Deleted(_)) => Ok(None),
            Err(error) if error.is_worth_a_retry() => Err(error),
            Ok(Verified::Settings(_)) | Err(_) => {
                let number = self.last_number(tenant, &reading).await?;
                number
                    .ok_or(StoreError::corrupt(attribute::VERSION))
                    .map(Some)
            }
        }
    }

    /// The settings as they were at an earlier version, or at the present one, opened with that
    /// version's own data key.
    pub async fn load_version(
        &self,
        tenant: &Tenant,
        number: u64,
        clock: &dyn Clock,
    ) -> Result<Past, StoreError> {
        let sort_key = version_key(number);
        let reads = try_join(self.item(tenant, &sort_key), self.item(tenant, COUNTER));
        let (item, counter) = reads.await?;
        let Some(item) = item.filter(|item| !is_expired(item, clock.now())) else {
            return Ok(Past::Nothing);
        };
        // The key is what was asked for; the attribute is what the sealed entries are bound to.
        if version_number(&item)? != number {
            return Err(StoreError::corrupt(attribute::VERSION));
        }
        // Whoever restores a version to mend a tenant whose counter is gone has the version's own seal to go by.
        let counter = self.counter_state(tenant, counter.as_ref()).await?;
        let (counter, now) = (counter.valid(), clock.now());
        let is_kept = counter.is_none_or(|counter| counter.keeps(number, now));
        let is_purge_pending = counter.is_some_and(|counter| counter.is_purge_pending(number, now));
        match StoredItem::from_item(&item)? {
            StoredItem::Tombstone(_) => Ok(Past::Deletion),
            StoredItem::Record(_) => Ok(Past::ContentRemoved),
            StoredItem::Settings(_) if !is_kept => Ok(Past::ContentRemoved),
            StoredItem::Settings(item) if item.seal.is_none() && !self.accepts_unsealed => {
                Err(StoreError::Refused(Refusal::Unsealed))
            }
            StoredItem::Settings(item) => {
                let settings = Box::new(self.open(tenant, item).await?);
                Ok(Past::Settings {
                    settings,
                    is_purge_pending,
                })
            }
        }
    }

    pub(crate) async fn item(&self, pk: &Tenant, sk: &str) -> Result<Option<Item>, StoreError> {
        self.raw_item(pk.as_str(), sk).await
    }

    pub(crate) async fn raw_item(&self, pk: &str, sk: &str) -> Result<Option<Item>, StoreError> {
        self.get_item(pk, sk, true).await
    }

    pub(crate) async fn get_item(
        &self,
        pk: &str,
        sk: &str,
        is_consistent: bool,
    ) -> Result<Option<Item>, StoreError> {
        let answer = self
            .dynamodb
            .get_item()
            .table_name(&self.table)
            .key(attribute::PK, AttributeValue::S(pk.to_owned()))
            .key(attribute::SK, AttributeValue::S(sk.to_owned()))
            .consistent_read(is_consistent)
            .send()
            .boxed()
            .await
            .map_err(|error| TableError::new("GetItem", &error))?;
        Ok(answer.item)
    }

    async fn open(
        &self,
        tenant: &Tenant,
        item: SettingsItem,
    ) -> Result<StoredSettings, StoreError> {
        let key = self
            .kms
            .decrypt(&item.data_key, tenant.as_str(), Purpose::Settings)
            .await?;
        let hash = match &item.seal {
            None => None,
            Some(seal) => {
                let content = item.content(tenant);
                if !key.is_content_seal(&content, seal) {
                    return Err(StoreError::Refused(Refusal::WrongSeal));
                }
                Some(content.hash())
            }
        };
        let mut document = item.outline()?;
        let places = entry_places(&document);
        for (pointer, channel, id, provider) in places {
            let context = EntryContext {
                tenant,
                channel,
                entry: &id,
                provider,
                version: item.version.number,
                content: hash.as_ref(),
            };
            let sealed = item
                .sealed
                .get(&sealed_name(channel.as_str(), id.as_str()))
                .ok_or(StoreError::corrupt(attribute::SEALED))?;
            let plaintext = key.open(&context, sealed)?;
            let credentials: Value = serde_json::from_slice(&plaintext)
                .map_err(|_| StoreError::corrupt(attribute::SEALED))?;
            if let Some(entry) = document.pointer_mut(&pointer) {
                entry["credentials"] = credentials;
            }
        }
        let settings =
            CommunicationSettings::read_stored(document, tenant).map_err(StoreError::Invalid)?;
        Ok(StoredSettings {
            version: item.version,
            settings,
        })
    }
}

/// What [`SettingsStore::load_unless`] found, and the number of the counter beside it.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// `None` where there is no counter.
    pub(crate) number: Option<u64>,
    pub(crate) loaded: Loaded,
}

#[derive(Debug)]
pub(crate) enum Loaded {
    /// There are no settings.
    Absent,
    Unchanged,
    Settings(Box<StoredSettings>),
}

pub(crate) fn sealed_name(channel: &str, entry: &str) -> String {
    format!("{channel}/{entry}")
}

/// Where the entries of an outline are: pointer, channel, id, provider. An entry that is not as it
/// was written is left out, and then found to have no credentials.
pub(crate) fn entry_places(outline: &Value) -> Vec<(String, Channel, EntryId, ProviderKind)> {
    let mut places = Vec::new();
    for channel in Channel::ALL {
        let fallbacks = outline
            .pointer(&format!("/{channel}/fallback"))
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let pointers = std::iter::once(format!("/{channel}/primary"))
            .chain((0..fallbacks).map(|index| format!("/{channel}/fallback/{index}")));
        for pointer in pointers {
            let entry = outline.pointer(&pointer);
            let field = |name: &str| {
                entry
                    .and_then(|entry| entry.get(name))
                    .and_then(Value::as_str)
            };
            let id = field("id").and_then(|id| EntryId::parse(id).ok());
            let provider = field("provider").and_then(ProviderKind::parse);
            if let (Some(id), Some(provider)) = (id, provider) {
                places.push((pointer, channel, id, provider));
            }
        }
    }
    places
}
