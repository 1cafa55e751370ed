//! Quota that a request takes before its deliveries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use comms_settings::Moment;

use super::Grant;
use crate::counted::Counted;

/// The account whose quota is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The clinic that sends.
    Clinic,
    /// The platform, whose account sends.
    Platform,
}

/// Quota for all deliveries of a request, taken in advance. Dropping it returns what no delivery took out.
#[derive(Debug, Default)]
pub struct TakenQuota {
    grants: Mutex<Vec<(Payer, Counted, Grant, u32)>>,
    /// When the settings that granted it were read.
    settings_asked: Option<Moment>,
}

impl TakenQuota {
    /// No quota yet, by settings that were confirmed after `asked`.
    pub(crate) fn by_settings_of(asked: Moment) -> Self {
        Self {
            grants: Mutex::default(),
            settings_asked: Some(asked),
        }
    }

    /// When the settings that granted it were read; `None` if there are none.
    pub(crate) const fn settings_asked(&self) -> Option<Moment> {
        self.settings_asked
    }

    pub(crate) fn add(&self, payer: Payer, counted: Counted, grant: Grant, count: u32) {
        self.grants().push((payer, counted, grant, count));
    }

    /// Takes out `count` for one delivery; `None` if there is no limit.
    pub(crate) fn take(&self, payer: Payer, counted: Counted, count: u32) -> Option<Grant> {
        let mut grants = self.grants();
        let (_, _, grant, left) = grants
            .iter_mut()
            .find(|(by, of, _, left)| *by == payer && *of == counted && *left >= count)?;
        *left -= count;
        Some(grant.clone())
    }

    fn grants(&self) -> MutexGuard<'_, Vec<(Payer, Counted, Grant, u32)>> {
        // Nothing panics while the lock is held.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenQuota {
    fn drop(&mut self) {
        for (_, _, grant, left) in self.grants().drain(..) {
            grant.return_unused(left);
        }
    }
}
