//! In which order the entries of a chain are tried, and which are left out.

use std::collections::VecDeque;

use comms_core::{Attempt, AttemptOutcome, Disposition, SkippedEntry};

use super::{Chain, ChainEnd, ChainEntry};
use crate::health::Turn;

/// The entries still to be tried, in the order in which they are: those that are down come last.
pub(super) struct Turns {
    order: VecDeque<(usize, Turn)>,
    /// Entries that refuse their credentials, where no caller waits.
    left_out: Vec<usize>,
}

impl Turns {
    pub(super) fn of(
        chain: &Chain,
        is_queued: bool,
        is_wanted: impl Fn(&ChainEntry) -> bool,
    ) -> Self {
        let (mut order, mut down) = (VecDeque::new(), VecDeque::new());
        let mut left_out = Vec::new();
        for (index, entry) in chain.entries.iter().enumerate() {
            if is_wanted(entry) {
                match entry.health.turn() {
                    Turn::Refused if is_queued => left_out.push(index),
                    turn @ (Turn::Last | Turn::Refused) => down.push_back((index, turn)),
                    turn @ (Turn::InPlace | Turn::Probe(_)) => order.push_back((index, turn)),
                }
            }
        }
        order.append(&mut down);
        Self { order, left_out }
    }

    /// In newer settings: those that were not tried; where the tenant's own may have moved, those of its entries as well
    /// that could not be reached by the old ones. Nothing of that message is there.
    pub(super) fn untried(
        newer: &Chain,
        is_queued: bool,
        has_own_moved: bool,
        attempts: &[Attempt],
    ) -> Self {
        let is_over = |attempt: &Attempt| match &attempt.outcome {
            AttemptOutcome::Accepted { .. } => true,
            AttemptOutcome::Failed { disposition, .. } => match disposition {
                Disposition::Transient => !has_own_moved || attempt.position.is_global(),
                Disposition::ProviderDown | Disposition::Ambiguous | Disposition::Final => true,
            },
        };
        Self::of(newer, is_queued, |entry| {
            let mut of_entry = attempts
                .iter()
                .filter(|attempt| entry.is_at(&attempt.entry, attempt.position));
            !of_entry.any(is_over)
        })
    }

    /// In newer settings: the entry that was refused once more, where it is still there, then those
    /// that were not tried by them.
    pub(super) fn after_renewal(
        newer: &Chain,
        is_queued: bool,
        refused: &ChainEntry,
        attempts: &[Attempt],
    ) -> Self {
        let is_refused = |entry: &ChainEntry| entry.is_at(&refused.id, refused.position);
        let mut turns = Self::untried(newer, is_queued, !refused.position.is_global(), attempts);
        if let Some(again) = newer.entries.iter().position(is_refused) {
            turns.order.retain(|(index, _)| *index != again);
            turns.order.push_front((again, Turn::InPlace));
        }
        turns
    }

    /// The next entry, with its place in the chain.
    pub(super) fn next_of<'a>(
        &mut self,
        chain: &'a Chain,
    ) -> Option<(usize, &'a ChainEntry, Turn)> {
        let (index, turn) = self.order.pop_front()?;
        Some((index, chain.entries.get(index)?, turn))
    }

    /// Lets the entry at `index`, whose probe another process makes, come after all others or not at all.
    pub(super) fn put_off(&mut self, index: usize, is_queued: bool) {
        if is_queued {
            self.left_out.push(index);
        } else {
            self.order.push_back((index, Turn::Refused));
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
        let put_behind = self.order.iter().filter(|(index, turn)| {
            matches!(turn, Turn::Last | Turn::Refused) && is_before_last(*index)
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
