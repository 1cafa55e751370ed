//! The attempts of one delivery, and what they come to.

use std::{pin::Pin, time::Duration};

use comms_adapters::{
    ChainEnd, ChainReport, Message,
    chain::{AmbiguityPolicy, RenewAt, Renewal},
    deadline::MIN_ATTEMPT_DURATION,
};
use comms_core::backoff::jitter;
use comms_core::{
    Attempt, AttemptOutcome, DeliveryStatus, Disposition, FailureReason, WaitReason, Waiting,
};
use jiff::Timestamp;

use super::{
    Limits, OnExhausted, Pipeline, Requeue, chains::ResolvedChain, freshness::Freshness,
    probes::ProbeGate, time_limits::RECORDING_MARGIN, waiting,
};
use crate::{
    allowance::{Allowance, Reached},
    deferral::{self, MAX_DEFERRALS},
    ledger::{DeliveryHistory, Outcome},
    rate_limit,
};

/// Takeovers of a delivery whose owners recorded no outcome. The delivery itself may crash its workers.
const MAX_TAKEOVERS: u32 = 3;

/// What became of a delivery, and why it is given back where it is.
pub(super) struct Attempted {
    pub(super) outcome: Outcome,
    pub(super) returned: Option<Requeue>,
}

impl From<Outcome> for Attempted {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            returned: None,
        }
    }
}

impl Attempted {
    /// Whether its attempts may have reached anybody. A delivery waits for people only where they did not.
    const fn reached(&self) -> Reached {
        match self.outcome.waiting {
            Some(Waiting {
                reason: WaitReason::Provider { .. },
                ..
            }) => Reached::Nobody,
            Some(_) | None => Reached::Perhaps,
        }
    }
}

impl Pipeline {
    /// The message, or the outcome of what is not to be sent; `is_refused` where there is no quota for it, and was
    /// none for long enough.
    pub(super) fn settled_before_sending(
        &self,
        chain: &ResolvedChain,
        message: Option<Message>,
        limits: Limits<'_>,
        history: &DeliveryHistory,
        is_refused: bool,
    ) -> Result<Message, Box<Outcome>> {
        let ended = |status, reason| {
            Box::new(Outcome {
                reason: Some(reason),
                // Nothing was sent here.
                possible_duplicate: copies_of_earlier_owners(history, chain) > 1,
                attempts: history.attempts.clone(),
                ..Outcome::new(status)
            })
        };
        let Some(message) = message else {
            return Err(ended(DeliveryStatus::Failed, FailureReason::NoAddress));
        };
        let unknown = || ended(DeliveryStatus::Unknown, FailureReason::OutcomeUnknown);
        // An earlier owner may have sent it: the tenant's policy says whether that is risked again, and
        // it is not risked without end.
        let may_be_risked = match chain.chain.on_ambiguous {
            AmbiguityPolicy::Failover => history.takeovers <= MAX_TAKEOVERS,
            AmbiguityPolicy::Hold => false,
        };
        if history.possible_duplicate && !may_be_risked {
            return Err(unknown());
        }
        let without_sending = if self.is_expired(limits) {
            Some((DeliveryStatus::Expired, FailureReason::Expired))
        } else if is_refused {
            Some((DeliveryStatus::Failed, FailureReason::QuotaExceeded))
        } else {
            None
        };
        if let Some((status, reason)) = without_sending {
            // What may have been sent before has not simply expired or failed.
            return Err(if history.possible_duplicate {
                unknown()
            } else {
                ended(status, reason)
            });
        }
        Ok(message)
    }

    /// Sends a delivery through its chain, and once more through a newer one before it fails because of old settings.
    pub(super) async fn attempt(
        &self,
        fresh: &Freshness<'_>,
        message: Option<Message>,
        limits: Limits<'_>,
        history: DeliveryHistory,
        is_refused: bool,
        allowance: &mut Allowance<'_>,
    ) -> Attempted {
        let chain = fresh.current();
        let message = self.settled_before_sending(&chain, message, limits, &history, is_refused);
        let message = match message {
            Ok(message) => message,
            Err(outcome) => return Attempted::from(*outcome),
        };
        // From here on it may be used, whatever becomes of this process.
        if let Some(wait) = self.wait_without_trying(&chain, &history, limits) {
            return Attempted::from(wait.outcome(history));
        }
        let grant = allowance.start();
        let report = Box::pin(self.run(fresh, &message, limits, allowance)).await;
        let attempted = self.judge(&report, limits, &history, &chain, allowance);
        allowance.finish(grant, &report.attempts, attempted.reached());
        if attempted.outcome.status != DeliveryStatus::Failed {
            return attempted;
        }
        let again = match fresh.before_failure(allowance).await {
            Renewal::Unchanged => return attempted,
            Renewal::Unreadable => report.ending(ChainEnd::SettingsUnreadable),
            Renewal::Newer(_)
                if limits.deadline.less(RECORDING_MARGIN).remaining() < MIN_ATTEMPT_DURATION =>
            {
                report.ending(ChainEnd::SettingsUnreadable)
            }
            Renewal::Newer(_) => {
                // Nothing was accepted that waits for its record.
                allowance.connection().publish(&chain.chain).await;
                let grant = allowance.start();
                let second = Box::pin(self.run(fresh, &message, limits, allowance)).await;
                let report = report.followed_by(second);
                let attempted = self.judge(&report, limits, &history, &chain, allowance);
                allowance.finish(grant, &report.attempts, attempted.reached());
                return attempted;
            }
        };
        self.judge(&again, limits, &history, &chain, allowance)
    }

    /// One run through the chain that is the last one known.
    async fn run(
        &self,
        fresh: &Freshness<'_>,
        message: &Message,
        limits: Limits<'_>,
        allowance: &Allowance<'_>,
    ) -> ChainReport {
        let renew = |at: RenewAt| -> Pin<Box<dyn Future<Output = Renewal> + Send + '_>> {
            Box::pin(fresh.renewal(at, allowance))
        };
        let deadline = limits.deadline.less(RECORDING_MARGIN);
        let chain = fresh.current();
        let gate = ProbeGate::new(allowance, fresh);
        let sending = chain.chain.send(message, deadline, &renew, &gate);
        Box::pin(allowance.connection().watch(sending)).await
    }

    /// What a run through the chain comes to for a delivery with this past.
    fn judge(
        &self,
        report: &ChainReport,
        limits: Limits<'_>,
        history: &DeliveryHistory,
        chain: &ResolvedChain,
        allowance: &Allowance<'_>,
    ) -> Attempted {
        // An entry without a connection may have one soon.
        let may_pass = may_pass(report) || report.no_connection.is_some();
        let mut attempts = history.attempts.clone();
        Attempt::remember(&mut attempts, report.attempts.clone());
        // An earlier owner that did not record its outcome counts as one attempt of unknown outcome.
        let earlier = history.takeovers.max(u32::from(history.possible_duplicate));
        let earlier = usize::try_from(earlier).unwrap_or(usize::MAX);
        let unknown_outcomes = report.unknown_outcomes.saturating_add(earlier);
        // Where the platform's quota is used up, the clinic's own provider may be mended sooner.
        let for_people = matches!(report.end, ChainEnd::AllFailed | ChainEnd::GlobalRefused)
            && unknown_outcomes == 0
            && report.no_connection.is_none()
            && waiting::is_for_people(report);
        // A wait for people that is over is not followed by deferrals.
        let may_requeue = limits.on_exhausted == OnExhausted::Requeue
            && history.deferrals < MAX_DEFERRALS
            && !for_people
            && !self.has_waited_enough(Duration::ZERO, limits);
        let mut outcome = Outcome {
            possible_duplicate: unknown_outcomes > 1
                || copies_of_earlier_owners(history, chain) > 1,
            attempts,
            skipped: Some(report.skipped.clone()),
            ..Outcome::new(DeliveryStatus::Failed)
        };
        if for_people && let Some(wait) = self.provider_wait(report, history, limits) {
            outcome.status = DeliveryStatus::Queued;
            outcome.not_before = Some(wait.until);
            outcome.waiting = Some(wait.waiting);
            return outcome.into();
        }
        let mut returned = None;
        let unknown = (DeliveryStatus::Unknown, Some(FailureReason::OutcomeUnknown));
        match &report.end {
            ChainEnd::Paced { after } => {
                let after = *after;
                returned = self.wait_for_admission(after, limits, unknown_outcomes, &mut outcome);
                if returned.is_some() {
                    let (before, now) = (history.waiting.as_ref(), self.clock.now());
                    outcome.waiting = Some(Waiting::after(before, WaitReason::Pacing, now));
                }
            }
            ChainEnd::NoConnection { after } => {
                returned = self.wait_for_connection(*after, limits, unknown_outcomes, &mut outcome);
            }
            ChainEnd::Sent { provider, receipt } => {
                outcome.status = DeliveryStatus::Sent;
                outcome.receipt = Some((*provider, receipt.message_id.clone()));
                outcome.possible_duplicate = unknown_outcomes > 0;
            }
            // Given back; whoever claims it next has to know what may have happened.
            ChainEnd::OutOfTime if may_requeue => {
                outcome.status = DeliveryStatus::Queued;
                outcome.possible_duplicate = unknown_outcomes > 0;
                // At once, and counted, so that it ends.
                outcome.not_before = Some(self.clock.now());
            }
            ChainEnd::SettingsUnreadable => {
                outcome.status = DeliveryStatus::Queued;
                outcome.possible_duplicate = unknown_outcomes > 0;
                returned = Some(Requeue::Unreachable);
            }
            ChainEnd::Held => {
                (outcome.status, outcome.reason) = unknown;
            }
            // "Failed" would invite sending it again, and it may be there already.
            ChainEnd::Rejected
            | ChainEnd::AllFailed
            | ChainEnd::GlobalRefused
            | ChainEnd::NoProvider
            | ChainEnd::OutOfTime
                if unknown_outcomes > 0 =>
            {
                (outcome.status, outcome.reason) = unknown;
            }
            ChainEnd::Rejected => outcome.reason = Some(FailureReason::Rejected),
            // Somebody waits for the answer: the queue waits for the connection.
            ChainEnd::AllFailed | ChainEnd::GlobalRefused
                if limits.on_exhausted == OnExhausted::Fail
                    && let Some(after) = report.no_connection =>
            {
                returned = self.wait_for_connection(after, limits, unknown_outcomes, &mut outcome);
            }
            ChainEnd::AllFailed | ChainEnd::GlobalRefused if may_pass && may_requeue => {
                outcome.status = DeliveryStatus::Queued;
                outcome.not_before = Some(self.next_try(report, history, limits));
            }
            // Out of time on the last try: those that were reached failed, and no more will be.
            ChainEnd::AllFailed | ChainEnd::OutOfTime => {
                outcome.reason = Some(FailureReason::AllProvidersFailed);
            }
            ChainEnd::GlobalRefused => {
                let refusal = allowance.refusal();
                returned = refusal.and_then(|refusal| self.wait_for_quota(refusal, limits));
                match returned {
                    Some(_) => outcome.status = DeliveryStatus::Queued,
                    None => outcome.reason = Some(FailureReason::QuotaExceeded),
                }
            }
            ChainEnd::NoProvider => outcome.reason = Some(FailureReason::NoProvider),
        }
        Attempted { outcome, returned }
    }

    /// When a deferred delivery is tried again. What expires meanwhile is to be recorded as that, and then.
    fn next_try(
        &self,
        report: &ChainReport,
        history: &DeliveryHistory,
        limits: Limits<'_>,
    ) -> Timestamp {
        let wait = deferral::before_next_try(history.deferrals, report.retry_after);
        let at = self.clock.now().saturating_add(wait);
        let latest = limits.expires_at.unwrap_or(Timestamp::MAX);
        at.unwrap_or(Timestamp::MAX).min(latest)
    }

    /// What becomes of a delivery for which no provider has a turn before `after`: it waits, or has waited for
    /// long enough.
    fn wait_for_admission(
        &self,
        after: Duration,
        limits: Limits<'_>,
        unknown_outcomes: usize,
        outcome: &mut Outcome,
    ) -> Option<Requeue> {
        let after = rate_limit::wait_for(after, limits.receives(), jitter());
        let after = self.before_expiry(after, limits);
        // Who waits for the answer is told what is known.
        let is_over = unknown_outcomes > 0 && limits.on_exhausted == OnExhausted::Fail;
        if !is_over && !self.has_waited_enough(after, limits) {
            outcome.status = DeliveryStatus::Queued;
            outcome.possible_duplicate = unknown_outcomes > 0;
            return Some(Requeue::RateLimited { after });
        }
        if unknown_outcomes > 0 {
            outcome.status = DeliveryStatus::Unknown;
            outcome.reason = Some(FailureReason::OutcomeUnknown);
        } else {
            outcome.reason = Some(FailureReason::QuotaExceeded);
        }
        None
    }
}

/// How many copies the owners of before may have sent that recorded no outcome: one each, or more where an attempt of
/// unknown outcome was followed by the next provider.
fn copies_of_earlier_owners(history: &DeliveryHistory, chain: &ResolvedChain) -> usize {
    let takeovers = usize::try_from(history.takeovers).unwrap_or(usize::MAX);
    match chain.chain.on_ambiguous {
        AmbiguityPolicy::Failover => takeovers.saturating_mul(chain.chain.entries.len().max(1)),
        AmbiguityPolicy::Hold => takeovers.min(1),
    }
}

/// Whether an attempt failed for a reason that may pass by itself.
fn may_pass(report: &ChainReport) -> bool {
    report
        .attempts
        .iter()
        .any(|attempt| match &attempt.outcome {
            AttemptOutcome::Failed { disposition, .. } => *disposition == Disposition::Transient,
            AttemptOutcome::Accepted { .. } => false,
        })
}
