//! Saving, restoring, deleting and purging: one transaction of the present item, the version's own item and the
//! counter, each on the condition that it still is what was read.

mod contents;

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, TransactWriteItem, builders::PutBuilder,
};
use comms_aws::{
    TableError,
    transaction::{OPERATION, Transaction, transact},
};
use comms_core::{Clock, Tenant};
use jiff::Timestamp;
use serde_json::Value;
use tracing::info;

use crate::store::verified::Reading;
use crate::{
    counter::{Counter, Purge},
    document::CommunicationSettings,
    envelope::{EntryContext, EnvelopeError, Purpose},
    item::{CURRENT, Item, SettingsItem, Tombstone, attribute, version_key},
    seal::Content,
    store::{Basis, SettingsStore, StoreError, sealed_name},
    version::{Author, Change, MAX_VERSION, Version},
};

/// Bytes of the settings in an item: DynamoDB takes 400 KB, names and small attributes included.
const MAX_ITEM_BYTES: usize = 380_000;

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
            let bound_to = EntryContext {
                tenant,
                channel,
                entry: &entry.id,
                provider: entry.config.kind(),
                version: version.number,
                content: Some(&hash),
            };
            let plaintext = entry.plaintext().ok_or(EnvelopeError::Sealing)?;
            sealed.insert(name.clone(), key.seal(&bound_to, &plaintext)?);
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
            return Err(StoreError::corrupt(attribute::VERSION));
        }
        Ok(Base { reading, counter })
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
            .map(|put| Ok(TransactWriteItem::builder().put(put.build()?).build()));
        match transact(&self.dynamodb, items).await? {
            Transaction::Done => {}
            Transaction::Cancelled(reasons) => return Err(cancelled(&reasons)),
        }
        // This process has seen it, although it never read it.
        self.seen.note(tenant, number);
        self.wait_until_visible(tenant, number).await;
        Ok(())
    }
}

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

/// Why the transaction of [`SettingsStore::write`] was cancelled. The reasons are in the order of its items.
fn cancelled(reasons: &[CancellationReason]) -> StoreError {
    let codes: Vec<_> = reasons
        .iter()
        .map(|reason| reason.code().unwrap_or_default())
        .collect();
    let failed = |index| codes.get(index) == Some(&"ConditionalCheckFailed");
    if failed(0) || failed(2) || codes.contains(&"TransactionConflict") {
        StoreError::Conflict
    } else if failed(1) {
        // The present item is as it was read, and yet there is a version of the next number: to write over it would
        // take it out of the audit trail.
        StoreError::corrupt(attribute::VERSION)
    } else {
        TableError::contention(OPERATION, "TransactionCanceledException").into()
    }
}
