//! Saving, restoring, deleting and purging: one transaction of the present item, the version's own item and the
//! counter, each on the condition that it still is what was read.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    error::BuildError,
    operation::{transact_write_items::TransactWriteItemsError, update_item::UpdateItemError},
    types::{AttributeValue, Put, TransactWriteItem, builders::PutBuilder},
};
use comms_core::{Clock, Tenant};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;
use tracing::info;

use crate::store::verified::Reading;
use crate::{
    aws_error::error_code,
    counter::{Counter, Kept, Purge},
    document::CommunicationSettings,
    envelope::{EnvelopeError, Place, Purpose},
    item::{
        CURRENT, Item, SettingsItem, StoredItem, Tombstone, attribute, version_key, version_number,
    },
    seal::Content,
    store::{Basis, SettingsStore, StoreError, sealed_name},
    version::{Author, Change, MAX_VERSION, Version},
};

/// Bytes of the settings in an item: DynamoDB takes 400 KB, names and small attributes included.
const MAX_ITEM_BYTES: usize = 380_000;
/// Items of a tenant that are changed at the same time when a limit or a purge goes over its versions.
const CONCURRENT_UPDATES: usize = 10;

/// What a change is made on, as it was read just before.
struct Base {
    reading: Reading,
    counter: Counter,
}

impl SettingsStore {
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

    /// Saves `settings`, which those of the version `from` were, as a new version. Where that version is under a
    /// pending purge, the purge is undone. An error after the save leaves versions that still end at the purge's time.
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
        let base = self.base(tenant, Some(expected)).await?;
        let change = Change::Deleted;
        self.write_deletion(tenant, base, change, kept, author, clock)
            .await
    }

    /// Deletes the settings like [`SettingsStore::delete`], also where they are deleted already, and lets all
    /// versions up to now end at `at`, in whole seconds: from then on nobody can restore them, and DynamoDB
    /// removes them with their data keys. Gives the version, and how many lose their content. After an error the
    /// same call completes what is left.
    pub async fn purge(
        &self,
        tenant: &Tenant,
        expected: u64,
        kept: &Value,
        at: Timestamp,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<(Version, usize), StoreError> {
        let mut base = self.base(tenant, Some(expected)).await?;
        let now = clock.now();
        // What an earlier purge has ended stays so, also when this one is undone.
        let ended = base.counter.end_due_purge(now);
        self.remove_contents(tenant, &ended, now).await?;
        let versions: Vec<_> = base.counter.kept.iter().map(|kept| kept.number).collect();
        let through = base.counter.number;
        let pending = base.counter.purge.replace(Purge { through, at });
        let change = Change::Purged { at };
        let version = self
            .write_deletion(tenant, base, change, kept, author, clock)
            .await?;
        let until = AttributeValue::N(at.as_second().to_string());
        // The versions under a pending purge get the period of this one.
        let pending = pending.map_or(at, |pending| pending.at);
        let pending = AttributeValue::N(pending.as_second().to_string());
        self.update_versions(tenant, &versions, &|update| {
            update
                .update_expression(
                    "SET #retained = if_not_exists(#retained, #expiresAt), #expiresAt = :at",
                )
                .condition_expression(
                    "#expiresAt > :at OR (#expiresAt = :pending AND #retained > :at)",
                )
                .expression_attribute_names("#retained", attribute::RETAINED_UNTIL)
                .expression_attribute_names("#expiresAt", attribute::EXPIRES_AT)
                .expression_attribute_values(":at", until.clone())
                .expression_attribute_values(":pending", pending.clone())
        })
        .await?;
        Ok((version, versions.len()))
    }

    async fn write_deletion(
        &self,
        tenant: &Tenant,
        base: Base,
        change: Change,
        kept: &Value,
        author: &Author,
        clock: &dyn Clock,
    ) -> Result<Version, StoreError> {
        let now = clock.now();
        let (counter, dropped) = base.counter.next(None, now);
        let mut tombstone = Tombstone {
            version: new_version(counter.number, change, Vec::new(), author, now),
            document: kept.to_string(),
            seal: None,
            expires_at: None,
        };
        let key = self.hash_key().await?;
        tombstone.seal = Some(tombstone.content(tenant).deletion_seal(key));
        let current = tombstone.to_item(tenant, CURRENT);
        tombstone.expires_at = Some(self.retention.expires_at(now));
        let own = tombstone.to_item(tenant, &version_key(counter.number));
        self.remove_contents(tenant, &dropped, now).await?;
        self.write(tenant, &base.reading, current, own, &counter)
            .await?;
        let version = tombstone.version;
        info!(
            clinic_id = %tenant,
            version = version.number,
            change = version.change.as_str(),
            "settings deleted"
        );
        Ok(version)
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
        let mut base = self.base(tenant, basis.number).await?;
        let now = clock.now();
        let changed = settings.changed_fields(basis.settings);
        let version = new_version(base.counter.number + 1, change, changed, author, now);
        let (key, data_key) = self
            .kms
            .generate(tenant.as_str(), Purpose::Settings)
            .await?;
        let document = settings.outline().to_string();
        let names: Vec<_> = settings
            .entries()
            .map(|(channel, entry)| sealed_name(channel.as_str(), entry.id.as_str()))
            .collect();
        let content = Content::new(tenant, &version, &document, &names);
        let hash = content.hash();
        let mut sealed = HashMap::new();
        for ((channel, entry), name) in settings.entries().zip(&names) {
            let place = Place {
                tenant,
                channel,
                entry: &entry.id,
                provider: entry.config.kind(),
                version: version.number,
                content: Some(&hash),
            };
            let plaintext = entry.plaintext().ok_or(EnvelopeError::Sealing)?;
            sealed.insert(name.clone(), key.seal(&place, &plaintext)?);
        }
        let mut item = SettingsItem {
            version,
            document,
            sealed,
            data_key,
            seal: Some(key.seal_content(&content)?),
            expires_at: None,
        };
        if item.size() > MAX_ITEM_BYTES {
            return Err(StoreError::TooLarge);
        }
        let undone = match change {
            Change::Restored { from } => base.counter.take_pending_purge(from, now),
            Change::Saved | Change::Deleted | Change::Purged { .. } => None,
        };
        let (counter, dropped) = base.counter.next(Some(item.size()), now);
        let current = item.to_item(tenant, CURRENT);
        item.expires_at = Some(self.retention.expires_at(now));
        let own = item.to_item(tenant, &version_key(counter.number));
        // Before the save: stopped in between, no more than the limit have content.
        self.remove_contents(tenant, &dropped, now).await?;
        self.write(tenant, &base.reading, current, own, &counter)
            .await?;
        if let Some(purge) = undone {
            self.keep_again(tenant, purge, &counter).await?;
        }
        info!(
            clinic_id = %tenant,
            version = item.version.number,
            change = item.version.change.as_str(),
            changed_fields = item.version.changed.len(),
            "settings saved"
        );
        Ok(item.version)
    }

    /// What is stored now, if `expected` is the last number of it. Where no counter says so, one begins after the
    /// newest version that there is.
    async fn base(&self, tenant: &Tenant, expected: Option<u64>) -> Result<Base, StoreError> {
        let reading = self.read(tenant).await?;
        if self.last_number(tenant, &reading).await? != expected {
            return Err(StoreError::Conflict);
        }
        let counter = match reading.counter.valid() {
            Some(counter) => counter.clone(),
            None => self.count_versions(tenant, expected.unwrap_or(0)).await?,
        };
        if counter.number >= MAX_VERSION {
            return Err(StoreError::Corrupt(attribute::VERSION));
        }
        Ok(Base { reading, counter })
    }

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
            match StoredItem::from_item(item) {
                Ok(StoredItem::Settings(item)) => {
                    let number = item.version.number;
                    counter.number = counter.number.max(number);
                    counter.kept.push(Kept {
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

    /// All versions of `tenant`, the oldest first.
    pub(crate) async fn version_items(&self, tenant: &Tenant) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
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
                .expression_attribute_values(":newest", AttributeValue::S(version_key(MAX_VERSION)))
                .consistent_read(true)
                .set_exclusive_start_key(start.take())
                .send()
                .boxed()
                .await
                .map_err(|error| StoreError::Database {
                    operation: "Query",
                    code: error_code(&error),
                })?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    /// Lets the versions that were under `purge`, which `counter` no longer has, end when they would have without it.
    async fn keep_again(
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
    async fn update_versions(
        &self,
        tenant: &Tenant,
        versions: &[u64],
        change: &(dyn Fn(UpdateBuilder) -> UpdateBuilder + Sync),
    ) -> Result<(), StoreError> {
        let updates = versions.iter().map(|number| {
            let update = self
                .dynamodb
                .update_item()
                .table_name(&self.table)
                .key(attribute::PK, AttributeValue::S(tenant.as_str().to_owned()))
                .key(attribute::SK, AttributeValue::S(version_key(*number)));
            let update = change(update);
            async move {
                match update.send().boxed().await {
                    Ok(_) => Ok(()),
                    Err(error)
                        if error.as_service_error().is_some_and(
                            UpdateItemError::is_conditional_check_failed_exception,
                        ) =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(StoreError::Database {
                        operation: "UpdateItem",
                        code: error_code(&error),
                    }),
                }
            }
            .boxed()
        });
        stream::iter(updates.collect::<Vec<_>>())
            .buffer_unordered(CONCURRENT_UPDATES)
            .try_collect()
            .await
    }

    /// Writes a version's items and the counter, or nothing: each where it still is what was read, and the version's
    /// own where there is none of its number.
    async fn write(
        &self,
        tenant: &Tenant,
        read: &Reading,
        current: Item,
        own: Item,
        counter: &Counter,
    ) -> Result<(), StoreError> {
        let operation = "TransactWriteItems";
        let number = counter.number;
        let counter = counter.to_item(tenant, self.hash_key().await?);
        let put = |item| Put::builder().table_name(&self.table).set_item(Some(item));
        let puts = [
            unchanged(put(current), read.item.as_ref(), attribute::VERSION),
            put(own).condition_expression("attribute_not_exists(pk)"),
            unchanged(put(counter), read.counter_item.as_ref(), attribute::MAC),
        ];
        let items = puts
            .into_iter()
            .map(|put| Ok(TransactWriteItem::builder().put(put.build()?).build()))
            .collect::<Result<Vec<_>, BuildError>>()
            .map_err(|_| StoreError::Database {
                operation,
                code: "RequestNotBuilt".to_owned(),
            })?;
        let written = self
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .boxed()
            .await;
        let Err(error) = written else {
            // This process has seen it, although it never read it.
            self.seen.note(tenant, number);
            self.wait_until_visible(tenant, number).await;
            return Ok(());
        };
        let code = error_code(&error);
        let cancelled = error.as_service_error().and_then(cancelled);
        Err(cancelled.unwrap_or(StoreError::Database { operation, code }))
    }
}

type UpdateBuilder = aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;

/// Puts an item in the place of the one that was `found`, if its attribute `name` still is what it was.
fn unchanged(put: PutBuilder, found: Option<&Item>, name: &str) -> PutBuilder {
    let Some(found) = found else {
        return put.condition_expression("attribute_not_exists(pk)");
    };
    let put = put.expression_attribute_names("#found", name);
    match found.get(name) {
        Some(value) => put
            .condition_expression("#found = :found")
            .expression_attribute_values(":found", value.clone()),
        None => put.condition_expression("attribute_exists(pk) AND attribute_not_exists(#found)"),
    }
}

fn new_version(
    number: u64,
    change: Change,
    changed: Vec<String>,
    author: &Author,
    now: Timestamp,
) -> Version {
    Version {
        number,
        saved_at: now,
        saved_by: author.subject.clone(),
        source_address: author.source_address.clone(),
        change,
        changed,
    }
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
    let failed = |index| codes.get(index) == Some(&"ConditionalCheckFailed");
    if failed(0) || failed(2) || codes.contains(&"TransactionConflict") {
        Some(StoreError::Conflict)
    } else if failed(1) {
        // The present item is as it was read, and yet there is a version of the next number: to write over it would
        // take it out of the audit trail.
        Some(StoreError::Corrupt(attribute::VERSION))
    } else {
        None
    }
}
