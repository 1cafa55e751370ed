//! Where settings are kept: one DynamoDB item with a tenant's present settings, and one per version.
//!
//! "Not found" is an answer (`Ok(None)`); every failure of DynamoDB or KMS is an error. Nothing here
//! turns one into the other.

use std::collections::HashMap;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Put, TransactWriteItem},
};
use comms_core::{Clock, Problems, Tenant};
use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;
use tracing::info;

use crate::{
    aws_error::error_code,
    document::CommunicationSettings,
    envelope::{EnvelopeError, Kms, Place, Purpose},
    item::{CURRENT, Item, SettingsItem, attribute, version_key},
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

/// Which version of a tenant's settings, by whom, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Counted from 1.
    pub number: u64,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// The subject of the token it was saved with.
    pub saved_by: String,
    /// The address it was saved from.
    pub source_address: Option<String>,
    /// The fields that changed, as JSON pointers. Names only.
    pub changed: Vec<String>,
}

/// Who saves.
#[derive(Debug, Clone)]
pub struct Author {
    /// The subject of the token.
    pub subject: String,
    /// The address that the request came from.
    pub source_address: Option<String>,
}

/// Settings as they were loaded.
#[derive(Debug, Clone)]
pub struct StoredSettings {
    /// The version.
    pub version: Version,
    /// The settings, their secrets sealed in memory.
    pub settings: CommunicationSettings,
}

/// The settings table with the key that seals what is in it.
#[derive(Debug, Clone)]
pub struct SettingsStore {
    pub(crate) dynamodb: Client,
    pub(crate) table: String,
    pub(crate) kms: Kms,
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
        }
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
        let item = SettingsItem::from_item(item)?;
        if known == Some(item.version.number) {
            return Ok(Loaded::Unchanged);
        }
        let settings = self.open(tenant, &item).await?;
        Ok(Loaded::Settings(Box::new(StoredSettings {
            version: item.version,
            settings,
        })))
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
        let mut problems = Problems::default();
        let settings = CommunicationSettings::read(document, "", tenant, None, &mut problems);
        problems.or(settings).map_err(StoreError::Invalid)
    }

    /// Saves `settings` as the version after `expected`, which is `None` where there must be none
    /// yet. Everything is written or nothing: the present settings and the version's own item go in
    /// one transaction.
    pub async fn save(
        &self,
        tenant: &Tenant,
        settings: &CommunicationSettings,
        previous: Option<&StoredSettings>,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        let expected = previous.map(|previous| previous.version.number);
        let version = Version {
            number: expected.unwrap_or(0) + 1,
            saved_at: clock.now(),
            saved_by: author.subject.clone(),
            source_address: author.source_address.clone(),
            changed: settings.changed_fields(previous.map(|previous| &previous.settings)),
        };
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
        let item = SettingsItem {
            version,
            document: settings.outline().to_string(),
            sealed,
            data_key,
        };

        if item.size() > MAX_ITEM_BYTES {
            return Err(StoreError::TooLarge);
        }
        let current = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item.to_item(tenant, CURRENT)));
        let current = match expected {
            None => current.condition_expression("attribute_not_exists(pk)"),
            Some(expected) => current
                .condition_expression("#version = :expected")
                .expression_attribute_names("#version", attribute::VERSION)
                .expression_attribute_values(":expected", AttributeValue::N(expected.to_string())),
        };
        let history = Put::builder().table_name(&self.table).set_item(Some(
            item.to_item(tenant, &version_key(item.version.number)),
        ));
        let built = |put: Result<Put, aws_sdk_dynamodb::error::BuildError>| {
            put.map(|put| TransactWriteItem::builder().put(put).build())
                .map_err(|_| StoreError::Database {
                    operation: "TransactWriteItems",
                    code: "RequestNotBuilt".to_owned(),
                })
        };
        self.dynamodb
            .transact_write_items()
            .transact_items(built(current.build())?)
            .transact_items(built(history.build())?)
            .send()
            .await
            .map_err(|error| {
                let code = error_code(&error);
                if error.as_service_error().is_some_and(cancelled_by_another) {
                    StoreError::Conflict
                } else {
                    StoreError::Database {
                        operation: "TransactWriteItems",
                        code,
                    }
                }
            })?;
        info!(
            clinic_id = %tenant,
            version = item.version.number,
            changed_fields = item.version.changed.len(),
            "settings saved"
        );
        Ok(item.version)
    }
}

/// What [`SettingsStore::load_unless`] found.
#[derive(Debug)]
pub(crate) enum Loaded {
    Absent,
    Unchanged,
    Settings(Box<StoredSettings>),
}

/// Whether a transaction was cancelled because one of its conditions did not hold, or because
/// another was under way on the same item.
fn cancelled_by_another(error: &TransactWriteItemsError) -> bool {
    if let TransactWriteItemsError::TransactionCanceledException(cancelled) = error {
        let reasons = cancelled.cancellation_reasons();
        reasons
            .iter()
            .filter_map(|reason| reason.code())
            .any(|code| matches!(code, "ConditionalCheckFailed" | "TransactionConflict"))
    } else {
        false
    }
}

fn sealed_name(channel: &str, entry: &str) -> String {
    format!("{channel}/{entry}")
}

/// Where the entries of an outline are: pointer, channel, id, provider. An entry that is not as it
/// was written is left out, and then found to have no credentials.
fn entry_places(
    outline: &Value,
) -> Vec<(
    String,
    comms_core::Channel,
    comms_core::EntryId,
    comms_core::ProviderKind,
)> {
    let mut places = Vec::new();
    for channel in comms_core::Channel::ALL {
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
            let id = field("id").and_then(|id| comms_core::EntryId::parse(id).ok());
            let provider = field("provider").and_then(comms_core::ProviderKind::parse);
            if let (Some(id), Some(provider)) = (id, provider) {
                places.push((pointer, channel, id, provider));
            }
        }
    }
    places
}
