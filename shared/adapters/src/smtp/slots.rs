//! How many connections one provider entry may have: what its settings say, or less where the server
//! turned out to allow less.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use comms_core::Clock;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::memory::is_remembered;
use crate::{
    deadline::{Deadline, Elapsed},
    net::sockets::{SocketPermit, Sockets},
};

/// The slots of a pool, one for each connection that may be in use.
pub(super) struct Slots {
    semaphore: Semaphore,
    most: usize,
    state: Mutex<SlotCounts>,
    /// Tells those who wait that nothing is granted any more.
    revoked: Notify,
    sockets: Sockets,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct SlotCounts {
    /// Connections that are being made or are open, idle ones among them.
    live: usize,
    /// What the server was found to allow, and when.
    learned: Option<(usize, Timestamp)>,
    /// What may be used of the connections that all processes share; `None` for no limit.
    granted: Option<usize>,
    /// Whether the server is known to have no limit that matters.
    is_unlimited: bool,
    /// Slots that were taken out of circulation because of either.
    withheld: usize,
    /// Slots that are to be taken out when they come back.
    wanted_back: usize,
    /// Connections that were closed of which the server has not said that it noticed.
    unconfirmed: usize,
}

/// The right to use one connection.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    permit: Option<SemaphorePermit<'a>>,
}

/// The room for one connection, under the ceiling and among its pool's, from before it is made until it
/// is closed.
pub(super) struct Permit {
    slots: Arc<Slots>,
    has_left: bool,
    _place: SocketPermit,
}

impl Slots {
    pub(super) fn new(most: u8, sockets: Sockets, clock: Arc<dyn Clock>) -> Self {
        let most = usize::from(most.max(1));
        Self {
            semaphore: Semaphore::new(most),
            most,
            state: Mutex::default(),
            revoked: Notify::new(),
            sockets,
            clock,
        }
    }

    /// Waits for a slot.
    pub(super) async fn slot(&self, deadline: Deadline) -> Result<Slot<'_>, Elapsed> {
        self.forget_what_is_old();
        if self.state().granted == Some(0) {
            return Err(Elapsed);
        }
        // Does not go before those who wait: a slot that comes back is theirs at once.
        let permit = if let Ok(permit) = self.semaphore.try_acquire() {
            permit
        } else {
            let turn = async {
                tokio::select! {
                    biased;
                    // The semaphore is never closed.
                    permit = self.semaphore.acquire() => permit.map_err(|_| Elapsed),
                    () = self.revoked.notified() => Err(Elapsed),
                }
            };
            self.sockets.wait(deadline, turn).await??
        };
        Ok(Slot {
            slots: self,
            permit: Some(permit),
        })
    }

    /// Counts a connection in that is going to be made.
    pub(super) fn room(self: &Arc<Self>, place: SocketPermit) -> Permit {
        self.state().live += 1;
        Permit {
            slots: self.clone(),
            has_left: false,
            _place: place,
        }
    }

    /// Notes that the server refused one connection beside the others, those being made or open.
    /// Whether there are others: if not, their number is not what the server minds.
    pub(super) fn learn_one_too_many(&self, mut refused: Permit) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        // It leaves before it is counted who is left: of several that are refused at once, each leaves
        // one fewer.
        refused.has_left = true;
        state.live -= 1;
        let others = state.live;
        let known = state.learned.map_or(self.most, |(limit, _)| limit);
        if others == 0 {
            // One that is refused alone shows that it was not the number of the others either.
            self.forget(&mut state);
        } else if (1..known).contains(&others) {
            state.learned = Some((others, now));
            self.adjust(&mut state);
        }
        drop(state);
        others > 0
    }

    /// Lets so many connections be used at the same time; `None` for no limit beside the others.
    pub(super) fn grant(&self, connections: Option<usize>) {
        let mut state = self.state();
        if state.granted != connections {
            state.granted = connections;
            self.adjust(&mut state);
            if connections == Some(0) {
                self.revoked.notify_waiters();
            }
        }
    }

    pub(super) fn set_unlimited(&self, is_unlimited: bool) {
        self.state().is_unlimited = is_unlimited;
    }

    /// Whether idle connections are in nobody's way: none was refused for their number, and many were taken.
    pub(super) fn is_unlimited(&self) -> bool {
        let state = self.state();
        state.is_unlimited && state.learned.is_none()
    }

    /// Takes back one that was granted.
    pub(super) fn revoke_one(&self) {
        let granted = self.state().granted;
        self.grant(granted.map(|connections| connections.saturating_sub(1)));
    }

    /// Whether none may be used.
    pub(super) fn is_revoked(&self) -> bool {
        self.state().granted == Some(0)
    }

    /// Whether the connections are limited over all processes.
    pub(super) fn is_granted(&self) -> bool {
        self.state().granted.is_some()
    }

    /// Notes that a connection is being closed, of which the server may not know yet.
    pub(super) fn begin_close(&self) {
        self.state().unconfirmed += 1;
    }

    /// Notes that the server closed one as well.
    pub(super) fn confirm_close(&self) {
        let mut state = self.state();
        state.unconfirmed = state.unconfirmed.saturating_sub(1);
    }

    pub(super) fn take_unconfirmed(&self) -> usize {
        std::mem::take(&mut self.state().unconfirmed)
    }

    /// Brings the slots in circulation to what is granted and learned.
    fn adjust(&self, state: &mut SlotCounts) {
        let learned = state.learned.map_or(self.most, |(limit, _)| limit);
        let granted = state.granted.unwrap_or(self.most);
        let wanted = self.most - self.most.min(learned).min(granted);
        let gone = state.withheld + state.wanted_back;
        if wanted > gone {
            let more = wanted - gone;
            let free = self.semaphore.forget_permits(more);
            state.withheld += free;
            state.wanted_back += more - free;
        } else {
            let unwanted = (gone - wanted).min(state.wanted_back);
            state.wanted_back -= unwanted;
            let back = gone - wanted - unwanted;
            state.withheld -= back;
            self.semaphore.add_permits(back);
        }
    }

    fn forget_what_is_old(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        if state
            .learned
            .is_some_and(|(_, since)| !is_remembered(since, now))
        {
            self.forget(&mut state);
        }
    }

    /// Takes back what was learned: every slot that is granted is there again.
    fn forget(&self, state: &mut SlotCounts) {
        state.learned = None;
        self.adjust(state);
    }

    /// Nothing can panic while it is held, so that it is whole whatever happens.
    fn state(&self) -> MutexGuard<'_, SlotCounts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let mut state = self.slots.state();
        if state.wanted_back > 0 {
            state.wanted_back -= 1;
            state.withheld += 1;
            permit.forget();
        } else {
            // Under the lock: whoever counts what is free meanwhile must find it there, or here.
            drop(permit);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.has_left {
            self.slots.state().live -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use comms_core::SystemClock;

    use super::*;

    struct At(Mutex<Timestamp>);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn slots(most: u8) -> (Arc<Slots>, Sockets) {
        let sockets = Sockets::default();
        let slots = Slots::new(most, sockets.clone(), Arc::new(SystemClock));
        (Arc::new(slots), sockets)
    }

    async fn room(slots: &Arc<Slots>) -> Permit {
        let place = slots.sockets.place(Deadline::after(Duration::from_secs(5)));
        slots.room(place.await.unwrap())
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    #[tokio::test]
    async fn of_several_that_are_refused_at_once_each_leaves_one_fewer() {
        let (slots, _) = slots(5);
        let mut held = Vec::new();
        let mut rooms = Vec::new();
        for _ in 0..5 {
            held.push(slots.slot(deadline()).await.unwrap());
            rooms.push(room(&slots).await);
        }
        for _ in 0..3 {
            assert!(slots.learn_one_too_many(rooms.pop().unwrap()));
            drop(held.pop());
        }
        // Two are in use, and the three that came back are not lent again.
        assert_eq!(slots.semaphore.available_permits(), 0);
        drop(held);
        assert_eq!(slots.semaphore.available_permits(), 2);
    }

    #[tokio::test]
    async fn free_slots_are_withheld_at_once_and_a_lone_refusal_teaches_nothing() {
        let (slots, sockets) = slots(5);
        let _one = slots.slot(deadline()).await.unwrap();
        assert!(!slots.learn_one_too_many(room(&slots).await));
        assert_eq!(slots.semaphore.available_permits(), 4);
        let _other = room(&slots).await;
        assert!(slots.learn_one_too_many(room(&slots).await));
        assert_eq!(slots.semaphore.available_permits(), 0);
        assert_eq!(sockets.statistics().held, 1);
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_last_one_as_well_does_not_mind_their_number() {
        let (slots, _) = slots(3);
        let mut rooms = Vec::new();
        for _ in 0..3 {
            rooms.push(room(&slots).await);
        }
        assert!(slots.learn_one_too_many(rooms.pop().unwrap()));
        assert!(slots.learn_one_too_many(rooms.pop().unwrap()));
        assert_eq!(slots.semaphore.available_permits(), 1);
        assert!(!slots.learn_one_too_many(rooms.pop().unwrap()));
        assert_eq!(slots.semaphore.available_permits(), 3);
    }

    #[tokio::test]
    async fn what_was_learned_is_forgotten_and_every_slot_is_there_again() {
        let clock = Arc::new(At(Mutex::new(Timestamp::UNIX_EPOCH)));
        let slots = Arc::new(Slots::new(4, Sockets::default(), clock.clone()));
        let held = [
            slots.slot(deadline()).await.unwrap(),
            slots.slot(deadline()).await.unwrap(),
        ];
        let _other = room(&slots).await;
        assert!(slots.learn_one_too_many(room(&slots).await));
        // Two were free and are withheld; a third is to come back, and does so after it is forgotten.
        assert_eq!(slots.semaphore.available_permits(), 0);
        *clock.0.lock().unwrap() += Duration::from_secs(601);
        let third = slots.slot(deadline()).await.unwrap();
        drop((held, third));
        assert_eq!(slots.semaphore.available_permits(), 4);
    }
}
