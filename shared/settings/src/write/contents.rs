//! The contents of versions: which are kept, which are removed, and until when.

use aws_sdk_dynamodb::{
    operation::update_item::builders::UpdateItemFluentBuilder, types::AttributeValue,
};
use comms_aws::{ConditionalWrite, item::key};
use comms_core::Tenant;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use tracing::info;

use crate::{
    counter::{Counter, KeptVersion, Purge},
    item::{StoredItem, Tombstone, attribute, version_key, version_number},
    store::{SettingsStore, StoreError},
    version::MAX_VERSION,
};

/// Items of a tenant that are changed at the same time when a limit or a purge goes over its versions.
const CONCURRENT_UPDATES: usize = 10;

impl SettingsStore {
    /// The counter that the items of `tenant` would have, at least at `number`. This reads all of its versions.
    pub(crate) async fn count_versions(
        &self,
        tenant: &Tenant,
        number: u64,
    ) -> Result<Counter, StoreError> {
        let mut counter = Counter {
            number,
            kept: Vec::new(),
            purge: None,
        };
        for item in self.version_items(tenant).await? {
            // Nothing can follow such a number, which no save has given.
            if version_number(&item).is_ok_and(|number| number >= MAX_VERSION) {
                continue;
            }
            match StoredItem::from_item(&item) {
                Ok(StoredItem::Settings(item)) => {
                    let number = item.version.number;
                    counter.number = counter.number.max(number);
                    counter.kept.push(KeptVersion {
                        number,
                        bytes: item.size(),
                    });
                }
                Ok(
                    StoredItem::Tombstone(Tombstone { version, .. }) | StoredItem::Record(version),
                ) => {
                    counter.number = counter.number.max(version.number);
                }
                // It cannot be restored either.
                Err(_) => {}
            }
        }
        Ok(counter)
    }

    /// Lets the versions that were under `purge`, which `counter` no longer has, end when they would have without it.
    pub(super) async fn keep_again(
        &self,
        tenant: &Tenant,
        purge: Purge,
        counter: &Counter,
    ) -> Result<(), StoreError> {
        let kept = counter.kept.iter().map(|kept| kept.number);
        let versions: Vec<_> = kept.filter(|number| *number <= purge.through).collect();
        let at = AttributeValue::N(purge.at.as_second().to_string());
        self.update_versions(tenant, &versions, &|update| {
            update
                .update_expression("SET #expiresAt = #retained REMOVE #retained")
                // A later purge has a time of its own.
                .condition_expression("attribute_exists(#retained) AND #expiresAt = :at")
                .expression_attribute_names("#retained", attribute::RETAINED_UNTIL)
                .expression_attribute_names("#expiresAt", attribute::EXPIRES_AT)
                .expression_attribute_values(":at", at.clone())
        })
        .await
    }

    /// Leaves of these versions who changed what, and removes their content with its data key.
    pub(crate) async fn remove_contents(
        &self,
        tenant: &Tenant,
        versions: &[u64],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if versions.is_empty() {
            return Ok(());
        }
        let now = AttributeValue::N(now.as_second().to_string());
        self.update_versions(tenant, versions, &|update| {
            update
                .update_expression(
                    "SET #removedAt = :now REMOVE #document, #sealed, #dataKey, #keyArn, #seal",
                )
                .condition_expression("attribute_exists(#dataKey)")
                .expression_attribute_names("#removedAt", attribute::CONTENT_REMOVED_AT)
                .expression_attribute_names("#document", attribute::DOCUMENT)
                .expression_attribute_names("#sealed", attribute::SEALED)
                .expression_attribute_names("#dataKey", attribute::DATA_KEY)
                .expression_attribute_names("#keyArn", attribute::KEY_ARN)
                .expression_attribute_names("#seal", attribute::SEAL)
                .expression_attribute_values(":now", now.clone())
        })
        .await?;
        info!(clinic_id = %tenant, versions = versions.len(), "the content of versions was removed");
        Ok(())
    }

    /// Makes the same change to the items of these versions, except where its condition does not hold.
    pub(super) async fn update_versions(
        &self,
        tenant: &Tenant,
        versions: &[u64],
        change: &(dyn Fn(UpdateItemFluentBuilder) -> UpdateItemFluentBuilder + Sync),
    ) -> Result<(), StoreError> {
        let updates = versions.iter().map(|number| {
            let update = self
                .dynamodb
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key(tenant.as_str(), &version_key(*number))));
            let update = change(update);
            async move { ConditionalWrite::of_update(update.send().boxed().await).map(drop) }
                .boxed()
        });
        stream::iter(updates.collect::<Vec<_>>())
            .buffer_unordered(CONCURRENT_UPDATES)
            .try_collect::<()>()
            .await?;
        Ok(())
    }
}
