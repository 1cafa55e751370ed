//! How often settings may be tested: so that a test can be used neither as a port scanner nor to send
//! somebody message after message.
//!
//! Each limit is the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371, annex A):
//! one number per limit, the time at which everything that was taken so far would be due at the
//! sustained rate. What is asked for is granted as long as that time does not run further ahead of the
//! clock than the burst. There are no windows, at the edges of which twice as much would pass.
//!
//! The number is in the settings table, where every process sees it. A request takes from the clinic's
//! limits and from its author's in one transaction: from all of them or from none, exactly, however many
//! ask at the same time. Where DynamoDB does not answer, nothing is granted.

use std::{cmp::max, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    error::BuildError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{
        AttributeValue, CancellationReason, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
        Update,
    },
};
use comms_core::{Clock, HashKey, Tenant};
use thiserror::Error;

use crate::{
    aws_error::error_code,
    document::MAX_FALLBACKS,
    item::attribute,
    store::{SettingsStore, StoreError},
};

/// What the partition keys of all limits begin with. No tenant's id can begin so, and the permission to
/// write is given for this beginning.
const PK_PREFIX: &str = "_test-limit#";
/// When everything taken so far is due at the sustained rate, in milliseconds of Unix time (TAT, the
/// theoretical arrival time of I.371).
const DUE: &str = "due";
/// Seconds of Unix time after which the item means nothing any more: the table's TTL attribute. An item
/// that is still there afterwards means the same as none.
const EXPIRES_AT: &str = "expiresAt";
/// How often a transaction is tried that lost against another one. Tests of one clinic that are begun at
/// the same time are few; more in a row than this is answered as DynamoDB not answering.
const MOST_TRIES: u32 = 8;

/// The entries that one request can test.
const LONGEST_CHAIN: usize = 1 + MAX_FALLBACKS;

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHolder {
    /// The clinic whose settings are tested.
    Clinic,
    /// Who tests, for whichever clinics.
    Author,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Entries that are tested, each of which connects to a host of the caller's choice.
    Entries,
    /// Messages that are sent.
    Messages,
}

/// Nothing was granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TestLimitError {
    /// A limit is reached. Where several are, it is the one that takes longest to pass.
    #[error("a limit of {holder:?} for {limited:?} is reached")]
    Reached {
        /// Whose.
        holder: LimitHolder,
        /// Of what.
        limited: Limited,
        /// After which the same is granted if nobody else takes it before. More than zero.
        retry_after: Duration,
    },
    /// The limits could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// So much at once, and then one more in each interval: in any time `t` no more than
/// `burst + t / interval`.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

impl Rate {
    /// A rate that lets every single request pass when nothing was taken for long enough.
    const fn new(burst: u32, interval: Duration) -> Self {
        assert!(
            burst as usize >= LONGEST_CHAIN,
            "the longest chain can be tested"
        );
        Self { burst, interval }
    }

    const fn of(holder: LimitHolder, limited: Limited) -> Self {
        match (holder, limited) {
            // Who tries a password out tests a chain of six entries five times in a minute; 120 entries an
            // hour after that is more than anybody waits for, and next to nothing for a scanner.
            (LimitHolder::Clinic, Limited::Entries) => Self::new(30, Duration::from_secs(30)),
            // A few whole chains, and at most 44 messages in any 24 hours: too few to be worth a relay.
            (LimitHolder::Clinic, Limited::Messages) => Self::new(20, Duration::from_hours(1)),
            // Twice a clinic's. The platform's people may test for every clinic; a token of theirs that was
            // stolen scans no faster over hundreds of clinics than over two.
            (LimitHolder::Author, Limited::Entries) => Self::new(60, Duration::from_secs(15)),
            (LimitHolder::Author, Limited::Messages) => Self::new(40, Duration::from_mins(30)),
        }
    }

    /// The time that `count` takes at the sustained rate, in milliseconds.
    fn time_of(self, count: u32) -> i64 {
        i64::try_from(self.interval.as_millis())
            .unwrap_or(i64::MAX)
            .saturating_mul(i64::from(count))
    }
}

/// The limits of tests.
pub struct TestLimits {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
}

impl TestLimits {
    /// Keeps the limits in `store`'s table.
    pub fn new(store: SettingsStore, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Takes `entries` tests and `messages` messages from the limits of `tenant` and of `author`, the
    /// subject of the caller's token; from all of them, or an error and from none.
    ///
    /// One request may ask for as many as a chain has entries.
    pub async fn take(
        &self,
        tenant: &Tenant,
        author: &str,
        entries: u32,
        messages: u32,
    ) -> Result<(), TestLimitError> {
        // A subject may be an address. The key is no secret: the hash keeps the address out of sight, and is
        // gone with the item.
        let author = HashKey::from_bytes(&[0; HashKey::LENGTH])
            .digest("test-limit", &[author.as_bytes()])
            .hex128();
        let holders = [
            (LimitHolder::Clinic, format!("{PK_PREFIX}clinic#{tenant}")),
            (LimitHolder::Author, format!("{PK_PREFIX}author#{author}")),
        ];
        let counts = [(Limited::Entries, entries), (Limited::Messages, messages)];
        let mut withdrawals: Vec<_> =
            holders
                .into_iter()
                .flat_map(|(holder, pk)| {
                    counts.into_iter().filter(|(_, count)| *count > 0).map(
                        move |(limited, count)| Withdrawal::new(pk.clone(), holder, limited, count),
                    )
                })
                .collect();
        for _ in 0..MOST_TRIES {
            let now = self.clock.now().as_millisecond();
            let reasons = match self.try_all(&withdrawals, now).await? {
                Ok(()) => return Ok(()),
                Err(reasons) => reasons,
            };
            let mut reached: Option<(Duration, &Withdrawal)> = None;
            for (withdrawal, reason) in withdrawals.iter_mut().zip(&reasons) {
                if let Some(wait) = withdrawal.learn(reason, now)?
                    && reached.is_none_or(|(longest, _)| wait > longest)
                {
                    reached = Some((wait, withdrawal));
                }
            }
            if let Some((retry_after, withdrawal)) = reached {
                return Err(TestLimitError::Reached {
                    holder: withdrawal.holder,
                    limited: withdrawal.limited,
                    retry_after,
                });
            }
        }
        Err(failure("TransactionConflict").into())
    }

    /// All of `withdrawals` or none; where none, the reason of each.
    async fn try_all(
        &self,
        withdrawals: &[Withdrawal],
        now: i64,
    ) -> Result<Result<(), Vec<CancellationReason>>, StoreError> {
        let items = withdrawals
            .iter()
            .map(|withdrawal| withdrawal.update(&self.store.table, now))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| failure("RequestNotBuilt"))?;
        let sent = self
            .store
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
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

impl std::fmt::Debug for TestLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestLimits")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

fn failure(code: &str) -> StoreError {
    StoreError::Database {
        operation: "TransactWriteItems",
        code: code.to_owned(),
    }
}

/// So much from one limit.
struct Withdrawal {
    pk: String,
    holder: LimitHolder,
    limited: Limited,
    rate: Rate,
    count: u32,
    /// Whether something that was taken before is not due yet, as far as is known. DynamoDB has no maximum
    /// of two numbers, so that the two cases are two updates; which one it has to be, the condition that did
    /// not hold says.
    is_running: bool,
}

impl Withdrawal {
    fn new(pk: String, holder: LimitHolder, limited: Limited, count: u32) -> Self {
        Self {
            pk,
            holder,
            limited,
            rate: Rate::of(holder, limited),
            count,
            // Who tests has mostly not tested just before.
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
            .key(
                attribute::SK,
                AttributeValue::S(sort_key(self.limited).to_owned()),
            )
            .expression_attribute_names("#due", DUE)
            .expression_attribute_names("#expiresAt", EXPIRES_AT)
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

const fn sort_key(limited: Limited) -> &'static str {
    match limited {
        Limited::Entries => "entries",
        Limited::Messages => "messages",
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
        Withdrawal::new(String::new(), LimitHolder::Clinic, Limited::Entries, 10)
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
