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

/// Granted quota. A dropped grant counts as used.
#[derive(Clone)]
pub struct Grant {
    pub(super) account: Arc<Account>,
    pub(super) lease: u64,
}

impl Grant {
    /// Returns unused quota to its lease. If the lease has ended, the quota is lost.
    pub fn return_unused(&self, count: u32) {
        let mut state = self.account.state();
        let LeaseState { lease, away, .. } = &mut *state;
        let own = lease
            .iter_mut()
            .chain(away)
            .find(|lease| lease.id == self.lease);
        if let Some(lease) = own {
            let count = min(count, lease.spent);
            lease.spent -= count;
            lease.left = lease.left.saturating_add(count);
            lease.has_returned |= count > 0;
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({})", self.lease)
    }
}

/// One quota of a tenant, as this process knows it.
pub(super) struct Account {
    pub(super) partition_key: String,
    /// The quota that waiting deliveries want together.
    pub(super) wanted: AtomicU32,
    /// Held during a write.
    pub(super) writing: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<LeaseState>,
}

#[derive(Default)]
pub(super) struct LeaseState {
    pub(super) lease: Option<Lease>,
    /// The lease whose rest the current write returns. Grants return quota to it meanwhile.
    pub(super) away: Option<Lease>,
    pub(super) leases: u64,
    /// The item as last seen, which may be outdated.
    pub(super) seen: Windows,
    pub(super) refused: Option<Refused>,
}

impl LeaseState {
    /// Takes the lease to release what is left of it. A live lease stays, empty: grants may still return quota to it.
    pub(super) fn take_for_release(&mut self, now: Timestamp) -> Option<Lease> {
        let lease = self.lease.take()?;
        if lease.is_live(&lease.limits, now) {
            self.lease = Some(Lease {
                // It was not used up, so that the next one is not larger.
                total: 0,
                left: 0,
                has_returned: false,
                ..lease.clone()
            });
        }
        Some(lease)
    }
}

/// Quota that was taken ahead.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) limits: RateLimit,
    /// The windows that it was taken from.
    pub(super) windows: BTreeMap<Period, i64>,
    /// The quota that one write took.
    pub(super) total: u32,
    /// Quota that was granted and not returned.
    pub(super) spent: u32,
    pub(super) left: u32,
    pub(super) until: Timestamp,
    /// Whether a grant returned a part of `left`.
    pub(super) has_returned: bool,
}

impl Lease {
    pub(super) fn is_live(&self, limits: &RateLimit, now: Timestamp) -> bool {
        let time = self.until.duration_since(now);
        // A clock that went back does not extend it.
        self.limits == *limits && time > SignedDuration::ZERO && time <= MAX_LEASE_DURATION
    }

    /// Whether other processes would miss what is left, in a window that still runs. An ended lease matters to limits of an
    /// hour or a day; a live one only if grants returned more than is ever taken ahead.
    pub(super) fn is_worth_giving_back(&self, now: Timestamp) -> bool {
        let is_live = self.is_live(&self.limits, now);
        if self.left == 0 || (is_live && !self.has_returned) {
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

/// A refused request: less was available than it wanted.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) limits: RateLimit,
    pub(super) room: u32,
    pub(super) exhausted: Exhausted,
    pub(super) at: Timestamp,
}

impl Account {
    pub(super) fn state(&self) -> MutexGuard<'_, LeaseState> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a request for `count`, if it needs no write.
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

/// A delivery that waits for this much quota.
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
