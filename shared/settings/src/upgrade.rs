//! Sealing what an earlier version of this service wrote without a seal, and beginning its counters.
//!
//! Whatever is stored when this runs is taken for right, so it belongs into the upgrade and nowhere else. A tenant's
//! versions come first, then its present item together with the counter, each write on the condition that the item is
//! still the one that was read: stopped anywhere, the next run does what is left. A version that cannot be sealed is left
//! as it is and cannot be restored; the present settings do not depend on it.

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use comms_aws::{
    TableError,
    item::required_text,
    transaction::{OPERATION, Transaction, transact},
};
use comms_core::{Clock, Tenant};

use crate::{
    counter::CounterState,
    envelope::{EntryContext, EnvelopeError, Purpose},
    item::{Item, SettingsItem, StoredItem, attribute, version_number},
    store::{SettingsStore, StoreError, entry_places, sealed_name},
    store_error::Refusal,
};

/// What became of a tenant's items.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// Items that were sealed.
    pub sealed: u64,
    /// Versions that cannot be sealed: their sort keys, and why.
    pub unsealable: Vec<(String, StoreError)>,
}

impl SettingsStore {
    /// Seals the items of `tenant` that have no seal, and begins its counter. One KMS Decrypt for each version with
    /// credentials.
    pub async fn seal_unsealed(
        &self,
        tenant: &Tenant,
        clock: &dyn Clock,
    ) -> Result<Upgraded, StoreError> {
        let reading = self.read(tenant).await?;
        if reading.counter == CounterState::Forged {
            return Err(StoreError::Refused(Refusal::CounterForged));
        }
        let mut upgraded = Upgraded::default();
        for item in self.version_items(tenant).await? {
            match self.sealed_anew(tenant, &item).await {
                Ok(None) => {}
                Ok(Some(put)) => {
                    self.replace(vec![put]).await?;
                    upgraded.sealed += 1;
                }
                Err(error) if error.is_worth_a_retry() => return Err(error),
                Err(error) => {
                    let sort_key = required_text(&item, attribute::SK)?.clone();
                    upgraded.unsealable.push((sort_key, error));
                }
            }
        }
        if reading.counter.valid().is_some() {
            return Ok(upgraded);
        }
        let Some(current) = &reading.item else {
            return Err(StoreError::Refused(Refusal::Missing));
        };
        let number = version_number(current)?;
        let put = self
            .sealed_anew(tenant, current)
            .await?
            .ok_or(StoreError::Refused(Refusal::CounterMissing))?;
        let mut counter = self.count_versions(tenant, number).await?;
        if counter.number != number {
            return Err(StoreError::Refused(Refusal::OtherVersion));
        }
        let dropped = counter.trim();
        self.remove_contents(tenant, &dropped, clock.now()).await?;
        let counter = counter.to_item(tenant, self.hash_key().await?);
        let counter = Put::builder()
            .table_name(&self.table)
            .set_item(Some(counter))
            .condition_expression("attribute_not_exists(pk)")
            .build();
        self.replace(vec![put, counter.map_err(|_| not_built())?])
            .await?;
        upgraded.sealed += 1;
        Ok(upgraded)
    }

    /// The item with a seal, to be put in its place; `None` where it has one, or nothing to seal.
    async fn sealed_anew(&self, tenant: &Tenant, item: &Item) -> Result<Option<Put>, StoreError> {
        let sort_key = required_text(item, attribute::SK)?.clone();
        let (sealed, unchanged) = match StoredItem::from_item(item)? {
            stored if stored.has_seal() => return Ok(None),
            StoredItem::Record(_) => return Ok(None),
            StoredItem::Settings(settings) => {
                let sealed = self.seal_anew(tenant, settings).await?;
                (sealed.to_item(tenant, &sort_key), attribute::DATA_KEY)
            }
            StoredItem::Tombstone(mut tombstone) => {
                let key = self.hash_key().await?;
                tombstone.seal = Some(tombstone.content(tenant).deletion_seal(key));
                (tombstone.to_item(tenant, &sort_key), attribute::VERSION)
            }
        };
        let found = item.get(unchanged).ok_or(StoreError::corrupt(unchanged))?;
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(sealed))
            // No two saves have the same data key, and no two versions the same number.
            .condition_expression("#unchanged = :found AND attribute_not_exists(#seal)")
            .expression_attribute_names("#unchanged", unchanged)
            .expression_attribute_names("#seal", attribute::SEAL)
            .expression_attribute_values(":found", found.clone())
            .build();
        put.map(Some).map_err(|_| not_built())
    }

    /// Opens entries that name no content, and seals them with their content under the same data key.
    async fn seal_anew(
        &self,
        tenant: &Tenant,
        mut item: SettingsItem,
    ) -> Result<SettingsItem, StoreError> {
        let key = self
            .kms
            .decrypt(&item.data_key, tenant.as_str(), Purpose::Settings)
            .await?;
        let content = item.content(tenant);
        let hash = content.hash();
        let places = entry_places(&item.outline()?);
        if places.len() != item.sealed.len() {
            return Err(StoreError::corrupt(attribute::SEALED));
        }
        for (_, channel, id, provider) in places {
            let mut bound_to = EntryContext {
                tenant,
                channel,
                entry: &id,
                provider,
                version: item.version.number,
                content: None,
            };
            let entry = item
                .sealed
                .get_mut(&sealed_name(channel.as_str(), id.as_str()))
                .ok_or(EnvelopeError::WrongEntry)?;
            let plaintext = key.open(&bound_to, entry)?;
            bound_to.content = Some(&hash);
            *entry = key.seal(&bound_to, &plaintext)?;
        }
        item.seal = Some(key.seal_content(&content)?);
        Ok(item)
    }

    async fn replace(&self, puts: Vec<Put>) -> Result<(), StoreError> {
        let puts = puts.into_iter();
        let items = puts.map(|put| Ok(TransactWriteItem::builder().put(put).build()));
        match transact(&self.dynamodb, items).await? {
            Transaction::Done => Ok(()),
            Transaction::Cancelled(_) => Err(StoreError::Conflict),
        }
    }
}

fn not_built() -> StoreError {
    TableError::not_built(OPERATION).into()
}
