//! The end of permits: when an invocation ends, or earlier where its other messages take long.

use std::{sync::Arc, time::Duration};

use comms_adapters::{Deadline, smtp::ConnectionLimit};
use futures_util::future::join_all;
use jiff::SignedDuration;
use tracing::warn;

use super::{Connections, REQUEST_TIMEOUT, login::LoginState};
use crate::permits::TakenSlot;

/// How long a permit is kept whose connection may still be open at the server.
const CLOSING_MARGIN: SignedDuration = SignedDuration::from_secs(1);
/// A permit that no message of its process has used for so long is released while the others are under way.
const IDLE_TIMEOUT: SignedDuration = SignedDuration::from_secs(1);
/// The longest that a server is waited for to close a connection then.
const MAX_CLOSE_WAIT: Duration = Duration::from_millis(500);

impl Connections {
    /// Releases the permits that no message of this process uses: once before an invocation ends, after its connections
    /// were closed.
    pub async fn release(&self, deadline: Deadline) {
        self.release_where(deadline, |_, _| true).await;
        // An older version of the settings is not used again.
        self.logins()
            .retain(|_, login| Arc::strong_count(&login.limit) > 1 || !login.is_unused());
    }

    /// Closes and releases what no message of this process has used for [`IDLE_TIMEOUT`]: a message to one login does not
    /// hold another login's connections while it is waiting for a slow server.
    pub(super) async fn release_idle(&self, deadline: Deadline) {
        let now = self.clock.now();
        let is_idle = |login: &LoginState| {
            login.has_been_unused_for(IDLE_TIMEOUT, now) && !login.held.is_empty()
        };
        let idle: Vec<(u64, Arc<ConnectionLimit>)> = {
            let logins = self.logins();
            let idle = logins.iter().filter(|(_, login)| is_idle(login));
            idle.map(|(id, login)| (*id, login.limit.clone())).collect()
        };
        if idle.is_empty() {
            return;
        }
        let closes = idle
            .iter()
            .map(|(_, limit)| limit.close_idle(MAX_CLOSE_WAIT));
        join_all(closes).await;
        let is_closed = |id: u64, login: &LoginState| {
            is_idle(login) && idle.iter().any(|(idle, _)| *idle == id)
        };
        self.release_where(deadline, is_closed).await;
    }

    async fn release_where(
        &self,
        deadline: Deadline,
        is_released: impl Fn(u64, &LoginState) -> bool,
    ) {
        let now = self.clock.now();
        let released: Vec<(Vec<TakenSlot>, bool)> = {
            let mut logins = self.logins();
            let unused = logins
                .iter_mut()
                .filter(|(id, login)| login.is_unused() && is_released(**id, login));
            unused
                .filter_map(|(_, login)| {
                    let is_closing = login.limit.take_unconfirmed();
                    let held = login.take_unused(now);
                    (!held.is_empty()).then_some((held, is_closing))
                })
                .collect()
        };
        if released.is_empty() {
            return;
        }
        let writes = released.iter().map(|(slots, is_closing)| async {
            self.count_write();
            let released = if *is_closing {
                let soon = now.saturating_add(CLOSING_MARGIN).unwrap_or(now);
                self.permits.expire_several(slots, soon).await
            } else {
                self.permits.release_several(slots).await
            };
            if let Err(error) = released {
                warn!(%error, "a connection's permit was not released, and expires");
            }
        });
        let written = deadline.bound(REQUEST_TIMEOUT, join_all(writes)).await;
        if written.is_err() {
            warn!("connections' permits were not released in time, and expire");
        }
    }
}
