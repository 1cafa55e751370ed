//! Where settings are kept: one DynamoDB item with a tenant's present settings, and one per version.
//!
//! "Not found" is an answer (`Ok(None)`); every failure of DynamoDB or KMS is an error. Nothing here
//! turns one into the other.
//!
//! Every change is one transaction ([`crate::write`]) of the present item, the version's own and the counter. The
//! version's item is the audit entry too, so that there is no change without one. It expires after the
//! [`VersionRetention`]; the present one never does. A deletion leaves a tombstone with the number, which every reader
//! takes for "not found", and after which the next save counts on.

pub(crate) mod verified;

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_core::{Channel, Clock, EntryId, HashKey, ProviderKind, Tenant};
use futures_util::{FutureExt as _, future::try_join};
use serde_json::Value;
use tokio::sync::OnceCell;

use self::verified::{SeenVersions, Verified, count_refusal};
pub use crate::store_error::StoreError;
use crate::{
    aws_error::error_code,
    ceilings::Ceilings,
    counter::COUNTER,
    document::CommunicationSettings,
    envelope::{Kms, Place, Purpose},
    item::{
        Item, SettingsItem, StoredItem, attribute, is_expired, take_version, version_key,
        version_number,
    },
    retries,
    store_error::Refusal,
    version::{MAX_VERSION, Version, VersionPage, VersionRetention},
};

/// Bytes of the names of changed fields in one page of versions. One version may have 30 KB of them, and a hundred of those,
/// with what JSON escapes, more than Lambda answers (6 MB).
const MAX_PAGE_BYTES: usize = 1_000_000;

/// Settings as they were loaded.
#[derive(Debug, Clone)]
pub struct StoredSettings {
    /// The version.
    pub version: Version,
    /// The settings, their secrets sealed in memory.
    pub settings: CommunicationSettings,
}

/// What is stored of a tenant, for somebody who is about to change it.
#[derive(Debug)]
pub enum Present {
    /// Nothing was ever saved.
    Nothing,
    /// The settings were deleted.
    Deleted(Deleted),
    /// The settings.
    Settings(Box<StoredSettings>),
    /// Settings that cannot be read any more. Another document can take their place, and an earlier
    /// version can be restored.
    Unreadable {
        /// Their version.
        number: u64,
        /// Why.
        error: StoreError,
    },
}

/// A deletion of settings.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The number of the version that deleted them.
    pub number: u64,
    /// The settings that the deletion kept: ceilings, or nothing.
    pub kept: Box<CommunicationSettings>,
}

impl Present {
    /// The present version of the settings, readable or not.
    pub const fn number(&self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Deleted(_) => None,
            Self::Settings(stored) => Some(stored.version.number),
            Self::Unreadable { number, .. } => Some(*number),
        }
    }

    /// The last number that was given, to a deletion too.
    pub const fn last_number(&self) -> Option<u64> {
        self.basis().number
    }

    /// The settings, where they can be read.
    pub const fn settings(&self) -> Option<&CommunicationSettings> {
        match self {
            Self::Settings(stored) => Some(&stored.settings),
            Self::Nothing | Self::Deleted(_) | Self::Unreadable { .. } => None,
        }
    }

    /// The ceilings that a change of the settings keeps, unless the platform's administrators change them.
    pub fn ceilings(&self) -> Ceilings {
        match self {
            Self::Settings(stored) => stored.settings.ceilings,
            Self::Deleted(deleted) => deleted.kept.ceilings,
            Self::Nothing | Self::Unreadable { .. } => Ceilings::default(),
        }
    }

    /// What a change of them is made on.
    pub const fn basis(&self) -> Basis<'_> {
        let (number, settings) = match self {
            Self::Nothing => (None, None),
            Self::Deleted(deleted) => (Some(deleted.number), Some(&*deleted.kept)),
            Self::Unreadable { number, .. } => (Some(*number), None),
            Self::Settings(stored) => (Some(stored.version.number), Some(&stored.settings)),
        };
        Basis { number, settings }
    }
}

/// What a change is made on. It is saved only where this is still so.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'s> {
    /// The last number that was given; `None` where none was.
    pub(crate) number: Option<u64>,
    /// What the changed fields are told from.
    pub(crate) settings: Option<&'s CommunicationSettings>,
}

impl<'s> From<Option<&'s StoredSettings>> for Basis<'s> {
    fn from(stored: Option<&'s StoredSettings>) -> Self {
        Self {
            number: stored.map(|stored| stored.version.number),
            settings: stored.map(|stored| &stored.settings),
        }
    }
}

/// What is stored under the number of a version.
#[derive(Debug)]
pub enum Past {
    /// Nothing, or nothing any more.
    Nothing,
    /// Who changed what. The content was removed, because newer versions filled the limits.
    ContentRemoved,
    /// That the settings were deleted.
    Deletion,
    /// Settings.
    Settings {
        /// What they were.
        settings: Box<StoredSettings>,
        /// Whether they are under a purge, which a restore of them undoes.
        is_purge_pending: bool,
    },
}

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
            dynamodb: retries::dynamodb(config, "settings"),
            table: table.into(),
            kms: Kms::new(retries::kms(config), kms_key_id),
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
                let number = number.ok_or(StoreError::Corrupt(attribute::VERSION))?;
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
                    .ok_or(StoreError::Corrupt(attribute::VERSION))
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
            return Err(StoreError::Corrupt(attribute::VERSION));
        }
        // Whoever restores a version to mend a tenant whose counter is gone has the version's own seal to go by.
        let counter = self.counter_state(tenant, counter.as_ref()).await?;
        let (counter, now) = (counter.valid(), clock.now());
        let is_kept = counter.is_none_or(|counter| counter.keeps(number, now));
        let is_purge_pending = counter.is_some_and(|counter| counter.is_purge_pending(number, now));
        match StoredItem::from_item(item)? {
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

    /// The tenant's versions before the number `before`, or the newest, the newest first: at most
    /// `most` of them, fewer where they are large, without those that have expired. Nothing is opened.
    pub async fn versions(
        &self,
        tenant: &Tenant,
        before: Option<u64>,
        most: u8,
        clock: &dyn Clock,
    ) -> Result<VersionPage, StoreError> {
        let now = clock.now();
        let most = usize::from(most);
        let newest = before.map_or(MAX_VERSION, |before| {
            before.saturating_sub(1).min(MAX_VERSION)
        });
        let mut versions: Vec<Version> = Vec::new();
        let (mut bytes, mut is_full) = (0, false);
        let mut start = None;
        while !is_full {
            // One more than is wanted tells whether there are older ones.
            let missing = most + 1 - versions.len();
            let answer = self
                .dynamodb
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :tenant AND sk BETWEEN :oldest AND :newest")
                .expression_attribute_values(
                    ":tenant",
                    AttributeValue::S(tenant.as_str().to_owned()),
                )
                .expression_attribute_values(":oldest", AttributeValue::S(version_key(0)))
                .expression_attribute_values(":newest", AttributeValue::S(version_key(newest)))
                .projection_expression(AUDIT_ATTRIBUTES.map(|(name, _)| name).join(", "))
                .set_expression_attribute_names(Some(
                    AUDIT_ATTRIBUTES
                        .map(|(name, attribute)| (name.to_owned(), attribute.to_owned()))
                        .into(),
                ))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(missing).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start.take())
                .send()
                .boxed()
                .await
                .map_err(|error| StoreError::Database {
                    operation: "Query",
                    code: error_code(&error),
                })?;
            for mut item in answer.items.unwrap_or_default() {
                if is_expired(&item, now) {
                    continue;
                }
                let version = take_version(&mut item)?;
                bytes += version.changed.iter().map(String::len).sum::<usize>();
                // One at least, so that every page leads to the next.
                is_full =
                    versions.len() == most || (bytes > MAX_PAGE_BYTES && !versions.is_empty());
                if is_full {
                    break;
                }
                versions.push(version);
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        let next = is_full.then(|| versions.last().map(|oldest| oldest.number));
        Ok(VersionPage {
            versions,
            next: next.flatten(),
        })
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
            .map_err(|error| StoreError::Database {
                operation: "GetItem",
                code: error_code(&error),
            })?;
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
            let place = Place {
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
                .ok_or(StoreError::Corrupt(attribute::SEALED))?;
            let plaintext = key.open(&place, sealed)?;
            let credentials: Value = serde_json::from_slice(&plaintext)
                .map_err(|_| StoreError::Corrupt(attribute::SEALED))?;
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

/// The attributes of a version that are not its content, each after the name that an expression has
/// for it.
const AUDIT_ATTRIBUTES: [(&str, &str); 9] = [
    ("#version", attribute::VERSION),
    ("#savedAt", attribute::SAVED_AT),
    ("#savedBy", attribute::SAVED_BY),
    ("#sourceAddress", attribute::SOURCE_ADDRESS),
    ("#change", attribute::CHANGE),
    ("#restoredFrom", attribute::RESTORED_FROM),
    ("#purgeAt", attribute::PURGE_AT),
    ("#changed", attribute::CHANGED),
    ("#expiresAt", attribute::EXPIRES_AT),
];

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
