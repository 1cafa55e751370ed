//! The key of the deployment's keyed hashes: made once, kept in the settings table under the
//! envelope, opened once per process.

use std::collections::HashMap;

use comms_aws::{
    TableError,
    item::{bytes, required_bytes, required_text, text},
};
use comms_core::HashKey;
use futures_util::FutureExt as _;
use tracing::warn;

use crate::{
    envelope::{EncryptedDataKey, Purpose},
    item::attribute,
    store::{SettingsStore, StoreError},
};

/// The partition key of the item. No tenant can have it: ids start with a letter or digit, and
/// there is one reserved name beside this one.
pub(crate) const PK: &str = "_hash-key";
const SK: &str = "key";

/// Gives the deployment's [`HashKey`], making it where there is none.
#[derive(Debug)]
pub struct HashKeys {
    store: SettingsStore,
}

impl HashKeys {
    /// Keeps the key in `store`'s table.
    pub const fn new(store: SettingsStore) -> Self {
        Self { store }
    }

    /// The key. The first call reads and decrypts it; later ones cost nothing.
    pub async fn get(&self) -> Result<&HashKey, StoreError> {
        self.store.hash_key().await
    }

    /// The key, or `None` where there is none yet. Makes none.
    pub async fn find(&self) -> Result<Option<&HashKey>, StoreError> {
        self.store.existing_hash_key().await
    }

    /// The key by which logs name callers. Where it cannot be read, that is logged, and they are not named.
    pub async fn for_logs(&self) -> Option<&HashKey> {
        self.find().await.unwrap_or_else(|error| {
            warn!(%error, "callers are not named in the logs: the hash key cannot be read");
            None
        })
    }
}

impl SettingsStore {
    /// The deployment's key, which is made where there is none. Clones of a store read it once together.
    pub(crate) async fn hash_key(&self) -> Result<&HashKey, StoreError> {
        self.hash_key
            .get_or_try_init(|| self.load_or_create_hash_key())
            .await
    }

    /// The deployment's key, where there is one.
    pub(crate) async fn existing_hash_key(&self) -> Result<Option<&HashKey>, StoreError> {
        const NONE: StoreError = StoreError::corrupt(SK);
        let existing = async || self.load_hash_key().await?.ok_or(NONE);
        match self.hash_key.get_or_try_init(existing).await {
            Ok(key) => Ok(Some(key)),
            Err(error) if error == NONE => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn load_or_create_hash_key(&self) -> Result<HashKey, StoreError> {
        if let Some(key) = self.load_hash_key().await? {
            return Ok(key);
        }
        let (key, encrypted) = self.kms.generate(PK, Purpose::HashKey).await?;
        let put = self
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(HashMap::from([
                text(attribute::PK, PK),
                text(attribute::SK, SK),
                bytes(attribute::DATA_KEY, &encrypted.ciphertext),
                text(attribute::KEY_ARN, &encrypted.key_arn),
            ])))
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .boxed()
            .await;
        match put {
            Ok(_) => Ok(HashKey::from_bytes(key.bytes())),
            // Another process was first: its key is the one that all use.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(aws_sdk_dynamodb::operation::put_item::PutItemError::is_conditional_check_failed_exception) =>
            {
                self.load_hash_key().await?.ok_or(StoreError::Conflict)
            }
            Err(error) => Err(TableError::new("PutItem", &error).into()),
        }
    }

    async fn load_hash_key(&self) -> Result<Option<HashKey>, StoreError> {
        let Some(item) = self.raw_item(PK, SK).await? else {
            return Ok(None);
        };
        let encrypted = EncryptedDataKey {
            ciphertext: required_bytes(&item, attribute::DATA_KEY)?,
            key_arn: required_text(&item, attribute::KEY_ARN)?.clone(),
        };
        let key = self.kms.decrypt(&encrypted, PK, Purpose::HashKey).await?;
        Ok(Some(HashKey::from_bytes(key.bytes())))
    }
}
