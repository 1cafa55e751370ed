//! The content of a message: texts, attachments, copies, and WhatsApp's templates and media.

use serde_json::Value;

use super::{
    MAX_BODY, MAX_COPIES, MAX_HTML, MAX_TITLE,
    media::{Media, read_media},
    recipients::{Recipient, mailbox_key},
    template::{Template, TemplateValues, read_template},
};
use crate::{
    address::EmailAddress,
    attachment::{Attachment, read_attachments},
    channel::Channel,
    json::{Object, read},
    visible::{has_visible, is_turned},
};

/// The content of a message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// What it is about, as the request has it.
    pub category: Option<String>,
    /// The subject of an e-mail.
    pub title: Option<String>,
    /// The text.
    pub body: Option<String>,
    /// The same as HTML, for e-mail.
    pub html: Option<String>,
    /// The template, for WhatsApp.
    pub template: Option<Template>,
    /// Files, for e-mail.
    pub attachments: Vec<Attachment>,
    /// Who else gets the e-mail, for all to see.
    pub cc: Vec<EmailAddress>,
    /// Who else gets the e-mail, unseen.
    pub bcc: Vec<EmailAddress>,
    /// A file, for WhatsApp. With a template it goes into the header.
    pub media: Option<Media>,
}

impl Content {
    /// The envelope recipients of one delivery on `channel`. Each e-mail delivery repeats the copies.
    pub fn envelope_recipients(&self, channel: Channel) -> u32 {
        let copies = match channel {
            Channel::Email => self.cc.len() + self.bcc.len(),
            Channel::Whatsapp => 0,
        };
        u32::try_from(copies + 1).unwrap_or(u32::MAX)
    }
}

pub(super) fn read_content(
    object: &mut Object<'_>,
    channels: &[Channel],
    recipients: &[Recipient],
) -> Content {
    let title = object.optional("title", read::parsed(parse_title));
    let body = object.optional("body", read::visible_text(1, MAX_BODY));
    let html = object.optional("html", read::visible_text(1, MAX_HTML));
    let media = object.object("media", read_media);
    let template = read_template(object);
    let attachments = read_attachments(object, html.is_some());
    let (cc, bcc) = read_copies(object, channels, recipients);

    if channels.contains(&Channel::Email) {
        if title.is_none() {
            object.missing("title", "is required for the email channel");
        }
        if body.is_none() && html.is_none() {
            object.missing(
                "body",
                "is required for the email channel, unless there is html",
            );
        }
    }
    if channels.contains(&Channel::Whatsapp)
        && body.is_none()
        && template.is_none()
        && media.is_none()
    {
        object.missing(
            "body",
            "is required for the whatsapp channel, unless there is a templateId or media",
        );
    }
    if media.is_some() {
        let in_the_way = match template.as_ref().map(|template| &template.values) {
            Some(TemplateValues::Components(_)) => {
                Some("belongs into the header of templateComponents")
            }
            Some(TemplateValues::Params(params)) if !params.header.is_empty() => {
                Some("takes the place of templateParams.header; send one of them")
            }
            Some(TemplateValues::Params(_)) | None => None,
        };
        if !channels.contains(&Channel::Whatsapp) {
            object.problem(
                "media",
                "needs the whatsapp channel; an e-mail has attachments",
            );
        } else if let Some(detail) = in_the_way {
            object.problem("media", detail);
        }
    }
    Content {
        category: None,
        title,
        body,
        html,
        template,
        attachments,
        cc,
        bcc,
        media,
    }
}

/// Copies go with a delivery, and every recipient is a delivery: with several recipients each copy
/// would go out several times.
fn read_copies(
    object: &mut Object<'_>,
    channels: &[Channel],
    recipients: &[Recipient],
) -> (Vec<EmailAddress>, Vec<EmailAddress>) {
    let mut seen: Vec<_> = recipients
        .iter()
        .filter_map(|recipient| recipient.email.as_ref().map(mailbox_key))
        .collect();
    let recipients_with_mail = seen.len();
    let mut read_field = |name: &'static str| {
        let addresses = read_addresses(object, name);
        if addresses.is_empty() {
            return Vec::new();
        }
        if !channels.contains(&Channel::Email) {
            object.problem(name, "needs the email channel");
        } else if recipients_with_mail > 1 {
            object.problem(name, "needs a request with one recipient: each recipient gets a message of their own, and each would have these copies");
        } else if recipients_with_mail == 0 {
            object.problem(name, "needs a recipient with an email");
        }
        for (index, address) in &addresses {
            let key = mailbox_key(address);
            if seen.contains(&key) {
                let detail = "is an address that gets the message already";
                object.problem_at(name, *index, detail);
                continue;
            }
            seen.push(key);
        }
        addresses.into_iter().map(|(_, address)| address).collect()
    };
    let (cc, bcc) = (read_field("cc"), read_field("bcc"));
    if cc.len() + bcc.len() > MAX_COPIES {
        object.missing(
            if cc.is_empty() { "bcc" } else { "cc" },
            format!("must name at most {MAX_COPIES} addresses together with cc and bcc"),
        );
    }
    (cc, bcc)
}

/// The addresses in an array, each with its index there.
fn read_addresses(object: &mut Object<'_>, name: &'static str) -> Vec<(usize, EmailAddress)> {
    let items = match object.take(name) {
        None => return Vec::new(),
        Some(Value::Array(items)) if items.len() <= MAX_COPIES => items,
        Some(_) => {
            let detail = format!("must be an array of at most {MAX_COPIES} e-mail addresses");
            object.problem(name, detail);
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match read::parsed(EmailAddress::parse_new)(item) {
            Ok(address) => addresses.push((index, address)),
            Err(detail) => object.problem_at(name, index, detail),
        }
    }
    addresses
}

fn parse_title(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if !(1..=MAX_TITLE).contains(&length) {
        Err(format!("must be 1 to {MAX_TITLE} characters long"))
    } else if text.chars().any(char::is_control) {
        Err("must be one line without control characters".to_owned())
    } else if is_turned(text) {
        Err(
            "must be one line that nothing turns: without U+2028, U+2029, U+202D and U+202E"
                .to_owned(),
        )
    } else if !has_visible(text) {
        Err("must have a visible character".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
