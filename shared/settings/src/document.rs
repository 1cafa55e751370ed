//! The settings document: for each channel a primary provider, fallbacks in order, the sender, and the policy for an
//! unknown outcome.
//!
//! One reader serves the API, the store and imports. Secrets go in and do not come out:
//! [`CommunicationSettings::view`] shows `{"configured":true,"last4":"…"}` in their place. A document with that marker, or
//! without the secret, keeps the stored secret.
//!
//! A document from outside must follow today's rules. A stored one followed the rules of its day and must stay readable: a
//! later rule must not keep a clinic from sending.
//!
//! An empty text is the same as `null` and as an absent field: web forms, and the predecessor of this service, write it for
//! a value that is not set.

mod changes;
mod reading;
mod writing;

use std::{num::NonZeroU32, sync::Arc};

use comms_adapters::{ProviderConfig, chain::AmbiguityPolicy};
use comms_core::{Channel, Country, EmailAddress, EntryId, Mailbox, Position, json::Object};
use serde_json::Value;

use crate::{ceilings::Ceilings, rate_limit::RateLimit};

#[cfg(any(test, fuzzing))]
pub(crate) use writing::wipe;

/// Bytes of a request body with a document. A document that can be stored has less than half of that
/// ([`StoreError::TooLarge`](crate::StoreError::TooLarge)).
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Fallbacks of one channel.
pub const MAX_FALLBACKS: usize = 5;
/// Retries of one provider before the chain goes on to the next.
pub const MAX_RETRY_ATTEMPTS: u32 = 5;

const DEFAULT_COUNTRY: &str = "defaultCountry";

/// The JSON pointer of the document in a request body.
pub const POINTER: &str = "/settings/communicationSettings";

/// Takes the document at [`POINTER`] out of a request body. Its absence is a problem.
pub fn take_document(body: &mut Object<'_>) -> Option<Value> {
    if body.is_missing("settings") {
        body.problem("settings", "is required");
    }
    body.object("settings", |mut settings| {
        let document = settings.take("communicationSettings");
        if document.is_none() {
            settings.problem("communicationSettings", "is required");
        }
        settings.finish();
        document
    })
}

/// The settings of a tenant.
#[derive(Debug, Clone)]
pub struct CommunicationSettings {
    /// The e-mail channel.
    pub email: Option<ChannelSettings>,
    /// The WhatsApp channel.
    pub whatsapp: Option<ChannelSettings>,
    /// The country of phone numbers that are written without a country code.
    pub default_country: Option<Country>,
    /// The platform's limits for the clinic.
    pub ceilings: Ceilings,
}

/// One channel of a tenant.
#[derive(Debug, Clone)]
pub struct ChannelSettings {
    /// The provider that is tried first.
    pub primary: ProviderEntry,
    /// The providers after it, in order.
    pub fallback: Vec<ProviderEntry>,
    /// The sender for providers that have none of their own.
    pub default_from: Option<EmailAddress>,
    /// The sender's name.
    pub default_from_name: Option<String>,
    /// Whether the global account may send when all of these fail.
    pub use_global: bool,
    /// Retries of one provider, after its first attempt, before the next is tried.
    pub retry_attempts: u8,
    /// The policy for an attempt whose outcome is unknown.
    pub on_ambiguous: AmbiguityPolicy,
    /// The quota of messages, over all providers.
    pub rate_limit: Option<RateLimit>,
}

/// An entry of a channel: a provider with its credentials.
#[derive(Debug, Clone)]
pub struct ProviderEntry {
    /// Its id in this channel.
    pub id: EntryId,
    /// Whether it is used.
    pub enabled: bool,
    /// Messages per second, in place of the provider's default.
    pub max_per_second: Option<NonZeroU32>,
    /// The provider's settings, in the member `credentials`.
    pub config: Arc<dyn ProviderConfig>,
}

impl CommunicationSettings {
    /// Settings with ceilings only.
    pub(crate) const fn with_ceilings(ceilings: Ceilings) -> Self {
        Self {
            email: None,
            whatsapp: None,
            default_country: None,
            ceilings,
        }
    }

    /// The settings of one channel.
    pub fn channel(&self, channel: Channel) -> Option<&ChannelSettings> {
        match channel {
            Channel::Email => self.email.as_ref(),
            Channel::Whatsapp => self.whatsapp.as_ref(),
        }
    }

    /// All entries, with their channels.
    pub fn entries(&self) -> impl Iterator<Item = (Channel, &ProviderEntry)> {
        Channel::ALL.into_iter().flat_map(|channel| {
            self.channel(channel)
                .into_iter()
                .flat_map(ChannelSettings::entries)
                .map(move |(_, entry)| (channel, entry))
        })
    }
}

impl ChannelSettings {
    /// The entries with their positions, in the order of the chain.
    pub fn entries(&self) -> impl Iterator<Item = (Position, &ProviderEntry)> {
        let fallbacks = self
            .fallback
            .iter()
            .zip(0_u8..)
            .map(|(entry, n)| (Position::Fallback(n), entry));
        std::iter::once((Position::Primary, &self.primary)).chain(fallbacks)
    }

    /// The sender of `entry`: its own address, else the channel's, and its own name, else the channel's.
    /// `None` if no address is set, or the provider does not send e-mail.
    pub fn sender(&self, entry: &ProviderEntry) -> Option<Mailbox> {
        let own = entry.config.own_sender()?;
        let address = own.email.as_ref().or(self.default_from.as_ref())?.clone();
        let name = own.name.as_deref().or(self.default_from_name.as_deref());
        Some(Mailbox {
            address,
            name: name.map(str::to_owned),
        })
    }

    /// The reply address of messages that the global account sends: the clinic's own address.
    pub fn reply_to(&self) -> Option<EmailAddress> {
        let own = || {
            self.entries()
                .find_map(|(_, entry)| entry.config.own_sender()?.email.as_ref())
        };
        self.default_from.as_ref().or_else(own).cloned()
    }
}

#[cfg(test)]
mod tests;
