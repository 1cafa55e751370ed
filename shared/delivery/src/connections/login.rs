//! What one process has and knows of one login's connections.

use std::{sync::Arc, time::Duration};

use comms_adapters::smtp::{ConnectionLimit, Granted};
use comms_core::backoff::jitter;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tracing::warn;

use super::{
    Asking, FULL_IS_BELIEVED,
    record::{self, FIRST_LIMIT, Forged, LimitRecord, LimitState},
};
use crate::permits::TakenSlot;

/// Messages under one permit: one on its connection, and the next one ready.
const MESSAGES_PER_PERMIT: u32 = 2;
/// Messages for each permit beyond the first.
const MESSAGES_PER_FURTHER_PERMIT: u32 = 5;
/// From so many permits on a process with queued messages takes several: with fewer, the others need them.
const MANY: u32 = 2 * FIRST_LIMIT;
/// A process takes a further permit while no more than this part of them is in use.
pub(super) const LEFT_TO_OTHERS: u32 = 3;
/// A permit that ends before is of no use to another message.
const MIN_PERMIT_DURATION: SignedDuration = SignedDuration::from_secs(3);
/// How long all permits of a limit that grows are believed to be taken.
const GROWS_WITHIN: SignedDuration = SignedDuration::from_millis(80);
/// Messages of one process that found no permit return together within this time: they are received together again.
const RETURN_TOGETHER: Duration = Duration::from_millis(400);

/// What a message that asks for a connection does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It is sent.
    Use { has_permit: bool },
    /// A permit is taken; by one at a time.
    Take(Arc<tokio::sync::Mutex<()>>),
    /// It waits for another message of this process.
    Wait(Arc<Notify>),
    /// Other processes have all permits.
    Full { is_growing: bool },
}

pub(super) struct LoginState {
    pub(super) limit: Arc<ConnectionLimit>,
    pub(super) account: String,
    record: Option<LimitRecord>,
    /// Whether the item has a record without its MAC.
    pub(super) is_forged: bool,
    pub(super) looked_at: Option<Timestamp>,
    pub(super) held: Vec<TakenSlot>,
    /// Messages under permits, messages without, and those that ask.
    users: u32,
    free_users: u32,
    pub(super) waiting: u32,
    /// When the last message that used a connection ended.
    used_until: Option<Timestamp>,
    /// Permits of all processes when the item was seen last.
    pub(super) live: u32,
    full_until: Option<Timestamp>,
    pub(super) unreachable_until: Option<Timestamp>,
    /// When those return that found no permit a moment ago.
    returns_at: Option<Timestamp>,
    /// Whether this process waits for the next permit.
    pub(super) is_in_front: bool,
    /// Whether this process took the last permit there was.
    pub(super) is_raiser: bool,
    taking: Arc<tokio::sync::Mutex<()>>,
    freed: Arc<Notify>,
}

impl LoginState {
    pub(super) fn new(limit: Arc<ConnectionLimit>, account: String) -> Self {
        Self {
            limit,
            account,
            record: None,
            is_forged: false,
            looked_at: None,
            held: Vec::new(),
            users: 0,
            free_users: 0,
            waiting: 0,
            used_until: None,
            live: 0,
            full_until: None,
            unreachable_until: None,
            returns_at: None,
            is_in_front: false,
            is_raiser: false,
            taking: Arc::default(),
            freed: Arc::default(),
        }
    }

    /// The record as it is stored, whether it still counts or not.
    pub(super) const fn stored(&self) -> Option<LimitRecord> {
        self.record
    }

    /// Held by who takes permits.
    pub(super) fn taking(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.taking.clone()
    }

    pub(super) fn record_at(&self, now: Timestamp) -> Option<LimitRecord> {
        self.record.filter(|record| record.counts_at(now))
    }

    /// How many permits there are; `None` for no limit.
    pub(super) fn limit_at(&self, now: Timestamp) -> Option<u32> {
        let record = self.record_at(now);
        record::limit(record.as_ref(), self.limit.published(), now)
    }

    /// How many permits there are, if others were seen to have all of them and no more are being found.
    pub(super) fn limit_if_full(&self, now: Timestamp) -> Option<u32> {
        let is_full = self.full_until.is_some_and(|until| until > now);
        let record = self.record_at(now);
        let is_found = record.is_some_and(|record| record.state == LimitState::Reached)
            || self.limit.published().is_some();
        let limit = self.limit_at(now)?;
        (is_full && is_found && self.held.is_empty()).then_some(limit)
    }

    /// Whether the item showed a permit that nobody has.
    pub(super) fn has_free_permit(&self, now: Timestamp) -> bool {
        self.limit_at(now).is_none_or(|limit| self.live < limit)
    }

    /// Whether no message uses or waits for a connection.
    pub(super) const fn is_unused(&self) -> bool {
        self.users == 0 && self.free_users == 0 && self.waiting == 0
    }

    /// The same for so long.
    pub(super) fn has_been_unused_for(&self, time: SignedDuration, now: Timestamp) -> bool {
        let is_recent = |until: Timestamp| now.duration_since(until) < time;
        self.is_unused() && !self.used_until.is_some_and(is_recent)
    }

    /// Whether what others found out has to be read: where no permit would be taken, which says it as well.
    pub(super) fn is_look_due(
        &self,
        is_alone: bool,
        interval: SignedDuration,
        now: Timestamp,
    ) -> bool {
        let takes_none = self.limit_at(now).is_none() || self.may_go_alone(is_alone, now);
        let is_recent = self.looked_at.is_some_and(|at| {
            let age = now.duration_since(at);
            age >= SignedDuration::ZERO && age < interval
        });
        takes_none && !is_recent
    }

    /// Decides about one message. One that is sent is counted.
    pub(super) fn next(&mut self, asking: Asking, now: Timestamp) -> Next {
        let is_alone = asking.is_alone;
        let Some(limit) = self.limit_at(now) else {
            return self.use_freely(now);
        };
        if self.may_go_alone(is_alone, now) {
            return self.use_freely(now);
        }
        let held = self.held_at(now);
        let is_full = self.full_until.is_some_and(|until| until > now);
        // Where there are few, ten messages over one connection pay for it, and three over each of three do not.
        let takes_more = held > 0
            && held < self.wanted()
            && self.leaves_enough(limit)
            // Somebody waits for an immediate one.
            && (limit >= MANY || !asking.is_queued)
            && !is_full
            && self.is_reachable(now);
        if takes_more {
            return Next::Take(self.taking.clone());
        }
        if self.users < held.saturating_mul(MESSAGES_PER_PERMIT) {
            self.users += 1;
            return Next::Use { has_permit: true };
        }
        if held == 0 {
            if !self.is_reachable(now) {
                return self.use_freely(now);
            }
            // The messages of a process that waits for the next permit wait with it.
            if is_full && !self.is_in_front {
                let is_growing = self.is_growing(now);
                return Next::Full { is_growing };
            }
            return Next::Take(self.taking.clone());
        }
        Next::Wait(self.freed.clone())
    }

    /// Whether the number of permits may double soon.
    fn is_growing(&self, now: Timestamp) -> bool {
        let record = self.record_at(now);
        record.is_none_or(|known| known.state == LimitState::Growing)
            && self.limit.published().is_none()
    }

    /// Whether DynamoDB answered when it was asked last.
    fn is_reachable(&self, now: Timestamp) -> bool {
        self.unreachable_until.is_none_or(|until| until <= now)
    }

    /// Whether a message waits behind another one that takes long, and a further permit may be taken for it.
    pub(super) fn widens(&self, now: Timestamp) -> bool {
        let held = self.held_at(now);
        held > 0
            && self.users > held
            && held < self.wanted()
            && self.is_reachable(now)
            && self.full_until.is_none_or(|until| until <= now)
            && self
                .limit_at(now)
                .is_some_and(|limit| self.leaves_enough(limit))
    }

    /// Whether others have enough of `limit` permits after this process took a further one.
    const fn leaves_enough(&self, limit: u32) -> bool {
        self.live.saturating_mul(LEFT_TO_OTHERS) <= limit
    }

    /// The permits that this process needs, fewer than it has messages: one beside a message that hangs, and one more for
    /// every few.
    fn wanted(&self) -> u32 {
        let asking = self.users + self.waiting;
        let wanted = (1 + asking / MESSAGES_PER_FURTHER_PERMIT).max(asking.min(2));
        wanted.min(self.limit.max_connections())
    }

    /// The permits that are taken in one write. Of few, and of a limit that was found, one after another: each may be the
    /// last.
    pub(super) fn to_take(&self, limit: u32, now: Timestamp) -> usize {
        let is_found = self.limit.published().is_some()
            || self
                .record_at(now)
                .is_some_and(|record| record.state == LimitState::Reached);
        if is_found || limit <= FIRST_LIMIT {
            return 1;
        }
        let free = (limit / LEFT_TO_OTHERS + 1).saturating_sub(self.live);
        let wanted = self.wanted().saturating_sub(self.held_at(now));
        usize::try_from(wanted.min(free).max(1)).unwrap_or(1)
    }

    /// Gives the permits of this process back.
    pub(super) fn take_unused(&mut self, now: Timestamp) -> Vec<TakenSlot> {
        let held = std::mem::take(&mut self.held);
        let count = u32::try_from(held.len()).unwrap_or(u32::MAX);
        self.live = self.live.saturating_sub(count);
        self.grant(now);
        held
    }

    /// Whether a message needs no permit: the only one of its invocation, where nothing is known.
    fn may_go_alone(&self, is_alone: bool, now: Timestamp) -> bool {
        is_alone
            && self.record_at(now).is_none()
            && self.limit.published().is_none()
            && self.held.is_empty()
            && self.users == 0
            && self.free_users == 0
    }

    /// Lets a message be sent without a permit.
    pub(super) fn use_freely(&mut self, now: Timestamp) -> Next {
        self.free_users += 1;
        self.grant(now);
        Next::Use { has_permit: false }
    }

    pub(super) fn end_use(&mut self, has_permit: bool, now: Timestamp) {
        let users = if has_permit {
            &mut self.users
        } else {
            &mut self.free_users
        };
        *users = users.saturating_sub(1);
        self.used_until = Some(now);
        self.freed.notify_one();
    }

    fn held_at(&self, now: Timestamp) -> u32 {
        let held = self
            .held
            .iter()
            .filter(|slot| slot.until().duration_since(now) > MIN_PERMIT_DURATION);
        u32::try_from(held.count()).unwrap_or(u32::MAX)
    }

    /// Lets the pool use what this process may have.
    pub(super) fn grant(&self, now: Timestamp) {
        let held = self.held_at(now);
        let others = self.live.saturating_sub(held) > 0;
        let granted = match self.limit_at(now) {
            None => Granted::Unlimited,
            // Without a permit: alone, or while DynamoDB does not answer.
            Some(limit) if held == 0 && self.free_users > 0 => {
                let is_known = self.record_at(now).is_some() || self.limit.published().is_some();
                if is_known {
                    Granted::Connections(limit)
                } else {
                    Granted::Uncounted
                }
            }
            Some(_) => Granted::Connections(held + self.free_users),
        };
        self.limit.grant(granted, others);
    }

    /// Takes in what the item says, with the permits of all processes.
    pub(super) fn observe(
        &mut self,
        record: Result<Option<LimitRecord>, Forged>,
        live: u32,
        now: Timestamp,
    ) {
        self.live = live;
        self.is_forged = record.is_err();
        if self.is_forged {
            warn!("a record of connections without a valid MAC was ignored");
        }
        let was_growing = self.is_growing(now);
        self.record = record.unwrap_or_default();
        // Who waited for the limit to grow waits for a permit now.
        if was_growing && !self.is_growing(now) {
            self.full_until = None;
        }
        self.looked_at = Some(now);
        self.grant(now);
    }

    /// Holds permits that were taken; gives back those that are more than there are.
    pub(super) fn hold(&mut self, mut slots: Vec<TakenSlot>, now: Timestamp) -> Vec<TakenSlot> {
        let limit = self.limit_at(now);
        let excess = self.live.saturating_sub(limit.unwrap_or(u32::MAX));
        let excess = usize::try_from(excess).unwrap_or(usize::MAX);
        let too_many = slots.split_off(slots.len().saturating_sub(excess));
        if slots.is_empty() {
            self.full_until = now.saturating_add(FULL_IS_BELIEVED).ok();
            return too_many;
        }
        self.is_raiser = limit.is_some_and(|limit| self.live == limit);
        let count = slots.len();
        self.held.append(&mut slots);
        self.full_until = None;
        self.grant(now);
        // One of the messages is who took them.
        for _ in 1..count.saturating_mul(2) {
            self.freed.notify_one();
        }
        too_many
    }

    /// Notes that others have all `limit` permits; unless there turned out to be more.
    pub(super) fn note_full(&mut self, limit: u32, now: Timestamp) {
        if self.limit_at(now).is_none_or(|known| known > limit) {
            return;
        }
        let is_growing = self
            .record_at(now)
            .is_none_or(|record| record.state == LimitState::Growing);
        let time = if is_growing {
            GROWS_WITHIN
        } else {
            FULL_IS_BELIEVED
        };
        self.full_until = now.saturating_add(time).ok();
    }

    /// Gives up the permits of so many refused connections.
    pub(super) fn give_up(&mut self, refused: u32, now: Timestamp) -> Vec<TakenSlot> {
        let refused = usize::try_from(refused).unwrap_or(usize::MAX);
        let kept = self.held.len().saturating_sub(refused);
        let given_up = self.held.split_off(kept);
        self.grant(now);
        // Whoever waits for one of them is to see that there is none.
        self.freed.notify_waiters();
        given_up
    }

    /// When a message returns that found no permit: with the others of its batch.
    pub(super) fn returns_after(
        &mut self,
        now: Timestamp,
        wait: impl Fn(f64) -> Duration,
    ) -> Duration {
        let left = self
            .returns_at
            .and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        // One that has waited for long makes no later one wait as long.
        let longest = wait(1.0);
        if let Some(left) = left.filter(|left| *left > RETURN_TOGETHER && *left <= longest) {
            return left;
        }
        let wait = wait(jitter());
        self.returns_at = now.saturating_add(wait).ok();
        wait
    }
}
