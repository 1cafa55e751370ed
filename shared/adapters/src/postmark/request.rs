//! The body of `POST /email`.

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{EmailAddress, Mailbox, ProviderError, attachment::ContentId, request};
use serde::Serialize;

use crate::{
    message::{AsciiOnly, Message, invalid, text_body},
    mime,
};

/// Bytes of a request: 10 MB with files in base64 (API overview, "HTTP response codes", 413).
pub(super) const MESSAGE_BYTES: usize = 10_000_000;
/// Receivers of one message, copies included
/// (<https://postmarkapp.com/support/article/1180-what-does-errorcode-300-mean>).
pub(super) const RECEIVERS: usize = 50;

const ASCII_ONLY: AsciiOnly = AsciiOnly {
    sender: "Postmark sends from no address with letters beyond ASCII before the @; choose another sender.",
    receiver: "Postmark sends to no address with letters beyond ASCII before the @; a mail server with SMTPUTF8 may.",
    reply_to: "Postmark takes no address for answers with letters beyond ASCII before the @; choose another.",
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendRequest<'a> {
    from: String,
    to: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cc: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    bcc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html_body: Option<&'a str>,
    headers: [Header; 1],
    metadata: Metadata<'a>,
    track_opens: bool,
    track_links: &'static str,
    message_stream: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<File<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Header {
    name: &'static str,
    value: &'static str,
}

#[derive(Serialize)]
struct Metadata<'a> {
    delivery_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct File<'a> {
    name: &'a str,
    content: String,
    content_type: &'a str,
    /// With `cid:` before the id that the HTML names ("Attachments", "Inline images").
    #[serde(rename = "ContentID", skip_serializing_if = "Option::is_none")]
    content_id: Option<String>,
}

/// The message as Postmark takes it, or why it does not.
pub(super) fn wire<'a>(
    message: &'a Message,
    sender: &Mailbox,
    stream: &'a str,
) -> Result<SendRequest<'a>, ProviderError> {
    let recipient = message.mailbox()?;
    let content = &message.content;
    if 1 + content.cc.len() + content.bcc.len() > RECEIVERS {
        return Err(invalid(
            "A message through Postmark has at most 50 recipients; name fewer copies.",
        ));
    }
    ASCII_ONLY.check(message, sender)?;
    let html_body = content.html.as_deref().filter(|html| !html.is_empty());
    let text_body = text_body(content);
    if html_body.is_none() && text_body.is_none() {
        return Err(invalid("An e-mail needs a body."));
    }
    let (name, value) = mime::AUTO_SUBMITTED;
    Ok(SendRequest {
        from: address_with_name(sender),
        to: address_with_name(recipient),
        cc: list(&content.cc),
        bcc: list(&content.bcc),
        reply_to: message.reply_to.as_ref().map(EmailAddress::as_str),
        subject: content.title.as_deref().unwrap_or_default(),
        text_body: text_body.map(std::borrow::Cow::into_owned),
        html_body,
        headers: [Header { name, value }],
        metadata: Metadata {
            delivery_id: message.delivery.as_str(),
        },
        track_opens: false,
        track_links: "None",
        message_stream: stream,
        attachments: content.attachments.iter().map(file).collect(),
    })
}

pub(super) const fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes <= MESSAGE_BYTES {
        return Ok(());
    }
    Err(invalid(
        "The message with its files in base64 is over the 10 MB that Postmark takes; send smaller files.",
    ))
}

/// A name always in quotes: what punctuation it has is then no syntax (error 300, the same article).
fn address_with_name(mailbox: &Mailbox) -> String {
    match &mailbox.name {
        Some(name) => {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{quoted}\" <{}>", mailbox.address.as_str())
        }
        None => mailbox.address.as_str().to_owned(),
    }
}

fn list(copies: &[EmailAddress]) -> String {
    let addresses: Vec<_> = copies.iter().map(EmailAddress::as_str).collect();
    addresses.join(",")
}

fn file(attachment: &request::Attachment) -> File<'_> {
    let id = attachment.content_id.as_ref().map(ContentId::as_str);
    File {
        name: &attachment.filename,
        content: BASE64_STANDARD.encode(&attachment.content),
        content_type: mime::base64_type(&attachment.content_type),
        content_id: id.map(|id| format!("cid:{id}")),
    }
}
