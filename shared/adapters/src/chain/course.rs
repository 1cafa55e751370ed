//! The chain that a run goes by, which newer settings may replace on the way, and the entries left in it.

use std::{sync::Arc, time::Duration};

use comms_core::{Disposition, ErrorKind, ProviderError};

use super::{
    Chain, ChainEnd, ChainEntry,
    attempt_order::AttemptOrder,
    renewal::{Renew, RenewAt, Renewal},
    run::Run,
};
use crate::{message::Message, rate_limiter::RateLimiter};

/// How often newer settings are adopted for one message. Each time somebody has saved meanwhile; what is saved more often
/// than that returns to the queue.
const MAX_RENEWALS: u8 = 8;

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
