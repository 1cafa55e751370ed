//! Whether a message that goes out by the platform's account may name an address for replies.

use std::sync::{Arc, Mutex, PoisonError};

use comms_core::{Channel, Clock, EmailAddress, HashKey, Recent, Tenant};
use comms_settings::{SettingsStore, reply_to::ReplyToAddress};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

/// How long an answer is remembered, whichever it was.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Addresses whose answers a process remembers.
const REMEMBERED: usize = 2_000;

/// The confirmed addresses of all clinics, as one process sees them.
pub(crate) struct ReplyTos {
    store: SettingsStore,
    clock: Arc<dyn Clock>,
    remembered: Mutex<Recent<ReplyToAddress, Option<(bool, Timestamp)>>>,
}

impl ReplyTos {
    pub(crate) fn new(store: SettingsStore, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            remembered: Mutex::new(Recent::new(REMEMBERED)),
        }
    }

    /// This for the messages of one tenant on one channel.
    pub(crate) const fn gate<'a>(
        &'a self,
        hash: &'a HashKey,
        tenant: &'a Tenant,
        channel: Channel,
    ) -> ReplyToGate<'a> {
        ReplyToGate {
            all: self,
            hash,
            tenant,
            channel,
        }
    }

    async fn is_confirmed(&self, hash: &HashKey, address: ReplyToAddress) -> bool {
        let now = self.clock.now();
        let known = *self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(address.clone(), || None);
        if let Some((is_confirmed, read_at)) = known
            && (SignedDuration::ZERO..MAX_AGE).contains(&now.duration_since(read_at))
        {
            return is_confirmed;
        }
        match self.store.is_reply_to_confirmed(hash, &address).await {
            Ok(is_confirmed) => {
                let mut remembered = self
                    .remembered
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *remembered.entry(address, || None) = Some((is_confirmed, now));
                is_confirmed
            }
            Err(error) => {
                warn!(%error, "a reply address counts as not verified: it cannot be looked up");
                false
            }
        }
    }
}

/// [`ReplyTos`] for one delivery.
#[derive(Clone, Copy)]
pub(crate) struct ReplyToGate<'a> {
    all: &'a ReplyTos,
    hash: &'a HashKey,
    tenant: &'a Tenant,
    channel: Channel,
}

impl ReplyToGate<'_> {
    pub(crate) async fn is_allowed(&self, address: &EmailAddress) -> bool {
        match (self.tenant, self.channel) {
            // The platform's own messages, and those that name no address.
            (Tenant::Global, _) | (Tenant::Clinic(_), Channel::Whatsapp) => true,
            (Tenant::Clinic(_), Channel::Email) => {
                let address = ReplyToAddress::new(self.hash, self.tenant, address);
                self.all.is_confirmed(self.hash, address).await
            }
        }
    }
}
