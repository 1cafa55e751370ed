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

/// A message that is over the provider's limit or not in a form that it takes: said before anything is
/// sent, and final, although another provider's limit may be larger. Which limit it is says the text.
pub(crate) const fn invalid(detail: &'static str) -> ProviderError {
    ProviderError::new(Disposition::Final, ErrorKind::InvalidMessage, detail)
}

/// What `WhatsApp` takes in a parameter of a template, whoever sends it: something, without line breaks,
/// tabs or more than four spaces in a row (Twilio, error 63013; error 21656 for an empty one).
pub(crate) fn check_template_text(text: &str) -> Result<(), ProviderError> {
    if text.is_empty() {
        return Err(invalid(
            "A parameter of the template is empty; WhatsApp takes no such.",
        ));
    }
    if text.contains("     ") || text.contains(['\n', '\r', '\t']) {
        return Err(invalid(
            "A parameter of the template has a line break, a tab or more than 4 spaces in a row; WhatsApp takes no such.",
        ));
    }
    Ok(())
}
