//! One provider of a chain.

use std::sync::Arc;

use comms_core::{EntryId, Position};

use crate::{
    account_rate_limit::AccountRateLimit, health::Health, provider::Provider, retry::RetryPolicy,
};

/// A provider in its place.
#[derive(Debug, Clone)]
pub struct ChainEntry {
    /// The entry's id in its tenant's settings.
    pub id: EntryId,
    /// Where in the chain.
    pub position: Position,
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// How often it is tried again.
    pub retry: RetryPolicy,
    /// How well it works.
    pub health: Arc<Health>,
    /// How fast it may be used, where that is limited.
    pub rate_limit: Option<AccountRateLimit>,
}
