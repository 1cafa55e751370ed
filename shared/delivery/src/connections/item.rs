//! What a process reads of a login's item, and the permits that it takes from it.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_aws::Item;
use comms_core::HashKey;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tracing::warn;

use super::{
    Asking, Connections, REQUEST_TIMEOUT, login::LEFT_TO_OTHERS, partition_key, record::LimitRecord,
};

/// How old what is known of a login may be before it is read again.
const LOOK_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// How long a permit lasts after its invocation's deadline: clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);
/// How long a process does without permits after DynamoDB did not answer.
const UNREACHABLE_IS_BELIEVED: SignedDuration = SignedDuration::from_secs(2);

impl Connections {
    pub(super) fn note_unreachable(&self, id: u64) {
        let until = self.clock.now().saturating_add(UNREACHABLE_IS_BELIEVED);
        if let Some(login) = self.logins().get_mut(&id) {
            login.unreachable_until = until.ok();
        }
    }

    /// Reads what others found out, at most once a [`LOOK_INTERVAL`], for a message that might take no permit.
    pub(super) async fn look(&self, key: &HashKey, id: u64, asking: Asking) {
        let now = self.clock.now();
        let account = {
            let mut logins = self.logins();
            let Some(login) = logins.get_mut(&id) else {
                return;
            };
            if !login.is_look_due(asking.is_alone, LOOK_INTERVAL, now) {
                return;
            }
            // Others go by what is known until the response is there.
            login.looked_at = Some(now);
            login.account.clone()
        };
        let partition_key = partition_key(&account);
        let read = Box::pin(self.permits.read(&partition_key));
        match asking.deadline.bound(REQUEST_TIMEOUT, read).await {
            Ok(Ok(item)) => self.observe(key, id, &item),
            Ok(Err(error)) => warn!(%error, "a login's connections were not read"),
            Err(_) => warn!("a login's connections were not read in time"),
        }
    }

    /// Takes in what the item says.
    pub(super) fn observe(&self, key: &HashKey, id: u64, item: &Item) {
        let now = self.clock.now();
        let live = u32::try_from(self.permits.count(item)).unwrap_or(u32::MAX);
        let mut logins = self.logins();
        if let Some(login) = logins.get_mut(&id) {
            login.observe(LimitRecord::of_item(item, &login.account, key), live, now);
        }
    }

    pub(super) fn set_in_front(&self, id: u64, is_in_front: bool) {
        if let Some(login) = self.logins().get_mut(&id) {
            login.is_in_front = is_in_front;
        }
    }

    pub(super) async fn take_in_time(
        &self,
        key: &HashKey,
        id: u64,
        deadline: Deadline,
        time: Duration,
    ) {
        let take = Box::pin(self.take(key, id, deadline));
        if timeout(time, take).await.is_err() {
            warn!("a connection's permit was not taken in time");
            self.note_unreachable(id);
        }
    }

    /// Takes a permit for this process.
    pub(super) async fn take(&self, key: &HashKey, id: u64, deadline: Deadline) {
        let now = self.clock.now();
        let Some((account, limit, held, count)) = self.logins().get(&id).and_then(|login| {
            let limit = login.limit_at(now)?;
            let count = login.to_take(limit, now);
            Some((login.account.clone(), limit, login.held.clone(), count))
        }) else {
            return;
        };
        let until = now.saturating_add(deadline.remaining() + EXPIRY_MARGIN);
        let until = until.unwrap_or(Timestamp::MAX);
        self.count_write();
        let partition_key = partition_key(&account);
        // Most are left to others, if nobody has those.
        let others = limit - limit / LEFT_TO_OTHERS;
        let others = usize::try_from(others).unwrap_or(usize::MAX);
        let taken = self
            .permits
            .take_several(&held, &partition_key, limit, until, |free| {
                count.min(free.saturating_sub(others) + 1)
            });
        let excess = match taken.await {
            Ok((slots, item)) => {
                self.observe(key, id, &item);
                let mut logins = self.logins();
                match logins.get_mut(&id) {
                    Some(login) if slots.is_empty() => {
                        login.note_full(limit, self.clock.now());
                        slots
                    }
                    Some(login) => login.hold(slots, self.clock.now()),
                    None => slots,
                }
            }
            Err(error) => {
                warn!(%error, "a connection's permit was not taken");
                self.note_unreachable(id);
                Vec::new()
            }
        };
        // Others found meanwhile that fewer are allowed.
        if !excess.is_empty() {
            self.count_write();
            let released = self.permits.release_several(&excess).await;
            if let Err(error) = released {
                warn!(%error, "a connection's permit was not released, and expires");
            }
        }
    }
}
