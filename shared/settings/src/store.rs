//! Where settings are kept: one DynamoDB item with a tenant's present settings, and one per version.
//!
//! "Not found" is an answer (`Ok(None)`); every failure of DynamoDB or KMS is an error. Nothing here
//! turns one into the other.
//!
//! Every change is one transaction of two items: the present one, on the condition that it still is
//! what the change was made on, and the version's own, on the condition that there is none of that
//! number. The version's item is the audit entry too, so that there is no change without one. It
//! expires after the [`VersionRetention`]; the present one never does. A deletion leaves a tombstone
//! with the number, which every reader takes for "not found", and after which the next save counts on.

use std::collections::HashMap;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Put, TransactWriteItem},
};
use comms_core::{Channel, Clock, EntryId, Problems, ProviderKind, Tenant};
use futures_util::FutureExt as _;
use serde_json::Value;
use thiserror::Error;
use tracing::info;

use crate::{
    aws_error::error_code,
    ceilings::Ceilings,
    document::CommunicationSettings,
    envelope::{EnvelopeError, Kms, Place, Purpose},
    item::{
        CURRENT, Item, SettingsItem, StoredItem, Tombstone, attribute, is_expired, take_version,
        version_key, version_number,
    },
    version::{Author, Change, MAX_VERSION, Version, VersionPage, VersionRetention},
};

/// Why settings could not be read or saved. No text here comes from a document or a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// DynamoDB did not answer, or refused for now. Worth another try.
    #[error("DynamoDB {operation} failed ({code})")]
    Database {
        /// The operation.
        operation: &'static str,
        /// DynamoDB's error code, or what kept the request from being answered.
        code: String,
    },
    /// The envelope could not be made or opened.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Somebody else saved in between, or the version is not the one that was expected.
    #[error("the settings are at another version than the one this change was made for")]
    Conflict,
    /// A stored item is not as it was written.
    #[error("a stored item can not be read: attribute {0}")]
    Corrupt(&'static str),
    /// Stored settings are not valid any more.
    #[error("stored settings can not be read: {0}")]
    Invalid(Problems),
    /// The settings are larger than an item may be (DynamoDB: 400 KB).
    #[error("the settings are too large to be stored")]
    TooLarge,
}

impl StoreError {
    /// Whether the same call may work later without anybody doing anything.
    pub const fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Database { .. } | Self::Envelope(EnvelopeError::Kms { .. }) => true,
            Self::Envelope(
                EnvelopeError::WrongDataKey { .. }
                | EnvelopeError::WrongEntry
                | EnvelopeError::Sealing,
            )
            | Self::Conflict
            | Self::Corrupt(_)
            | Self::Invalid(_)
            | Self::TooLarge => false,
        }
    }
}

/// Bytes of the settings in an item: DynamoDB takes 400 KB, names and small attributes included.
const MAX_ITEM_BYTES: usize = 380_000;

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
    /// Settings that can not be read any more. Another document can take their place, and an earlier
    /// version can be restored.
    Unreadable {
        /// Their version.
        number: u64,
        /// Why.
        error: StoreError,
    },
}

/// A deletion of settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Deleted {
    /// The number of the version that deleted them.
    pub number: u64,
    /// The settings that the deletion kept; `{}` where it kept none.
    pub document: Value,
}

impl Present {
    /// The version of the settings that there are now, readable or not.
    pub const fn number(&self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Deleted(_) => None,
            Self::Settings(stored) => Some(stored.version.number),
            Self::Unreadable { number, .. } => Some(*number),
        }
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
            Self::Deleted(deleted) => Ceilings::of_document(&deleted.document),
            Self::Nothing | Self::Unreadable { .. } => Ceilings::default(),
        }
    }

    /// What a change of them is made on.
    pub const fn basis(&self) -> Basis<'_> {
        let number = match self {
            Self::Nothing => None,
            Self::Deleted(deleted) => Some(deleted.number),
            Self::Unreadable { number, .. } => Some(*number),
            Self::Settings(stored) => Some(stored.version.number),
        };
        Basis {
            number,
            settings: self.settings(),
        }
    }
}

/// What a change is made on. It is saved only where this is still so.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'s> {
    /// The last number that was given; `None` where none was.
    number: Option<u64>,
    /// What the changed fields are told from.
    settings: Option<&'s CommunicationSettings>,
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
    /// That the settings were deleted.
    Deletion,
    /// Settings.
    Settings(Box<StoredSettings>),
}

/// The settings table with the key that seals what is in it.
#[derive(Debug, Clone)]
pub struct SettingsStore {
    pub(crate) dynamodb: Client,
    pub(crate) table: String,
    pub(crate) kms: Kms,
    retention: VersionRetention,
}

impl SettingsStore {
    /// Uses the table `table` and the KMS key `kms_key_id`.
    pub fn new(
        config: &SdkConfig,
        table: impl Into<String>,
        kms_key_id: impl Into<String>,
    ) -> Self {
        Self {
            dynamodb: Client::new(config),
            table: table.into(),
            kms: Kms::new(aws_sdk_kms::Client::new(config), kms_key_id),
            retention: VersionRetention::default(),
        }
    }

    /// Keeps the versions that are saved from now on for another time than the usual one.
    #[must_use]
    pub const fn keeping_versions_for(mut self, retention: VersionRetention) -> Self {
        self.retention = retention;
        self
    }

    /// The tenant's present settings. One strongly consistent read and one KMS Decrypt.
    pub async fn load(&self, tenant: &Tenant) -> Result<Option<StoredSettings>, StoreError> {
        match self.load_unless(tenant, None).await? {
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
    ) -> Result<Loaded, StoreError> {
        let Some(item) = self.item(tenant, CURRENT).await? else {
            return Ok(Loaded::Absent);
        };
        let item = match StoredItem::from_item(item)? {
            StoredItem::Settings(item) => item,
            StoredItem::Tombstone(tombstone) => {
                let ceilings = Ceilings::of_document(&tombstone.outline()?);
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
        let settings = self.open(tenant, &item).await?;
        Ok(Loaded::Settings(Box::new(StoredSettings {
            version: item.version,
            settings,
        })))
    }

    /// What is stored of the tenant, for somebody who is about to change it. Settings that can not be
    /// read are an answer here, and an error only where not even their number can be.
    pub async fn load_present(&self, tenant: &Tenant) -> Result<Present, StoreError> {
        let Some(item) = self.item(tenant, CURRENT).await? else {
            return Ok(Present::Nothing);
        };
        let number = version_number(&item)?;
        let opened = match StoredItem::from_item(item) {
            Ok(StoredItem::Tombstone(tombstone)) => {
                let document = tombstone.outline()?;
                return Ok(Present::Deleted(Deleted { number, document }));
            }
            Ok(StoredItem::Settings(item)) => {
                let settings = self.open(tenant, &item).await;
                settings.map(|settings| StoredSettings {
                    version: item.version,
                    settings,
                })
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(stored) => Ok(Present::Settings(Box::new(stored))),
            Err(error) if error.is_worth_a_retry() => Err(error),
            Err(error) => Ok(Present::Unreadable { number, error }),
        }
    }

    /// The version of the tenant's present settings, readable or not. One strongly consistent read.
    pub async fn present_number(&self, tenant: &Tenant) -> Result<Option<u64>, StoreError> {
        let Some(item) = self.item(tenant, CURRENT).await? else {
            return Ok(None);
        };
        match StoredItem::from_item(item.clone()) {
            Ok(StoredItem::Tombstone(_)) => Ok(None),
            Ok(StoredItem::Settings(_)) | Err(_) => version_number(&item).map(Some),
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
        let item = self.item(tenant, &version_key(number)).await?;
        let Some(item) = item.filter(|item| !is_expired(item, clock.now())) else {
            return Ok(Past::Nothing);
        };
        // The key is what was asked for; the attribute is what the sealed entries are bound to.
        if version_number(&item)? != number {
            return Err(StoreError::Corrupt(attribute::VERSION));
        }
        match StoredItem::from_item(item)? {
            StoredItem::Tombstone(_) => Ok(Past::Deletion),
            StoredItem::Settings(item) => {
                let settings = self.open(tenant, &item).await?;
                Ok(Past::Settings(Box::new(StoredSettings {
                    version: item.version,
                    settings,
                })))
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
        let answer = self
            .dynamodb
            .get_item()
            .table_name(&self.table)
            .key(attribute::PK, AttributeValue::S(pk.to_owned()))
            .key(attribute::SK, AttributeValue::S(sk.to_owned()))
            .consistent_read(true)
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
        item: &SettingsItem,
    ) -> Result<CommunicationSettings, StoreError> {
        let key = self
            .kms
            .decrypt(&item.data_key, tenant.as_str(), Purpose::Settings)
            .await?;
        let mut document = item.outline()?;
        let places = entry_places(&document);
        for (pointer, channel, id, provider) in places {
            let place = Place {
                tenant,
                channel,
                entry: &id,
                provider,
                version: item.version.number,
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
        CommunicationSettings::read_stored(document, tenant).map_err(StoreError::Invalid)
    }

    /// Saves `settings` as the version after what the change was made on. Everything is written or
    /// nothing.
    pub async fn save<'s>(
        &self,
        tenant: &Tenant,
        settings: &CommunicationSettings,
        basis: impl Into<Basis<'s>>,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        self.write_settings(tenant, settings, basis.into(), Change::Saved, author, clock)
            .await
    }

    /// Saves `settings`, which those of the version `from` were, as a new version.
    pub async fn restore<'s>(
        &self,
        tenant: &Tenant,
        settings: &CommunicationSettings,
        from: u64,
        basis: impl Into<Basis<'s>>,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        let change = Change::Restored { from };
        self.write_settings(tenant, settings, basis.into(), change, author, clock)
            .await
    }

    /// Deletes the settings, which are at the version `expected`, except for `kept`: a document that
    /// every reader of the deletion gets. What they were stays in their versions for as long as those
    /// are kept.
    pub async fn delete(
        &self,
        tenant: &Tenant,
        expected: u64,
        kept: &Value,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        let version = next_version(Some(expected), Change::Deleted, Vec::new(), author, clock);
        let mut tombstone = Tombstone {
            version,
            document: kept.to_string(),
            expires_at: None,
        };
        let current = tombstone.to_item(tenant, CURRENT);
        tombstone.expires_at = Some(self.retention.expires_at(tombstone.version.saved_at));
        let own = tombstone.to_item(tenant, &version_key(tombstone.version.number));
        self.write(Some(expected), current, own).await?;
        info!(clinic_id = %tenant, version = tombstone.version.number, "settings deleted");
        Ok(tombstone.version)
    }

    async fn write_settings(
        &self,
        tenant: &Tenant,
        settings: &CommunicationSettings,
        basis: Basis<'_>,
        change: Change,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        let changed = settings.changed_fields(basis.settings);
        let version = next_version(basis.number, change, changed, author, clock);
        let (key, data_key) = self
            .kms
            .generate(tenant.as_str(), Purpose::Settings)
            .await?;
        let mut sealed = HashMap::new();
        for (channel, entry) in settings.entries() {
            let place = Place {
                tenant,
                channel,
                entry: &entry.id,
                provider: entry.credentials.provider(),
                version: version.number,
            };
            let plaintext = entry.plaintext().ok_or(EnvelopeError::Sealing)?;
            sealed.insert(
                sealed_name(channel.as_str(), entry.id.as_str()),
                key.seal(&place, &plaintext)?,
            );
        }
        let mut item = SettingsItem {
            version,
            document: settings.outline().to_string(),
            sealed,
            data_key,
            expires_at: None,
        };
        if item.size() > MAX_ITEM_BYTES {
            return Err(StoreError::TooLarge);
        }
        let current = item.to_item(tenant, CURRENT);
        item.expires_at = Some(self.retention.expires_at(item.version.saved_at));
        let own = item.to_item(tenant, &version_key(item.version.number));
        self.write(basis.number, current, own).await?;
        info!(
            clinic_id = %tenant,
            version = item.version.number,
            change = item.version.change.as_str(),
            changed_fields = item.version.changed.len(),
            "settings saved"
        );
        Ok(item.version)
    }

    /// Writes a version's two items, or neither: `current` where the present one has the number
    /// `expected`, or there is none and none is expected, and the version's `own`.
    async fn write(
        &self,
        expected: Option<u64>,
        current: Item,
        own: Item,
    ) -> Result<(), StoreError> {
        let operation = "TransactWriteItems";
        let put = |item| Put::builder().table_name(&self.table).set_item(Some(item));
        let current = match expected {
            None => put(current).condition_expression("attribute_not_exists(pk)"),
            Some(expected) => put(current)
                .condition_expression("#version = :expected")
                .expression_attribute_names("#version", attribute::VERSION)
                .expression_attribute_values(":expected", AttributeValue::N(expected.to_string())),
        };
        let own = put(own).condition_expression("attribute_not_exists(pk)");
        let built = |put: Result<Put, aws_sdk_dynamodb::error::BuildError>| {
            put.map(|put| TransactWriteItem::builder().put(put).build())
                .map_err(|_| StoreError::Database {
                    operation,
                    code: "RequestNotBuilt".to_owned(),
                })
        };
        let written = self
            .dynamodb
            .transact_write_items()
            .transact_items(built(current.build())?)
            .transact_items(built(own.build())?)
            .send()
            .boxed()
            .await;
        let Err(error) = written else {
            return Ok(());
        };
        let code = error_code(&error);
        let cancelled = error.as_service_error().and_then(cancelled);
        Err(cancelled.unwrap_or(StoreError::Database { operation, code }))
    }
}

/// The attributes of a version that are not its content, each after the name that an expression has
/// for it.
const AUDIT_ATTRIBUTES: [(&str, &str); 8] = [
    ("#version", attribute::VERSION),
    ("#savedAt", attribute::SAVED_AT),
    ("#savedBy", attribute::SAVED_BY),
    ("#sourceAddress", attribute::SOURCE_ADDRESS),
    ("#change", attribute::CHANGE),
    ("#restoredFrom", attribute::RESTORED_FROM),
    ("#changed", attribute::CHANGED),
    ("#expiresAt", attribute::EXPIRES_AT),
];

fn next_version(
    last: Option<u64>,
    change: Change,
    changed: Vec<String>,
    author: &Author,
    clock: &dyn Clock,
) -> Version {
    Version {
        number: last.unwrap_or(0) + 1,
        saved_at: clock.now(),
        saved_by: author.subject.clone(),
        source_address: author.source_address.clone(),
        change,
        changed,
    }
}

/// What [`SettingsStore::load_unless`] found.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// There are no settings.
    Absent,
    Unchanged,
    Settings(Box<StoredSettings>),
}

/// Why the transaction of [`SettingsStore::write`] was cancelled, if it was. The reasons stand in the
/// order of its items (API reference of `TransactWriteItems`).
fn cancelled(error: &TransactWriteItemsError) -> Option<StoreError> {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        return None;
    };
    let reasons = cancelled.cancellation_reasons().iter();
    let codes: Vec<_> = reasons
        .map(|reason| reason.code().unwrap_or_default())
        .collect();
    if codes.first() == Some(&"ConditionalCheckFailed") || codes.contains(&"TransactionConflict") {
        Some(StoreError::Conflict)
    } else if codes.contains(&"ConditionalCheckFailed") {
        // The present item is as it was expected, and yet there is a version of the next number: to
        // write over it would take it out of the audit trail.
        Some(StoreError::Corrupt(attribute::VERSION))
    } else {
        None
    }
}

fn sealed_name(channel: &str, entry: &str) -> String {
    format!("{channel}/{entry}")
}

/// Where the entries of an outline are: pointer, channel, id, provider. An entry that is not as it
/// was written is left out, and then found to have no credentials.
fn entry_places(outline: &Value) -> Vec<(String, Channel, EntryId, ProviderKind)> {
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
