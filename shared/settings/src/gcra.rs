//! Rate limits in the settings table ([`comms_aws::gcra`]), exact over all processes.
//!
//! A request takes from several limits in one transaction: from all of them or from none, exactly, however many ask at
//! the same time. Where DynamoDB does not answer, nothing is granted.

use std::time::Duration;

use aws_sdk_dynamodb::{
    error::BuildError,
    types::{CancellationReason, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use comms_aws::{
    TableError,
    gcra::{self, DUE, Due, Limit},
    item::{self, number_value},
    transaction::{OPERATION, Transaction, transact},
};
use comms_core::Clock;

use crate::{
    item::attribute,
    store::{SettingsStore, StoreError},
};

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
    /// The limit in milliseconds.
    fn limit(self) -> Limit {
        let interval = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX);
        Limit {
            interval,
            tolerance: interval.saturating_mul(i64::from(self.burst)),
        }
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
    /// What is known of the limit's due time.
    due: Due,
}

impl Withdrawal {
    pub(crate) const fn new(pk: String, sk: &'static str, rate: Rate, count: u32) -> Self {
        Self {
            pk,
            sk,
            rate,
            count,
            due: Due::Past,
        }
    }

    fn update(&self, table: &str, now: i64) -> Result<TransactWriteItem, BuildError> {
        let limit = self.rate.limit();
        // Whatever is granted is due by then.
        let over = now.saturating_add(limit.tolerance);
        let time = limit.time_of(self.count);
        let advance = gcra::advance(self.due, now, time, limit.latest(now, self.count));
        let mut update = Update::builder()
            .table_name(table)
            .set_key(Some(item::key(&self.pk, self.sk)))
            .condition_expression(advance.condition)
            .update_expression(advance.update)
            .expression_attribute_names("#due", DUE)
            .expression_attribute_names("#expiresAt", attribute::EXPIRES_AT)
            .expression_attribute_values(":expiresAt", number_value(over / 1_000 + 1))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        for (name, value) in advance.values {
            update = update.expression_attribute_values(name, number_value(value));
        }
        Ok(TransactWriteItem::builder().update(update.build()?).build())
    }

    /// Learns why the transaction was cancelled at `now`. How long to wait where the limit is reached.
    fn learn(
        &mut self,
        reason: &CancellationReason,
        now: i64,
    ) -> Result<Option<Duration>, TableError> {
        match reason.code() {
            // This one would have been granted, or another transaction was at it.
            None | Some("None" | "TransactionConflict") => return Ok(None),
            Some("ConditionalCheckFailed") => {}
            Some(other) => return Err(TableError::contention(OPERATION, other)),
        }
        let due = reason
            .item()
            .map_or(Ok(None), |item| item::optional_number::<i64>(item, DUE))?;
        let due = due.unwrap_or(i64::MIN);
        self.due = if due > now { Due::Ahead } else { Due::Past };
        let wait = self.rate.limit().wait(due, now, self.count);
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
            let updates = withdrawals.iter().map(|one| one.update(&self.table, now));
            let reasons = match transact(&self.dynamodb, updates).await? {
                Transaction::Done => return Ok(Ok(())),
                Transaction::Cancelled(reasons) => reasons,
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
        Err(TableError::contention(OPERATION, "TransactionConflict").into())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

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
            assert_eq!(withdrawal.due, Due::Past, "{code}");
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
                (waits, withdrawal.due == Due::Ahead),
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
            Err(TableError::Corrupt(DUE))
        );
        let throttled = withdrawal.learn(&refused("ThrottlingError", None), 0);
        assert_eq!(
            throttled,
            Err(TableError::contention(OPERATION, "ThrottlingError"))
        );
    }
}
