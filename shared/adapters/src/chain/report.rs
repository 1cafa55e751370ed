//! What became of one run of a message through a chain.

use std::time::Duration;

use comms_core::{Attempt, ProviderKind, Receipt, SkippedEntry};

/// What became of a message in one run through a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub end: ChainEnd,
    /// Attempts of which it is not known whether the provider accepted the message.
    pub unknown_outcomes: usize,
    /// After which time one of the providers that could not take it now asked to be tried again; the
    /// shortest such time.
    pub retry_after: Option<Duration>,
    /// Entries that were down and were left out: those before the last one tried, and where nobody was left to try, those
    /// that refuse their credentials.
    pub skipped: Vec<SkippedEntry>,
    /// When an entry that was left out may have a connection: its login's connections were all in use, or the server
    /// refused one for their number.
    pub no_connection: Option<Duration>,
}

impl ChainReport {
    /// The same with another end.
    #[must_use]
    pub fn ending(self, end: ChainEnd) -> Self {
        Self { end, ..self }
    }

    /// This run, and the next one of the same message.
    #[must_use]
    pub fn followed_by(mut self, next: Self) -> Self {
        self.attempts.extend(next.attempts);
        Self {
            attempts: self.attempts,
            end: next.end,
            unknown_outcomes: self.unknown_outcomes + next.unknown_outcomes,
            retry_after: next.retry_after,
            skipped: next.skipped,
            no_connection: next.no_connection,
        }
    }
}

/// How a run through the chain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEnd {
    /// A provider accepted the message.
    Sent {
        /// Which.
        provider: ProviderKind,
        /// Its receipt.
        receipt: Receipt,
    },
    /// The message or the recipient is at fault.
    Rejected,
    /// No provider is left to try.
    AllFailed,
    /// It is not known whether the last provider accepted the message, and the tenant wants at most
    /// one copy.
    Held,
    /// There was nobody to try.
    NoProvider,
    /// The deadline came before the next provider could be tried.
    OutOfTime,
    /// The next provider takes no more for now, as far as is known here; it was not asked, and neither was
    /// anybody after it: a campaign does not change its sender because it is large.
    Paced {
        /// The time after which asking again makes sense.
        after: Duration,
    },
    /// All connections of a login are in use, and the message waits for one.
    NoConnection {
        /// The time after which asking again makes sense.
        after: Duration,
    },
    /// The platform's account was not allowed to send, and nobody else did.
    GlobalRefused,
    /// The settings have changed, or may have, and cannot be read: nothing goes out by what they were.
    SettingsUnreadable,
}
