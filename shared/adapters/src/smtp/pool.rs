//! Connections of one provider entry and settings version, kept for the next message.
//!
//! Correct without timers or tasks of its own, since a Lambda is frozen between invocations: whether
//! a connection is still good is looked at when it is taken out, by what has arrived on it. That costs
//! no round trip. What cannot be seen that way (a peer that is gone without a word) is found by MAIL,
//! which tells nothing of the message's content: see [`super::SmtpProvider`].

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicUsize},
    time::Duration,
};

use comms_core::Clock;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::{
    connection::Connection,
    failure::{Cause, Failure, Stage},
    lease::{Held, IdleConnection, Lease},
    session::{SessionEnd, SessionLimit},
    slots::{Permit, Slot, Slots},
};
use crate::{
    deadline::{Deadline, Elapsed},
    net::sockets::{IdleConnections, MIN_MESSAGE_DURATION, Retirement, Sockets},
};

/// Messages that a connection carries before it is replaced. Some servers close after 100.
const MESSAGES_PER_CONNECTION: u32 = 100;
/// A connection that was idle for longer may have ended unnoticed: middleboxes forget a silent connection, and a frozen
/// process learns nothing.
pub(super) const SUSPICIOUS_REST: SignedDuration = SignedDuration::from_secs(30);
/// How long a connection may be idle: servers wait 5 minutes at least (RFC 5321 section 4.5.3.2.7).
const IDLE_TIMEOUT: SignedDuration = SignedDuration::from_secs(290);

pub(super) struct Pool {
    idle: Arc<Idle>,
    slots: Arc<Slots>,
    session_limit: SessionLimit,
    /// Messages of this pool that wait at the ceiling.
    queue: AtomicUsize,
    sockets: Sockets,
    clock: Arc<dyn Clock>,
}

/// What a message goes over.
pub(super) enum CheckedOut {
    /// An idle connection, which looked good when it was taken.
    Idle(Box<IdleCheckout>),
    /// A permit for a new connection.
    New(Permit),
}

/// An idle connection that was taken for a message.
pub(super) struct IdleCheckout {
    pub(super) lease: Lease,
    pub(super) rest: Rest,
}

/// How long a connection was kept without being used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    since: Timestamp,
    pub(super) time: SignedDuration,
}

impl Pool {
    pub(super) fn new(
        most: u8,
        outlives_invocation: bool,
        sockets: Sockets,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let slots = Arc::new(Slots::new(most, sockets.clone(), clock.clone()));
        let idle = Arc::new(Idle {
            connections: Mutex::default(),
            put_back: Notify::new(),
            outlives_invocation,
            slots: slots.clone(),
        });
        let weak = Arc::downgrade(&idle);
        sockets.register(weak);
        Self {
            idle,
            slots,
            session_limit: SessionLimit::default(),
            queue: AtomicUsize::new(0),
            sockets,
            clock,
        }
    }

    /// Waits for the right to use one connection.
    pub(super) async fn slot(&self, deadline: Deadline) -> Result<Slot<'_>, Failure> {
        self.slots.slot(deadline).await.map_err(out_of_time)
    }

    /// The connection that was put back last and still looks good, or room to make one, with enough left
    /// of the deadline for a message.
    pub(super) async fn check_out(
        &self,
        _slot: &Slot<'_>,
        deadline: Deadline,
    ) -> Result<CheckedOut, Failure> {
        if deadline.remaining() < MIN_MESSAGE_DURATION {
            return Err(out_of_time(Elapsed));
        }
        match self.take() {
            Some(kept) => Ok(CheckedOut::Idle(Box::new(kept))),
            None => self.kept_or_room(deadline).await.map_err(out_of_time),
        }
    }

    /// Room for a connection, or one that another message of the pool has done with meanwhile.
    async fn kept_or_room(&self, deadline: Deadline) -> Result<CheckedOut, Elapsed> {
        let _queueing = self.sockets.queue(&self.queue);
        if let Some(place) = self.sockets.free_place() {
            return Ok(CheckedOut::New(self.slots.room(place)));
        }
        let turn = async {
            let mut place = pin!(self.sockets.place_in_turn());
            loop {
                tokio::select! {
                    biased;
                    place = &mut place => return CheckedOut::New(self.slots.room(place)),
                    () = self.idle.put_back.notified() => {
                        if let Some(kept) = self.take() {
                            return CheckedOut::Idle(Box::new(kept));
                        }
                    }
                }
            }
        };
        self.sockets.wait(deadline, turn).await
    }

    /// A connection that was put back last and still looks good; the others on the way are closed.
    fn take(&self) -> Option<IdleCheckout> {
        let now = self.clock.now();
        loop {
            let IdleConnection {
                mut lease, since, ..
            } = self.idle.connections().pop()?;
            let rest = Rest {
                since,
                time: now.duration_since(since),
            };
            if !is_fresh(since, now) {
                lease.retire(Retirement::Idle);
            } else if let Some(why) = self.is_worn_out(&lease.connection, now) {
                lease.retire(why);
            } else if let Some(cause) = lease.connection.unasked() {
                self.learn_from_end(lease.connection.messages(), rest, cause, false);
                lease.drop_as(Retirement::ServerClosed);
            } else {
                self.sockets.count(|statistics| statistics.reused += 1);
                return Some(IdleCheckout { lease, rest });
            }
        }
    }

    /// Keeps a connection that is in step for the next message, unless it has carried enough or its
    /// place is needed.
    pub(super) fn put_back(&self, lease: Lease) {
        let now = self.clock.now();
        if let Some(why) = self.is_worn_out(&lease.connection, now) {
            lease.retire(why);
            return;
        }
        let resting = IdleConnection::new(lease, now);
        let old: Vec<_> = {
            let mut connections = self.idle.connections();
            // The last put back is the first taken, so those below it may never be looked at again.
            let old = connections.extract_if(.., |resting| !is_fresh(resting.since, now));
            let old = old.collect();
            connections.push(resting);
            old
        };
        for resting in old {
            resting.lease.retire(Retirement::Idle);
        }
        if self.sockets.others_wait(&self.queue) {
            self.idle.close_least_recently_used();
        } else {
            self.idle.put_back.notify_one();
        }
    }

    /// Makes room of a kept connection that turned out to be dead when a message was begun on it. Where
    /// it died without a word, which could not be seen before, those that were kept for as long are no
    /// better, and would cost the next messages as much each.
    pub(super) fn replace(
        &self,
        dead: Held,
        messages: u32,
        rest: Rest,
        failure: Failure,
    ) -> Permit {
        self.sockets
            .count(|statistics| statistics.stale_retried += 1);
        let at_mail = failure.stage == Stage::Mail;
        self.learn_from_end(messages, rest, failure.cause, at_mail);
        let without_a_word = failure.cause == Cause::TimedOut
            || (failure.cause == Cause::Closed && at_mail && rest.time >= SUSPICIOUS_REST);
        if without_a_word {
            let others: Vec<_> = {
                let mut connections = self.idle.connections();
                let others = connections.extract_if(.., |resting| resting.since <= rest.since);
                others.collect()
            };
            for resting in others {
                resting.lease.drop_as(Retirement::ServerClosed);
            }
        }
        dead.vacate(Retirement::ServerClosed)
    }

    /// Notes that a server ended a connection right behind a message that it took.
    pub(super) fn ended_behind_message(&self, held: Held, messages: u32, cause: Cause) {
        let rest = Rest {
            since: self.clock.now(),
            time: SignedDuration::ZERO,
        };
        self.learn_from_end(messages, rest, cause, false);
        held.drop_as(Retirement::ServerClosed);
    }

    /// A connection that was made in its room.
    pub(super) fn opened(&self, connection: Connection, room: Permit) -> Lease {
        Lease::new(connection, room, self.sockets.clone())
    }

    /// The connections that nobody uses.
    pub(super) fn idle(&self) -> Weak<dyn IdleConnections> {
        let idle: Arc<dyn IdleConnections> = self.idle.clone();
        Arc::downgrade(&idle)
    }

    pub(super) const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Notes that the server refused one connection beside the others. Whether there are others that
    /// can be waited for.
    pub(super) fn learn_one_too_many(&self, refused: Permit) -> bool {
        self.slots.learn_one_too_many(refused)
    }

    fn learn_from_end(&self, messages: u32, rest: Rest, cause: Cause, at_mail: bool) {
        let end = SessionEnd {
            messages,
            idle: rest.time,
            cause,
            at_mail,
        };
        self.session_limit.learn(end, self.clock.now());
    }

    fn is_worn_out(&self, connection: &Connection, now: Timestamp) -> Option<Retirement> {
        let announced = connection.capabilities().messages.unwrap_or(u32::MAX);
        let learned = self.session_limit.get(now).unwrap_or(u32::MAX);
        if connection.messages() >= announced.min(MESSAGES_PER_CONNECTION) {
            Some(Retirement::Messages)
        } else if connection.messages() >= learned {
            Some(Retirement::Learned)
        } else {
            None
        }
    }
}

/// Time was up while our own connections were waited for: the server has nothing to do with it.
pub(super) const fn out_of_time(_: Elapsed) -> Failure {
    Failure::new(Stage::Pool, Cause::TimedOut)
}

fn is_fresh(since: Timestamp, now: Timestamp) -> bool {
    let idle = now.duration_since(since);
    // A clock that went backwards proves nothing about age.
    idle >= SignedDuration::ZERO && idle < IDLE_TIMEOUT
}

/// The connections that are kept, the last put back last.
struct Idle {
    connections: Mutex<Vec<IdleConnection>>,
    /// Tells one who waits at the ceiling that a connection of the own pool came back.
    put_back: Notify,
    /// Whether idle connections stay open while the process is frozen.
    outlives_invocation: bool,
    slots: Arc<Slots>,
}

impl Idle {
    /// Connections are never closed while it is held.
    fn connections(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdleConnections for Idle {
    fn least_recent_use(&self) -> Option<u64> {
        self.connections().first().map(|resting| resting.last_use)
    }

    fn close_least_recently_used(&self) -> bool {
        let least_recent = {
            let mut connections = self.connections();
            (!connections.is_empty()).then(|| connections.remove(0))
        };
        let Some(resting) = least_recent else {
            return false;
        };
        resting.lease.retire(Retirement::Ceiling);
        true
    }

    fn close_at_invocation_end(&self, limit: Duration) -> Option<BoxFuture<'static, ()>> {
        // At a server that refused none of many, they are in nobody's way.
        if self.outlives_invocation || self.slots.is_unlimited() {
            return None;
        }
        let idle = std::mem::take(&mut *self.connections());
        // Where connections are counted over all processes, the next process is to find the place free.
        if idle.is_empty() || !self.slots.is_granted() {
            for resting in idle {
                resting.lease.retire(Retirement::InvocationEnd);
            }
            return None;
        }
        let closes: Vec<_> = idle
            .into_iter()
            .map(|resting| {
                let slots = self.slots.clone();
                slots.begin_close();
                async move {
                    let lease = resting.lease;
                    if lease.part(Retirement::InvocationEnd, limit).await {
                        slots.confirm_close();
                    }
                }
            })
            .collect();
        Some(join_all(closes).map(drop).boxed())
    }
}
