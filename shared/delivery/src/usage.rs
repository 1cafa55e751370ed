//! Usage: the outcomes of a clinic's deliveries, counted by day of UTC, channel and provider. One item per tenant and day,
//! in the deliveries table.
//!
//! A process counts in memory what the ledger recorded. When an invocation ends, each tenant and day that it touched costs
//! one write, which adds to the item. A write that was not confirmed is kept with its token, and repeated unchanged by the
//! process's next invocation. The item has the token of the last write from each of 256 places; a process draws its place
//! when it starts. So a write whose response was lost counts once, unless another process with the same place wrote
//! meanwhile.
//!
//! Counts that a process had not written when it was killed are lost. These are statistics, not a bill: the ledger has each
//! outcome. Nothing here fails a delivery, or delays an invocation by more than [`WRITE_TIMEOUT`].

pub mod categories;
mod counts;
mod pending;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue as Attribute, ReturnValuesOnConditionCheckFailure},
};
use comms_adapters::Deadline;
use comms_aws::{
    ConditionalWrite, TableError, clients,
    item::{find_number, number_value, required_text},
};
use comms_core::{Channel, Delivery, DeliveryStatus, Tenant};
use futures_util::{FutureExt as _, StreamExt, stream};
use jiff::{Timestamp, ToSpan, civil::Date, tz::Offset};
use tracing::warn;
use uuid::Uuid;

use categories::{NewNames, names_of};
pub use counts::{Counter, Counts};
use pending::{PendingCounts, Write};

/// Days until DynamoDB's time to live removes an item, counted from its day.
pub const RETENTION_DAYS: u16 = 400;
/// The longest that writing may delay the end of an invocation.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// Writes at the same time.
const CONCURRENT_WRITES: usize = 8;

const PARTITION: &str = "usage#";
const SORT_KEY: &str = "sk";

/// A day of UTC.
pub fn day_of(time: Timestamp) -> Date {
    Offset::UTC.to_datetime(time).date()
}

/// Counts the outcomes of this process, and reads those of all.
pub struct Usage {
    client: Client,
    table: String,
    counted: Mutex<PendingCounts>,
    /// Where an item has the token of this process's last write.
    place: u8,
    /// Held by who writes: two at once would make the same write.
    writing: tokio::sync::Mutex<()>,
}

/// What became of a write.
enum Made {
    /// It had its effect.
    Effective,
    /// It had none: the item has these categories, and no room for those of the write.
    TooManyCategories(BTreeSet<String>),
}

impl Usage {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>) -> Self {
        Self {
            client: clients::dynamodb(config, "usage"),
            table: table.into(),
            counted: Mutex::default(),
            place: Uuid::new_v4().as_bytes()[0],
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Counts how a delivery ended, once that is recorded at `now`. `by_fallback`: another entry than the
    /// first of its chain has sent it.
    pub fn count_ended(
        &self,
        tenant: &Tenant,
        delivery: &Delivery,
        by_fallback: bool,
        category: Option<&str>,
        now: Timestamp,
    ) {
        let day = day_of(now);
        let mut counted = self.lock();
        // What was not sent takes no name from what was.
        let category = category.filter(|_| delivery.status == DeliveryStatus::Sent);
        let key = (tenant.clone(), day);
        let category = category.map(|category| counted.categories.counted_as(&key, category));
        counted.count(tenant, day, |counts| {
            counts.count_ended(delivery, by_fallback, category);
        });
    }

    /// Counts that a delivery was deferred, once that is recorded at `now`.
    pub fn count_deferral(&self, tenant: &Tenant, channel: Channel, now: Timestamp) {
        self.lock().count(tenant, day_of(now), |counts| {
            counts.count(channel, Counter::Deferrals, 1);
        });
    }

    /// Writes what was counted: one request per tenant and day, none where nothing was. What could not be
    /// written within [`WRITE_TIMEOUT`] and until `deadline` is kept for the next time.
    pub async fn write(&self, deadline: Deadline) {
        let dropped = std::mem::take(&mut self.lock().dropped);
        if dropped > 0 {
            warn!(
                dropped,
                "deliveries are missing in the usage: too much waits to be written"
            );
        }
        if self.lock().days.is_empty() {
            return;
        }
        match deadline.bound(WRITE_TIMEOUT, self.write_all()).await {
            Ok(None) => {}
            Ok(Some(error)) => warn!(%error, "usage was not written, and is kept"),
            Err(_) => warn!("usage was not written in time, and is kept"),
        }
    }

    /// The last failure, where there was one.
    async fn write_all(&self) -> Option<TableError> {
        let _writing = self.writing.lock().await;
        let days = self.lock().next_days();
        stream::iter(days)
            .map(|key| async move { self.write_day(&key).await.err() })
            .buffer_unordered(CONCURRENT_WRITES)
            .fold(None, async |last, error| error.or(last))
            .await
    }

    async fn write_day(&self, key: &(Tenant, Date)) -> Result<(), TableError> {
        loop {
            let Some(write) = self.lock().next_write(key) else {
                return Ok(());
            };
            let new_names = self.lock().categories.new_names(key, &write.counts);
            match self.make(key, &write, &new_names).await? {
                Made::Effective => self.lock().confirm(key, new_names),
                Made::TooManyCategories(in_item) => self.lock().learn_categories(key, in_item),
            }
        }
    }

    /// Makes a write, unless it is the one that was made last, or has categories for which the item has no room.
    async fn make(
        &self,
        (tenant, day): &(Tenant, Date),
        write: &Write,
        new_names: &NewNames,
    ) -> Result<Made, TableError> {
        let token = format!("write{}", self.place);
        let mut condition = "(attribute_not_exists(#write) OR #write <> :write)".to_owned();
        let mut additions = Vec::new();
        if let Some([they_fit, addition]) = new_names.expressions() {
            condition = format!("{condition} AND ({they_fit})");
            additions.push(addition.to_owned());
        }
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(tenant))
            .key(SORT_KEY, Attribute::S(day.to_string()))
            .condition_expression(condition)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_names("#write", &token)
            .expression_attribute_values(":write", number_value(write.token))
            .expression_attribute_values(":expiresAt", number_value(expires_at(*day)));
        request = new_names.bind(request);
        for (place, ((channel, counter), count)) in write.counts.0.iter().enumerate() {
            additions.push(format!("#c{place} :c{place}"));
            request = request
                .expression_attribute_names(format!("#c{place}"), format!("{channel}/{counter}"))
                .expression_attribute_values(format!(":c{place}"), number_value(*count));
        }
        let written = request
            .update_expression(format!(
                "SET expiresAt = :expiresAt, #write = :write ADD {}",
                additions.join(", ")
            ))
            .send()
            .boxed()
            .await;
        let item = match ConditionalWrite::of_update(written)? {
            ConditionalWrite::Done(_) => return Ok(Made::Effective),
            ConditionalWrite::ConditionFailed(item) => item,
        };
        // Else it had its effect before, and its response was lost.
        let is_last = find_number(&item, &token) == Some(write.token);
        Ok(if is_last || new_names.is_empty() {
            Made::Effective
        } else {
            Made::TooManyCategories(names_of(&item))
        })
    }

    /// What was counted of a tenant, by day, from `from` to `to`, both included, of which the first is not the
    /// later one. Eventually consistent; one query per megabyte, which is a hundred days at least.
    pub async fn read(
        &self,
        tenant: &Tenant,
        from: Date,
        to: Date,
    ) -> Result<BTreeMap<Date, Counts>, TableError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", partition(tenant))
            .expression_attribute_values(":from", Attribute::S(from.to_string()))
            .expression_attribute_values(":to", Attribute::S(to.to_string()))
            .into_paginator()
            .items()
            .send();
        let mut days = BTreeMap::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| TableError::new("Query", &error))?;
            let day = required_text(&item, SORT_KEY)?.parse();
            let day = day.map_err(|_| TableError::Corrupt(SORT_KEY))?;
            days.insert(day, Counts::of_item(&item)?);
        }
        Ok(days)
    }

    fn lock(&self) -> MutexGuard<'_, PendingCounts> {
        // Nothing panics while the lock is held.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Usage(…)")
    }
}

fn partition(tenant: &Tenant) -> Attribute {
    Attribute::S(format!("{PARTITION}{tenant}"))
}

/// The second of 1970 after which a day is forgotten; the same for every write of the day.
fn expires_at(day: Date) -> i64 {
    let last = day.saturating_add(i64::from(RETENTION_DAYS).days());
    Offset::UTC
        .to_timestamp(last.at(0, 0, 0, 0))
        .unwrap_or(Timestamp::MAX)
        .as_second()
}

#[cfg(test)]
mod tests;
