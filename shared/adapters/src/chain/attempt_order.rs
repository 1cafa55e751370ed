//! In which order the entries of a chain are tried, and which are left out.

use std::{collections::VecDeque, sync::Arc};

use comms_core::{Attempt, AttemptOutcome, Disposition, SkippedEntry};

use super::{Chain, ChainEnd, ChainEntry};
use crate::health::Candidate;

/// The entries still to be tried, in the order in which they are: those that are down come last.
pub(super) struct AttemptOrder {
    order: VecDeque<(usize, Candidate)>,
    /// Entries that refuse their credentials, where no caller waits.
    left_out: Vec<usize>,
}

impl AttemptOrder {
    pub(super) fn of(
        chain: &Chain,
        is_queued: bool,
        is_wanted: impl Fn(&ChainEntry) -> bool,
    ) -> Self {
        let (mut order, mut down) = (VecDeque::new(), VecDeque::new());
        let mut left_out = Vec::new();
        for (index, entry) in chain.entries.iter().enumerate() {
            if is_wanted(entry) {
                match entry.health.candidate() {
                    Candidate::Refused if is_queued => left_out.push(index),
                    candidate @ (Candidate::Last | Candidate::Refused) => {
                        down.push_back((index, candidate));
                    }
                    candidate @ (Candidate::InPlace | Candidate::Probe(_)) => {
                        order.push_back((index, candidate));
                    }
                }
            }
        }
        order.append(&mut down);
        Self { order, left_out }
    }

    /// In newer settings than those of the chain `old`: the entry that failed last once more, where it is still there, then
    /// those that were not tried, and those that could not be reached by settings that have moved since. Nothing of the
    /// message is there. One that may have taken the message is not tried again.
    pub(super) fn after_renewal(
        newer: &Chain,
        old: &Chain,
        is_queued: bool,
        failed: Option<&ChainEntry>,
        attempts: &[Attempt],
    ) -> Self {
        let has_moved = |entry: &ChainEntry| {
            // What was built from the same version is the same.
            let is_same = |known: &ChainEntry| Arc::ptr_eq(&known.provider, &entry.provider);
            !old.entries.iter().any(is_same)
        };
        let has_had = |entry: &ChainEntry, is_meant: &dyn Fn(Disposition) -> bool| {
            attempts.iter().any(|attempt| match &attempt.outcome {
                AttemptOutcome::Failed { disposition, .. } => {
                    is_meant(*disposition) && entry.is_at(&attempt.entry, attempt.position)
                }
                AttemptOutcome::Accepted { .. } => false,
            })
        };
        let mut order = Self::of(newer, is_queued, |entry| {
            !has_had(entry, &|disposition| match disposition {
                Disposition::Transient => !has_moved(entry),
                Disposition::ProviderDown | Disposition::Ambiguous | Disposition::Final => true,
            })
        });
        let is_failed = |entry: &ChainEntry| {
            failed.is_some_and(|failed| entry.is_at(&failed.id, failed.position))
                && !has_had(entry, &|disposition| disposition == Disposition::Ambiguous)
        };
        if let Some(again) = newer.entries.iter().position(is_failed) {
            order.order.retain(|(index, _)| *index != again);
            order.left_out.retain(|index| *index != again);
            order.order.push_front((again, Candidate::InPlace));
        }
        order
    }

    /// The next entry, with its place in the chain.
    pub(super) fn next_of<'a>(
        &mut self,
        chain: &'a Chain,
    ) -> Option<(usize, &'a ChainEntry, Candidate)> {
        let (index, candidate) = self.order.pop_front()?;
        Some((index, chain.entries.get(index)?, candidate))
    }

    /// Lets the entry at `index`, whose probe another process makes, come after all others or not at all.
    pub(super) fn defer(&mut self, index: usize, is_queued: bool) {
        if is_queued {
            self.left_out.push(index);
        } else {
            self.order.push_back((index, Candidate::Refused));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn has_left_out(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// Those that were down and not tried, of a run that ended with `last` and so: those that stand before the last one
    /// tried and were put behind it or left out, and where nobody was left to try, all that were left out.
    pub(super) fn skipped(
        &self,
        chain: &Chain,
        last: Option<&Attempt>,
        end: &ChainEnd,
    ) -> Vec<SkippedEntry> {
        let last = last.and_then(|last| {
            let mut entries = chain.entries.iter();
            entries.position(|entry| entry.is_at(&last.entry, last.position))
        });
        let is_before_last = |index: usize| last.is_some_and(|last| index < last);
        let is_exhausted = matches!(end, ChainEnd::AllFailed | ChainEnd::GlobalRefused);
        let put_behind = self.order.iter().filter(|(index, candidate)| {
            matches!(candidate, Candidate::Last | Candidate::Refused) && is_before_last(*index)
        });
        let left_out = self.left_out.iter().copied();
        let left_out = left_out.filter(|index| is_exhausted || is_before_last(*index));
        let mut skipped: Vec<_> = put_behind
            .map(|(index, _)| *index)
            .chain(left_out)
            .collect();
        skipped.sort_unstable();
        let entries = skipped
            .into_iter()
            .filter_map(|index| chain.entries.get(index));
        let skipped = entries.filter_map(|entry| {
            let down = entry.health.down()?;
            Some(SkippedEntry {
                provider: entry.provider.kind(),
                entry: entry.id.clone(),
                position: entry.position,
                since: down.since,
                last_error: down.last_error,
            })
        });
        skipped.collect()
    }
}
