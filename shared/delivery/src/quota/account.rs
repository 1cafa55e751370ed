//! What one process knows of a quota: its lease, and the last refusal.

use std::{
    cmp::min,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use comms_settings::{Period, RateLimit};
use jiff::{SignedDuration, Timestamp};

use super::{
    Exhausted, Quota,
    windows::{Windows, lasts, share_ahead, window_at},
};

/// How long a lease may be spent; less where a window ends before.
pub const MAX_LEASE_DURATION: SignedDuration = SignedDuration::from_secs(60);

/// How long it is believed without asking that nothing is left: others may give something back.
const REFUSAL_IS_BELIEVED: SignedDuration = SignedDuration::from_secs(5);

/// Quota that was given. Dropped it is used.
#[derive(Clone)]
pub struct Grant {
    pub(super) account: Arc<Account>,
    pub(super) lease: u64,
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

/// What a process knows of one quota of a tenant.
pub(super) struct Account {
    pub(super) partition_key: String,
    /// What those who wait here want together.
    pub(super) wanted: AtomicU32,
    /// Held by the one who writes.
    pub(super) writing: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) lease: Option<Lease>,
    /// The lease whose rest the write under way gives back, without that rest: what is put back to it
    /// meanwhile.
    pub(super) away: Option<Lease>,
    pub(super) leases: u64,
    /// The item as it was seen last: a guess of what it is.
    pub(super) seen: Windows,
    pub(super) refused: Option<Refused>,
}

impl State {
    /// The lease, of which what is left is given back. One that is live stays, empty: more may be put back to it.
    pub(super) fn give_away(&mut self, now: Timestamp) -> Option<Lease> {
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
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) limits: RateLimit,
    /// The windows that it was taken from.
    pub(super) windows: BTreeMap<Period, i64>,
    /// What was taken with one write.
    pub(super) total: u32,
    /// Under this number, and not put back.
    pub(super) spent: u32,
    pub(super) left: u32,
    pub(super) until: Timestamp,
    /// Whether something of `left` was granted and not used.
    pub(super) was_put_back: bool,
}

impl Lease {
    pub(super) fn is_live(&self, limits: &RateLimit, now: Timestamp) -> bool {
        let time = self.until.duration_since(now);
        // A clock that went back does not make it longer.
        self.limits == *limits && time > SignedDuration::ZERO && time <= MAX_LEASE_DURATION
    }

    /// Whether giving back would matter, in a window that still runs: of a lease that has ended, to a limit that
    /// lasts; of a live one, if more was put back than is ever taken ahead.
    pub(super) fn is_worth_giving_back(&self, now: Timestamp) -> bool {
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

/// That less was left than was wanted.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) limits: RateLimit,
    pub(super) room: u32,
    pub(super) exhausted: Exhausted,
    pub(super) at: Timestamp,
}

impl Account {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to who wants `count`, where that needs no write.
    pub(super) fn answer(
        self: &Arc<Self>,
        limits: &RateLimit,
        count: u32,
        now: Timestamp,
    ) -> Option<Quota> {
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
pub(super) struct Wanted<'a>(pub(super) &'a Account, pub(super) u32);

impl<'a> Wanted<'a> {
    pub(super) fn new(account: &'a Account, count: u32) -> Self {
        account.wanted.fetch_add(count, Ordering::Relaxed);
        Self(account, count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What can still be spent of a lease.
pub(super) fn live_part(lease: Option<&Lease>, limits: &RateLimit, now: Timestamp) -> u32 {
    lease
        .filter(|lease| lease.is_live(limits, now))
        .map_or(0, |lease| lease.left)
}
