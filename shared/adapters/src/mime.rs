//! E-mail messages in MIME form, for the providers that take them so: SMTP, and SES with files.
//!
//! The fields of the header and the parts are written here ([ADR 24](../../../infra/docs/adr/0024-one-mime-builder.md)).
//! lettre puts bytes into base64 and the date into its form.

mod address_list;
mod encoded_word;
mod fold;
mod parameter;
mod part;
#[cfg(test)]
mod properties;
mod text;
mod unstructured;

use comms_core::{
    EmailAddress, Mailbox, ProviderError, attachment::Attachment, media_type::MediaType,
    request::Content,
};
use lettre::message::header::{Date, Headers};

use self::{
    address_list::Entry,
    fold::push_token,
    part::{Multipart, push_file, push_text},
    text::Text,
};
use crate::message::{Message, invalid, text_body};

/// The field that keeps vacation notices and other automatic answers away (RFC 3834 section 5), by name and value.
pub(crate) const AUTO_SUBMITTED: (&str, &str) = ("Auto-Submitted", "auto-generated");
/// Who sends, for all clinics and all mail alike: the last part of Feedback-ID.
const FEEDBACK_SENDER: &str = "cliniccomms";

/// A message in its final form.
pub struct Mail {
    /// Its `Message-ID`, in angle brackets.
    pub message_id: String,
    /// Header and body. Receivers of blind copies are not in it.
    pub bytes: Vec<u8>,
}

/// Who writes Feedback-ID, by which Gmail counts complaints
/// (<https://support.google.com/mail/answer/6254652>: no message should have two).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// We do: `category:channel:sender`, without the clinic, the recipient or the message.
    Named,
    /// The provider does.
    ByProvider,
}

/// Puts `message` into MIME form (RFC 2045), lines ended by CRLF.
pub fn build(
    message: &Message,
    sender: &Mailbox,
    feedback: Feedback,
) -> Result<Mail, ProviderError> {
    build_naming(message, sender, feedback, &message.content.cc)
}

/// The same with only these recipients of copies in its header.
pub(crate) fn build_naming<'a>(
    message: &Message,
    sender: &Mailbox,
    feedback: Feedback,
    copies: impl IntoIterator<Item = &'a EmailAddress>,
) -> Result<Mail, ProviderError> {
    let content = &message.content;
    let text = text_body(content);
    let text = text.as_deref().map(Text::encode).transpose()?;
    let html = content.html.as_deref().map(Text::encode).transpose()?;
    if text.is_none() && html.is_none() {
        return Err(invalid("An e-mail needs a body."));
    }
    let message_id = format!("<{}@{}>", message.delivery, sender.address.domain());
    let mut bytes = Vec::with_capacity(1_024);
    push_header(&mut bytes, message, sender, feedback, copies, &message_id)?;
    let texts = [&text, &html].into_iter().flatten();
    bytes.reserve(texts.map(|text| text.bytes.len() + 256).sum());

    let mixed = Multipart::new("mixed", message);
    let alternative = Multipart::new("alternative", message);
    let (images, files): (Vec<_>, Vec<_>) = content
        .attachments
        .iter()
        .partition(|file| file.content_id.is_some() && html.is_some());
    let (has_files, has_both) = (!files.is_empty(), text.is_some() && html.is_some());
    if has_files {
        mixed.begin(&mut bytes, None);
        mixed.next(&mut bytes);
    }
    if has_both {
        alternative.begin(&mut bytes, None);
    }
    if let Some(text) = &text {
        if has_both {
            alternative.next(&mut bytes);
        }
        push_text(&mut bytes, "plain", text);
    }
    if let Some(html) = &html {
        if has_both {
            alternative.next(&mut bytes);
        }
        push_html(&mut bytes, message, html, &images)?;
    }
    if has_both {
        alternative.end(&mut bytes);
    }
    for file in files {
        mixed.next(&mut bytes);
        push_file(&mut bytes, file, &message.delivery)?;
    }
    if has_files {
        mixed.end(&mut bytes);
    }
    Ok(Mail { message_id, bytes })
}

/// The HTML, with the images that it shows (RFC 2387).
fn push_html(
    bytes: &mut Vec<u8>,
    message: &Message,
    html: &Text,
    images: &[&Attachment],
) -> Result<(), ProviderError> {
    if images.is_empty() {
        push_text(bytes, "html", html);
        return Ok(());
    }
    let related = Multipart::new("related", message);
    related.begin(bytes, Some("text/html"));
    related.next(bytes);
    push_text(bytes, "html", html);
    for image in images {
        related.next(bytes);
        push_file(bytes, image, &message.delivery)?;
    }
    related.end(bytes);
    Ok(())
}

/// The fields of the header (RFC 5322 section 3.6), up to those that describe the body.
fn push_header<'a>(
    bytes: &mut Vec<u8>,
    message: &Message,
    sender: &Mailbox,
    feedback: Feedback,
    copies: impl IntoIterator<Item = &'a EmailAddress>,
    message_id: &str,
) -> Result<(), ProviderError> {
    let content = &message.content;
    address_list::push(bytes, "From", [Entry::of(sender)]);
    address_list::push(bytes, "To", [Entry::of(message.mailbox()?)]);
    let mut copies = copies.into_iter().map(Entry::bare).peekable();
    if copies.peek().is_some() {
        address_list::push(bytes, "Cc", copies);
    }
    if let Some(reply_to) = &message.reply_to {
        address_list::push(bytes, "Reply-To", [Entry::bare(reply_to)]);
    }
    unstructured::push(
        bytes,
        "Subject",
        content.title.as_deref().unwrap_or_default(),
    );
    push_token(bytes, "Message-ID", message_id);
    let mut date = Headers::with_capacity(1);
    date.set(Date::now());
    bytes.extend_from_slice(date.to_string().as_bytes());
    push_token(bytes, AUTO_SUBMITTED.0, AUTO_SUBMITTED.1);
    if feedback == Feedback::Named {
        let (name, value) = feedback_id(content);
        push_token(bytes, name, &value);
    }
    bytes.extend_from_slice(b"MIME-Version: 1.0\r\n");
    Ok(())
}

/// Feedback-ID as we write it, by name and value.
pub(crate) fn feedback_id(content: &Content) -> (&'static str, String) {
    let category = content.category.as_deref().unwrap_or("uncategorized");
    ("Feedback-ID", format!("{category}:email:{FEEDBACK_SENDER}"))
}

/// The media type of a file that the provider puts into base64: without parameters, and that of a message as
/// `application/octet-stream`, since a message must not be in base64 (RFC 2046 section 5.2.1).
pub(crate) fn base64_type(content_type: &MediaType) -> &str {
    match content_type.essence() {
        essence if essence.starts_with("message/") => "application/octet-stream",
        essence => essence,
    }
}

/// A mailbox as an API takes it that writes the header itself: one line, in ASCII where the address is.
pub(crate) fn mailbox(mailbox: &Mailbox) -> String {
    address_list::mailbox(Entry::of(mailbox))
}

#[cfg(test)]
mod tests;
