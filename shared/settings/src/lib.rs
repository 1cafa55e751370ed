//! A clinic's settings: what they say ([`document`]), how their credentials are sealed
//! ([`envelope`]), where they are kept ([`store`]), what is kept of each change ([`version`]), how they are
//! remembered ([`cache`]), how often they may be tested ([`test_limits`]), how much a clinic may send
//! ([`rate_limit`]) and what the platform allows it ([`ceilings`]).

pub mod cache;
pub mod ceilings;
mod chain_spec;
pub mod counter;
pub mod document;
pub mod envelope;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gcra;
pub mod hash_key;
mod item;
mod overview;
mod own_account;
pub mod rate_limit;
pub mod reply_to;
pub mod reseal;
pub mod save_limits;
pub mod seal;
pub mod store;
mod store_error;
pub mod test_limits;
mod upgrade;
pub mod version;
mod version_read;
mod write;

pub use cache::{Moment, SettingsCache, Snapshot};
pub use ceilings::Ceilings;
pub use document::{ChannelSettings, CommunicationSettings, ProviderEntry};
pub use hash_key::HashKeys;
pub use overview::{
    ChannelOverview, EntryOverview, Overview, OverviewPage, OverviewStart, PresentOverview,
};
pub use own_account::{OwnAccount, OwnAccountError};
pub use rate_limit::{Period, RateLimit};
pub use reseal::{FoundItem, ItemPage, Resealed, Sealing};
pub use save_limits::{SaveLimits, Saver};
pub use store::{Basis, Deleted, Past, Present, SettingsStore, StoredSettings};
pub use store_error::{Refusal, StoreError};
pub use test_limits::{LimitHolder, Limited, TestLimitError, TestLimits};
pub use version::{Author, Change, PurgeDelay, Version, VersionPage, VersionRetention};
