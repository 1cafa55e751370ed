//! An attempt in words.

use std::fmt::Write as _;

use comms_core::{Attempt, AttemptOutcome, Disposition};
use jiff::SignedDuration;

use crate::{layout::Tone, moments::duration};

/// An attempt between those before and after it.
pub(super) struct AttemptInPlace<'a> {
    pub(super) number: usize,
    pub(super) attempt: &'a Attempt,
    pub(super) before: Option<&'a Attempt>,
    pub(super) after: Option<&'a Attempt>,
}

impl AttemptInPlace<'_> {
    /// What happened, and what followed from it.
    pub(super) fn words(&self) -> (Tone, String) {
        let attempt = self.attempt;
        let length = SignedDuration::try_from(attempt.duration).unwrap_or(SignedDuration::MAX);
        let length = duration(length);
        let mut text = format!(
            "attempt {}, {} ({}): ",
            self.number,
            name(attempt),
            attempt.position
        );
        let tone = match &attempt.outcome {
            AttemptOutcome::Accepted { refused_copies } => {
                let _ = write!(text, "accepted in {length}");
                if !refused_copies.is_empty() {
                    let _ = write!(text, ", but for {} of its copies", refused_copies.len());
                }
                Tone::Good
            }
            AttemptOutcome::Failed { .. } if self.is_repeated() => {
                let _ = write!(text, "the same after {length}");
                Tone::Warning
            }
            AttemptOutcome::Failed {
                disposition,
                kind,
                code,
            } => {
                let verdict = verdict(*disposition);
                let _ = write!(text, "{verdict} after {length} ({}", kind.as_str());
                if let Some(code) = code {
                    let _ = write!(text, " {code}");
                }
                let _ = write!(text, "). {}", kind.detail_of(*disposition));
                self.write_consequence(&mut text, *disposition);
                match disposition {
                    Disposition::Transient | Disposition::Ambiguous => Tone::Warning,
                    Disposition::ProviderDown | Disposition::Final => Tone::Bad,
                }
            }
        };
        if attempt.possible_duplicate {
            text.push_str(". An earlier attempt may have been accepted: perhaps a second copy");
        }
        if attempt.reply_to_dropped {
            text.push_str(". It went without its Reply-To, which is not verified");
        }
        (tone, text)
    }

    /// Whether the attempt before had the same end at the same entry.
    fn is_repeated(&self) -> bool {
        self.before.is_some_and(|before| {
            before.outcome == self.attempt.outcome && is_same_entry(before, self.attempt)
        })
    }

    fn write_consequence(&self, text: &mut String, disposition: Disposition) {
        let next = self.after.map(|after| {
            if is_same_entry(after, self.attempt) {
                "it was tried again".to_owned()
            } else {
                format!("{} was tried", name(after))
            }
        });
        match (disposition, next) {
            (Disposition::Final, _) => text.push_str(" No other provider is tried."),
            (Disposition::Ambiguous, Some(next)) => {
                let _ = write!(text, " By the clinic's `onAmbiguous` {next}.");
            }
            (Disposition::Transient | Disposition::ProviderDown, Some(next)) => {
                let _ = write!(text, " So {next}.");
            }
            (_, None) => {}
        }
    }
}

fn name(attempt: &Attempt) -> String {
    format!("{}/{}", attempt.provider, attempt.entry)
}

fn is_same_entry(one: &Attempt, other: &Attempt) -> bool {
    one.entry == other.entry && one.position == other.position
}

const fn verdict(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Transient | Disposition::ProviderDown => "not accepted",
        Disposition::Ambiguous => "not answered",
        Disposition::Final => "refused",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use comms_core::{EntryId, ErrorKind, Position, ProviderKind};

    use super::*;

    fn failed(entry: EntryId, disposition: Disposition) -> Attempt {
        Attempt {
            provider: ProviderKind::new("smtp"),
            entry,
            position: Position::Primary,
            outcome: AttemptOutcome::Failed {
                disposition,
                kind: ErrorKind::Unavailable,
                code: None,
            },
            at: None,
            duration: Duration::from_millis(7),
            possible_duplicate: false,
            reply_to_dropped: false,
        }
    }

    fn words(before: Option<&Attempt>, attempt: &Attempt, after: Option<&Attempt>) -> String {
        let in_place = AttemptInPlace {
            number: 2,
            attempt,
            before,
            after,
        };
        in_place.words().1
    }

    #[test]
    fn an_attempt_says_what_followed_from_it() {
        let first = failed(EntryId::primary(), Disposition::Transient);
        let second = failed(EntryId::fallback(1), Disposition::Ambiguous);
        let last = failed(EntryId::fallback(1), Disposition::Final);
        for (before, attempt, after, says) in [
            (None, &first, Some(&first), " So it was tried again."),
            (
                None,
                &first,
                Some(&second),
                " So smtp/fallback-1 was tried.",
            ),
            (
                None,
                &second,
                Some(&first),
                " By the clinic's `onAmbiguous` smtp/primary was tried.",
            ),
            (None, &last, None, " No other provider is tried."),
            (
                Some(&first),
                &first,
                None,
                "attempt 2, smtp/primary (primary): the same after 7 ms",
            ),
        ] {
            let text = words(before, attempt, after);
            assert!(text.ends_with(says), "{text}");
        }
    }
}
