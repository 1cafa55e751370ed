//! A tenant's versions: a page of who changed what, and all of their items.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use comms_aws::{TableError, item::text_value};
use comms_core::{Clock, Tenant};
use futures_util::FutureExt as _;

use super::SettingsStore;
use crate::{
    item::{Item, attribute, is_expired, read_version, version_key},
    store_error::StoreError,
    version::{MAX_VERSION, Version, VersionPage},
};

/// Bytes of the names of changed fields in one page of versions. One version may have 30 KB of them, and a hundred of those,
/// with what JSON escapes, more than Lambda answers (6 MB).
const MAX_PAGE_BYTES: usize = 1_000_000;

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

impl SettingsStore {
    /// A consistent query for the versions up to the number `newest`, the oldest first.
    fn versions_query(&self, tenant: &Tenant, newest: u64) -> QueryFluentBuilder {
        self.dynamodb
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :tenant AND sk BETWEEN :oldest AND :newest")
            .expression_attribute_values(":tenant", text_value(tenant.as_str()))
            .expression_attribute_values(":oldest", text_value(&version_key(0)))
            .expression_attribute_values(":newest", text_value(&version_key(newest)))
            .consistent_read(true)
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
                .versions_query(tenant, newest)
                .projection_expression(AUDIT_ATTRIBUTES.map(|(name, _)| name).join(", "))
                .set_expression_attribute_names(Some(
                    AUDIT_ATTRIBUTES
                        .map(|(name, attribute)| (name.to_owned(), attribute.to_owned()))
                        .into(),
                ))
                .scan_index_forward(false)
                .limit(i32::try_from(missing).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start.take())
                .send()
                .boxed()
                .await
                .map_err(|error| TableError::new("Query", &error))?;
            for item in answer.items.unwrap_or_default() {
                if is_expired(&item, now) {
                    continue;
                }
                let version = read_version(&item)?;
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

    /// All versions of `tenant`, the oldest first.
    pub(crate) async fn version_items(&self, tenant: &Tenant) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let answer = self
                .versions_query(tenant, MAX_VERSION)
                .set_exclusive_start_key(start.take())
                .send()
                .boxed()
                .await
                .map_err(|error| TableError::new("Query", &error))?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }
}
