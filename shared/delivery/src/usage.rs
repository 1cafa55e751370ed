//! Usage: what became of a clinic's deliveries, counted by day of UTC, channel and provider; one item per tenant
//! and day, in the deliveries table.
//!
//! Counted is what the ledger has recorded, in memory, when it has. When an invocation ends, each tenant and day
//! that it touched costs one write, which adds; so no process takes anything away from another. A write that was
//! not confirmed is kept with its token and made again by the process's next invocation, as it is. The item
//! has the token of the last write from each of 256 places, and a process draws its place when it starts: one that
//! had its effect and lost its answer is not made twice, unless another process with the same place has written
//! to the item in between. Then it counts twice.
//!
//! What a process had not written when it was killed, or when its environment was given up after a write
//! failed, is not counted. These are statistics, and no bill: what became of each delivery the ledger says. Nothing
//! here fails a delivery, or holds an invocation up for more than [`PATIENCE`].

pub mod categories;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::update_item::UpdateItemError,
    types::{AttributeValue as Attribute, ReturnValuesOnConditionCheckFailure},
};
use comms_adapters::Deadline;
use comms_adapters::registry;
use comms_core::{
    Channel, Delivery, DeliveryStatus, FailureReason, GlobalCause, ProviderKind, SentVia, Tenant,
};
use comms_settings::{error_code, retries};
use futures_util::{FutureExt as _, StreamExt, stream};
use jiff::{Timestamp, ToSpan, civil::Date, tz::Offset};
use tracing::warn;
use uuid::Uuid;

use crate::ledger::LedgerError;

use categories::{Categories, NewNames, names_of};

/// Days that are kept, counted from the day itself: DynamoDB's time to live removes items after them.
pub const RETENTION_DAYS: u16 = 400;
/// The longest that writing may hold an invocation's end up.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Days of tenants that wait to be written, in one process. What is counted beyond them is dropped.
const MAX_WAITING: usize = 1_000;
/// Of those, how many are written at the end of one invocation. A batch has ten messages.
const WRITTEN_AT_ONCE: usize = 32;
/// Writes at the same time.
const CONCURRENT_WRITES: usize = 8;

const PARTITION: &str = "usage#";
const SORT_KEY: &str = "sk";

/// What is counted of a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Deliveries that this provider accepted.
    Sent(ProviderKind),
    /// Of those that were sent: by another entry than the first of the chain.
    SentByFallback,
    /// Of those that were sent: through the platform's own account.
    SentByGlobal,
    /// Of those: for this reason.
    SentByGlobalBecause(GlobalCause),
    /// Of those that were sent: in this category, as the caller calls it ([`categories`]).
    SentInCategory(String),
    /// Of those that were sent: the recipient may have got it twice.
    PossibleDuplicates,
    /// Deliveries that failed for this reason.
    Failed(FailureReason),
    /// Deliveries that may have been sent.
    Unknown,
    /// Deliveries that were not sent before they expired.
    Expired,
    /// How often a delivery was deferred because no provider accepted it. It has not ended.
    Deferrals,
}

impl Counter {
    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "sentByFallback" => Some(Self::SentByFallback),
            "sentByGlobal" => Some(Self::SentByGlobal),
            "possibleDuplicates" => Some(Self::PossibleDuplicates),
            "unknown" => Some(Self::Unknown),
            "expired" => Some(Self::Expired),
            "deferrals" => Some(Self::Deferrals),
            _ => match text.split_once('/')? {
                ("sent", provider) => registry::find(provider).map(|known| Self::Sent(known.kind)),
                ("sentByGlobal", cause) => GlobalCause::parse(cause).map(Self::SentByGlobalBecause),
                ("category", category) => Some(Self::SentInCategory(category.to_owned())),
                ("failed", reason) => FailureReason::parse(reason).map(Self::Failed),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(provider) => write!(f, "sent/{provider}"),
            Self::SentByFallback => f.write_str("sentByFallback"),
            Self::SentByGlobal => f.write_str("sentByGlobal"),
            Self::SentByGlobalBecause(cause) => write!(f, "sentByGlobal/{}", cause.as_str()),
            Self::SentInCategory(category) => write!(f, "category/{category}"),
            Self::PossibleDuplicates => f.write_str("possibleDuplicates"),
            Self::Failed(reason) => write!(f, "failed/{}", reason.as_str()),
            Self::Unknown => f.write_str("unknown"),
            Self::Expired => f.write_str("expired"),
            Self::Deferrals => f.write_str("deferrals"),
        }
    }
}

/// Counts by channel; what is not in it has not happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(Channel, Counter), u64>);

impl Counts {
    /// One count.
    pub fn get(&self, channel: Channel, counter: Counter) -> u64 {
        self.0.get(&(channel, counter)).copied().unwrap_or_default()
    }

    /// What was sent on a channel, by category.
    pub fn by_category(&self, channel: Channel) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.0.iter().filter(move |((of, _), _)| *of == channel);
        counts.filter_map(|((_, counter), count)| match counter {
            Counter::SentInCategory(category) => Some((category.as_str(), *count)),
            Counter::Sent(_)
            | Counter::SentByFallback
            | Counter::SentByGlobal
            | Counter::SentByGlobalBecause(_)
            | Counter::PossibleDuplicates
            | Counter::Failed(_)
            | Counter::Unknown
            | Counter::Expired
            | Counter::Deferrals => None,
        })
    }

    /// Whether nothing has happened on the channel.
    pub fn is_without(&self, channel: Channel) -> bool {
        !self.0.keys().any(|(of, _)| *of == channel)
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Self) {
        for ((channel, counter), count) in &other.0 {
            self.count(*channel, counter.clone(), *count);
        }
    }

    fn count(&mut self, channel: Channel, counter: Counter, by: u64) {
        let count = self.0.entry((channel, counter)).or_default();
        *count = count.saturating_add(by);
    }

    /// How a delivery ended; nothing of one that has not.
    fn count_ended(&mut self, delivery: &Delivery, by_fallback: bool, category: Option<String>) {
        let mut count = |counter| self.count(delivery.channel, counter, 1);
        match delivery.status {
            DeliveryStatus::Sent => {
                // One that was sent always says by whom.
                delivery
                    .provider
                    .map(Counter::Sent)
                    .into_iter()
                    .for_each(&mut count);
                category
                    .map(Counter::SentInCategory)
                    .into_iter()
                    .for_each(&mut count);
                let because = delivery.via.and_then(SentVia::because);
                because
                    .map(Counter::SentByGlobalBecause)
                    .into_iter()
                    .for_each(&mut count);
                let flags = [
                    (by_fallback, Counter::SentByFallback),
                    (delivery.was_sent_by_global(), Counter::SentByGlobal),
                    (delivery.possible_duplicate, Counter::PossibleDuplicates),
                ];
                let of_it = flags.into_iter().filter(|(is_so, _)| *is_so);
                of_it.for_each(|(_, counter)| count(counter));
            }
            DeliveryStatus::Failed => {
                // As one that has failed says why.
                delivery
                    .reason
                    .map(Counter::Failed)
                    .into_iter()
                    .for_each(count);
            }
            DeliveryStatus::Unknown => count(Counter::Unknown),
            DeliveryStatus::Expired => count(Counter::Expired),
            DeliveryStatus::Queued | DeliveryStatus::Sending => {}
        }
    }

    /// The counts of an item. What a later version of this program may count is left out.
    pub(crate) fn of_item(item: &HashMap<String, Attribute>) -> Result<Self, LedgerError> {
        let mut counts = Self::default();
        for (name, value) in item {
            let known = name.split_once('/').and_then(|(channel, counter)| {
                Some((Channel::parse(channel)?, Counter::parse(counter)?))
            });
            if let Some((channel, counter)) = known {
                let count = value.as_n().ok().and_then(|text| text.parse().ok());
                let count = count.ok_or(LedgerError::Corrupt("usage"))?;
                counts.count(channel, counter, count);
            }
        }
        Ok(counts)
    }
}

/// A day of UTC.
pub fn day_of(time: Timestamp) -> Date {
    Offset::UTC.to_datetime(time).date()
}

/// Counts what a process has brought about, and reads what all have.
pub struct Usage {
    client: Client,
    table: String,
    counted: Mutex<Counted>,
    /// Where an item has the token of this process's last write.
    place: u8,
    /// Held by who writes: two at once would make the same write.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Counted {
    days: HashMap<(Tenant, Date), Waiting>,
    categories: Categories,
    /// Outcomes that there was no room for.
    dropped: u64,
}

/// What waits to be added to an item.
#[derive(Default)]
struct Waiting {
    counts: Counts,
    /// The write that was made last, until it is known that it had its effect.
    unconfirmed: Option<Write>,
}

/// What became of a write.
enum Made {
    /// It had its effect.
    Effective,
    /// It had none: the item has these categories, and no room for those of the write.
    TooManyCategories(BTreeSet<String>),
}

/// One write, which stays the same however often it is made, unless it can have no effect.
#[derive(Clone)]
struct Write {
    token: u64,
    counts: Counts,
}

impl Counted {
    fn count(&mut self, tenant: &Tenant, day: Date, count: impl FnOnce(&mut Counts)) {
        let key = (tenant.clone(), day);
        if self.days.len() >= MAX_WAITING && !self.days.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        count(&mut self.days.entry(key).or_default().counts);
    }

    /// What is written now. What was tried before comes last: it may fail for a reason of its own.
    fn next_days(&self) -> Vec<(Tenant, Date)> {
        let mut days: Vec<_> = self.days.iter().collect();
        days.sort_by_key(|(_, waiting)| waiting.unconfirmed.is_some());
        days.truncate(WRITTEN_AT_ONCE);
        days.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// The next write of a day: the one that is not confirmed, else one of all that was counted since.
    fn next_write(&mut self, key: &(Tenant, Date)) -> Option<Write> {
        let waiting = self.days.get_mut(key)?;
        if waiting.unconfirmed.is_none() && waiting.counts != Counts::default() {
            waiting.unconfirmed = Some(Write {
                token: Uuid::new_v4().as_u64_pair().1,
                counts: std::mem::take(&mut waiting.counts),
            });
        }
        waiting.unconfirmed.clone()
    }

    /// Takes in the categories of an item, and counts what is not written by those that fit.
    fn learn_categories(&mut self, key: &(Tenant, Date), in_item: BTreeSet<String>) {
        let names = self.categories.learn(key, in_item);
        if let Some(waiting) = self.days.get_mut(key) {
            let counts = [
                Some(&mut waiting.counts),
                waiting.unconfirmed.as_mut().map(|write| &mut write.counts),
            ];
            for counts in counts.into_iter().flatten() {
                *counts = std::mem::take(counts).with_categories(names);
            }
        }
    }

    fn confirm(&mut self, key: &(Tenant, Date), new_names: NewNames) {
        self.categories.are_written(key, new_names);
        if let Some(waiting) = self.days.get_mut(key) {
            waiting.unconfirmed = None;
            if waiting.counts == Counts::default() {
                self.days.remove(key);
            }
        }
    }
}

impl Usage {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>) -> Self {
        Self {
            client: retries::dynamodb(config, "usage"),
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
    /// written within [`PATIENCE`] and until `deadline` is kept for the next time.
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
        match deadline.bound(PATIENCE, self.write_all()).await {
            Ok(None) => {}
            Ok(Some(error)) => warn!(%error, "usage was not written, and is kept"),
            Err(_) => warn!("usage was not written in time, and is kept"),
        }
    }

    /// The last failure, where there was one.
    async fn write_all(&self) -> Option<LedgerError> {
        let _writing = self.writing.lock().await;
        let days = self.lock().next_days();
        stream::iter(days)
            .map(|key| async move { self.write_day(&key).await.err() })
            .buffer_unordered(CONCURRENT_WRITES)
            .fold(None, async |last, error| error.or(last))
            .await
    }

    async fn write_day(&self, key: &(Tenant, Date)) -> Result<(), LedgerError> {
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
    ) -> Result<Made, LedgerError> {
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
            .expression_attribute_values(":write", number(write.token))
            .expression_attribute_values(":expiresAt", number(expires_at(*day)));
        request = new_names.bind(request);
        for (place, ((channel, counter), count)) in write.counts.0.iter().enumerate() {
            additions.push(format!("#c{place} :c{place}"));
            request = request
                .expression_attribute_names(format!("#c{place}"), format!("{channel}/{counter}"))
                .expression_attribute_values(format!(":c{place}"), number(*count));
        }
        let written = request
            .update_expression(format!(
                "SET expiresAt = :expiresAt, #write = :write ADD {}",
                additions.join(", ")
            ))
            .send()
            .boxed()
            .await;
        let Err(error) = written else {
            return Ok(Made::Effective);
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(failed)) =
            error.as_service_error()
        else {
            return Err(LedgerError::Database {
                operation: "UpdateItem",
                code: error_code(&error),
            });
        };
        let item = failed.item().cloned().unwrap_or_default();
        // Else it had its effect before, and its response was lost.
        let last = item.get(&token).and_then(|token| token.as_n().ok());
        let is_last = last.and_then(|token| token.parse().ok()) == Some(write.token);
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
    ) -> Result<BTreeMap<Date, Counts>, LedgerError> {
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
            let item = item.map_err(|error| LedgerError::Database {
                operation: "Query",
                code: error_code(&error),
            })?;
            let day = item
                .get(SORT_KEY)
                .and_then(|day| day.as_s().ok()?.parse().ok());
            let day = day.ok_or(LedgerError::Corrupt(SORT_KEY))?;
            days.insert(day, Counts::of_item(&item)?);
        }
        Ok(days)
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
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

fn number(value: impl fmt::Display) -> Attribute {
    Attribute::N(value.to_string())
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
mod tests {
    use comms_core::{Attempt, AttemptOutcome, DeliveryId, EntryId, Position};
    use comms_testkit::aws::{Fault, LocalAws, Moment};

    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_767_268_800, 0);

    fn delivery(status: DeliveryStatus) -> Delivery {
        let id = DeliveryId::parse(&"0".repeat(32)).unwrap();
        let mut delivery = Delivery::queued(id, Channel::Email, "p***@example.com".to_owned());
        delivery.status = status;
        delivery
    }

    fn sent_at(position: Position) -> Delivery {
        let mut delivery = delivery(DeliveryStatus::Sent);
        delivery.provider = Some(ProviderKind::new("smtp"));
        delivery.attempts = vec![Attempt {
            provider: ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position,
            outcome: AttemptOutcome::Accepted {
                refused_copies: Vec::new(),
            },
            at: None,
            duration: Duration::from_millis(1),
            possible_duplicate: false,
            reply_to_dropped: false,
        }];
        delivery
    }

    fn counted(delivery: &Delivery, by_fallback: bool) -> Vec<String> {
        let mut counts = Counts::default();
        counts.count_ended(delivery, by_fallback, None);
        let names = counts.0.into_iter().map(|((channel, counter), count)| {
            assert_eq!((channel, count), (Channel::Email, 1));
            counter.to_string()
        });
        names.collect()
    }

    #[test]
    fn every_end_is_counted_once_and_of_what_was_sent_it_is_counted_how() {
        let own = sent_at(Position::Primary);
        assert_eq!(counted(&own, false), ["sent/smtp"]);
        let mut again = sent_at(Position::Global);
        again.possible_duplicate = true;
        let all = [
            "sent/smtp",
            "sentByFallback",
            "sentByGlobal",
            "possibleDuplicates",
        ];
        assert_eq!(counted(&again, true), all);
        for reason in FailureReason::ALL {
            let mut failed = delivery(DeliveryStatus::Failed);
            failed.reason = Some(reason);
            // Of what was not sent it does not matter how it would have been.
            failed.possible_duplicate = true;
            let name = format!("failed/{}", reason.as_str());
            assert_eq!(counted(&failed, false), [name]);
        }
        assert_eq!(
            counted(&delivery(DeliveryStatus::Unknown), false),
            ["unknown"]
        );
        assert_eq!(
            counted(&delivery(DeliveryStatus::Expired), false),
            ["expired"]
        );
        for status in [DeliveryStatus::Queued, DeliveryStatus::Sending] {
            assert!(counted(&delivery(status), false).is_empty());
        }
    }

    #[test]
    fn names_read_back_and_what_is_not_known_is_none() {
        let mut all = vec![
            Counter::SentByFallback,
            Counter::SentByGlobal,
            Counter::PossibleDuplicates,
            Counter::Unknown,
            Counter::Expired,
            Counter::Deferrals,
        ];
        all.extend(registry::kinds().map(Counter::Sent));
        all.extend(FailureReason::ALL.map(Counter::Failed));
        all.extend(GlobalCause::ALL.map(Counter::SentByGlobalBecause));
        all.push(Counter::SentInCategory("appointment".to_owned()));
        for counter in all {
            assert_eq!(Counter::parse(&counter.to_string()), Some(counter));
        }
        for unknown in ["", "sent", "sent/", "sent/pigeon", "failed/smtp", "queued"] {
            assert_eq!(Counter::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn an_item_is_read_without_what_a_later_version_counts_and_not_without_what_is_no_number() {
        let mut item = HashMap::from([
            ("pk".to_owned(), Attribute::S("usage#clinic-a".to_owned())),
            ("email/sent/smtp".to_owned(), number(7)),
            ("email/sent/pigeon".to_owned(), number(8)),
            ("fax/sent/smtp".to_owned(), number(9)),
        ]);
        let counts = Counts::of_item(&item).unwrap();
        assert_eq!(
            counts.get(Channel::Email, Counter::Sent(ProviderKind::new("smtp"))),
            7
        );
        assert_eq!(counts.0.len(), 1);
        item.insert("email/unknown".to_owned(), Attribute::S("7".to_owned()));
        assert_eq!(Counts::of_item(&item), Err(LedgerError::Corrupt("usage")));
    }

    #[test]
    fn a_day_is_one_of_utc_and_forgotten_when_it_can_no_longer_be_asked_for() {
        let midnight = Timestamp::constant(1_767_225_600, 0);
        let day = day_of(midnight);
        assert_eq!(day.to_string(), "2026-01-01");
        assert_eq!(day_of(NOON), day);
        assert_eq!(
            day_of(Timestamp::constant(1_767_225_599, 999_999_999)).to_string(),
            "2025-12-31"
        );
        let kept = i64::from(RETENTION_DAYS) * 86_400;
        assert_eq!(expires_at(day), midnight.as_second() + kept);
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_tried_before_comes_last() {
        let tenant = |n: usize| Tenant::parse(&format!("clinic-{n}")).unwrap();
        let usage = Usage::new(&SdkConfig::builder().build(), "table");
        let sent = sent_at(Position::Primary);
        for n in 0..=MAX_WAITING {
            usage.count_ended(&tenant(n), &sent, false, None, NOON);
        }
        usage.count_ended(&tenant(0), &sent, false, None, NOON);
        let mut counted = usage.lock();
        assert_eq!((counted.days.len(), counted.dropped), (MAX_WAITING, 1));
        let tried = counted.next_days();
        assert_eq!(tried.len(), WRITTEN_AT_ONCE);
        for key in &tried {
            counted.next_write(key).unwrap();
        }
        let next = counted.next_days();
        assert!(next.iter().all(|key| !tried.contains(key)));
        assert!(
            counted
                .next_write(&(tenant(MAX_WAITING), day_of(NOON)))
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_lost_answer_counts_once_although_others_have_written_in_between() {
        let aws = LocalAws::start().await;
        let process = |place| Usage {
            place,
            ..Usage::new(&aws.sdk_config(), &aws.resources().deliveries_table)
        };
        let (tenant, sent) = (Tenant::Global, sent_at(Position::Global));
        let deadline = || Deadline::after(Duration::from_secs(30));
        let (first, other) = (process(1), process(2));
        for (process, is_answered) in [(&first, false), (&other, true), (&first, false)] {
            process.count_ended(&tenant, &sent, false, None, NOON);
            if !is_answered {
                // The effect of a write, and of its repetitions by the SDK, without an answer.
                aws.watch(|call| {
                    let fault = (call.moment != Moment::Arrived).then_some(Fault::ServerError);
                    Box::pin(async move { fault })
                });
            }
            process.write(deadline()).await;
            aws.watch(|_| Box::pin(async { None }));
        }
        other.count_ended(&tenant, &sent, false, None, NOON);
        other.write(deadline()).await;
        first.write(deadline()).await;
        let day = day_of(NOON);
        let days = first.read(&tenant, day, day).await.unwrap();
        let count = days[&day].get(Channel::Email, Counter::SentByGlobal);
        assert_eq!(count, 4);
    }

    #[test]
    fn a_write_stays_the_same_until_it_is_confirmed_and_the_next_one_has_the_rest() {
        let (tenant, sent) = (Tenant::Global, sent_at(Position::Global));
        let (mut counted, key) = (Counted::default(), (Tenant::Global, day_of(NOON)));
        let count = |counted: &mut Counted| {
            counted.count(&tenant, day_of(NOON), |counts| {
                counts.count_ended(&sent, false, None);
            });
        };
        count(&mut counted);
        let first = counted.next_write(&key).unwrap();
        count(&mut counted);
        count(&mut counted);
        let again = counted.next_write(&key).unwrap();
        assert_eq!((again.token, &again.counts), (first.token, &first.counts));
        counted.confirm(&key, NewNames::default());
        let rest = counted.next_write(&key).unwrap();
        assert_ne!(rest.token, first.token);
        assert_eq!(rest.counts.get(Channel::Email, Counter::SentByGlobal), 2);
        counted.confirm(&key, NewNames::default());
        assert!(counted.next_write(&key).is_none());
        assert!(counted.days.is_empty(), "nothing is kept");
    }
}
