//! Quotas: how many recipients a clinic may reach on a channel in a second, a minute, an hour and a day.
//!
//! Time is cut into windows that begin at whole seconds, minutes, hours and days of UTC. One item per
//! tenant and thing counted, in the deliveries table, has for each limit the window and how much of it is taken. One
//! conditional write takes from all limits at once, or from none; where its condition does not hold, DynamoDB
//! gives the item along, from which it is seen what there is. So no update is lost, and no window ever gives more
//! than its limit, however many processes take.
//!
//! A process takes for all who wait in it at the same time, and somewhat ahead: a *lease*, which it spends by
//! itself until the shortest window ends. Leases double while they are used up in time, up to a tenth of what is
//! left of a second or a minute, and a hundredth of what is left of an hour or a day, of which a process that
//! ends with its lease takes that much with it. What is left of a lease is given back with the next write.
//!
//! If a write's response is lost, assume that it took quota and returned none: the clinic sends fewer messages, never
//! more. The SDK therefore does not repeat these writes.
//!
//! `infra/docs/adr/0010-quotas-are-leased.md` says why it is done so.

use std::{
    cmp::{max, min},
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    config::{Builder, http::HttpResponse, retry::RetryConfig},
    error::SdkError,
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use comms_adapters::{Deadline, retry::jitter};
use comms_core::{Clock, Tenant};
use comms_settings::{Moment, Period, RateLimit, error_code};
use futures_util::{FutureExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use crate::{counted::Counted, ledger::LedgerError, recent::Recent};

/// How long a lease may be spent; less where a window ends before.
pub const MAX_LEASE_DURATION: SignedDuration = SignedDuration::from_secs(60);
/// How often the queue may bring a message that there is no quota for; then it has failed. The queue's own
/// `maxReceiveCount` is above that.
pub const MAX_RECEIVES: u32 = 90;
/// How long a message may wait on the queue for a quota, before the queue forgets it (`MessageRetentionPeriod`,
/// seven days).
pub const MAX_QUEUE_DURATION: SignedDuration = SignedDuration::from_hours(6 * 24);

/// How long it is believed without asking that nothing is left: others may give something back.
const REFUSAL_IS_BELIEVED: SignedDuration = SignedDuration::from_secs(5);
/// Tenants and things counted of which it is known what they have leased.
const REMEMBERED: usize = 1_000;
/// How often a write is tried, each time knowing more; the last ones take no more than is needed.
const MAX_TRIES: u32 = 6;
/// From this try on, counted from 0, no more is taken than is needed.
const MODEST_TRIES: u32 = 2;
/// The wait before another try after DynamoDB could not take one, doubled each time.
const RETRY_WAIT: Duration = Duration::from_millis(25);
/// By how much two processes' clocks may differ. AWS refuses requests from clocks that are further off (Signature
/// Version 4, five minutes); a window that is further ahead is nobody's.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);
/// Leases that are given back at the end of one invocation.
const GIVEN_BACK_AT_ONCE: usize = 8;
/// The longest that giving back may hold up an invocation's end.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest wait on the queue: a message may stay invisible for twelve hours after it was received (Amazon
/// SQS Developer Guide, "Visibility timeout").
const MAX_WAIT_DURATION: Duration = Duration::from_hours(11);

const SORT_KEY: &str = "windows";
const EXPIRES_AT: &str = "expiresAt";

type Item = HashMap<String, AttributeValue>;

/// What became of asking for quota.
#[derive(Debug, Clone)]
pub enum Quota {
    /// It is given.
    Granted(Grant),
    /// It is not; a limit is used up.
    Exhausted(Exhausted),
    /// It never will be: it is more than a limit lets through at all.
    TooMany {
        /// The limit's period.
        period: Period,
        /// The limit.
        limit: u32,
    },
}

/// A limit that is used up; where several are, the one that lasts longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The limit's period.
    pub period: Period,
    /// The limit.
    pub limit: u32,
    /// When the present window ends, and the next one begins with the whole limit.
    pub until: Timestamp,
}

/// Quota that was given. Dropped it is used.
#[derive(Clone)]
pub struct Grant {
    account: Arc<Account>,
    lease: u64,
}

impl Grant {
    /// Gives back what was not needed, while its lease is still spent; afterwards it is lost.
    pub fn put_back(&self, count: u32) {
        let mut state = self.account.state();
        let State { lease, away, .. } = &mut *state;
        let own = lease
            .iter_mut()
            .chain(away)
            .find(|lease| lease.id == self.lease);
        if let Some(lease) = own {
            let count = min(count, lease.spent);
            lease.spent -= count;
            lease.left = lease.left.saturating_add(count);
            lease.was_put_back |= count > 0;
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({})", self.lease)
    }
}

/// Whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The clinic that sends.
    Clinic,
    /// The platform, whose account sends.
    Platform,
}

/// Quota for all deliveries of a request, taken beforehand. What none of them takes out is given back when this
/// is dropped.
#[derive(Debug, Default)]
pub struct Paid {
    grants: Mutex<Vec<(Payer, Counted, Grant, u32)>>,
    /// When the settings were asked for by which it was taken.
    settings_asked: Option<Moment>,
}

impl Paid {
    /// Nothing yet, by settings that were confirmed after `asked`.
    pub(crate) fn by_settings_of(asked: Moment) -> Self {
        Self {
            grants: Mutex::default(),
            settings_asked: Some(asked),
        }
    }

    /// When the settings were asked for by which it was taken; `None` where it is not by any.
    pub(crate) const fn settings_asked(&self) -> Option<Moment> {
        self.settings_asked
    }

    pub(crate) fn add(&self, payer: Payer, counted: Counted, grant: Grant, count: u32) {
        self.grants().push((payer, counted, grant, count));
    }

    /// Takes `count` out, which one delivery needs; `None` where there is no limit.
    pub(crate) fn take(&self, payer: Payer, counted: Counted, count: u32) -> Option<Grant> {
        let mut grants = self.grants();
        let (_, _, grant, left) = grants
            .iter_mut()
            .find(|(by, of, _, left)| *by == payer && *of == counted && *left >= count)?;
        *left -= count;
        Some(grant.clone())
    }

    fn grants(&self) -> MutexGuard<'_, Vec<(Payer, Counted, Grant, u32)>> {
        // Nothing panics while the lock is held.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        for (_, _, grant, left) in self.grants().drain(..) {
            grant.put_back(left);
        }
    }
}

/// The quotas of all tenants, as one process sees them.
pub struct Quotas {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    accounts: Mutex<Recent<(Tenant, Counted), Arc<Account>>>,
    writes: AtomicU64,
}

/// What a process knows of one quota of a tenant.
struct Account {
    partition_key: String,
    /// What those who wait here want together.
    wanted: AtomicU32,
    /// Held by the one who writes.
    writing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    /// The lease whose rest the write under way gives back, without that rest: what is put back to it
    /// meanwhile.
    away: Option<Lease>,
    leases: u64,
    /// The item as it was seen last: a guess of what it is.
    seen: Windows,
    refused: Option<Refused>,
}

impl State {
    /// The lease, of which what is left is given back. One that is live stays, empty: more may be put back to it.
    fn give_away(&mut self, now: Timestamp) -> Option<Lease> {
        let lease = self.lease.take()?;
        if lease.is_live(&lease.limits, now) {
            self.lease = Some(Lease {
                // It was not used up, so that the next one is not larger.
                total: 0,
                left: 0,
                was_put_back: false,
                ..lease.clone()
            });
        }
        Some(lease)
    }
}

/// What was taken ahead.
#[derive(Clone)]
struct Lease {
    id: u64,
    limits: RateLimit,
    /// The windows that it was taken from.
    windows: BTreeMap<Period, i64>,
    /// What was taken with one write.
    total: u32,
    /// Under this number, and not put back.
    spent: u32,
    left: u32,
    until: Timestamp,
    /// Whether something of `left` was granted and not used.
    was_put_back: bool,
}

impl Lease {
    fn is_live(&self, limits: &RateLimit, now: Timestamp) -> bool {
        let time = self.until.duration_since(now);
        // A clock that went back does not make it longer.
        self.limits == *limits && time > SignedDuration::ZERO && time <= MAX_LEASE_DURATION
    }

    /// Whether giving back would matter, in a window that still runs: of a lease that has ended, to a limit that
    /// lasts; of a live one, if more was put back than is ever taken ahead.
    fn is_worth_giving_back(&self, now: Timestamp) -> bool {
        let is_live = self.is_live(&self.limits, now);
        if self.left == 0 || (is_live && !self.was_put_back) {
            return false;
        }
        self.limits.limits().any(|(period, limit)| {
            let matters = if is_live {
                period != Period::Second && self.left > limit / share_ahead(period)
            } else {
                lasts(period)
            };
            matters && self.windows.get(&period) == Some(&window_at(period, now))
        })
    }
}

/// Which part of what is left a lease takes ahead at most.
const fn share_ahead(period: Period) -> u32 {
    if lasts(period) { 100 } else { 10 }
}

/// That less was left than was wanted.
#[derive(Clone)]
struct Refused {
    limits: RateLimit,
    room: u32,
    exhausted: Exhausted,
    at: Timestamp,
}

/// By period: the number of the window, counted from 1970, and what is taken of it.
type Windows = BTreeMap<Period, Window>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    number: i64,
    used: i64,
}

/// Whether the period is so long that what is lost of it is missed.
const fn lasts(period: Period) -> bool {
    match period {
        Period::Second | Period::Minute => false,
        Period::Hour | Period::Day => true,
    }
}

fn window_at(period: Period, now: Timestamp) -> i64 {
    now.as_second().div_euclid(period.seconds())
}

fn end_of(period: Period, window: i64) -> Timestamp {
    let end = window.saturating_add(1).saturating_mul(period.seconds());
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to who wants `count`, where that needs no write.
    fn answer(self: &Arc<Self>, limits: &RateLimit, count: u32, now: Timestamp) -> Option<Quota> {
        let mut state = self.state();
        let live = state
            .lease
            .as_mut()
            .filter(|lease| lease.is_live(limits, now));
        let mut left = 0;
        if let Some(lease) = live {
            if lease.left >= count {
                lease.left -= count;
                lease.spent = lease.spent.saturating_add(count);
                return Some(Quota::Granted(Grant {
                    account: self.clone(),
                    lease: lease.id,
                }));
            }
            left = lease.left;
        }
        let refused = state.refused.as_ref()?;
        let age = now.duration_since(refused.at);
        let is_believed = refused.limits == *limits
            && now < refused.exhausted.until
            && (SignedDuration::ZERO..REFUSAL_IS_BELIEVED).contains(&age)
            && count > refused.room.saturating_add(left);
        is_believed.then_some(Quota::Exhausted(refused.exhausted))
    }
}

/// That somebody waits for so much.
struct Wanted<'a>(&'a Account, u32);

impl<'a> Wanted<'a> {
    fn new(account: &'a Account, count: u32) -> Self {
        account.wanted.fetch_add(count, Ordering::Relaxed);
        Self(account, count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Quotas {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        // What is repeated is decided here: see above.
        let config = Builder::from(config).retry_config(RetryConfig::disabled());
        Self {
            client: Client::from_conf(config.build()),
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
    ) -> Result<Quota, LedgerError> {
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
    pub async fn give_back(&self, deadline: Deadline) {
        let now = self.clock.now();
        let accounts: Vec<_> = self
            .accounts()
            .values()
            .filter(|account| {
                let state = account.state();
                let lease = state.lease.as_ref();
                lease.is_some_and(|lease| lease.is_worth_giving_back(now))
            })
            .take(GIVEN_BACK_AT_ONCE)
            .cloned()
            .collect();
        let writes = accounts.iter().map(|account| async move {
            // Whoever writes gives it back along.
            let Ok(_writing) = account.writing.try_lock() else {
                return;
            };
            let Some(lease) = account.state().give_away(now) else {
                return;
            };
            let write = Release::of(&lease, now);
            if let Err(failure) = self.write(&account.partition_key, &write.0, now).await {
                failure.record();
            }
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
                partition_key: format!("quota#{tenant}#{counted}"),
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
    ) -> Result<Quota, LedgerError> {
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
        let mut answered = Err(database("Contention".to_owned()));
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
                Ok(item) => {
                    return Ok(account.hold(limits, &reservation, windows(&item)?, count, now));
                }
                Err(Failure::Refused(item)) => {
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
                Err(Failure::Throttled(code)) => {
                    answered = Err(database(code));
                    wait_after(attempt).await;
                }
                Err(Failure::Unknown(code)) => {
                    // It may have been given back already.
                    before = None;
                    answered = Err(database(code));
                    wait_after(attempt).await;
                }
                Err(Failure::Final(code)) => {
                    answered = Err(database(code));
                    break;
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

    /// One conditional write; the windows as they are afterwards.
    async fn write(
        &self,
        partition_key: &str,
        changes: &[Change],
        now: Timestamp,
    ) -> Result<Item, Failure> {
        let (mut sets, mut conditions) = (vec!["#expiresAt = :expiresAt".to_owned()], Vec::new());
        // Once the last window has ended, and every clock says so, the item means the same as none.
        let ends = changes
            .iter()
            .map(|change| end_of(change.period, change.window));
        let expires_at = ends
            .max()
            .unwrap_or(now)
            .saturating_add(CLOCKS_DIFFER)
            .unwrap_or(Timestamp::MAX);
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(partition_key.to_owned()))
            .key("sk", AttributeValue::S(SORT_KEY.to_owned()))
            .expression_attribute_names("#expiresAt", EXPIRES_AT)
            .expression_attribute_values(":expiresAt", number(expires_at.as_second()));
        for change in changes {
            let period = change.period.as_str();
            let (window, used) = (format!("#{period}Window"), format!("#{period}Used"));
            request = request
                .expression_attribute_names(&window, window_attribute(change.period))
                .expression_attribute_names(&used, used_attribute(change.period))
                .expression_attribute_values(format!(":{period}Window"), number(change.window))
                .expression_attribute_values(format!(":{period}Count"), number(change.count));
            match change.to {
                WindowCondition::Running { most } => {
                    sets.push(format!("{used} = {used} + :{period}Count"));
                    conditions.push(format!("{window} = :{period}Window"));
                    if let Some(most) = most {
                        conditions.push(format!("{used} <= :{period}Most"));
                        request = request
                            .expression_attribute_values(format!(":{period}Most"), number(most));
                    }
                }
                WindowCondition::New { instead_of } => {
                    sets.push(format!(
                        "{window} = :{period}Window, {used} = :{period}Count"
                    ));
                    conditions.push(if let Some(nobodys) = instead_of {
                        request = request.expression_attribute_values(
                            format!(":{period}Nobodys"),
                            number(nobodys),
                        );
                        format!("{window} = :{period}Nobodys")
                    } else {
                        format!("(attribute_not_exists({window}) OR {window} < :{period}Window)")
                    });
                }
            }
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let written = request
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(conditions.join(" AND "))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        match written {
            Ok(answer) => Ok(answer.attributes.unwrap_or_default()),
            Err(error) => Err(Failure::of(&error)),
        }
    }
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
        let (id, spent, put_back) = state
            .away
            .take()
            .filter(|lease| lease.limits == *limits && lease.windows == windows)
            .map_or((state.leases, 0, 0), |lease| {
                (lease.id, lease.spent, lease.left)
            });
        let was_put_back = put_back > 0;
        state.lease = Some(Lease {
            id,
            limits: *limits,
            until: ends.fold(longest, min),
            windows,
            total: reservation.count,
            spent: spent.saturating_add(count),
            left: (reservation.count.saturating_sub(count)).saturating_add(put_back),
            was_put_back,
        });
        state.seen = seen;
        state.refused = None;
        Quota::Granted(Grant {
            account: self.clone(),
            lease: id,
        })
    }
}

/// What is asked of a write.
#[derive(Clone, Copy)]
struct Asked {
    /// What there has to be.
    count: u32,
    /// What all who wait want.
    wanted: u32,
    /// What would be taken ahead.
    size: u32,
    /// Whether to take no more than there has to be.
    is_modest: bool,
}

/// What one write takes.
struct Reservation {
    count: u32,
    changes: Vec<Change>,
}

/// What one write does about one limit.
struct Change {
    period: Period,
    window: i64,
    /// What is taken, less what is given back.
    count: i64,
    to: WindowCondition,
}

/// How the window stands in the item.
#[derive(Clone, Copy)]
enum WindowCondition {
    /// It is the one that runs; `most` is the most that may be used before.
    Running { most: Option<i64> },
    /// Another one is there, which is over, or one that can be nobody's, or none.
    New { instead_of: Option<i64> },
}

/// A limit as it is at a time, if the item is as it was seen.
struct WindowState {
    period: Period,
    limit: u32,
    window: i64,
    used: i64,
    /// What would be given back to it.
    returned: i64,
    /// `None` where the window runs.
    new: Option<WindowCondition>,
}

impl WindowState {
    fn of(
        (period, limit): (Period, u32),
        seen: &Windows,
        before: Option<&Lease>,
        now: Timestamp,
    ) -> Self {
        let present = window_at(period, now);
        let new = |instead_of| Self {
            period,
            limit,
            window: present,
            used: 0,
            returned: 0,
            new: Some(WindowCondition::New { instead_of }),
        };
        match seen.get(&period) {
            Some(window) if is_plausible(period, window.number, now) => Self {
                period,
                limit,
                // Where another clock is ahead, its window counts.
                window: window.number,
                used: window.used,
                returned: before
                    .filter(|lease| lease.windows.get(&period) == Some(&window.number))
                    .map_or(0, |lease| i64::from(lease.left)),
                new: None,
            },
            Some(window) if window.number > present => new(Some(window.number)),
            Some(_) | None => new(None),
        }
    }

    /// What there is to be taken.
    fn room(&self) -> i64 {
        max(i64::from(self.limit) - self.used + self.returned, 0)
    }
}

/// Whether a window may be that of the present for somebody's clock, and is not over for this one.
fn is_plausible(period: Period, window: i64, now: Timestamp) -> bool {
    let latest = now.saturating_add(CLOCKS_DIFFER).unwrap_or(now);
    (window_at(period, now)..=window_at(period, latest)).contains(&window)
}

impl Reservation {
    fn plan(
        limits: &RateLimit,
        seen: &Windows,
        before: Option<&Lease>,
        asked: Asked,
        now: Timestamp,
    ) -> Self {
        let windows: Vec<_> = limits
            .limits()
            .map(|limit| WindowState::of(limit, seen, before, now))
            .collect();
        let count = if asked.is_modest {
            asked.count
        } else {
            let ahead = |window: &WindowState| {
                max(window.room() / i64::from(share_ahead(window.period)), 1)
            };
            let ahead = windows.iter().map(ahead).min().unwrap_or(1);
            let ahead = min(i64::from(asked.size), ahead);
            let room = windows.iter().map(WindowState::room).min().unwrap_or(0);
            let count = min(max(i64::from(asked.wanted), ahead), room);
            max(u32::try_from(count).unwrap_or(u32::MAX), asked.count)
        };
        let changes = windows.into_iter().map(|window| {
            let net = i64::from(count) - window.returned;
            Change {
                period: window.period,
                window: window.window,
                count: net,
                to: window.new.unwrap_or(WindowCondition::Running {
                    most: Some(i64::from(window.limit) - net),
                }),
            }
        });
        Self {
            count,
            changes: changes.collect(),
        }
    }
}

/// Giving back what is left of a lease to the windows that still run.
struct Release(Vec<Change>);

impl Release {
    fn of(lease: &Lease, now: Timestamp) -> Self {
        let running = lease
            .windows
            .iter()
            .filter(|(period, window)| is_plausible(**period, **window, now));
        Self(
            running
                .map(|(period, window)| Change {
                    period: *period,
                    window: *window,
                    count: -i64::from(lease.left),
                    to: WindowCondition::Running { most: None },
                })
                .collect(),
        )
    }
}

/// What is left for everybody together, and which limit that is: where several leave as little, the one that
/// lasts longest.
fn room(
    limits: &RateLimit,
    seen: &Windows,
    before: Option<&Lease>,
    now: Timestamp,
) -> (u32, Option<Exhausted>) {
    let mut least = (i64::MAX, None);
    for limit in limits.limits() {
        let window = WindowState::of(limit, seen, before, now);
        if window.room() <= least.0 {
            let exhausted = Exhausted {
                period: window.period,
                limit: window.limit,
                until: end_of(window.period, window.window),
            };
            least = (window.room(), Some(exhausted));
        }
    }
    (u32::try_from(least.0).unwrap_or(u32::MAX), least.1)
}

/// What can still be spent of a lease.
fn live_part(lease: Option<&Lease>, limits: &RateLimit, now: Timestamp) -> u32 {
    lease
        .filter(|lease| lease.is_live(limits, now))
        .map_or(0, |lease| lease.left)
}

/// Why a write was not made, or is not known to have been made.
enum Failure {
    /// Its condition did not hold for this item.
    Refused(Item),
    /// DynamoDB does not take it now: it has had no effect.
    Throttled(String),
    /// It may have had its effect.
    Unknown(String),
    /// It has had no effect, and would not have one another time.
    Final(String),
}

impl Failure {
    fn of(error: &SdkError<UpdateItemError, HttpResponse>) -> Self {
        let code = error_code(error);
        let SdkError::ServiceError(answer) = error else {
            return Self::Unknown(code);
        };
        if let UpdateItemError::ConditionalCheckFailedException(failed) = answer.err() {
            return Self::Refused(failed.item().cloned().unwrap_or_default());
        }
        if is_throttling(&code) {
            Self::Throttled(code)
        } else if answer.raw().status().is_server_error() {
            Self::Unknown(code)
        } else {
            Self::Final(code)
        }
    }

    fn record(&self) {
        let code = match self {
            // The window has ended, or the item was removed: there is nothing to give back to.
            Self::Refused(_) => return,
            Self::Throttled(code) | Self::Unknown(code) | Self::Final(code) => code,
        };
        warn!(code, "quota was not given back");
    }
}

/// DynamoDB, "Error handling": requests that were refused because there are too many.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException" | "RequestLimitExceeded" | "ThrottlingException"
    )
}

async fn wait_after(attempt: u32) {
    let longest = RETRY_WAIT.saturating_mul(2_u32.saturating_pow(attempt));
    tokio::time::sleep(longest.mul_f64(jitter())).await;
}

fn database(code: String) -> LedgerError {
    LedgerError::Database {
        operation: "UpdateItem",
        code,
    }
}

const fn window_attribute(period: Period) -> &'static str {
    match period {
        Period::Second => "secondWindow",
        Period::Minute => "minuteWindow",
        Period::Hour => "hourWindow",
        Period::Day => "dayWindow",
    }
}

const fn used_attribute(period: Period) -> &'static str {
    match period {
        Period::Second => "secondUsed",
        Period::Minute => "minuteUsed",
        Period::Hour => "hourUsed",
        Period::Day => "dayUsed",
    }
}

fn windows(item: &Item) -> Result<Windows, LedgerError> {
    let mut windows = Windows::new();
    for period in Period::ALL {
        let (window, used) = (window_attribute(period), used_attribute(period));
        if !item.contains_key(window) {
            continue;
        }
        let number = |name: &'static str| -> Result<i64, LedgerError> {
            let value = item.get(name).and_then(|value| value.as_n().ok());
            value
                .and_then(|text| text.parse().ok())
                .ok_or(LedgerError::Corrupt(name))
        };
        windows.insert(
            period,
            Window {
                number: number(window)?,
                used: number(used)?,
            },
        );
    }
    Ok(windows)
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// How long a message waits for which nothing was left, when the queue has brought it `receives` times: until
/// the window ends, and then by `jitter`, from 0 to 1, somewhat longer, so that not everything comes back at that
/// instant. Each time up to twice as much longer: what is refused again and again is more than fits into one
/// window.
pub fn wait_for(exhausted: &Exhausted, receives: u32, now: Timestamp, jitter: f64) -> Duration {
    let period = Duration::from_secs(exhausted.period.seconds().unsigned_abs());
    let most = if lasts(exhausted.period) {
        Duration::from_hours(4)
    } else {
        Duration::from_mins(30)
    };
    let until = Duration::try_from(exhausted.until.duration_since(now)).unwrap_or_default();
    let first = min(period, Duration::from_mins(15));
    min(
        until + spread(first, most, receives).mul_f64(jitter),
        MAX_WAIT_DURATION,
    )
}

/// Over which time those are spread that come back after the queue has brought them `receives` times.
pub(crate) fn spread(first: Duration, most: Duration, receives: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(receives.saturating_sub(1));
    min(first.saturating_mul(doubled), most)
}

#[cfg(test)]
mod tests;
