//! What is known of one tenant, and for whom it is an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::{MAX_AGE, Moment, Snapshot};
use crate::store::{Loaded, Numbered, StoreError};

/// How sure a caller wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Whatever is remembered, unless it is known to be replaced.
    Remembered,
    /// Remembered settings whose version was read after the caller asked, by an eventually consistent read.
    Confirmed,
    /// The same by a strongly consistent read.
    Newest,
}

/// What is known of one tenant.
#[derive(Default)]
pub(super) struct TenantEntry {
    state: Mutex<EntryState>,
    /// Held by the one who reads.
    pub(super) reading: tokio::sync::Mutex<()>,
}

impl TenantEntry {
    /// Nothing panics while the lock is held; a poisoned lock still guards a whole state.
    pub(super) fn state(&self) -> MutexGuard<'_, EntryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct EntryState {
    remembered: Option<Remembered>,
    /// The last read that failed and left nothing to go by.
    failed: Option<Failed>,
    /// When the last read of a version ended that said nothing, while young settings were remembered.
    unconfirmed: Option<Moment>,
    /// Whether a newer version was seen than the remembered one, and could not be read.
    is_superseded: bool,
}

/// What the last read that worked has found.
struct Remembered {
    snapshot: Snapshot,
    /// When the last read began that found or confirmed it.
    confirmed: Moment,
    /// When the last strongly consistent one did.
    newest: Moment,
}

struct Failed {
    ended: Moment,
    error: StoreError,
}

/// What a reader has to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownVersion {
    /// The version of the settings themselves.
    pub(super) version: Option<u64>,
    /// The counter's number.
    pub(super) number: Option<u64>,
    pub(super) is_young: bool,
}

impl EntryState {
    /// The answer for one who asked at the moment `asked`, where no read is needed for it.
    pub(super) fn answer(
        &self,
        asked: Moment,
        wanted: Freshness,
        now: Timestamp,
    ) -> Option<Result<Snapshot, StoreError>> {
        let usable = self.remembered.as_ref().filter(|_| !self.is_superseded);
        if let Some(found) = usable {
            let is_answer = match wanted {
                Freshness::Remembered => true,
                Freshness::Confirmed => {
                    let was_unconfirmed = self.unconfirmed.is_some_and(|ended| ended > asked);
                    found.confirmed > asked || (was_unconfirmed && found.snapshot.is_young(now))
                }
                Freshness::Newest => found.newest > asked,
            };
            if is_answer {
                return Some(Ok(found.snapshot.clone()));
            }
        }
        let failed = self.failed.as_ref().filter(|failed| failed.ended > asked)?;
        // A read that failed for a caller who wanted more says as little as one of the version alone.
        if wanted == Freshness::Confirmed
            && let Some(young) = usable.filter(|found| found.snapshot.is_young(now))
        {
            return Some(Ok(young.snapshot.clone()));
        }
        Some(Err(failed.error.clone()))
    }

    /// What is remembered and not known to be replaced.
    pub(super) fn known(&self, now: Timestamp) -> Option<KnownVersion> {
        let found = self.remembered.as_ref().filter(|_| !self.is_superseded)?;
        Some(KnownVersion {
            version: found.snapshot.version(),
            number: found.snapshot.number,
            is_young: found.snapshot.is_young(now),
        })
    }

    /// The version that need not be opened again.
    pub(super) fn opened(&self) -> Option<u64> {
        self.remembered.as_ref()?.snapshot.version()
    }

    /// A read that began at `began` found the number that is remembered.
    pub(super) fn confirm(&mut self, began: Moment, is_newest: bool, read_at: Timestamp) {
        self.failed = None;
        if let Some(found) = &mut self.remembered {
            found.confirmed = began;
            found.snapshot.read_at = read_at;
            if is_newest {
                found.newest = began;
            }
        }
    }

    /// A read of a version that ended at `ended` said nothing; the remembered settings are young.
    pub(super) fn leave_unconfirmed(&mut self, ended: Moment) {
        self.unconfirmed = Some(ended);
    }

    /// A version was seen that is not the remembered one.
    pub(super) fn supersede(&mut self) {
        self.is_superseded = true;
    }

    /// Takes in what a strongly consistent read came to that began at `began`, when the clock showed `read_at`.
    pub(super) fn observe(
        &mut self,
        (began, ended): (Moment, Moment),
        read_at: Timestamp,
        loaded: Result<Numbered, StoreError>,
    ) -> Result<Snapshot, StoreError> {
        let Numbered { number, loaded } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.failed = Some(Failed {
                    ended,
                    error: error.clone(),
                });
                return Err(error);
            }
        };
        let settings = match loaded {
            Loaded::Absent => None,
            // What was known when the read began: only who reads changes it.
            Loaded::Unchanged => self
                .remembered
                .take()
                .and_then(|found| found.snapshot.settings),
            Loaded::Settings(settings) => Some(Arc::new(*settings)),
        };
        let snapshot = Snapshot {
            settings,
            number,
            read_at,
        };
        self.failed = None;
        self.is_superseded = false;
        self.remembered = Some(Remembered {
            snapshot: snapshot.clone(),
            confirmed: began,
            newest: began,
        });
        Ok(snapshot)
    }

    /// Forgets what is remembered.
    pub(super) fn forget(&mut self) {
        self.remembered = None;
    }
}

impl Snapshot {
    /// Whether it was read or confirmed less than [`MAX_AGE`] ago.
    pub(super) fn is_young(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.read_at);
        // A clock that went backwards proves nothing about age.
        age >= SignedDuration::ZERO && age < MAX_AGE
    }
}
