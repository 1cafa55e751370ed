//! Re-sealing: what is stored under one KMS key is put under another, so that the old one can be retired.
//!
//! An item's entries are sealed under its data key, and the data key under a KMS key. Only the second seal is made anew,
//! inside KMS: whoever re-seals sees neither a data key nor a credential, and needs no right to open any. The document,
//! its version and its sealed entries stay as they are, byte for byte, so caches by version stay right. The key of the
//! keyed hashes *is* a data key: it goes the same way and keeps its value, on which every stored hash depends.
//!
//! One conditional write per item: it holds only while the item has the data key that was read. A save that came in
//! between has a data key of its own, and wins. Nothing is ever half re-sealed, so a walk over the table can stop
//! anywhere, and the next one does what is left.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_aws::{
    ConditionalWrite, TableError,
    item::{find_number, required_bytes, required_text},
};
use comms_core::Tenant;
use jiff::Timestamp;

use crate::{
    counter::{COUNTER, CounterState},
    envelope::{EncryptedDataKey, Purpose},
    hash_key,
    item::{CURRENT, Item, attribute, version_of_key},
    store::{SettingsStore, StoreError},
    store_error::Refusal,
};

/// An item of the settings table: where it is, and under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundItem {
    /// Whose it is: a tenant's id, or the name of the hash key's item.
    pub owner: String,
    /// Which of the owner's items: its sort key.
    pub name: String,
    /// Under which key it is sealed.
    pub sealing: Sealing,
    /// Whether it is of settings and has no seal over the whole of it.
    pub is_unsealed: bool,
    /// When DynamoDB may remove it, in seconds of the Unix epoch.
    pub expires_at: Option<i64>,
    /// On a counter with a purge: when that takes effect. Not authenticated: [`SettingsStore::purge_due`] is.
    pub purge_at: Option<i64>,
}

/// Under which key an item is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealing {
    /// Under none: there is nothing secret in it.
    None,
    /// Under this data key.
    Under(EncryptedDataKey),
    /// It cannot be told, because this attribute is not as it was written.
    Unreadable(&'static str),
}

/// A part of a walk over the table.
#[derive(Debug, Clone)]
pub struct ItemPage {
    /// What is in it.
    pub items: Vec<FoundItem>,
    /// Where the next one begins; `None` after the last.
    pub next: Option<PageStart>,
}

/// Where a page begins.
#[derive(Debug, Clone)]
pub struct PageStart(Item);

/// What became of an item that was to be re-sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resealed {
    /// It is under the store's key.
    Done,
    /// It is not the item any more that was found: saved or deleted in between. Nothing was written.
    ChangedMeanwhile,
}

impl SettingsStore {
    /// The items of one tenant, or of all and the hash key's too, a page of at most 1 MB at a time, as they are at the
    /// time of each page's strongly consistent read. Nothing is opened.
    pub async fn sealed_items(
        &self,
        of: Option<&Tenant>,
        from: Option<PageStart>,
    ) -> Result<ItemPage, StoreError> {
        let attributes = [
            attribute::PK,
            attribute::SK,
            attribute::DATA_KEY,
            attribute::KEY_ARN,
            attribute::SEAL,
            attribute::CONTENT_REMOVED_AT,
            attribute::EXPIRES_AT,
            attribute::PURGE_AT,
        ]
        .join(", ");
        let from = from.map(|PageStart(key)| key);
        let (items, next) = if let Some(tenant) = of {
            let answer = self
                .dynamodb
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", AttributeValue::S(tenant.as_str().to_owned()))
                .projection_expression(attributes)
                .consistent_read(true)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|error| TableError::new("Query", &error))?;
            (answer.items, answer.last_evaluated_key)
        } else {
            let answer = self
                .dynamodb
                .scan()
                .table_name(&self.table)
                .projection_expression(attributes)
                .consistent_read(true)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|error| TableError::new("Scan", &error))?;
            (answer.items, answer.last_evaluated_key)
        };
        Ok(ItemPage {
            items: items
                .unwrap_or_default()
                .iter()
                .map(FoundItem::of)
                .collect::<Result<_, _>>()?,
            next: next.map(PageStart),
        })
    }

    /// Puts `item`, which is sealed under `data_key`, under the store's own KMS key. One KMS `ReEncrypt` and one
    /// conditional write.
    pub async fn reseal(
        &self,
        item: &FoundItem,
        data_key: &EncryptedDataKey,
    ) -> Result<Resealed, StoreError> {
        let purpose = if item.owner == hash_key::PK {
            Purpose::HashKey
        } else {
            Purpose::Settings
        };
        let resealed = self.kms.reencrypt(data_key, &item.owner, purpose).await?;
        let bytes = |bytes: &[u8]| AttributeValue::B(Blob::new(bytes));
        let written = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .key(attribute::PK, AttributeValue::S(item.owner.clone()))
            .key(attribute::SK, AttributeValue::S(item.name.clone()))
            .update_expression("SET #dataKey = :resealed, #keyArn = :keyArn")
            // No two saves have the same data key, so this is the version too.
            .condition_expression("#dataKey = :found")
            .expression_attribute_names("#dataKey", attribute::DATA_KEY)
            .expression_attribute_names("#keyArn", attribute::KEY_ARN)
            .expression_attribute_values(":found", bytes(&data_key.ciphertext))
            .expression_attribute_values(":resealed", bytes(&resealed.ciphertext))
            .expression_attribute_values(":keyArn", AttributeValue::S(resealed.key_arn))
            .send()
            .await;
        match ConditionalWrite::of_update(written)? {
            ConditionalWrite::Done(_) => Ok(Resealed::Done),
            ConditionalWrite::ConditionFailed(_) => Ok(Resealed::ChangedMeanwhile),
        }
    }
}

impl SettingsStore {
    /// Removes the content of `item`, a version, with its data key.
    pub async fn remove_content(&self, item: &FoundItem, now: Timestamp) -> Result<(), StoreError> {
        match (Tenant::parse(&item.owner), item.version()) {
            (Ok(tenant), Some(version)) => self.remove_contents(&tenant, &[version], now).await,
            (Err(_), _) | (_, None) => Ok(()),
        }
    }

    /// Up to which version a purge of `tenant` is due by `now`, if its counter says so and the counter's MAC holds.
    pub async fn purge_due(
        &self,
        tenant: &Tenant,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let item = self.item(tenant, COUNTER).await?;
        match self.counter_state(tenant, item.as_ref()).await? {
            CounterState::Missing => Ok(None),
            CounterState::Forged => Err(StoreError::Refused(Refusal::CounterForged)),
            CounterState::Valid(counter) => Ok(counter
                .purge
                .filter(|purge| purge.is_due(now))
                .map(|purge| purge.through)),
        }
    }
}

impl FoundItem {
    /// The version that it is the item of.
    pub fn version(&self) -> Option<u64> {
        version_of_key(&self.name)
    }

    fn of(item: &Item) -> Result<Self, StoreError> {
        let owner = required_text(item, attribute::PK)?.clone();
        let name = required_text(item, attribute::SK)?.clone();
        let sealed = [attribute::DATA_KEY, attribute::KEY_ARN]
            .iter()
            .any(|name| item.contains_key(*name));
        let is_version = name == CURRENT || version_of_key(&name).is_some();
        let has_seal = [attribute::SEAL, attribute::CONTENT_REMOVED_AT]
            .iter()
            .any(|name| item.contains_key(*name));
        let seconds = |name| find_number(item, name);
        let expires_at = seconds(attribute::EXPIRES_AT);
        let purge_at = seconds(attribute::PURGE_AT).filter(|_| name == COUNTER);
        let sealing = if sealed {
            let key_arn = required_text(item, attribute::KEY_ARN);
            let ciphertext = required_bytes(item, attribute::DATA_KEY);
            match (key_arn, ciphertext) {
                (Ok(key_arn), Ok(ciphertext)) => Sealing::Under(EncryptedDataKey {
                    ciphertext,
                    key_arn: key_arn.clone(),
                }),
                (Err(_), _) => Sealing::Unreadable(attribute::KEY_ARN),
                (Ok(_), Err(_)) => Sealing::Unreadable(attribute::DATA_KEY),
            }
        } else {
            Sealing::None
        };
        Ok(Self {
            owner,
            name,
            sealing,
            is_unsealed: is_version && !has_seal,
            expires_at,
            purge_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use comms_aws::item::{bytes, text};

    use super::*;

    fn sealing(attributes: impl IntoIterator<Item = (String, AttributeValue)>) -> Sealing {
        let mut item = Item::from([text("pk", "clinic-1"), text("sk", "settings")]);
        item.extend(attributes);
        FoundItem::of(&item).unwrap().sealing
    }

    #[test]
    fn an_item_without_anything_sealed_is_told_from_one_that_cannot_be_read() {
        assert_eq!(sealing([]), Sealing::None);
        assert_eq!(
            sealing([bytes("dataKey", b"k"), text("keyArn", "arn")]),
            Sealing::Under(EncryptedDataKey {
                ciphertext: b"k".to_vec(),
                key_arn: "arn".to_owned(),
            })
        );
        for (attributes, at) in [
            (vec![bytes("dataKey", b"k")], "keyArn"),
            (vec![text("keyArn", "arn")], "dataKey"),
            (vec![text("dataKey", "k"), text("keyArn", "arn")], "dataKey"),
            (
                vec![bytes("dataKey", b"k"), bytes("keyArn", b"arn")],
                "keyArn",
            ),
        ] {
            assert_eq!(sealing(attributes), Sealing::Unreadable(at));
        }
    }
}
