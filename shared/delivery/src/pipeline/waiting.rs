//! Waiting for a provider that refuses its clinic until people mend something: a password, a bill, a sender's identity.
//!
//! A queued delivery waits for 24 hours from its first refusal, or until it expires. The next look is an eighth of what it
//! has waited away, between one minute and half an hour: a password that is corrected after an hour counts within eight
//! minutes, and a whole day takes some seventy receives of the ninety that a message has. While every entry is known to be
//! down and is not to be probed, a look makes no attempt: a mailbox with a wrong password is not tried by every message
//! (`infra/docs/adr/0023-waiting-for-people.md`).

use std::time::Duration;

use comms_adapters::{ChainReport, retry::jitter};
use comms_core::{
    AttemptOutcome, DeliveryStatus, Disposition, EntryId, ErrorKind, WaitReason, Waiting,
    request::PlannedDelivery,
};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::{Limits, Patience, Pipeline, chains::ResolvedChain, delivering::address_hash};
use crate::ledger::{Outcome, Past, RequestRecord};

/// How long a delivery waits for a provider that people have to mend.
const MAX_PROVIDER_WAIT: SignedDuration = SignedDuration::from_hours(24);
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
    pub(super) fn outcome(self, past: Past) -> Outcome {
        Outcome {
            status: DeliveryStatus::Queued,
            receipt: None,
            reason: None,
            possible_duplicate: past.possible_duplicate,
            attempts: past.attempts,
            not_before: Some(self.until),
            waiting: Some(self.waiting),
            via: None,
            skipped: Vec::new(),
        }
    }
}

/// The time until the next look at a delivery that has waited for `waited`, up to a quarter longer by `jitter`.
fn retry_interval(waited: Duration, jitter: f64) -> Duration {
    let interval = (waited / WAITED_PARTS).clamp(MIN_RETRY_INTERVAL, MAX_RETRY_INTERVAL);
    interval.mul_f64(1.0 + jitter / 4.0)
}

/// What the first entry said that refuses its tenant for something that people can mend.
fn mendable(report: &ChainReport) -> Option<(ErrorKind, EntryId)> {
    report.attempts.iter().find_map(|attempt| {
        let AttemptOutcome::Failed {
            disposition, kind, ..
        } = &attempt.outcome
        else {
            return None;
        };
        let is_mendable = *disposition == Disposition::ProviderDown && kind.is_mendable();
        is_mendable.then(|| (*kind, attempt.entry.clone()))
    })
}

impl Pipeline {
    /// How a delivery waits that all providers failed; `None` where nobody can mend that, or it has waited for long enough.
    pub(super) fn provider_wait(
        &self,
        report: &ChainReport,
        past: &Past,
        limits: Limits<'_>,
    ) -> Option<ProviderWait> {
        let (kind, entry) = mendable(report)?;
        let until = if let Some(Waiting {
            reason: WaitReason::Provider { until, .. },
            ..
        }) = &past.waiting
        {
            *until
        } else {
            let end = self.clock.now().saturating_add(MAX_PROVIDER_WAIT);
            end.unwrap_or(Timestamp::MAX)
        };
        let reason = WaitReason::Provider { kind, entry, until };
        let waiting = Waiting::after(past.waiting.as_ref(), reason, self.clock.now());
        self.wait_on(waiting, until, report.retry_after, limits)
    }

    /// How a delivery goes on waiting without an attempt: every provider is known to refuse the clinic by the settings that
    /// there are, and none is to be probed.
    pub(super) fn wait_without_trying(
        &self,
        chain: &ResolvedChain,
        past: &Past,
        limits: Limits<'_>,
    ) -> Option<ProviderWait> {
        let waiting = past.waiting.clone()?;
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
        if limits.patience == Patience::GiveUp || until <= now {
            return None;
        }
        // `until` is as far from the first refusal, whatever has changed since.
        let waited = MAX_PROVIDER_WAIT - until.duration_since(now);
        let waited = Duration::try_from(waited).unwrap_or_default();
        let after = retry_interval(waited, jitter()).max(asked.unwrap_or_default());
        let after = self.before_expiry(after.min(self.time_until(until)), limits);
        if self.has_waited_enough(after, limits) {
            return None;
        }
        let until = now.saturating_add(after).unwrap_or(until);
        Some(ProviderWait { waiting, until })
    }

    /// Notes in the ledger that a delivery waits for a quota, when the queue brings it first: one write more for each of
    /// those, and none when it comes again.
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
    use crate::quota::MOST_RECEIVES;

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
        assert!(looks + 10 < MOST_RECEIVES);
    }

    #[test]
    fn a_correction_counts_after_an_eighth_of_the_time_that_it_took() {
        let interval = |minutes| retry_interval(Duration::from_mins(minutes), 0.0).as_secs();
        let found = [0, 8, 16, 60, 240, 1_440].map(interval);
        assert_eq!(found, [60, 60, 120, 450, 1_800, 1_800]);
        let longest = retry_interval(Duration::from_hours(24), 1.0);
        assert_eq!(longest, Duration::from_secs(2_250));
    }
}
