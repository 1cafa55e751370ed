//! Changes of state on their way to other processes.

use std::sync::Arc;

use comms_core::HealthRecord;

use super::Health;

impl Health {
    /// A change that nobody else knows of yet, for one to share it. Given to one caller at a time.
    pub fn unshared(self: &Arc<Self>) -> Option<Unshared> {
        let mut inner = self.lock();
        if !inner.is_unshared {
            return None;
        }
        let (state, since) = inner.state?;
        inner.is_unshared = false;
        Some(Unshared {
            health: self.clone(),
            record: HealthRecord {
                state,
                since,
                last_error: inner.last_error,
            },
            is_first: inner.is_first,
            is_shared: false,
        })
    }
}

/// A change of state on its way to the others. Dropped before [`Unshared::done`], it is offered again.
#[derive(Debug)]
pub struct Unshared {
    health: Arc<Health>,
    record: HealthRecord,
    is_first: bool,
    is_shared: bool,
}

impl Unshared {
    /// The change.
    pub const fn record(&self) -> &HealthRecord {
        &self.record
    }

    /// Whether it is a first success of a process that knew nothing of the entry: it says that the entry is not untried, and
    /// disproves nothing that others recorded.
    pub const fn is_first(&self) -> bool {
        self.is_first
    }

    /// The others know.
    pub fn done(mut self) {
        self.is_shared = true;
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        if !self.is_shared {
            let mut inner = self.health.lock();
            // Unless something newer has come in meanwhile, which has been, or will be, said for itself.
            if inner.since() == Some(self.record.since) {
                inner.is_unshared = true;
            }
        }
    }
}
