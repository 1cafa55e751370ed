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

    /// Sends `message` once. `Ok` means that the provider accepted it; an error's disposition says whether it may have.
    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError>;

    /// The limit of connections of the provider's login, which all processes share; `None` for a provider without one.
    fn connection_limit(&self) -> Option<&Arc<ConnectionLimit>> {
        None
    }

    /// Messages in a second that the provider reports to accept; `None` if it cannot be asked.
    async fn messages_per_second(&self, _deadline: Deadline) -> Option<NonZeroU32> {
        None
    }

    /// Checks everything that can be checked without sending, stage by stage, up to the first that
    /// fails.
    async fn verify(&self, deadline: Deadline) -> Vec<StageReport>;
}

/// What a provider's adapter can carry. A message beyond it is an error before anything is sent.
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

impl Capabilities {
    /// What every e-mail API here carries: HTML, files and a Reply-To, and no local parts beyond ASCII. Recipients and bytes
    /// are the provider's own.
    pub const EMAIL_API: Self = Self {
        html: true,
        attachments: true,
        recipients: 1,
        reply_to: true,
        internationalised_addresses: false,
        templates: false,
        media: false,
        text_chars: None,
        message_bytes: None,
    };

    /// What every `WhatsApp` API here carries: templates and media to one recipient. The length of a text is the provider's
    /// own.
    pub const WHATSAPP_API: Self = Self {
        html: false,
        attachments: false,
        recipients: 1,
        reply_to: false,
        internationalised_addresses: false,
        templates: true,
        media: true,
        text_chars: None,
        message_bytes: None,
    };
}
