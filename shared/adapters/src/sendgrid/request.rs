//! The body of `POST /v3/mail/send`.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{EmailAddress, ErrorKind, Mailbox, ProviderError, attachment::ContentId, request};
use serde::Serialize;

use crate::{
    message::{AsciiOnly, Message, invalid, not_carried, text_body},
    mime,
};

/// Bytes of a message with its files, which must be fewer; recipients of one message. Custom arguments
/// must be fewer than 10,000 bytes: ours are one id of 32
/// (<https://docs.sendgrid.com/api-reference/mail-send/limitations>).
pub(super) const MESSAGE_BYTES: usize = 30_000_000;

pub(super) const RECEIVERS: usize = 1_000;

/// The body of `POST /v3/mail/send`.
#[derive(Serialize)]
pub(super) struct SendRequest<'a> {
    personalizations: [Personalization<'a>; 1],
    from: Address<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Address<'a>>,
    subject: &'a str,
    content: Vec<Part<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<File<'a>>,
    headers: HeaderFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    mail_settings: Option<MailSettings>,
    tracking_settings: TrackingSettings,
}

/// Who gets the message. Everybody in one of them sees the others, blind copies excepted.
#[derive(Serialize)]
struct Personalization<'a> {
    to: [Address<'a>; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cc: Vec<Address<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<Address<'a>>,
    custom_args: CustomArgs<'a>,
}

#[derive(Serialize)]
struct Address<'a> {
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl<'a> Address<'a> {
    fn bare(address: &'a EmailAddress) -> Self {
        Self {
            email: address.as_str(),
            name: None,
        }
    }
}

#[derive(Serialize)]
struct CustomArgs<'a> {
    delivery_id: &'a str,
}

#[derive(Serialize)]
struct Part<'a> {
    r#type: &'static str,
    value: Cow<'a, str>,
}

#[derive(Serialize)]
struct File<'a> {
    content: String,
    r#type: &'a str,
    filename: String,
    disposition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_id: Option<&'a str>,
}

/// Fields of the header beside those that SendGrid writes. It writes Feedback-ID itself.
#[derive(Serialize)]
struct HeaderFields {
    #[serde(rename = "Auto-Submitted")]
    auto_submitted: &'static str,
}

#[derive(Serialize)]
struct MailSettings {
    sandbox_mode: Enable,
}

#[derive(Serialize)]
struct TrackingSettings {
    click_tracking: ClickTracking,
    open_tracking: Enable,
    ganalytics: Enable,
}

#[derive(Serialize)]
struct ClickTracking {
    enable: bool,
    /// In the text beside the HTML too.
    enable_text: bool,
}

#[derive(Serialize)]
struct Enable {
    enable: bool,
}

/// The message as SendGrid takes it, or why it does not.
pub(super) fn wire<'a>(
    message: &'a Message,
    sender: &'a Mailbox,
    sandbox: bool,
) -> Result<SendRequest<'a>, ProviderError> {
    let recipient = message.mailbox()?;
    let content = &message.content;
    if 1 + content.cc.len() + content.bcc.len() > RECEIVERS {
        return Err(invalid(
            "A message through SendGrid has at most 1,000 recipients; name fewer copies.",
        ));
    }
    ASCII_ONLY.check(message, sender)?;
    let subject = content.title.as_deref().filter(|title| !title.is_empty());
    let subject = subject.ok_or(not_carried(
        ErrorKind::InvalidMessage,
        "SendGrid takes no message without a subject; give it a title.",
    ))?;
    // Plain text first: RFC 2046 section 5.1.4, and SendGrid refuses another order.
    let parts = [
        ("text/plain", text_body(content)),
        ("text/html", content.html.as_deref().map(Cow::Borrowed)),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter_map(|(r#type, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some(Part { r#type, value })
        })
        .collect();
    if parts.is_empty() {
        return Err(invalid("An e-mail needs a body."));
    }
    let attachments = content.attachments.iter().map(file);
    Ok(SendRequest {
        personalizations: [Personalization {
            to: [Address {
                email: recipient.address.as_str(),
                name: recipient.name.as_deref().and_then(receiver_name),
            }],
            cc: content.cc.iter().map(Address::bare).collect(),
            bcc: content.bcc.iter().map(Address::bare).collect(),
            custom_args: CustomArgs {
                delivery_id: message.delivery.as_str(),
            },
        }],
        from: Address {
            email: sender.address.as_str(),
            name: sender.name.clone(),
        },
        reply_to: message.reply_to.as_ref().map(Address::bare),
        subject,
        content: parts,
        attachments: attachments.collect::<Result<_, _>>()?,
        headers: HeaderFields {
            auto_submitted: mime::AUTO_SUBMITTED.1,
        },
        mail_settings: sandbox.then_some(MailSettings {
            sandbox_mode: Enable { enable: true },
        }),
        tracking_settings: TrackingSettings {
            click_tracking: ClickTracking {
                enable: false,
                enable_text: false,
            },
            open_tracking: Enable { enable: false },
            ganalytics: Enable { enable: false },
        },
    })
}

pub(super) const fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes < MESSAGE_BYTES {
        return Ok(());
    }
    Err(invalid(
        "The message with its files is 30 MB or more; send smaller files.",
    ))
}

/// What is said of local parts beyond ASCII. SendGrid answers 202 to a message for one and does not send it
/// (<https://github.com/sendgrid/sendgrid-csharp/issues/255>), and does not support them in `from`
/// (<https://docs.sendgrid.com/api-reference/mail-send/limitations>).
const ASCII_ONLY: AsciiOnly = AsciiOnly {
    sender: "SendGrid sends from no address with letters beyond ASCII before the @; choose another sender.",
    receiver: "SendGrid sends to no address with letters beyond ASCII before the @; a mail server with SMTPUTF8 may.",
    reply_to: "SendGrid takes no address for answers with letters beyond ASCII before the @; choose another.",
};

/// A receiver's name without commas and semicolons, which SendGrid refuses in it
/// (<https://docs.sendgrid.com/api-reference/mail-send/limitations>).
fn receiver_name(name: &str) -> Option<String> {
    let words: Vec<_> = name
        .split([',', ';'])
        .flat_map(str::split_whitespace)
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn file(attachment: &request::Attachment) -> Result<File<'_>, ProviderError> {
    if attachment.content.is_empty() {
        return Err(not_carried(
            ErrorKind::InvalidMessage,
            "SendGrid takes no empty file; leave it out.",
        ));
    }
    Ok(File {
        content: BASE64_STANDARD.encode(&attachment.content),
        // SendGrid refuses a semicolon.
        r#type: mime::base64_type(&attachment.content_type),
        // <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors>, `attachments.filename`:
        // neither of the two, and a message is worth more than its file's punctuation.
        filename: attachment.filename.replace([',', ';'], "_"),
        disposition: if attachment.content_id.is_some() {
            "inline"
        } else {
            "attachment"
        },
        content_id: attachment.content_id.as_ref().map(ContentId::as_str),
    })
}
