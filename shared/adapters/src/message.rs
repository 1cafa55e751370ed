//! What an adapter is given to send.

use std::sync::Arc;

use comms_core::{
    DeliveryId, EmailAddress,
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
