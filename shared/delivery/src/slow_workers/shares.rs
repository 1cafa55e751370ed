//! How many workers of each queue one clinic's slow deliveries may hold.

use std::num::NonZeroU32;

/// The queue that a worker has a message from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkQueue {
    /// Of priority `low` and `normal`.
    Normal,
    /// Of priority `high` and `critical`.
    Urgent,
}

impl WorkQueue {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Urgent => "urgent",
        }
    }
}

/// How many workers of each queue a clinic's slow deliveries may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerShares {
    /// Of the queue of normal messages.
    pub normal: NonZeroU32,
    /// Of the urgent queue.
    pub urgent: NonZeroU32,
}

impl WorkerShares {
    /// `percent` of each queue's workers, one at least.
    pub fn of(percent: u32, normal: u32, urgent: u32) -> Self {
        let share = |workers: u32| {
            let share = workers.saturating_mul(percent.min(100)) / 100;
            NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
        };
        Self {
            normal: share(normal),
            urgent: share(urgent),
        }
    }

    pub(crate) const fn of_queue(self, queue: WorkQueue) -> NonZeroU32 {
        match queue {
            WorkQueue::Normal => self.normal,
            WorkQueue::Urgent => self.urgent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_a_quarter_of_the_workers_and_at_least_one() {
        for (percent, workers, share) in [
            (25, 20, 5),
            (25, 10, 2),
            (25, 2, 1),
            (0, 20, 1),
            (500, 8, 8),
        ] {
            let shares = WorkerShares::of(percent, workers, 1);
            assert_eq!(shares.normal.get(), share, "{percent} % of {workers}");
            assert_eq!(shares.urgent, NonZeroU32::MIN);
        }
    }
}
