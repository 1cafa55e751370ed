//! The deliveries of a communication: one for each recipient and channel.

use crate::{
    address::{AddressMask, Mailbox},
    channel::Channel,
    id::DeliveryId,
    phone::PhoneNumber,
};

/// Where a delivery goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A mailbox.
    Email(Mailbox),
    /// A WhatsApp number.
    Whatsapp(PhoneNumber),
}

impl Target {
    /// The address in full.
    pub fn address(&self) -> &str {
        match self {
            Self::Email(mailbox) => mailbox.address.as_str(),
            Self::Whatsapp(phone) => phone.as_str(),
        }
    }

    /// The channel that reaches it.
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Email(_) => Channel::Email,
            Self::Whatsapp(_) => Channel::Whatsapp,
        }
    }

    /// The address as it may be stored and shown.
    pub fn masked(&self, mask: AddressMask) -> String {
        match self {
            Self::Email(mailbox) => mailbox.address.masked(mask),
            Self::Whatsapp(phone) => phone.masked(mask),
        }
    }
}

/// One delivery to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDelivery {
    /// The id.
    pub id: DeliveryId,
    /// The channel.
    pub channel: Channel,
    /// Where to; `None` where the recipient has no address on the channel.
    pub target: Option<Target>,
    recipient: String,
}

impl PlannedDelivery {
    /// A delivery to `target`, which is shown as `mask` says.
    pub fn new(
        id: DeliveryId,
        channel: Channel,
        target: Option<Target>,
        mask: AddressMask,
    ) -> Self {
        let recipient = target
            .as_ref()
            .map_or_else(|| "(no address)".to_owned(), |target| target.masked(mask));
        Self {
            id,
            channel,
            target,
            recipient,
        }
    }

    /// The recipient as the ledger and answers show it: the masked address, or that there is none.
    pub fn masked(&self) -> &str {
        &self.recipient
    }
}
