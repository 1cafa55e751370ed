//! Waiting for a provider that refuses its clinic until people mend something: a password, a bill, a sender's identity.
//!
//! A queued delivery waits for 24 hours from its first refusal, or until it expires. The next look is an eighth of what it
//! has waited away, between one minute and half an hour: a password that is corrected after an hour counts within eight
//! minutes, and a whole day takes some seventy receives of the ninety that a message has. While every entry is known to be
//! down and is not to be probed, a look makes no attempt: a mailbox with a wrong password is not tried by every message
//! (`infra/docs/adr/0023-waiting-for-people.md`).

use std::time::Duration;

use comms_adapters::ChainReport;
use comms_core::backoff::jitter;
use comms_core::{
    Attempt, AttemptOutcome, DeliveryStatus, Disposition, EntryId, ErrorKind, Position, WaitReason,
    Waiting,
    request::{PlannedDelivery, Priority},
};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::{Limits, OnExhausted, Pipeline, address_hash::address_hash, chains::ResolvedChain};
use crate::ledger::{DeliveryHistory, Outcome, RequestRecord};

/// How long a delivery waits for a provider that people have to mend.
const MAX_PROVIDER_WAIT: SignedDuration = SignedDuration::from_hours(24);
/// How long a critical one waits that has no `expiresAt`: a one-time code of yesterday misleads.
const MAX_CRITICAL_WAIT: SignedDuration = SignedDuration::from_hours(1);
const MIN_RETRY_INTERVAL: Duration = Duration::from_mins(1);
const MAX_RETRY_INTERVAL: Duration = Duration::from_mins(30);
/// Which part of the time that it has waited a delivery waits for the next look.
const WAITED_PARTS: u32 = 8;
/// The longest that noting what a delivery waits for may take.
const NOTE_TIMEOUT: Duration = Duration::from_millis(500);

/// A wait for a provider.
pub(super) struct ProviderWait {
    pub(super) waiting: Waiting,
    /// When it is looked at again.
    pub(super) until: Timestamp,
}

impl ProviderWait {
    /// Gives back a delivery that was not tried.
    pub(super) fn outcome(self, history: DeliveryHistory) -> Outcome {
        Outcome {
            possible_duplicate: history.possible_duplicate,
            attempts: history.attempts,
            not_before: Some(self.until),
            waiting: Some(self.waiting),
            ..Outcome::new(DeliveryStatus::Queued)
        }
    }
}

/// The time until the next look at a delivery that has waited for `waited`, up to a quarter longer by `jitter`.
fn retry_interval(waited: Duration, jitter: f64) -> Duration {
    let interval = (waited / WAITED_PARTS).clamp(MIN_RETRY_INTERVAL, MAX_RETRY_INTERVAL);
    interval.mul_f64(1.0 + jitter / 4.0)
}

/// How long a delivery of this priority waits from its first refusal on.
fn longest_wait(priority: Priority, expires_at: Option<Timestamp>) -> SignedDuration {
    match (priority, expires_at) {
        (Priority::Critical, None) => MAX_CRITICAL_WAIT,
        (Priority::Critical, Some(_)) | (Priority::Low | Priority::Normal | Priority::High, _) => {
            MAX_PROVIDER_WAIT
        }
    }
}

/// What the first entry said that refuses its tenant for something that people can mend: in this run, or before, where it was
/// left out for that.
fn mendable(report: &ChainReport) -> Option<(ErrorKind, EntryId, Position)> {
    let mut skipped = report.skipped.iter();
    let tried = report.attempts.iter().find_map(|attempt| {
        let kind = mendable_kind(attempt)?;
        Some((kind, attempt.entry.clone(), attempt.position))
    });
    tried.or_else(|| {
        skipped.find_map(|skipped| {
            let kind = skipped.last_error.filter(|kind| kind.is_mendable())?;
            Some((kind, skipped.entry.clone(), skipped.position))
        })
    })
}

fn mendable_kind(attempt: &Attempt) -> Option<ErrorKind> {
    match &attempt.outcome {
        AttemptOutcome::Failed {
            disposition: Disposition::ProviderDown,
            kind,
            ..
        } if kind.is_mendable() => Some(*kind),
        AttemptOutcome::Failed { .. } | AttemptOutcome::Accepted { .. } => None,
    }
}

/// Whether people can mend what ended this run.
pub(super) fn is_for_people(report: &ChainReport) -> bool {
    mendable(report).is_some()
}

/// When the first of the remembered attempts was refused for something that people can mend.
fn first_refusal(attempts: &[Attempt]) -> Option<Timestamp> {
    let mut refusals = attempts.iter().filter(|one| mendable_kind(one).is_some());
    refusals.find_map(|attempt| attempt.at)
}

/// The time until the next look, where a provider asked to be left alone for `asked`.
fn next_look(waited: Duration, asked: Option<Duration>, jitter: f64) -> Duration {
    // Whoever mends the settings does not wait for what a provider asked by the old ones.
    let asked = asked.unwrap_or_default().min(MAX_RETRY_INTERVAL);
    retry_interval(waited, jitter).max(asked)
}

impl Pipeline {
    /// How a delivery waits after all providers failed; `None` if no person can fix that, or it has waited as long as it may.
    pub(super) fn provider_wait(
        &self,
        report: &ChainReport,
        history: &DeliveryHistory,
        limits: Limits<'_>,
    ) -> Option<ProviderWait> {
        let (kind, entry, position) = mendable(report)?;
        let until = if let Some(Waiting {
            reason: WaitReason::Provider { until, .. },
            ..
        }) = &history.waiting
        {
            *until
        } else {
            // Another wait may have come between.
            let first = first_refusal(&history.attempts).unwrap_or_else(|| self.clock.now());
            let end = first.saturating_add(longest_wait(limits.priority, limits.expires_at));
            let latest = limits.expires_at.unwrap_or(Timestamp::MAX);
            end.unwrap_or(Timestamp::MAX).min(latest)
        };
        let reason = WaitReason::Provider {
            kind,
            entry,
            position: Some(position),
            until,
        };
        let waiting = Waiting::after(history.waiting.as_ref(), reason, self.clock.now());
        self.wait_on(waiting, until, report.retry_after, limits)
    }

    /// How a delivery goes on waiting without an attempt: every provider is known to refuse the clinic by the settings that
    /// there are, and none is to be probed.
    pub(super) fn wait_without_trying(
        &self,
        chain: &ResolvedChain,
        history: &DeliveryHistory,
        limits: Limits<'_>,
    ) -> Option<ProviderWait> {
        let waiting = history.waiting.clone()?;
        let WaitReason::Provider { until, .. } = waiting.reason else {
            return None;
        };
        if !chain.chain.is_down() {
            return None;
        }
        self.wait_on(waiting, until, None, limits)
    }

    fn wait_on(
        &self,
        waiting: Waiting,
        until: Timestamp,
        asked: Option<Duration>,
        limits: Limits<'_>,
    ) -> Option<ProviderWait> {
        let now = self.clock.now();
        // The last look is when the time is up, and fails.
        if limits.on_exhausted == OnExhausted::Fail || until <= now {
            return None;
        }
        let waited = if limits.expires_at.is_some_and(|at| at <= until) {
            // It ends with the message, however long it has waited.
            now.duration_since(waiting.since)
        } else {
            // `until` is as far from the first refusal, whatever has changed since.
            longest_wait(limits.priority, limits.expires_at) - until.duration_since(now)
        };
        let waited = Duration::try_from(waited).unwrap_or_default();
        let after = next_look(waited, asked, jitter());
        let after = self.before_expiry(after.min(self.time_until(until)), limits);
        if self.has_waited_enough(after, limits) {
            return None;
        }
        let until = now.saturating_add(after).unwrap_or(until);
        Some(ProviderWait { waiting, until })
    }

    /// Notes in the ledger that a delivery waits for a quota, when the queue brings it first: one write more for each of
    /// those, and none when the queue delivers it again.
    pub(super) async fn note_quota_wait(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        limits: Limits<'_>,
    ) {
        if limits.queue.is_none() || limits.receives() > 1 {
            return;
        }
        let Ok(hash) = self.hash_keys.get().await else {
            return;
        };
        let now = self.clock.now();
        let waiting = Waiting::after(None, WaitReason::Quota, now);
        let address_hash = address_hash(hash, planned);
        let note = self
            .ledger
            .note_waiting(record, planned, &address_hash, &waiting, now);
        match limits.deadline.bound(NOTE_TIMEOUT, note).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "what a delivery waits for was not noted"),
            Err(_) => warn!("what a delivery waits for was not noted in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Requeue, next_receive, quota::MAX_RECEIVES};

    #[test]
    fn a_day_of_waiting_is_fewer_receives_than_a_message_has() {
        let day = Duration::try_from(MAX_PROVIDER_WAIT).unwrap();
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        while waited < day {
            waited += retry_interval(waited, 0.0);
            looks += 1;
        }
        assert_eq!(looks, 77);
        // What a delivery waited for before, a quota for instance, has some receives as well.
        assert!(looks + 10 < MAX_RECEIVES);
    }

    #[test]
    fn a_correction_counts_after_an_eighth_of_the_time_that_it_took() {
        let interval = |minutes| retry_interval(Duration::from_mins(minutes), 0.0).as_secs();
        let found = [0, 8, 16, 60, 240, 1_440].map(interval);
        assert_eq!(found, [60, 60, 120, 450, 1_800, 1_800]);
        let longest = retry_interval(Duration::from_hours(24), 1.0);
        assert_eq!(longest, Duration::from_secs(2_250));
    }

    #[test]
    fn what_a_provider_asks_for_does_not_hold_up_a_correction() {
        let day = Some(Duration::from_hours(24));
        assert_eq!(next_look(Duration::ZERO, day, 0.0), MAX_RETRY_INTERVAL);
    }

    #[test]
    fn a_critical_message_without_expiry_waits_for_an_hour() {
        let expires_at = Some(Timestamp::UNIX_EPOCH);
        let critical = |expires_at| longest_wait(Priority::Critical, expires_at);
        assert_eq!(critical(None), MAX_CRITICAL_WAIT);
        assert_eq!(critical(expires_at), MAX_PROVIDER_WAIT);
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            assert_eq!(longest_wait(priority, None), MAX_PROVIDER_WAIT);
        }
    }

    #[test]
    fn a_wait_that_another_came_between_began_with_the_first_refusal() {
        let attempt = |second, disposition, kind| Attempt {
            provider: comms_core::ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position: comms_core::Position::Primary,
            outcome: AttemptOutcome::Failed {
                disposition,
                kind,
                code: None,
            },
            at: Timestamp::from_second(second).ok(),
            duration: Duration::ZERO,
            possible_duplicate: false,
            reply_to_dropped: false,
        };
        let attempts = [
            attempt(1, Disposition::Transient, ErrorKind::Timeout),
            attempt(5, Disposition::ProviderDown, ErrorKind::Unauthenticated),
            attempt(9, Disposition::ProviderDown, ErrorKind::Unauthenticated),
        ];
        assert_eq!(first_refusal(&attempts), Timestamp::from_second(5).ok());
        assert_eq!(first_refusal(&attempts[..1]), None);
    }

    #[test]
    fn a_day_of_many_deliveries_is_fewer_receives_than_a_message_has() {
        let day = Duration::try_from(MAX_PROVIDER_WAIT).unwrap();
        for deliveries in [1, 2, 10, 50] {
            let mut due = vec![Duration::ZERO; deliveries];
            let (mut now, mut receives) = (Duration::ZERO, 0);
            while now < day {
                receives += 1;
                for due in due.iter_mut().filter(|due| **due <= now) {
                    *due = now + next_look(now, None, jitter());
                }
                let waits = due.iter().map(|due| Requeue::WaitingForProvider {
                    after: due.saturating_sub(now),
                });
                now += next_receive(waits, receives).unwrap();
            }
            assert!(receives < MAX_RECEIVES, "{deliveries}: {receives}");
        }
    }
}
