//! Processes in front: the few that wait for the next permit of a login with their messages. The others return theirs to
//! the queue.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_core::HashKey;
use comms_core::backoff::jitter;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Asking, Connections, QUEUED_REQUEST_TIMEOUT, REQUEST_TIMEOUT, partition_key};
use crate::{
    permits::{Rider, Taken},
    slow_workers::WorkQueue,
};

/// About how often a process in front looks whether a permit is free: a connection that nobody uses meanwhile is lost.
const FRONT_POLL_INTERVAL: Duration = Duration::from_millis(60);
/// The same with an urgent message. It looks three times as often as others, so that it is likely to be first.
const URGENT_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Processes that wait for the next permit: one for each permit, and no more than this.
const MAX_FRONT: u32 = 10;
/// The longest that one waits.
const MAX_FRONT_WAIT: Duration = Duration::from_secs(12);
/// The same beyond the share of the queue's workers that one clinic's slow deliveries may hold. Longer than ten messages
/// take at a server that answers after 100 ms.
const MAX_WAIT_BEYOND_SHARE: Duration = Duration::from_secs(4);
/// What is left of its invocation then.
const BATCH_MARGIN: Duration = Duration::from_secs(15);

impl Connections {
    /// Waits for the next permit with the messages of this process, if only few other processes do: so that a permit is
    /// used again as soon as it is free. Urgent messages have places of their own.
    pub(super) async fn wait_in_front(&self, key: &HashKey, id: u64, asking: Asking) {
        let Some((account, limit)) = self.full_login(id) else {
            return;
        };
        let deadline = asking.deadline;
        let time = MAX_FRONT_WAIT.min(deadline.remaining().saturating_sub(BATCH_MARGIN));
        if time.is_zero() {
            return;
        }
        let (front, interval, queue) = if asking.is_urgent {
            let front = "connections-next-urgent";
            (front, URGENT_POLL_INTERVAL, WorkQueue::Urgent)
        } else {
            ("connections-next", FRONT_POLL_INTERVAL, WorkQueue::Normal)
        };
        let front = format!("{front}#{account}");
        let now = self.clock.now();
        let ends = now.saturating_add(time).unwrap_or(now);
        let rider = Rider::default();
        let width = limit.min(MAX_FRONT);
        self.count_write();
        let taken = Box::pin(self.permits.take(&front, width, ends, &rider, |_| false));
        let Ok(Ok(Taken::Slot(place, _))) = timeout(QUEUED_REQUEST_TIMEOUT, taken).await else {
            return;
        };
        let is_beyond_share = place.number() >= self.workers.of_queue(queue).get();
        let time = if is_beyond_share {
            time.min(MAX_WAIT_BEYOND_SHARE)
        } else {
            time
        };
        // Another login's permit that nobody needs meanwhile would stand idle.
        self.release_idle(deadline).await;
        let until = Deadline::after(time);
        while !until.remaining().is_zero() {
            sleep(interval.mul_f64(0.5 + jitter())).await;
            match self.takes_if_free(key, id, &account, deadline).await {
                Some(false) => {}
                Some(true) | None => break,
            }
        }
        self.count_write();
        let released = Box::pin(self.permits.release(&place, &rider));
        if !matches!(timeout(REQUEST_TIMEOUT, released).await, Ok(Ok(_))) {
            warn!("a place in front was not released, and expires");
        }
        if let Some(login) = self.logins().get_mut(&id)
            && login.held.is_empty()
        {
            login.note_full(limit, self.clock.now());
        }
    }

    /// The login and its limit, if others have all permits.
    fn full_login(&self, id: u64) -> Option<(String, u32)> {
        let now = self.clock.now();
        let logins = self.logins();
        let login = logins.get(&id)?;
        Some((login.account.clone(), login.limit_if_full(now)?))
    }

    /// Takes a permit if one is free. Whether this process has one then; `None` where DynamoDB does not answer.
    async fn takes_if_free(
        &self,
        key: &HashKey,
        id: u64,
        account: &str,
        deadline: Deadline,
    ) -> Option<bool> {
        let partition_key = partition_key(account);
        let read = Box::pin(self.permits.read(&partition_key));
        let item = timeout(QUEUED_REQUEST_TIMEOUT, read).await.ok()?.ok()?;
        self.observe(key, id, &item);
        let now = self.clock.now();
        let is_free = self.logins().get(&id)?.has_free_permit(now);
        if is_free {
            self.take_in_time(key, id, deadline, QUEUED_REQUEST_TIMEOUT)
                .await;
        }
        Some(!self.logins().get(&id)?.held.is_empty())
    }
}
