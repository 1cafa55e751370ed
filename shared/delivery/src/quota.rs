//! Quotas: how many recipients a clinic may reach on a channel in a second, a minute, an hour and a day.
//!
//! Fixed windows begin at whole seconds, minutes, hours and days of UTC. One item per tenant and thing counted, in the
//! deliveries table, has the window of each limit and how much of it is used. One conditional write takes from all limits
//! or from none. If its condition fails, DynamoDB returns the item, which shows what is available. So no update is lost,
//! and no window exceeds its limit, however many processes take from it.
//!
//! A process takes quota for every delivery that waits in it, and somewhat ahead. That is a *lease*, which it spends
//! without writes until the shortest window ends. Leases double while they are used up in time: up to a tenth of what is
//! left of a second or a minute, and a hundredth of an hour or a day. A process that is killed loses its lease. The next
//! write returns what is left of a lease.
//!
//! If a write's response is lost, assume that it took quota and returned none: the clinic sends fewer messages, never
//! more. The SDK therefore does not repeat these writes.
//!
//! The decision is `infra/docs/adr/0010-quotas-are-leased.md`.

mod account;
mod quota_use;
mod reservation;
mod taken;
mod wait;
mod windows;
mod write;

use std::{
    cmp::{max, min},
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use comms_adapters::Deadline;
use comms_aws::{ConditionalWrite, TableError, clients};
use comms_core::{Clock, Recent, Tenant};
use comms_settings::{Period, RateLimit};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use account::{Account, Lease, Refused, Wanted, live_part};
pub use account::{Grant, MAX_LEASE_DURATION};
pub use quota_use::QuotaUse;
use reservation::{Asked, Release, Reservation, room};
pub use taken::{Payer, TakenQuota};
pub use wait::wait_for;
use windows::{Windows, end_of, windows};
use write::{record_release, wait_after};

use crate::counted::Counted;

/// Receives after which a message without quota has failed. The queue's `maxReceiveCount` is higher.
pub const MAX_RECEIVES: u32 = 90;
/// How long a message may wait on the queue for quota. SQS deletes it after `MessageRetentionPeriod`, seven days.
pub const MAX_QUEUE_DURATION: SignedDuration = SignedDuration::from_hours(6 * 24);

/// Quotas whose leases a process remembers.
const REMEMBERED: usize = 1_000;
/// Tries of a write. Each uses the item that the last one returned; the last ones take only what is needed.
const MAX_TRIES: u32 = 6;
/// From this try on, counted from 0, a write takes only what is needed.
const MODEST_TRIES: u32 = 2;
/// Leases that are released at the end of one invocation.
const RELEASES_AT_ONCE: usize = 8;
/// The longest that releasing leases may delay the end of an invocation.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// The answer to a request for quota.
#[derive(Debug, Clone)]
pub enum Quota {
    /// The quota is granted.
    Granted(Grant),
    /// A limit is used up.
    Exhausted(Exhausted),
    /// The request exceeds a whole limit and can never be granted.
    TooMany {
        /// The limit's period.
        period: Period,
        /// The limit.
        limit: u32,
    },
}

/// The limit that is used up; of several, the one with the longest period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The limit's period.
    pub period: Period,
    /// The limit.
    pub limit: u32,
    /// When the current window ends.
    pub until: Timestamp,
}

/// The quotas of all tenants, as one process sees them.
pub struct Quotas {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    accounts: Mutex<Recent<(Tenant, Counted), Arc<Account>>>,
    writes: AtomicU64,
}

impl Quotas {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        // What is repeated is decided here: see above.
        Self {
            client: clients::dynamodb_without_retries(config),
            table: table.into(),
            clock,
            accounts: Mutex::new(Recent::new(REMEMBERED)),
            writes: AtomicU64::new(0),
        }
    }

    /// Takes `count` at once from all of the tenant's `limits` of what is counted, or nothing.
    ///
    /// Mostly from the process's lease, which costs no request; where that is not enough, one write serves all
    /// who wait for it in this process. Where DynamoDB does not answer, nothing is granted.
    pub async fn take(
        &self,
        tenant: &Tenant,
        counted: Counted,
        limits: &RateLimit,
        count: u32,
    ) -> Result<Quota, TableError> {
        if let Some((period, limit)) = limits.limits().find(|(_, limit)| count > *limit) {
            return Ok(Quota::TooMany { period, limit });
        }
        let account = self.account(tenant, counted);
        if let Some(answer) = account.answer(limits, count, self.clock.now()) {
            return Ok(answer);
        }
        let _wanted = Wanted::new(&account, count);
        let _writing = account.writing.lock().await;
        // What the one before has got may be enough for this one too.
        if let Some(answer) = account.answer(limits, count, self.clock.now()) {
            return Ok(answer);
        }
        // Those who ask at the same time are to be counted.
        tokio::task::yield_now().await;
        self.lease(&account, limits, count).await
    }

    /// Gives back what is left of leases that have ended, and what a refused request did not use, where others would
    /// miss it: once at the end of an invocation, since the process may be frozen for good afterwards. Mostly there is
    /// nothing to be done.
    pub async fn release_leases(&self, deadline: Deadline) {
        let now = self.clock.now();
        let accounts: Vec<_> = self
            .accounts()
            .values()
            .filter(|account| {
                let state = account.state();
                let lease = state.lease.as_ref();
                lease.is_some_and(|lease| lease.is_worth_giving_back(now))
            })
            .take(RELEASES_AT_ONCE)
            .cloned()
            .collect();
        let writes = accounts.iter().map(|account| async move {
            // Whoever writes gives it back along.
            let Ok(_writing) = account.writing.try_lock() else {
                return;
            };
            let Some(lease) = account.state().take_for_release(now) else {
                return;
            };
            let write = Release::of(&lease, now);
            record_release(self.write(&account.partition_key, &write.0, now).await);
        });
        if deadline
            .bound(RELEASE_TIMEOUT, join_all(writes))
            .await
            .is_err()
        {
            warn!("quota was not given back in time");
        }
    }

    /// Writes since this was asked last.
    pub fn take_writes(&self) -> u64 {
        self.writes.swap(0, Ordering::Relaxed)
    }

    fn accounts(&self) -> MutexGuard<'_, Recent<(Tenant, Counted), Arc<Account>>> {
        // Nothing panics while the lock is held.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, tenant: &Tenant, counted: Counted) -> Arc<Account> {
        let new = || {
            Arc::new(Account {
                partition_key: partition_key(tenant, counted),
                wanted: AtomicU32::new(0),
                writing: tokio::sync::Mutex::default(),
                state: Mutex::default(),
            })
        };
        self.accounts()
            .entry((tenant.clone(), counted), new)
            .clone()
    }

    /// Takes a new lease for who wants `count` and all who wait behind. What is left of the one before is given
    /// back with the same write.
    async fn lease(
        &self,
        account: &Arc<Account>,
        limits: &RateLimit,
        count: u32,
    ) -> Result<Quota, TableError> {
        let (mut seen, mut before) = {
            let mut state = account.state();
            // Out of the state while the write is under way: who goes away in the middle of it does not know
            // whether it was given back, and must not spend it.
            let before = state.lease.take();
            state.away = before.clone().map(|lease| Lease { left: 0, ..lease });
            (state.seen.clone(), before)
        };
        // Doubled when it was used up in time; what was not needed is not taken again.
        let size = before
            .as_ref()
            .filter(|lease| lease.is_live(limits, self.clock.now()))
            .map_or(0, |lease| lease.total.saturating_mul(2));
        let mut answered = Err(TableError::contention("UpdateItem", "Contention"));
        for attempt in 0..MAX_TRIES {
            let now = self.clock.now();
            let asked = Asked {
                count,
                wanted: max(account.wanted.load(Ordering::Relaxed), count),
                size,
                is_modest: attempt >= MODEST_TRIES,
            };
            let reservation = Reservation::plan(limits, &seen, before.as_ref(), asked, now);
            let written = self
                .write(&account.partition_key, &reservation.changes, now)
                .await;
            match written {
                Ok(ConditionalWrite::Done(item)) => {
                    return Ok(account.hold(limits, &reservation, windows(&item)?, count, now));
                }
                Ok(ConditionalWrite::ConditionFailed(item)) => {
                    seen = windows(&item)?;
                    let (room, exhausted) = room(limits, &seen, before.as_ref(), now);
                    if let Some(exhausted) = exhausted.filter(|_| room < count) {
                        account.state().refused = Some(Refused {
                            limits: *limits,
                            room: room.saturating_sub(live_part(before.as_ref(), limits, now)),
                            exhausted,
                            at: now,
                        });
                        answered = Ok(Quota::Exhausted(exhausted));
                        break;
                    }
                }
                Err(error) => {
                    let is_final = match &error {
                        TableError::Throttled { .. } => false,
                        TableError::Unreachable { .. } => {
                            // It may have been returned already.
                            before = None;
                            false
                        }
                        TableError::Refused { .. } | TableError::Corrupt(_) => true,
                    };
                    answered = Err(error);
                    if is_final {
                        break;
                    }
                    wait_after(attempt).await;
                }
            }
        }
        let mut state = account.state();
        state.seen = seen;
        let rest = before.map_or(0, |lease| lease.left);
        state.lease = state.away.take().map(|lease| Lease {
            left: lease.left.saturating_add(rest),
            ..lease
        });
        answered
    }
}

/// The key of the item that has a quota's windows.
fn partition_key(tenant: &Tenant, counted: Counted) -> String {
    format!("quota#{tenant}#{counted}")
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quotas(…)")
    }
}

impl Account {
    /// Takes in what was taken, of which `count` is spent at once.
    fn hold(
        self: &Arc<Self>,
        limits: &RateLimit,
        reservation: &Reservation,
        seen: Windows,
        count: u32,
        now: Timestamp,
    ) -> Quota {
        let windows: BTreeMap<_, _> = reservation
            .changes
            .iter()
            .map(|change| (change.period, change.window))
            .collect();
        let ends = windows
            .iter()
            .map(|(period, window)| end_of(*period, *window));
        let longest = now.saturating_add(MAX_LEASE_DURATION).unwrap_or(now);
        let mut state = self.state();
        state.leases += 1;
        // Of the same windows it goes on under its number, so that what was spent can still be put back.
        let (id, spent, returned) = state
            .away
            .take()
            .filter(|lease| lease.limits == *limits && lease.windows == windows)
            .map_or((state.leases, 0, 0), |lease| {
                (lease.id, lease.spent, lease.left)
            });
        let has_returned = returned > 0;
        state.lease = Some(Lease {
            id,
            limits: *limits,
            until: ends.fold(longest, min),
            windows,
            total: reservation.count,
            spent: spent.saturating_add(count),
            left: (reservation.count.saturating_sub(count)).saturating_add(returned),
            has_returned,
        });
        state.seen = seen;
        state.refused = None;
        Quota::Granted(Grant {
            account: self.clone(),
            lease: id,
        })
    }
}

#[cfg(test)]
mod tests;
