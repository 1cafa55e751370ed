//! What an adapter is given to send.

use std::sync::Arc;

use comms_core::{
    DeliveryId, Disposition, EmailAddress, ErrorKind, ProviderError,
    request::{Content, Target},
};

/// One delivery's message. The sender is not part of it: it belongs to the provider entry, so that
/// no message goes through one account under another's name.
#[derive(Debug, Clone)]
pub struct Message {
    /// The delivery; what ids at the provider are made from.
    pub delivery: DeliveryId,
    /// Who gets it.
    pub target: Target,
    /// What it says.
    pub content: Arc<Content>,
    /// Where answers go.
    pub reply_to: Option<EmailAddress>,
}

/// A message that no provider of its channel would take, for a limit or its form: said before
/// anything is sent.
pub(crate) const fn invalid(detail: &'static str) -> ProviderError {
    ProviderError::new(Disposition::Final, ErrorKind::InvalidMessage, detail)
}
