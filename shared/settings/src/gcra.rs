//! Rate limits in the settings table, exact over all processes.
//!
//! Each limit is the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371, annex A):
//! one number per limit, the time at which everything that was taken so far would be due at the
//! sustained rate. What is asked for is granted as long as that time does not run further ahead of the
//! clock than the burst. There are no windows, at the edges of which twice as much would pass.
//!
//! A request takes from several limits in one transaction: from all of them or from none, exactly, however many ask at
//! the same time. Where DynamoDB does not answer, nothing is granted.

use std::{cmp::max, time::Duration};

use aws_sdk_dynamodb::{
    error::BuildError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{
        AttributeValue, CancellationReason, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
        Update,
    },
};
use comms_core::Clock;
use futures_util::FutureExt as _;

use crate::{
    aws_error::error_code,
    item::attribute,
    store::{SettingsStore, StoreError},
};

/// When everything taken so far is due at the sustained rate, in milliseconds of Unix time (TAT, the
/// theoretical arrival time of I.371).
const DUE: &str = "due";
/// How often a transaction is tried that lost against another one. Those of one clinic that begin at
/// the same time are few; more in a row than this is answered as DynamoDB not answering.
const MAX_TRIES: u32 = 8;

/// Token bucket: `burst` at once, then one per `interval`. In any time `t` no more than
/// `burst + t / interval`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) interval: Duration,
}

impl Rate {
    /// The time that `count` takes at the sustained rate, in milliseconds.
    fn time_of(self, count: u32) -> i64 {
        i64::try_from(self.interval.as_millis())
            .unwrap_or(i64::MAX)
            .saturating_mul(i64::from(count))
    }
}

/// A limit that is reached.
#[derive(Debug)]
pub(crate) struct Reached {
    /// Which of the withdrawals; where several are refused, the one that has to wait longest.
    pub(crate) index: usize,
    /// After which the same is granted if nobody else takes it before. More than zero.
    pub(crate) retry_after: Duration,
}

/// So much from one limit.
pub(crate) struct Withdrawal {
    /// The limit's item.
    pk: String,
    sk: &'static str,
    rate: Rate,
    count: u32,
    /// Whether something that was taken before is not due yet, as far as is known. DynamoDB has no maximum
    /// of two numbers, so that the two cases are two updates; which one it has to be, the condition that did
    /// not hold says.
    is_running: bool,
}

impl Withdrawal {
    pub(crate) const fn new(pk: String, sk: &'static str, rate: Rate, count: u32) -> Self {
        Self {
            pk,
            sk,
            rate,
            count,
            is_running: false,
        }
    }

    /// The latest present value at which `count` is granted.
    fn latest(&self, now: i64) -> i64 {
        now.saturating_add(self.rate.time_of(self.rate.burst))
            .saturating_sub(self.rate.time_of(self.count))
    }

    fn update(&self, table: &str, now: i64) -> Result<TransactWriteItem, BuildError> {
        let number = |number: i64| AttributeValue::N(number.to_string());
        let time = self.rate.time_of(self.count);
        // Whatever is granted is due by then.
        let over = now.saturating_add(self.rate.time_of(self.rate.burst));
        let update = Update::builder()
            .table_name(table)
            .key(attribute::PK, AttributeValue::S(self.pk.clone()))
            .key(attribute::SK, AttributeValue::S(self.sk.to_owned()))
            .expression_attribute_names("#due", DUE)
            .expression_attribute_names("#expiresAt", attribute::EXPIRES_AT)
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":expiresAt", number(over / 1_000 + 1))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update = if self.is_running {
            update
                .condition_expression("#due > :now AND #due <= :latest")
                .update_expression("SET #due = #due + :time, #expiresAt = :expiresAt")
                .expression_attribute_values(":latest", number(self.latest(now)))
                .expression_attribute_values(":time", number(time))
        } else {
            update
                .condition_expression("attribute_not_exists(#due) OR #due <= :now")
                .update_expression("SET #due = :due, #expiresAt = :expiresAt")
                .expression_attribute_values(":due", number(now.saturating_add(time)))
        };
        let update = update.build()?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// Learns why the transaction was cancelled at `now`. How long to wait where the limit is reached.
    fn learn(
        &mut self,
        reason: &CancellationReason,
        now: i64,
    ) -> Result<Option<Duration>, StoreError> {
        match reason.code() {
            // This one would have been granted, or another transaction was at it.
            None | Some("None" | "TransactionConflict") => return Ok(None),
            Some("ConditionalCheckFailed") => {}
            Some(other) => return Err(failure(other)),
        }
        let due = match reason.item().and_then(|item| item.get(DUE)) {
            None => None,
            Some(due) => {
                let due = due.as_n().ok().and_then(|due| due.parse::<i64>().ok());
                Some(due.ok_or(StoreError::Corrupt(DUE))?)
            }
        };
        let due = due.unwrap_or(i64::MIN);
        self.is_running = due > now;
        let wait = max(due.saturating_sub(self.latest(now)), 0);
        Ok((wait > 0).then(|| Duration::from_millis(wait.unsigned_abs())))
    }
}

impl SettingsStore {
    /// Takes all of `withdrawals` or none.
    pub(crate) async fn take(
        &self,
        withdrawals: &mut [Withdrawal],
        clock: &dyn Clock,
    ) -> Result<Result<(), Reached>, StoreError> {
        for _ in 0..MAX_TRIES {
            let now = clock.now().as_millisecond();
            let reasons = match self.try_take(withdrawals, now).await? {
                Ok(()) => return Ok(Ok(())),
                Err(reasons) => reasons,
            };
            let mut reached: Option<Reached> = None;
            for (index, (withdrawal, reason)) in withdrawals.iter_mut().zip(&reasons).enumerate() {
                if let Some(retry_after) = withdrawal.learn(reason, now)?
                    && reached
                        .as_ref()
                        .is_none_or(|longest| retry_after > longest.retry_after)
                {
                    reached = Some(Reached { index, retry_after });
                }
            }
            if let Some(reached) = reached {
                return Ok(Err(reached));
            }
        }
        Err(failure("TransactionConflict"))
    }

    /// All of `withdrawals` or none; where none, the reason of each.
    async fn try_take(
        &self,
        withdrawals: &[Withdrawal],
        now: i64,
    ) -> Result<Result<(), Vec<CancellationReason>>, StoreError> {
        let items = withdrawals
            .iter()
            .map(|withdrawal| withdrawal.update(&self.table, now))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| failure("RequestNotBuilt"))?;
        let sent = self
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .boxed()
            .await;
        let Err(error) = sent else {
            return Ok(Ok(()));
        };
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        {
            Ok(Err(cancelled.cancellation_reasons().to_vec()))
        } else {
            Err(failure(&error_code(&error)))
        }
    }
}

fn failure(code: &str) -> StoreError {
    StoreError::Database {
        operation: "TransactWriteItems",
        code: code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, due: Option<AttributeValue>) -> CancellationReason {
        let reason = CancellationReason::builder().code(code);
        match due {
            Some(due) => reason.item(DUE, due).build(),
            None => reason.build(),
        }
    }

    fn ten_entries() -> Withdrawal {
        let rate = Rate {
            burst: 30,
            interval: Duration::from_secs(30),
        };
        Withdrawal::new(String::new(), "entries", rate, 10)
    }

    #[test]
    fn another_transaction_on_the_same_limit_is_no_refusal() {
        for code in ["TransactionConflict", "None"] {
            let mut withdrawal = ten_entries();
            assert_eq!(withdrawal.learn(&refused(code, None), 0), Ok(None));
            assert!(!withdrawal.is_running, "{code}");
        }
    }

    #[test]
    fn the_wait_is_until_the_burst_has_room_again() {
        let now = 1_000_000_000;
        // Thirty at once, one in 30 s: with 20 of them taken there is room for ten more.
        for (ahead, wait, runs) in [
            (0, 0, false),
            (1, 0, true),
            (600_000, 0, true),
            (600_001, 1, true),
            (900_000, 300_000, true),
        ] {
            let mut withdrawal = ten_entries();
            let due = AttributeValue::N((now + ahead).to_string());
            let waits = withdrawal.learn(&refused("ConditionalCheckFailed", Some(due)), now);
            let expected = (wait > 0).then(|| Duration::from_millis(wait));
            assert_eq!(
                (waits, withdrawal.is_running),
                (Ok(expected), runs),
                "{ahead}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_grants_nothing() {
        let mut withdrawal = ten_entries();
        let due = AttributeValue::S("soon".to_owned());
        assert_eq!(
            withdrawal.learn(&refused("ConditionalCheckFailed", Some(due)), 0),
            Err(StoreError::Corrupt(DUE))
        );
        let throttled = withdrawal.learn(&refused("ThrottlingError", None), 0);
        assert_eq!(throttled, Err(failure("ThrottlingError")));
    }
}
