//! Newer settings while a message is on its way through a chain.
//!
//! A save governs every attempt that begins after it. So before each attempt but the first the chain asks whether its
//! settings still are the last ones, whatever the error before it (`infra/docs/adr/0022-settings-count-at-once.md`).

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use comms_core::{Disposition, ErrorKind, ProviderError};

use super::{Chain, ChainEnd, ChainEntry, Run, attempt_order::AttemptOrder};
use crate::{message::Message, rate_limiter::RateLimiter};

/// How often newer settings are adopted for one message. Each time somebody has saved meanwhile; what is saved more often
/// than that returns to the queue.
const MAX_RENEWALS: u8 = 8;

/// When a running chain asks whether its settings still are the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewAt {
    /// Before the first attempt at an entry of the platform's account.
    PlatformReached,
    /// Before an entry is tried again, or the next one is tried.
    NextAttempt {
        /// Whether the platform's settings may have counted so far.
        is_global: bool,
    },
    /// After an entry refused to serve its tenant, before the next one is tried.
    Refused {
        /// Whether the platform's settings may have counted so far.
        is_global: bool,
    },
}

/// Whether the settings of a running chain still are the last ones.
#[derive(Debug, Clone)]
pub enum Renewal {
    /// They are, as far as is known.
    Unchanged,
    /// There are newer ones, and this is their chain.
    Newer(Arc<Chain>),
    /// There are newer ones, or may be, and they cannot be read.
    Unreadable,
}

/// Says whether the settings of the running chain still are the last ones.
pub type Renew<'a> =
    dyn Fn(RenewAt) -> Pin<Box<dyn Future<Output = Renewal> + Send + 'a>> + Send + Sync + 'a;

/// The chain that a run goes by, and who is left in it.
pub(super) struct Course {
    pub(super) chain: Arc<Chain>,
    pub(super) order: AttemptOrder,
    is_queued: bool,
    renewals: u8,
    is_platform_checked: bool,
    may_use_global: Option<bool>,
    /// When a connection may be free of an entry that had none.
    pub(super) no_connection: Option<Duration>,
}

/// How a run goes on after it asked for newer settings.
pub(super) enum Heading {
    /// As it would have.
    Same,
    /// By newer settings, in the order of these.
    Changed,
    /// Not at all.
    Over(ChainEnd),
}

impl Course {
    pub(super) fn new(chain: Arc<Chain>, is_queued: bool) -> Self {
        Self {
            order: AttemptOrder::of(&chain, is_queued, |_| true),
            chain,
            is_queued,
            renewals: 0,
            is_platform_checked: false,
            may_use_global: None,
            no_connection: None,
        }
    }

    /// How the run ends when nobody is left to try.
    pub(super) fn exhausted(&self, run: &Run) -> ChainEnd {
        if let Some(after) = self.no_connection
            && run.attempts.is_empty()
        {
            ChainEnd::NoConnection { after }
        } else if self.may_use_global == Some(false) {
            ChainEnd::GlobalRefused
        } else if run.attempts.is_empty() && !self.order.has_left_out() {
            ChainEnd::NoProvider
        } else {
            ChainEnd::AllFailed
        }
    }

    /// Asks for newer settings where `entry` is the first of the platform's account.
    pub(super) async fn before(
        &mut self,
        entry: &ChainEntry,
        run: &Run,
        renew: &Renew<'_>,
    ) -> Heading {
        if !entry.position.is_global() || std::mem::replace(&mut self.is_platform_checked, true) {
            return Heading::Same;
        }
        let renewal = renew(RenewAt::PlatformReached).await;
        self.adopt(renewal, None, run)
    }

    /// Whether the platform's account may send `message`, which is asked once for settings.
    pub(super) async fn may_use_global(
        &mut self,
        message: &Message,
        limiter: &dyn RateLimiter,
    ) -> bool {
        if let Some(allowed) = self.may_use_global {
            return allowed;
        }
        let allowed = limiter.may_use_global(message).await;
        self.may_use_global = Some(allowed);
        allowed
    }

    /// Asks for newer settings before `entry` is tried once more.
    pub(super) async fn before_retry(&self, entry: &ChainEntry, renew: &Renew<'_>) -> Renewal {
        let is_global = self.is_platform_concerned(entry);
        renew(RenewAt::NextAttempt { is_global }).await
    }

    /// Asks for newer settings after `entry` failed for good, where another entry is to be tried, or newer settings may mend
    /// that it refused.
    pub(super) async fn after(
        &mut self,
        entry: &ChainEntry,
        error: &ProviderError,
        is_over: bool,
        run: &Run,
        renew: &Renew<'_>,
    ) -> Heading {
        let is_global = self.is_platform_concerned(entry);
        let at = if is_refusal(error) {
            RenewAt::Refused { is_global }
        } else if is_over || self.order.is_empty() {
            return Heading::Same;
        } else {
            RenewAt::NextAttempt { is_global }
        };
        let renewal = renew(at).await;
        self.adopt(renewal, Some(entry), run)
    }

    fn is_platform_concerned(&self, entry: &ChainEntry) -> bool {
        self.is_platform_checked || entry.position.is_global()
    }

    /// Goes by newer settings. What `failed` by the old ones is tried by the new ones first, where they have it: what it
    /// answered says nothing of them. An entry that may have taken the message is not tried again.
    pub(super) fn adopt(
        &mut self,
        renewal: Renewal,
        failed: Option<&ChainEntry>,
        run: &Run,
    ) -> Heading {
        match renewal {
            Renewal::Unchanged => Heading::Same,
            Renewal::Unreadable => Heading::Over(ChainEnd::SettingsUnreadable),
            Renewal::Newer(newer) if run.is_held(&newer) => Heading::Over(ChainEnd::Held),
            Renewal::Newer(_) if self.renewals >= MAX_RENEWALS => {
                Heading::Over(ChainEnd::SettingsUnreadable)
            }
            Renewal::Newer(newer) => {
                self.renewals += 1;
                let (old, attempts) = (&self.chain, &run.attempts);
                self.order =
                    AttemptOrder::after_renewal(&newer, old, self.is_queued, failed, attempts);
                self.chain = newer;
                self.may_use_global = None;
                Heading::Changed
            }
        }
    }
}

/// Whether an entry refused to serve its tenant, which newer settings may change: it is down for the tenant, or refused
/// its login.
fn is_refusal(error: &ProviderError) -> bool {
    match error.disposition {
        Disposition::ProviderDown => true,
        Disposition::Transient => error.kind == ErrorKind::Unauthenticated,
        Disposition::Ambiguous | Disposition::Final => false,
    }
}
