//! How much of a message's time one entry of a chain may use.

use std::time::Duration;

use comms_core::{AfterRetries, ErrorKind, ProviderError, Receipt};

use super::SendOnce;
use crate::{
    chain::AmbiguityPolicy,
    deadline::{Deadline, MIN_ATTEMPT_DURATION},
    message::Message,
};

/// The time that a provider which works needs for a message, slow steps included.
const FALLBACK_MARGIN: Duration = Duration::from_secs(6);

/// The time that an entry has for its attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptBudget {
    /// The message's deadline.
    pub(crate) deadline: Deadline,
    /// How many entries are tried after it.
    pub(crate) others: u32,
    /// What an unknown outcome leads to.
    pub(crate) on_ambiguous: AmbiguityPolicy,
}

impl AttemptBudget {
    /// Whether no entry is tried after it.
    pub(crate) const fn is_last(self) -> bool {
        self.others == 0
    }

    /// The deadline of the entry's own attempts and waits.
    ///
    /// While a caller waits, half of the time is left for the entries after it. For a queued message they have
    /// [`FALLBACK_MARGIN`] each, half of the time at most: a slow server of the clinic's own is waited for. Where an unknown
    /// outcome ends the run, which waiting might settle, only the next entry has its margin.
    pub(crate) fn share(self) -> Deadline {
        if self.is_last() {
            return self.deadline;
        }
        let left = self.deadline.remaining();
        let for_others = match self.on_ambiguous {
            AmbiguityPolicy::Failover if self.deadline.is_queued() => {
                FALLBACK_MARGIN.saturating_mul(self.others).min(left / 2)
            }
            AmbiguityPolicy::Failover => left / 2,
            AmbiguityPolicy::Hold => FALLBACK_MARGIN.min(left / 2),
        };
        self.deadline
            .less(for_others.min(left.saturating_sub(MIN_ATTEMPT_DURATION)))
            .with_others_to_follow()
    }
}

/// Keeps an entry's attempts within its [`AttemptBudget::share`].
pub(crate) struct Bounded<S> {
    inner: S,
    budget: AttemptBudget,
    until: Deadline,
}

impl<S: SendOnce> Bounded<S> {
    pub(crate) fn new(inner: S, budget: AttemptBudget) -> Self {
        Self {
            inner,
            until: budget.share(),
            budget,
        }
    }

    /// The deadline of the next attempt.
    pub(super) const fn until(&self) -> Deadline {
        self.until
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<Receipt, ProviderError> {
        let sent = self.inner.send_once(message, self.until).await;
        if let Err(error) = &sent {
            self.until = self.after(error);
        }
        sent
    }

    fn after(&self, error: &ProviderError) -> Deadline {
        // A provider that hangs has cost enough time; the next one has the rest.
        if error.kind == ErrorKind::Timeout && !self.budget.is_last() {
            return self.until.less(self.until.remaining());
        }
        match error.after_retries {
            AfterRetries::NextProvider | AfterRetries::WhenConnectionFree => self.until,
            // No other entry is tried after such an error.
            AfterRetries::Later | AfterRetries::GiveUp => self.budget.deadline,
        }
    }
}

#[cfg(test)]
mod tests;
