//! Permits that all processes share: one item per holder's partition key, in the deliveries table, with a numbered
//! slot for each permit.
//!
//! A slot's value is the time at which the permit ends, in nanoseconds of Unix time, of which the last six digits are
//! random: they tell one permit from another. Taking a permit is one conditional write to a slot that is free or has
//! expired; where the condition fails, DynamoDB returns the item, which shows the slots that are free. Releasing is one
//! write that removes the slot if it still has that value. A process that is killed releases nothing, and its permits
//! expire.
//!
//! Both writes are idempotent, so the SDK may retry them: a permit whose response was lost is taken by the retry under
//! the same value.

use std::{sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use comms_aws::{
    ConditionalWrite, Item, TableError, clients,
    item::{key, number_value, parse_number},
};
use comms_core::Clock;
use comms_core::backoff::jitter;
use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// How often a slot is tried that somebody else took first.
const MAX_TRIES: u32 = 8;
/// How long an item is kept after its last permit has ended.
const RETENTION: SignedDuration = SignedDuration::from_hours(1);
/// Digits of a slot's value below a millisecond.
const NONCE: u128 = 1_000_000;

const SORT_KEY: &str = "permits";
const SLOT_PREFIX: &str = "slot";

/// The permits of a table.
#[derive(Clone)]
pub(crate) struct Permits {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    retention: SignedDuration,
}

/// A permit that was taken. It is held until it is released or `value` is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenSlot {
    partition_key: String,
    slot: u32,
    value: i64,
}

/// A further condition and further changes of the write that takes or releases a permit.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rider {
    /// `AND`ed to the write's condition.
    pub(crate) condition: Option<String>,
    /// Clauses of `SET`.
    pub(crate) sets: Vec<String>,
    /// Names of `REMOVE`.
    pub(crate) removes: Vec<String>,
    /// Expression attribute names.
    pub(crate) names: Vec<(String, String)>,
    /// Expression attribute values.
    pub(crate) values: Vec<(String, i64)>,
}

/// What became of asking for a permit.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It was taken; the item as it is now.
    Slot(TakenSlot, Item),
    /// All are taken.
    Full,
    /// The rider's condition may not hold for this item: the caller decides.
    Refused(Item),
}

impl TakenSlot {
    /// Its number, from 0.
    pub(crate) const fn number(&self) -> u32 {
        self.slot
    }

    /// When it expires.
    pub(crate) fn until(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.value)).unwrap_or(Timestamp::MAX)
    }
}

impl Permits {
    pub(crate) fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client: clients::dynamodb(config, "permits"),
            table: table.into(),
            clock,
            retention: RETENTION,
        }
    }

    /// The same, whose items are kept for so long after their last permit: they say something else as well.
    pub(crate) fn kept_for(self, retention: SignedDuration) -> Self {
        Self { retention, ..self }
    }

    /// Takes one of `limit` permits until `until`, in one write if the first guess is free.
    ///
    /// `is_refused` says of the item of a failed condition whether it was the rider's.
    pub(crate) async fn take(
        &self,
        partition_key: &str,
        limit: u32,
        until: Timestamp,
        rider: &Rider,
        is_refused: impl Fn(&Item) -> bool,
    ) -> Result<Taken, TableError> {
        let mut free: Vec<u32> = (0..limit).collect();
        for _ in 0..MAX_TRIES {
            let Some(slot) = pick(&free) else {
                break;
            };
            let taken = slot_until(partition_key, slot, until);
            let written = self.write_taking(std::slice::from_ref(&taken), until, rider);
            match written.await? {
                ConditionalWrite::Done(item) => return Ok(Taken::Slot(taken, item)),
                ConditionalWrite::ConditionFailed(item) if is_refused(&item) => {
                    return Ok(Taken::Refused(item));
                }
                ConditionalWrite::ConditionFailed(item) => {
                    let live = self.live_slots(&item);
                    free = (0..limit).filter(|slot| !live.contains(slot)).collect();
                }
            }
        }
        // None is free, or so many others came first that there is none now.
        Ok(Taken::Full)
    }

    /// Takes as many permits as `count` says, in one write, beside those that the holder has: none if all are taken.
    /// `count` is asked with how many seem free. The item as it was seen last.
    pub(crate) async fn take_several(
        &self,
        held: &[TakenSlot],
        partition_key: &str,
        limit: u32,
        until: Timestamp,
        count: impl Fn(usize) -> usize,
    ) -> Result<(Vec<TakenSlot>, Item), TableError> {
        let is_held = |slot: &u32| held.iter().any(|taken| taken.slot == *slot);
        let mut free: Vec<u32> = (0..limit).filter(|slot| !is_held(slot)).collect();
        let mut seen = Item::new();
        for _ in 0..MAX_TRIES {
            let mut taken = Vec::new();
            for _ in 0..count(free.len()) {
                let Some(slot) = pick(&free) else {
                    break;
                };
                free.retain(|other| *other != slot);
                taken.push(slot_until(partition_key, slot, until));
            }
            if taken.is_empty() {
                break;
            }
            match self.write_taking(&taken, until, &Rider::default()).await? {
                ConditionalWrite::Done(item) => return Ok((taken, item)),
                ConditionalWrite::ConditionFailed(item) => {
                    let live = self.live_slots(&item);
                    free = (0..limit).filter(|slot| !live.contains(slot)).collect();
                    seen = item;
                }
            }
        }
        Ok((Vec::new(), seen))
    }

    /// Releases permits of one item in one write. Those that have expired leave the others to be released one by one.
    pub(crate) async fn release_several(&self, taken: &[TakenSlot]) -> Result<(), TableError> {
        self.end_several(taken, None).await
    }

    /// Lets permits of one item expire at `until` or before, in one write.
    pub(crate) async fn expire_several(
        &self,
        taken: &[TakenSlot],
        until: Timestamp,
    ) -> Result<(), TableError> {
        self.end_several(taken, Some(until)).await
    }

    async fn end_several(
        &self,
        taken: &[TakenSlot],
        until: Option<Timestamp>,
    ) -> Result<(), TableError> {
        let Some(first) = taken.first() else {
            return Ok(());
        };
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&first.partition_key, SORT_KEY)));
        let (mut changes, mut conditions) = (Vec::new(), Vec::new());
        for (n, slot) in taken.iter().enumerate() {
            request = request
                .expression_attribute_names(format!("#slot{n}"), name(slot.slot))
                .expression_attribute_values(format!(":mine{n}"), number_value(slot.value));
            conditions.push(format!("#slot{n} = :mine{n}"));
            if let Some(until) = until {
                let ends = number_value(value_until(until.min(slot.until())));
                request = request.expression_attribute_values(format!(":until{n}"), ends);
                changes.push(format!("#slot{n} = :until{n}"));
            } else {
                changes.push(format!("#slot{n}"));
            }
        }
        let verb = if until.is_some() { "SET" } else { "REMOVE" };
        let request = request
            .update_expression(format!("{verb} {}", changes.join(", ")))
            .condition_expression(conditions.join(" AND "));
        if matches!(
            ConditionalWrite::of_update(request.send().boxed().await)?,
            ConditionalWrite::ConditionFailed(_)
        ) && taken.len() > 1
        {
            for slot in taken {
                match until {
                    Some(until) => self.expire(slot, until.min(slot.until())).await.map(drop)?,
                    None => self.release(slot, &Rider::default()).await.map(drop)?,
                }
            }
        }
        Ok(())
    }

    /// Releases a permit, and makes the rider's changes, if it was still held: the item as it was before, or `None`.
    pub(crate) async fn release(
        &self,
        taken: &TakenSlot,
        rider: &Rider,
    ) -> Result<Option<Item>, TableError> {
        let slot = name(taken.slot);
        let mut removes = rider.removes.clone();
        removes.push("#slot".to_owned());
        let mut expression = format!("REMOVE {}", removes.join(", "));
        if !rider.sets.is_empty() {
            expression = format!("SET {} {expression}", rider.sets.join(", "));
        }
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&taken.partition_key, SORT_KEY)))
            .update_expression(expression)
            .condition_expression("#slot = :mine")
            .expression_attribute_names("#slot", slot)
            .expression_attribute_values(":mine", number_value(taken.value))
            .return_values(ReturnValue::AllOld);
        let released =
            ConditionalWrite::of_update(with_values(request, rider).send().boxed().await)?;
        Ok(match released {
            ConditionalWrite::Done(before) => Some(before),
            // A permit that has expired may be somebody else's by now: then there is nothing to do.
            ConditionalWrite::ConditionFailed(_) => None,
        })
    }

    /// Lets a permit expire at `until`, if it is still held: it is nobody else's before. The item as it was, or `None`.
    pub(crate) async fn expire(
        &self,
        taken: &TakenSlot,
        until: Timestamp,
    ) -> Result<Option<Item>, TableError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&taken.partition_key, SORT_KEY)))
            .update_expression("SET #slot = :until")
            .condition_expression("#slot = :mine")
            .expression_attribute_names("#slot", name(taken.slot))
            .expression_attribute_values(":mine", number_value(taken.value))
            .expression_attribute_values(":until", number_value(value_until(until)))
            .return_values(ReturnValue::AllOld);
        Ok(
            match ConditionalWrite::of_update(request.send().boxed().await)? {
                ConditionalWrite::Done(before) => Some(before),
                ConditionalWrite::ConditionFailed(_) => None,
            },
        )
    }

    /// The permits of `partition_key` that are held now. One eventually consistent read.
    pub(crate) async fn held(&self, partition_key: &str) -> Result<usize, TableError> {
        Ok(self.count(&self.read(partition_key).await?))
    }

    /// The item of `partition_key`, empty if there is none. One eventually consistent read.
    pub(crate) async fn read(&self, partition_key: &str) -> Result<Item, TableError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(partition_key, SORT_KEY)))
            .send()
            .boxed()
            .await
            .map_err(|error| TableError::new("GetItem", &error))?;
        Ok(answer.item.unwrap_or_default())
    }

    /// Sets attributes of an item beside its permits, if `condition` holds. Whether it did.
    pub(crate) async fn set(
        &self,
        partition_key: &str,
        attributes: Vec<(&'static str, AttributeValue)>,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> Result<bool, TableError> {
        let sets: Vec<_> = attributes
            .iter()
            .map(|(name, _)| format!("{name} = :{name}"))
            .collect();
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(partition_key, SORT_KEY)))
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(condition);
        for (name, value) in attributes {
            request = request.expression_attribute_values(format!(":{name}"), value);
        }
        for (name, value) in values {
            request = request.expression_attribute_values(name, value);
        }
        Ok(
            match ConditionalWrite::of_update(request.send().boxed().await)? {
                ConditionalWrite::Done(_) => true,
                ConditionalWrite::ConditionFailed(_) => false,
            },
        )
    }

    async fn write_taking(
        &self,
        taken: &[TakenSlot],
        until: Timestamp,
        rider: &Rider,
    ) -> Result<ConditionalWrite, TableError> {
        let kept_until = until
            .saturating_add(self.retention)
            .unwrap_or(Timestamp::MAX);
        let mut sets = rider.sets.clone();
        sets.push("expiresAt = :expiresAt".to_owned());
        let mut conditions = Vec::new();
        let mut request = self.client.update_item().table_name(&self.table);
        for (n, slot) in taken.iter().enumerate() {
            sets.push(format!("#slot{n} = :mine{n}"));
            // Its own value is there if the first response was lost.
            conditions.push(format!(
                "(attribute_not_exists(#slot{n}) OR #slot{n} < :now OR #slot{n} = :mine{n})"
            ));
            request = request
                .set_key(Some(key(&slot.partition_key, SORT_KEY)))
                .expression_attribute_names(format!("#slot{n}"), name(slot.slot))
                .expression_attribute_values(format!(":mine{n}"), number_value(slot.value));
        }
        let mut expression = format!("SET {}", sets.join(", "));
        if !rider.removes.is_empty() {
            expression = format!("{expression} REMOVE {}", rider.removes.join(", "));
        }
        conditions.extend(rider.condition.clone());
        let request = request
            .update_expression(expression)
            .condition_expression(conditions.join(" AND "))
            .expression_attribute_values(":now", number_value(nanoseconds(self.clock.now())))
            .expression_attribute_values(":expiresAt", number_value(kept_until.as_second()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        ConditionalWrite::of_update(with_values(request, rider).send().boxed().await)
    }

    /// The numbers of an item's permits that are held now.
    fn live_slots(&self, item: &Item) -> Vec<u32> {
        slots_until(item, self.clock.now())
    }

    /// How many permits of an item are held beyond `time`.
    pub(crate) fn count_beyond(item: &Item, time: Timestamp) -> usize {
        slots_until(item, time).len()
    }

    /// How many permits of an item are held now.
    pub(crate) fn count(&self, item: &Item) -> usize {
        self.live_slots(item).len()
    }
}

/// The numbers of an item's permits that are held at `time`.
fn slots_until(item: &Item, time: Timestamp) -> Vec<u32> {
    let time = nanoseconds(time);
    item.iter()
        .filter(|(_, value)| parse_number::<i64>(value).is_some_and(|until| until >= time))
        .filter_map(|(name, _)| name.strip_prefix(SLOT_PREFIX)?.parse().ok())
        .collect()
}

impl std::fmt::Debug for Permits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permits(…)")
    }
}

type UpdateItem = aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;

fn with_values(mut request: UpdateItem, rider: &Rider) -> UpdateItem {
    for (name, attribute) in &rider.names {
        request = request.expression_attribute_names(name, attribute);
    }
    for (name, value) in &rider.values {
        request = request.expression_attribute_values(name, number_value(*value));
    }
    request
}

/// One of `free`, at random: two that take at the same time rarely take the same.
fn pick(free: &[u32]) -> Option<u32> {
    let count = u32::try_from(free.len()).ok().filter(|count| *count > 0)?;
    let index = Uuid::new_v4().as_u128() % u128::from(count);
    free.get(usize::try_from(index).ok()?).copied()
}

/// A permit that is about to be taken.
fn slot_until(partition_key: &str, slot: u32, until: Timestamp) -> TakenSlot {
    TakenSlot {
        partition_key: partition_key.to_owned(),
        slot,
        value: value_until(until),
    }
}

fn value_until(until: Timestamp) -> i64 {
    let nonce = i64::try_from(Uuid::new_v4().as_u128() % NONCE).unwrap_or(0);
    let milliseconds = until.as_millisecond();
    milliseconds.saturating_mul(1_000_000).saturating_add(nonce)
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn name(slot: u32) -> String {
    format!("{SLOT_PREFIX}{slot}")
}

/// `time`, spread by up to half of it, so that those who were refused together do not return together.
pub(crate) fn spread_by_half(time: Duration) -> Duration {
    time.mul_f64(0.5_f64.mul_add(jitter(), 1.0))
}
