//! Quota that a request takes before its deliveries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use comms_settings::Moment;

use super::Grant;
use crate::counted::Counted;

/// Whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The clinic that sends.
    Clinic,
    /// The platform, whose account sends.
    Platform,
}

/// Quota for all deliveries of a request, taken beforehand. What none of them takes out is given back when this
/// is dropped.
#[derive(Debug, Default)]
pub struct Paid {
    grants: Mutex<Vec<(Payer, Counted, Grant, u32)>>,
    /// When the settings were asked for by which it was taken.
    settings_asked: Option<Moment>,
}

impl Paid {
    /// Nothing yet, by settings that were confirmed after `asked`.
    pub(crate) fn by_settings_of(asked: Moment) -> Self {
        Self {
            grants: Mutex::default(),
            settings_asked: Some(asked),
        }
    }

    /// When the settings were asked for by which it was taken; `None` where it is not by any.
    pub(crate) const fn settings_asked(&self) -> Option<Moment> {
        self.settings_asked
    }

    pub(crate) fn add(&self, payer: Payer, counted: Counted, grant: Grant, count: u32) {
        self.grants().push((payer, counted, grant, count));
    }

    /// Takes `count` out, which one delivery needs; `None` where there is no limit.
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

impl Drop for Paid {
    fn drop(&mut self) {
        for (_, _, grant, left) in self.grants().drain(..) {
            grant.put_back(left);
        }
    }
}
