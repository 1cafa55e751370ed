//! The request of `SendEmail`.

use aws_sdk_sesv2::{
    Client,
    operation::send_email::builders::SendEmailFluentBuilder as SendEmail,
    primitives::Blob,
    types::{
        Body, Content as Text, Destination, EmailContent, Message as SimpleMessage, MessageHeader,
        MessageTag, RawMessage,
    },
};
use comms_core::{
    EmailAddress, ErrorKind, Mailbox, ProviderError,
    account::SesName,
    request::{Content, Target},
};

use super::reply::local_failure;
use crate::{
    message::{Message, invalid, not_carried, text_body},
    mime::{self, Feedback, mailbox},
};

/// Receivers of one message (SES, "Service quotas", "Message quotas").
pub(super) const MAX_RECEIVERS: usize = 50;

/// Bytes of a message after base64 (SES, "Service quotas": 40 MB).
pub(super) const MAX_BYTES: usize = 40_000_000;

/// Bytes of an address with its name. Not documented; SES answers "Address length is more than 320 bytes long"
/// (<https://github.com/zulip/zulip/issues/17558>).
const MAX_MAILBOX_BYTES: usize = 320;

/// The charset of everything that is sent.
const CHARSET: &str = "UTF-8";

/// Who the mail is from, and what it goes through.
pub(super) struct Sender {
    pub(super) mailbox: Mailbox,
    pub(super) configuration_set: Option<SesName>,
    /// The tenant of the platform's account that sends.
    pub(super) tenant: Option<SesName>,
}

/// The request for `message`, or why SES cannot carry it.
pub(super) fn send_email(
    client: &Client,
    from: &Sender,
    message: &Message,
) -> Result<SendEmail, ProviderError> {
    let recipient = message.mailbox()?;
    let content = &*message.content;
    if 1 + content.cc.len() + content.bcc.len() > MAX_RECEIVERS {
        return Err(invalid(
            "SES takes at most 50 recipients for one message, copies included.",
        ));
    }
    if from.mailbox.address.needs_smtputf8() {
        return Err(not_carried(
            ErrorKind::SenderNotAllowed,
            "SES sends only from addresses with ASCII before the @; choose another sender.",
        ));
    }
    let copies = content.cc.iter().chain(&content.bcc);
    let mut addresses = copies.chain([&recipient.address]).chain(&message.reply_to);
    if addresses.any(EmailAddress::needs_smtputf8) {
        return Err(not_carried(
            ErrorKind::InvalidRecipient,
            "SES takes only addresses with ASCII before the @; another provider may take this one.",
        ));
    }
    let (sender, recipient) = (
        with_fitting_name(&from.mailbox),
        with_fitting_name(recipient),
    );
    // A subject that looks like an encoded word must not come to a writer of headers that lets it pass: SES would write
    // the one of a simple message.
    let looks_encoded = content
        .title
        .as_deref()
        .is_some_and(|title| title.contains("=?"));
    let raw = looks_encoded || !content.attachments.is_empty();
    let email = if raw {
        let target = Target::Email(recipient.clone());
        let message = Message {
            target,
            ..message.clone()
        };
        raw_content(&message, &sender)?
    } else {
        simple_content(content)?
    };
    let destination = Destination::builder()
        .to_addresses(mailbox(&recipient))
        .set_cc_addresses(addresses_of(&content.cc))
        .set_bcc_addresses(addresses_of(&content.bcc))
        .build();
    let delivery = MessageTag::builder()
        .name("delivery_id")
        .value(message.delivery.as_str())
        .build()
        .map_err(|_| local_failure())?;
    // A raw message says in its own header where answers go.
    let reply_to = message.reply_to.as_ref().filter(|_| !raw);
    Ok(client
        .send_email()
        .from_email_address(mailbox(&sender))
        .destination(destination)
        .set_reply_to_addresses(reply_to.map(|address| vec![address.as_str().to_owned()]))
        .content(email)
        .email_tags(delivery)
        .set_configuration_set_name(from.configuration_set.as_ref().map(ToString::to_string))
        .set_tenant_name(from.tenant.as_ref().map(ToString::to_string)))
}

/// Subject and bodies, which SES puts into MIME form.
fn simple_content(content: &Content) -> Result<EmailContent, ProviderError> {
    let subject = content.title.as_deref().unwrap_or_default();
    let body = text_body(content);
    let bodies = [body.as_deref(), content.html.as_deref()];
    if subject.is_empty() {
        return Err(invalid("An e-mail needs a subject (title)."));
    }
    if bodies.iter().all(Option::is_none) {
        return Err(invalid("An e-mail needs a body."));
    }
    let bytes = subject.len() + bodies.into_iter().flatten().map(str::len).sum::<usize>();
    check_size(bytes)?;
    let text = |text: &str| {
        Text::builder()
            .data(text)
            .charset(CHARSET)
            .build()
            .map_err(|_| local_failure())
    };
    let body = Body::builder()
        .set_text(body.as_deref().map(text).transpose()?)
        .set_html(content.html.as_deref().map(text).transpose()?)
        .build();
    let (name, value) = mime::AUTO_SUBMITTED;
    let automatic = MessageHeader::builder().name(name).value(value).build();
    let message = SimpleMessage::builder()
        .subject(text(subject)?)
        .body(body)
        .headers(automatic.map_err(|_| local_failure())?)
        .build();
    Ok(EmailContent::builder().simple(message).build())
}

/// The message in MIME form. Receivers of blind copies are not in it.
fn raw_content(message: &Message, sender: &Mailbox) -> Result<EmailContent, ProviderError> {
    if message
        .content
        .title
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(invalid("An e-mail needs a subject (title)."));
    }
    let files = message.content.attachments.iter();
    check_size(files.map(|file| file.content.len()).sum())?;
    // SES writes Feedback-ID itself.
    let mail = mime::build(message, sender, Feedback::ByProvider)?;
    check_size(mail.bytes.len())?;
    let raw = RawMessage::builder()
        .data(Blob::new(mail.bytes))
        .build()
        .map_err(|_| local_failure())?;
    Ok(EmailContent::builder().raw(raw).build())
}

pub(super) fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes.div_ceil(3) * 4 > MAX_BYTES {
        return Err(invalid(
            "SES takes at most 40 MB for one message after base64, which is 30 MB before.",
        ));
    }
    Ok(())
}

fn addresses_of(copies: &[EmailAddress]) -> Option<Vec<String>> {
    let addresses: Vec<_> = copies.iter().map(|copy| copy.as_str().to_owned()).collect();
    (!addresses.is_empty()).then_some(addresses)
}

/// The mailbox as it is, or without its name where SES would not take it for its length: better a message
/// without a name than none.
pub(super) fn with_fitting_name(whole: &Mailbox) -> Mailbox {
    let mut fitting = whole.clone();
    if mailbox(&fitting).len() > MAX_MAILBOX_BYTES {
        fitting.name = None;
    }
    fitting
}
