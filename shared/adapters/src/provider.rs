//! The trait that every adapter implements.

use std::{fmt::Debug, num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use comms_core::{ProviderError, ProviderKind, Receipt};

use crate::{
    deadline::Deadline, message::Message, smtp::connection_limit::ConnectionLimit,
    verify::StageReport,
};

/// A provider with the credentials of one entry of one tenant's settings.
///
/// Implementations print nothing of their credentials, and never panic on what a provider answers.
#[async_trait]
pub trait Provider: Debug + Send + Sync {
    /// Which provider this is.
    fn kind(&self) -> ProviderKind;

    /// What it can carry, and how much of it.
    fn capabilities(&self) -> &'static Capabilities;

    /// Sends `message` once. `Ok` means that the provider took it over; an error says by its
    /// disposition whether it may have.
    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError>;

    /// What all processes share of the provider's connections, where each is limited to one login.
    fn connection_limit(&self) -> Option<&Arc<ConnectionLimit>> {
        None
    }

    /// How many messages the provider says that it takes in a second, where it can be asked.
    async fn messages_per_second(&self, _deadline: Deadline) -> Option<NonZeroU32> {
        None
    }

    /// Checks everything that can be checked without sending, stage by stage, up to the first that
    /// fails.
    async fn verify(&self, deadline: Deadline) -> Vec<StageReport>;
}

/// What a provider's adapter can carry. What goes beyond it ends as an error before anything is sent.
#[allow(
    clippy::struct_excessive_bools,
    reason = "a table's row: every column is yes or no by itself"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Text as HTML beside plain text.
    pub html: bool,
    /// Files.
    pub attachments: bool,
    /// Receivers of one message, `cc` and `bcc` included.
    pub recipients: usize,
    /// An address for answers.
    pub reply_to: bool,
    /// Local parts beyond ASCII (RFC 6531): always, or where the server offers it.
    pub internationalised_addresses: bool,
    /// Templates that the provider holds.
    pub templates: bool,
    /// Files that the provider fetches.
    pub media: bool,
    /// Characters of a message's text, where there is a limit of its own.
    pub text_chars: Option<usize>,
    /// Bytes of a message as it is sent; `None` where the server says.
    pub message_bytes: Option<usize>,
}
