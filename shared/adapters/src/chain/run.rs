//! One message on its way through a chain: what was tried, and what that means for the rest.

use std::{future::Future, ops::ControlFlow, time::Duration};

use comms_core::{AfterRetries, Attempt, Disposition, ProviderError, Receipt};
use futures_util::FutureExt as _;

use super::{AmbiguityPolicy, Chain, ChainEnd, ChainEntry, renewal::Renewal, reply_to::ReplyTo};
use crate::{
    layers::{
        deadline::{AttemptBudget, Bounded},
        observe::Observe,
        retry::{self, Retry, RetryPolicy},
    },
    message::Message,
};

/// An entry's last failure; `interrupted_by` has newer settings, or that they cannot be read.
pub(super) type Failed = retry::Failed<Renewal>;

/// The attempts at one entry.
#[derive(Clone, Copy)]
pub(super) struct EntryAttempts<'a> {
    pub(super) entry: &'a ChainEntry,
    pub(super) message: &'a Message,
    pub(super) reply: ReplyTo<'a>,
    pub(super) budget: AttemptBudget,
    pub(super) policy: RetryPolicy,
}

/// What was tried so far.
#[derive(Default)]
pub(super) struct Run {
    pub(super) attempts: Vec<Attempt>,
    pub(super) unknown_outcomes: usize,
    pub(super) retry_after: Option<Duration>,
}

impl Run {
    /// Whether newer settings want no copy after one that may have been accepted.
    pub(super) fn is_held(&self, newer: &Chain) -> bool {
        self.unknown_outcomes > 0 && newer.on_ambiguous == AmbiguityPolicy::Hold
    }

    /// How an entry's failure ends the run; `None` where the next one is tried.
    pub(super) fn ended_by(
        &mut self,
        error: &ProviderError,
        policy: AmbiguityPolicy,
    ) -> Option<ChainEnd> {
        match error.disposition {
            Disposition::Final => Some(ChainEnd::Rejected),
            Disposition::Ambiguous => {
                self.unknown_outcomes += 1;
                match policy {
                    AmbiguityPolicy::Hold => Some(ChainEnd::Held),
                    AmbiguityPolicy::Failover => None,
                }
            }
            Disposition::ProviderDown | Disposition::Transient => match error.after_retries {
                AfterRetries::NextProvider | AfterRetries::WhenConnectionFree => None,
                AfterRetries::Later => Some(ChainEnd::AllFailed),
                AfterRetries::GiveUp => Some(ChainEnd::Rejected),
            },
        }
    }

    /// Notes when a provider that cannot take it now asked to be tried again.
    pub(super) fn note_retry_after(&mut self, error: &ProviderError) {
        if error.disposition == Disposition::Transient
            && let Some(asked) = error.retry_after
        {
            let known = self.retry_after;
            self.retry_after = Some(known.map_or(asked, |known| known.min(asked)));
        }
    }

    /// Tries an entry, and again as its policy allows, while `renew` finds no newer settings.
    pub(super) async fn entry<R: Future<Output = Renewal>>(
        &mut self,
        attempts: EntryAttempts<'_>,
        renew: impl Fn() -> R,
    ) -> Result<Receipt, Failed> {
        let EntryAttempts {
            entry,
            message,
            reply,
            budget,
            policy,
        } = attempts;
        let message = reply.apply(message);
        let observe = Observe {
            entry,
            is_possible_duplicate: self.unknown_outcomes > 0,
            is_reply_to_dropped: reply.is_dropped,
            attempts: &mut self.attempts,
        };
        let retry = Retry {
            inner: Bounded::new(observe, budget),
            policy,
            proceed: || {
                renew().map(|renewal| match renewal {
                    Renewal::Unchanged => ControlFlow::Continue(()),
                    Renewal::Newer(_) | Renewal::Unreadable => ControlFlow::Break(renewal),
                })
            },
        };
        retry.send(&message).await
    }
}
