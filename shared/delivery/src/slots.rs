//! Slots: how many deliveries a process works on at once, and how many of them may be one tenant's.
//!
//! Without a bound, a batch of large requests would open as many connections as it has recipients.
//! Without a share, a clinic whose provider hangs would hold every slot until the invocation ends.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_adapters::Deadline;
use comms_core::Tenant;
use tokio::sync::oneshot;

/// The slots of a process.
#[derive(Clone)]
pub struct Slots(Arc<Shared>);

struct Shared {
    /// Slots that one tenant may hold.
    share: usize,
    state: Mutex<SlotState>,
}

struct SlotState {
    free: usize,
    /// The number of the next who waits.
    next: u64,
    tenants: HashMap<Tenant, TenantSlots>,
}

/// One tenant's slots, and who waits for one, in order.
#[derive(Default)]
struct TenantSlots {
    held: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Slot>)>,
}

/// A slot; free again when dropped.
pub struct Slot {
    shared: Arc<Shared>,
    /// Whose it is; `None` for one that was never handed over.
    tenant: Option<Tenant>,
}

impl Slots {
    /// `slots` in all, of which one tenant may hold `share`; one at least of each.
    pub fn new(slots: usize, share: usize) -> Self {
        Self(Arc::new(Shared {
            share: share.max(1),
            state: Mutex::new(SlotState {
                free: slots.max(1),
                next: 0,
                tenants: HashMap::new(),
            }),
        }))
    }

    /// Waits for a slot for `tenant`, until `deadline`.
    ///
    /// A slot that becomes free goes to the tenant that holds the fewest, and among equals to who has
    /// waited longest.
    pub async fn take(&self, tenant: &Tenant, deadline: Deadline) -> Option<Slot> {
        let turn = {
            let mut guard = self.0.state();
            let state = &mut *guard;
            let line = state.tenants.entry(tenant.clone()).or_default();
            line.waiting.retain(|(_, waiting)| !waiting.is_closed());
            if state.free > 0 && line.held < self.0.share && line.waiting.is_empty() {
                state.free -= 1;
                line.held += 1;
                return Some(self.0.slot(tenant));
            }
            let (hand_over, turn) = oneshot::channel();
            line.waiting.push_back((state.next, hand_over));
            state.next += 1;
            turn
        };
        deadline.bound(Duration::MAX, turn).await.ok()?.ok()
    }
}

impl Shared {
    fn slot(self: &Arc<Self>, tenant: &Tenant) -> Slot {
        Slot {
            shared: self.clone(),
            tenant: Some(tenant.clone()),
        }
    }

    /// Nothing can panic while it is held, so that it is whole whatever happens.
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(self: &Arc<Self>, tenant: &Tenant) {
        let mut state = self.state();
        state.free += 1;
        if let Some(line) = state.tenants.get_mut(tenant) {
            line.held -= 1;
        }
        while state.free > 0
            && let Some((next, hand_over)) = state.next_turn(self.share)
        {
            match hand_over.send(self.slot(&next)) {
                Ok(()) => {
                    state.free -= 1;
                    if let Some(line) = state.tenants.get_mut(&next) {
                        line.held += 1;
                    }
                }
                // Nobody waits there any more, and nothing was taken.
                Err(mut unused) => unused.tenant = None,
            }
        }
        state
            .tenants
            .retain(|_, line| line.held > 0 || !line.waiting.is_empty());
    }
}

impl SlotState {
    fn next_turn(&mut self, share: usize) -> Option<(Tenant, oneshot::Sender<Slot>)> {
        let (tenant, line) = self
            .tenants
            .iter_mut()
            .filter(|(_, line)| line.held < share)
            .filter_map(|(tenant, line)| {
                let number = line.waiting.front()?.0;
                Some(((line.held, number), tenant, line))
            })
            .min_by_key(|(rank, ..)| *rank)
            .map(|(_, tenant, line)| (tenant, line))?;
        let (_, hand_over) = line.waiting.pop_front()?;
        Some((tenant.clone(), hand_over))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(tenant) = self.tenant.take() {
            self.shared.release(&tenant);
        }
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slots(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    fn tenant(id: &str) -> Tenant {
        Tenant::parse(id).unwrap()
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    async fn hold(slots: &Slots, id: &str, count: usize) -> Vec<Slot> {
        let tenant = tenant(id);
        let all = join_all((0..count).map(|_| slots.take(&tenant, deadline()))).await;
        all.into_iter().map(Option::unwrap).collect()
    }

    #[tokio::test]
    async fn no_tenant_holds_more_than_its_share_and_all_together_no_more_than_there_are() {
        let slots = Slots::new(4, 3);
        let (greedy, modest) = (tenant("greedy"), tenant("modest"));
        let _held = hold(&slots, "greedy", 3).await;
        let mut fourth = pin!(slots.take(&greedy, deadline()));
        assert!(fourth.as_mut().now_or_never().is_none(), "beyond its share");
        let others = slots.take(&modest, deadline()).now_or_never();
        let others = others.expect("there is room for others").unwrap();
        let mut fifth = pin!(slots.take(&modest, deadline()));
        assert!(fifth.as_mut().now_or_never().is_none(), "all are taken");
        drop(others);
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(fifth.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_free_slot_goes_to_who_holds_the_fewest_and_then_to_who_has_waited_longest() {
        let slots = Slots::new(3, 3);
        let mut held = hold(&slots, "many", 2).await;
        let _one = hold(&slots, "one", 1).await;
        let tenants = ["many", "one", "none", "nought"].map(tenant);
        let mut waiting = tenants
            .each_ref()
            .map(|tenant| Box::pin(slots.take(tenant, deadline())));
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        let mut order = Vec::new();
        let mut kept = Vec::new();
        while let Some(slot) = held.pop() {
            drop(slot);
            for (turn, name) in waiting.iter_mut().zip(["many", "one", "none", "nought"]) {
                if !order.contains(&name)
                    && let Some(slot) = turn.as_mut().now_or_never()
                {
                    order.push(name);
                    kept.push(slot.unwrap());
                }
            }
        }
        assert_eq!(order, ["none", "many"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_stopped_waiting_takes_no_slot_with_them() {
        let slots = Slots::new(1, 1);
        let (one, two) = (tenant("one"), tenant("two"));
        let held = slots.take(&one, deadline()).await.unwrap();
        let soon = Deadline::after(Duration::from_millis(10));
        assert!(slots.take(&two, soon).await.is_none(), "its time was up");
        {
            let mut given_up = pin!(slots.take(&two, deadline()));
            assert!(given_up.as_mut().now_or_never().is_none());
            drop(held);
            // It has a slot by now, and is dropped without having looked.
        }
        assert!(slots.take(&two, deadline()).now_or_never().is_some());
        let state = slots.0.state();
        assert_eq!((state.free, state.tenants.len()), (1, 0), "nothing is kept");
    }
}
