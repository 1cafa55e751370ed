//! The body of `POST /v1.1/email`.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{EmailAddress, ErrorKind, Mailbox, ProviderError, attachment::ContentId, request};
use serde::Serialize;

use crate::{
    message::{AsciiOnly, Message, invalid, not_carried, text_body},
    mime,
};

/// Bytes of a message with header, bodies and files: 15 MB
/// (<https://www.zoho.com/zeptomail/help/file-cache.html>). A request has the files in base64, as the message has them.
pub(super) const MESSAGE_BYTES: usize = 15_000_000;
/// Addresses of `cc`, and as many of `bcc` (error codes, `SM_127`).
const COPIES: usize = 100;
/// The recipient and the copies.
pub(super) const RECEIVERS: usize = 1 + 2 * COPIES;
/// Files of a message, inline images among them (error codes, `SM_127`).
const FILES: usize = 60;
/// Characters of a subject (error codes, `SM_129`).
const SUBJECT: usize = 500;
/// Characters of a name beside an address (error codes, `SM_129`: under 250).
const NAME: usize = 249;
/// Characters of a file's name (error codes, `SM_129`: under 150).
const FILE_NAME: usize = 149;

const ASCII_ONLY: AsciiOnly = AsciiOnly {
    sender: "ZeptoMail sends from no address with letters beyond ASCII before the @; choose another sender.",
    receiver: "ZeptoMail sends to no address with letters beyond ASCII before the @; a mail server with SMTPUTF8 may.",
    reply_to: "ZeptoMail takes no address for answers with letters beyond ASCII before the @; choose another.",
};

#[derive(Serialize)]
pub(super) struct SendRequest<'a> {
    from: Address<'a>,
    to: [Receiver<'a>; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cc: Vec<Receiver<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<Receiver<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reply_to: Vec<Address<'a>>,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    textbody: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htmlbody: Option<&'a str>,
    track_clicks: bool,
    track_opens: bool,
    client_reference: &'a str,
    mime_headers: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<File<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inline_images: Vec<File<'a>>,
}

#[derive(Serialize)]
struct Receiver<'a> {
    email_address: Address<'a>,
}

#[derive(Serialize)]
struct Address<'a> {
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> Address<'a> {
    fn of(mailbox: &'a Mailbox) -> Self {
        // Better a message without a name than none.
        let name = mailbox.name.as_deref();
        Self {
            address: mailbox.address.as_str(),
            name: name.filter(|name| name.chars().count() <= NAME),
        }
    }

    fn bare(address: &'a EmailAddress) -> Self {
        Self {
            address: address.as_str(),
            name: None,
        }
    }
}

#[derive(Serialize)]
struct File<'a> {
    content: String,
    mime_type: &'a str,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<&'a str>,
}

/// The message as ZeptoMail takes it, or why it does not.
pub(super) fn wire<'a>(
    message: &'a Message,
    sender: &'a Mailbox,
) -> Result<SendRequest<'a>, ProviderError> {
    let recipient = message.mailbox()?;
    let content = &message.content;
    if content.cc.len() > COPIES || content.bcc.len() > COPIES {
        return Err(invalid(
            "ZeptoMail takes at most 100 addresses in cc and as many in bcc; name fewer copies.",
        ));
    }
    if content.attachments.len() > FILES {
        return Err(invalid("ZeptoMail takes at most 60 files; attach fewer."));
    }
    ASCII_ONLY.check(message, sender)?;
    let subject = content.title.as_deref().filter(|title| !title.is_empty());
    let subject = subject.ok_or(not_carried(
        ErrorKind::InvalidMessage,
        "ZeptoMail takes no message without a subject; give it a title.",
    ))?;
    if subject.chars().count() > SUBJECT {
        return Err(invalid(
            "The title is longer than the 500 characters that ZeptoMail takes; shorten it.",
        ));
    }
    let htmlbody = content.html.as_deref().filter(|html| !html.is_empty());
    let textbody = text_body(content);
    if htmlbody.is_none() && textbody.is_none() {
        return Err(invalid("An e-mail needs a body."));
    }
    let receiver = |copy| Receiver {
        email_address: Address::bare(copy),
    };
    let (inline, attached): (Vec<_>, Vec<_>) = content
        .attachments
        .iter()
        .partition(|file| file.content_id.is_some());
    let (automatic, generated) = mime::AUTO_SUBMITTED;
    let (feedback, category) = mime::feedback_id(content);
    Ok(SendRequest {
        from: Address::of(sender),
        to: [Receiver {
            email_address: Address::of(recipient),
        }],
        cc: content.cc.iter().map(receiver).collect(),
        bcc: content.bcc.iter().map(receiver).collect(),
        reply_to: message.reply_to.iter().map(Address::bare).collect(),
        subject,
        textbody,
        htmlbody,
        track_clicks: false,
        track_opens: false,
        client_reference: message.delivery.as_str(),
        mime_headers: BTreeMap::from([(automatic, generated.to_owned()), (feedback, category)]),
        attachments: attached.into_iter().map(file).collect(),
        inline_images: inline.into_iter().map(file).collect(),
    })
}

pub(super) const fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes <= MESSAGE_BYTES {
        return Ok(());
    }
    Err(invalid(
        "The message with its files is over the 15 MB that ZeptoMail takes; send smaller files.",
    ))
}

fn file(attachment: &request::Attachment) -> File<'_> {
    File {
        content: BASE64_STANDARD.encode(&attachment.content),
        mime_type: mime::base64_type(&attachment.content_type),
        name: shortened(&attachment.filename),
        cid: attachment.content_id.as_ref().map(ContentId::as_str),
    }
}

/// A file's name that fits, with its ending, by which recipients choose what opens it.
fn shortened(name: &str) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= FILE_NAME {
        return Cow::Borrowed(name);
    }
    let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
    let ending = if ending.chars().count() < 16 {
        ending
    } else {
        ""
    };
    let kept = FILE_NAME - ending.chars().count();
    let mut short: String = name.chars().take(kept).collect();
    short.push_str(ending);
    Cow::Owned(short)
}
