//! Newer settings while a message is on its way through a chain.
//!
//! A save governs every attempt that begins after it. So before each attempt but the first the chain asks whether its
//! settings still are the last ones, whatever the error before it (`infra/docs/adr/0022-settings-count-at-once.md`).

use std::{future::Future, pin::Pin, sync::Arc};

use super::Chain;

/// When a running chain asks whether its settings still are the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewAt {
    /// Before the first attempt at an entry of the platform's account.
    PlatformReached,
    /// Before an entry is tried again, or the next one is tried.
    NextAttempt {
        /// Whether the platform's settings may have counted so far.
        is_global: bool,
    },
    /// After an entry refused to serve its tenant, before the next one is tried.
    Refused {
        /// Whether the platform's settings may have counted so far.
        is_global: bool,
    },
}

/// Whether the settings of a running chain still are the last ones.
#[derive(Debug, Clone)]
pub enum Renewal {
    /// They are, as far as is known.
    Unchanged,
    /// There are newer ones, and this is their chain.
    Newer(Arc<Chain>),
    /// There are newer ones, or may be, and they cannot be read.
    Unreadable,
}

/// Says whether the settings of the running chain still are the last ones.
pub type Renew<'a> =
    dyn Fn(RenewAt) -> Pin<Box<dyn Future<Output = Renewal> + Send + 'a>> + Send + Sync + 'a;
