//! What an adapter is given to send.

use std::{borrow::Cow, sync::Arc};

use comms_core::{
    DeliveryId, Disposition, EmailAddress, ErrorKind, Mailbox, PhoneNumber, ProviderError,
    request::{Content, Target},
};

use crate::html_text;

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

const OTHER_CHANNEL: ProviderError = invalid(
    "The provider was given a message of another channel; this is a fault of the platform's.",
);

impl Message {
    /// How many recipients its envelope has.
    pub fn envelope_recipients(&self) -> u32 {
        self.content.envelope_recipients(self.target.channel())
    }

    /// Who an e-mail goes to.
    pub(crate) fn mailbox(&self) -> Result<&Mailbox, ProviderError> {
        match &self.target {
            Target::Email(mailbox) => Ok(mailbox),
            Target::Whatsapp(_) => Err(OTHER_CHANNEL),
        }
    }

    /// Who a `WhatsApp` message goes to.
    pub(crate) fn number(&self) -> Result<&PhoneNumber, ProviderError> {
        match &self.target {
            Target::Whatsapp(number) => Ok(number),
            Target::Email(_) => Err(OTHER_CHANNEL),
        }
    }
}

/// The text of an e-mail: as it was posted, or made from the HTML; `None` where there is nothing to read.
pub(crate) fn text_body(content: &Content) -> Option<Cow<'_, str>> {
    let posted = content
        .body
        .as_deref()
        .filter(|body| !body.trim().is_empty());
    let made = || {
        let text = html_text::text_of(content.html.as_deref()?);
        (!text.is_empty()).then_some(Cow::Owned(text))
    };
    posted.map(Cow::Borrowed).or_else(made)
}

/// What this provider cannot carry and another may: the next one is tried, and this one not blamed.
pub(crate) const fn not_carried(kind: ErrorKind, detail: &'static str) -> ProviderError {
    ProviderError::new(Disposition::ProviderDown, kind, detail).health_unchanged()
}

/// A message that is over the provider's limit or not in a form that it takes: said before anything is
/// sent, and final, although another provider's limit may be larger. Which limit it is says the text.
pub(crate) const fn invalid(detail: &'static str) -> ProviderError {
    ProviderError::new(Disposition::Final, ErrorKind::InvalidMessage, detail)
}

/// What a provider says that takes no address with letters beyond ASCII before the @.
pub(crate) struct AsciiOnly {
    /// Of the sender's.
    pub(crate) sender: &'static str,
    /// Of the recipient's or a copy's.
    pub(crate) receiver: &'static str,
    /// Of the one for answers.
    pub(crate) reply_to: &'static str,
}

impl AsciiOnly {
    /// Refuses a message with such an address; another provider may take it.
    pub(crate) fn check(&self, message: &Message, sender: &Mailbox) -> Result<(), ProviderError> {
        let recipient = &message.mailbox()?.address;
        let copies = message.content.cc.iter().chain(&message.content.bcc);
        if sender.address.needs_smtputf8() {
            return Err(not_carried(ErrorKind::SenderNotAllowed, self.sender));
        }
        if copies.chain([recipient]).any(EmailAddress::needs_smtputf8) {
            return Err(not_carried(ErrorKind::InvalidRecipient, self.receiver));
        }
        if message
            .reply_to
            .as_ref()
            .is_some_and(EmailAddress::needs_smtputf8)
        {
            return Err(not_carried(ErrorKind::InvalidMessage, self.reply_to));
        }
        Ok(())
    }
}

/// What `WhatsApp` takes in a parameter of a template, whoever sends it: something, without line breaks,
/// tabs or more than four spaces in a row (Twilio, error 63013; error 21656 for an empty one).
pub(crate) fn check_template_text(text: &str) -> Result<(), ProviderError> {
    if text.is_empty() {
        return Err(invalid(
            "A parameter of the template is empty; WhatsApp rejects empty template parameters.",
        ));
    }
    if text.contains("     ") || text.contains(['\n', '\r', '\t']) {
        return Err(invalid(
            "A parameter of the template has a line break, a tab or more than 4 spaces in a row; WhatsApp rejects such parameters.",
        ));
    }
    Ok(())
}
