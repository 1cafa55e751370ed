//! How often settings may be tested: so that a test can be used neither as a port scanner nor to send
//! somebody message after message.
//!
//! The limits are in the settings table ([`crate::gcra`]). A request takes from the clinic's limits and from its
//! author's: from all of them or from none.

use std::{sync::Arc, time::Duration};

use comms_core::{Clock, EmailAddress, HashKey, Tenant};
use thiserror::Error;

use crate::{
    document::MAX_FALLBACKS,
    gcra::{Rate, Reached, Withdrawal},
    store::{SettingsStore, StoreError},
};

/// What the partition keys of all limits begin with. No tenant's id can begin so, and the permission to
/// write is given for this beginning.
const PK_PREFIX: &str = "_test-limit#";
/// The entries that one request can test.
const MAX_CHAIN_ENTRIES: usize = 1 + MAX_FALLBACKS;

/// Links to verify an address for replies that are mailed to it at once.
pub const MAX_LINKS: u32 = 3;
/// The interval of links after those.
pub const LINK_INTERVAL: Duration = Duration::from_hours(8);

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHolder {
    /// The clinic whose settings are tested.
    Clinic,
    /// Who tests, for whichever clinics.
    Author,
    /// The address to which links are mailed, for whichever clinics.
    Address,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Entries that are tested, each of which connects to a host of the caller's choice.
    Entries,
    /// Messages that are sent.
    Messages,
}

/// Nothing was granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TestLimitError {
    /// A limit is reached. Where several are, it is the one that takes longest to pass.
    #[error("a limit of {holder:?} for {limited:?} is reached")]
    Reached {
        /// Whose.
        holder: LimitHolder,
        /// Of what.
        limited: Limited,
        /// After which the same is granted if nobody else takes it before. More than zero.
        retry_after: Duration,
    },
    /// The limits could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A rate that lets every single request pass when nothing was taken for long enough.
const fn rate(burst: u32, interval: Duration) -> Rate {
    assert!(
        burst as usize >= MAX_CHAIN_ENTRIES,
        "the longest chain can be tested"
    );
    Rate { burst, interval }
}

const fn rate_of(holder: LimitHolder, limited: Limited) -> Rate {
    match (holder, limited) {
        // Who tries a password out tests a chain of six entries five times in a minute; 120 entries an
        // hour after that is more than anybody waits for, and next to nothing for a scanner.
        (LimitHolder::Clinic, Limited::Entries) => rate(30, Duration::from_secs(30)),
        // A few whole chains, and at most 44 messages in any 24 hours: too few to be worth a relay.
        (LimitHolder::Clinic, Limited::Messages) => rate(20, Duration::from_hours(1)),
        // Twice a clinic's. The platform's people may test for every clinic; a token of theirs that was
        // stolen scans no faster over hundreds of clinics than over two.
        (LimitHolder::Author, Limited::Entries) => rate(60, Duration::from_secs(15)),
        (LimitHolder::Author, Limited::Messages) => rate(40, Duration::from_mins(30)),
        // One link at a time: whoever did not ask for it gets no more, from however many clinics.
        (LimitHolder::Address, Limited::Entries | Limited::Messages) => Rate {
            burst: MAX_LINKS,
            interval: LINK_INTERVAL,
        },
    }
}

/// The limits of tests.
pub struct TestLimits {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
}

impl TestLimits {
    /// Keeps the limits in `store`'s table.
    pub fn new(store: SettingsStore, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Takes `entries` tests and `messages` messages from the limits of `tenant` and of `author`, the
    /// subject of the caller's token; from all of them, or an error and from none.
    ///
    /// One request may ask for as many as a chain has entries.
    pub async fn take(
        &self,
        tenant: &Tenant,
        author: &str,
        entries: u32,
        messages: u32,
    ) -> Result<(), TestLimitError> {
        let limits = limits_of(tenant, author, entries, messages);
        self.take_all(limits).await
    }

    /// Takes a link that is mailed to `address` from its limit, and from those of a test that sends one message. `key` is
    /// the deployment's hash key.
    pub async fn take_link(
        &self,
        tenant: &Tenant,
        author: &str,
        address: &EmailAddress,
        key: &HashKey,
    ) -> Result<(), TestLimitError> {
        let mut limits = limits_of(tenant, author, 1, 1);
        let address = address.as_str().to_lowercase();
        let address = key.digest("link-limit", &[address.as_bytes()]).hex128();
        let pk = format!("{PK_PREFIX}address#{address}");
        limits.push((LimitHolder::Address, Limited::Messages, 1, pk));
        self.take_all(limits).await
    }

    async fn take_all(&self, limits: Vec<Limit>) -> Result<(), TestLimitError> {
        let withdrawals = limits.iter().map(|(holder, limited, count, pk)| {
            let rate = rate_of(*holder, *limited);
            Withdrawal::new(pk.clone(), sort_key(*limited), rate, *count)
        });
        let mut withdrawals: Vec<_> = withdrawals.collect();
        let Err(Reached { index, retry_after }) =
            self.store.take(&mut withdrawals, &*self.clock).await?
        else {
            return Ok(());
        };
        let (holder, limited) = limits
            .get(index)
            .map_or((LimitHolder::Clinic, Limited::Entries), |limit| {
                (limit.0, limit.1)
            });
        Err(TestLimitError::Reached {
            holder,
            limited,
            retry_after,
        })
    }
}

/// Whose limit of what, how much is taken from it, and its partition key.
type Limit = (LimitHolder, Limited, u32, String);

/// The limits of a test by `author`.
fn limits_of(tenant: &Tenant, author: &str, entries: u32, messages: u32) -> Vec<Limit> {
    // A subject may be an address. The key is no secret: the hash keeps the address out of sight, and is
    // gone with the item.
    let author = HashKey::from_bytes(&[0; HashKey::LENGTH])
        .digest("test-limit", &[author.as_bytes()])
        .hex128();
    let holders = [
        (LimitHolder::Clinic, format!("{PK_PREFIX}clinic#{tenant}")),
        (LimitHolder::Author, format!("{PK_PREFIX}author#{author}")),
    ];
    let counts = [(Limited::Entries, entries), (Limited::Messages, messages)];
    holders
        .into_iter()
        .flat_map(|(holder, pk)| {
            let counts = counts.into_iter().filter(|(_, count)| *count > 0);
            counts.map(move |(limited, count)| (holder, limited, count, pk.clone()))
        })
        .collect()
}

impl std::fmt::Debug for TestLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestLimits")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

const fn sort_key(limited: Limited) -> &'static str {
    match limited {
        Limited::Entries => "entries",
        Limited::Messages => "messages",
    }
}
