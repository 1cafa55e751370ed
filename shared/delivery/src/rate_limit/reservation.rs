//! The write that reserves permits, and the arithmetic of a rate in microseconds.

use std::sync::atomic::Ordering;

use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use comms_adapters::{rate::Rate, rate_limiter::MAX_WAIT_DURATION};
use comms_aws::{
    ConditionalWrite, TableError,
    gcra::{self, DUE, Due, Limit},
    item::{self, number_value},
};
use futures_util::FutureExt as _;
use jiff::SignedDuration;

use super::{CLOCKS_DIFFER, SharedRateLimiter};

/// Tries of a write whose condition another process made fail.
const MAX_TRIES: u32 = 6;
/// From this try on, counted from 0, only one permit is asked for.
const MODEST_TRIES: u32 = 2;
const SORT_KEY: &str = "due";
const EXPIRES_AT: &str = "expiresAt";

/// How many permits are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// One for each of so many messages, or fewer.
    UpTo(u32),
    /// All of them for one message, which waits for the first.
    Exactly(u32),
}

/// The result of reserving permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permits {
    /// So many, from this time in microseconds on, one in each interval.
    From(i64, u32),
    /// None comes soon. The time that is due.
    None(i64),
}

impl SharedRateLimiter {
    /// Reserves `wanted` permits, of which the first is due within [`MAX_WAIT_DURATION`]. `seen` is what is known of the time that is
    /// due, and is known better afterwards.
    pub(super) async fn reserve(
        &self,
        key: &str,
        rate: Rate,
        wanted: Wanted,
        seen: &mut Option<i64>,
    ) -> Result<Permits, TableError> {
        let interval = micros(rate.interval);
        for attempt in 0..MAX_TRIES {
            let now = self.now();
            // A time beyond all that could be: somebody's clock was wrong, and nobody is to wait for it.
            let nobodys = seen.filter(|due| *due > now + horizon(rate) + interval + CLOCKS_DIFFER);
            let start = seen
                .filter(|_| nobodys.is_none())
                .map_or(now, |due| due.max(now));
            let room = (now + horizon(rate) - start).div_euclid(interval) + 1;
            let Some(count) = u32::try_from(room).ok().filter(|room| *room > 0) else {
                return Ok(Permits::None(start));
            };
            // Where others are as fast, at least one: that fails only where there is none.
            let (count, waited_for) = match wanted {
                Wanted::UpTo(wanted) => {
                    let wanted = if attempt < MODEST_TRIES { wanted } else { 1 };
                    let count = count.min(wanted).max(1);
                    (count, count)
                }
                Wanted::Exactly(wanted) => (wanted, 1),
            };
            let time = interval.saturating_mul(count.into());
            let due = match nobodys {
                Some(found) => Due::Implausible(found),
                None if start > now => Due::Ahead,
                None => Due::Past,
            };
            let limit = limit(rate);
            let advance = gcra::advance(due, now, time, limit.latest(now, waited_for));
            let mut request = self
                .client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(item::key(key, SORT_KEY)))
                .condition_expression(advance.condition)
                .update_expression(advance.update)
                .expression_attribute_names("#due", DUE)
                .expression_attribute_names("#expiresAt", EXPIRES_AT)
                .expression_attribute_values(
                    ":expiresAt",
                    number_value((start + time + CLOCKS_DIFFER) / 1_000_000),
                )
                .return_values(ReturnValue::UpdatedNew)
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                );
            for (name, value) in advance.values {
                request = request.expression_attribute_values(name, number_value(value));
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
            match ConditionalWrite::of_update(request.send().boxed().await)? {
                ConditionalWrite::Done(item) => {
                    let due = item::required_number(&item, DUE)?;
                    *seen = Some(due);
                    return Ok(Permits::From(due - time - borrowed(rate), count));
                }
                ConditionalWrite::ConditionFailed(item) => {
                    *seen = item::optional_number(&item, DUE)?;
                }
            }
        }
        Err(TableError::contention("UpdateItem", "Contention"))
    }
}

/// What a burst may be ahead of the sustained rate.
pub(super) fn borrowed(rate: Rate) -> i64 {
    micros(rate.interval).saturating_mul(i64::from(rate.burst.saturating_sub(1)))
}

/// How far ahead of the present the time that is due may be for a permit that comes soon.
pub(super) fn horizon(rate: Rate) -> i64 {
    borrowed(rate) + i64::try_from(MAX_WAIT_DURATION.as_micros()).unwrap_or(i64::MAX)
}

/// The limit in microseconds, within which a permit that comes soon may be due.
fn limit(rate: Rate) -> Limit {
    let interval = micros(rate.interval);
    Limit {
        interval,
        tolerance: horizon(rate) + interval,
    }
}

pub(super) fn micros(time: SignedDuration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX).max(1)
}
