//! A message in the inbox: its summary, its parts, and its HTML for a sandboxed frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use comms_testkit::smtp::ReceivedMessage;
use jiff::Timestamp;
use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders as _, PartType};
use serde_json::{Value, json};

/// A message in the inbox.
#[derive(Debug)]
pub(super) struct InboxMessage {
    pub(super) id: u64,
    pub(super) received_at: Timestamp,
    pub(super) received: ReceivedMessage,
}

impl InboxMessage {
    pub(super) fn parse(&self) -> Option<Message<'_>> {
        MessageParser::default().parse(&self.received.data)
    }

    pub(super) fn summary(&self, message: Option<&Message<'_>>) -> Value {
        json!({
            "id": self.id,
            "from": message.map(|m| addresses(m.from())).unwrap_or_default(),
            "to": message.map(|m| addresses(m.to())).unwrap_or_default(),
            "subject": message.and_then(Message::subject),
            "receivedAt": self.received_at.to_string(),
            "size": self.received.data.len(),
            "messageId": message.and_then(Message::message_id),
            "attachments": message.map_or(0, Message::attachment_count),
            "envelope": {"from": self.received.mail_from, "to": self.received.rcpt_to},
        })
    }

    pub(super) fn details(&self) -> Value {
        let message = self.parse();
        let message = message.as_ref();
        let mut details = self.summary(message);
        details["cc"] = json!(message.map(|m| addresses(m.cc())).unwrap_or_default());
        details["replyTo"] = json!(message.map(|m| addresses(m.reply_to())).unwrap_or_default());
        details["overTls"] = json!(self.received.over_tls);
        details["authenticatedAs"] = json!(self.received.authenticated_as);
        details["headers"] = message.map(headers).unwrap_or_default().into();
        details["text"] = json!(message.and_then(text));
        details["html"] = json!(message.and_then(|m| html_part(m)));
        details["attachments"] = message
            .map(|m| m.attachments().map(describe).collect::<Vec<_>>())
            .unwrap_or_default()
            .into();
        details
    }
}

/// Each as `Name <address>`.
fn addresses(address: Option<&Address<'_>>) -> Vec<String> {
    let all = address.into_iter().flat_map(Address::iter);
    all.map(|one| match (one.name(), one.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (name, None) => name.unwrap_or_default().to_owned(),
    })
    .collect()
}

/// The header fields as received, unfolded.
fn headers(message: &Message<'_>) -> Vec<Value> {
    message
        .headers_raw()
        .map(|(name, value)| {
            let value: Vec<&str> = value.lines().map(str::trim).collect();
            json!({"name": name, "value": value.join(" ").trim()})
        })
        .collect()
}

/// The first body that is plain text, if one was sent.
fn text(message: &Message<'_>) -> Option<String> {
    message.text_bodies().find_map(|part| match &part.body {
        PartType::Text(text) => Some(text.clone().into_owned()),
        PartType::Html(_)
        | PartType::Binary(_)
        | PartType::InlineBinary(_)
        | PartType::Message(_)
        | PartType::Multipart(_) => None,
    })
}

/// The first body that is HTML, if one was sent.
fn html_part<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    message.html_bodies().find_map(|part| match &part.body {
        PartType::Html(html) => Some(html.as_ref()),
        PartType::Text(_)
        | PartType::Binary(_)
        | PartType::InlineBinary(_)
        | PartType::Message(_)
        | PartType::Multipart(_) => None,
    })
}

/// The HTML with its inline images as data URLs, since the page's policy allows no requests.
pub(super) fn html_with_images(message: &Message<'_>) -> Option<String> {
    let mut html = html_part(message)?.to_owned();
    for part in message.attachments() {
        let (Some(id), Some(kind)) = (part.content_id(), part.content_type()) else {
            continue;
        };
        let image = kind.c_type.eq_ignore_ascii_case("image");
        let subtype = kind.c_subtype.as_deref().unwrap_or_default();
        let plain = subtype.bytes().all(|b| b.is_ascii_alphanumeric());
        let reference = format!("cid:{id}");
        if image && plain && html.contains(&reference) {
            let data = format!(
                "data:image/{subtype};base64,{}",
                BASE64.encode(part.contents())
            );
            html = html.replace(&reference, &data);
        }
    }
    Some(html)
}

pub(super) fn part_name(part: &MessagePart<'_>) -> String {
    part.attachment_name().unwrap_or("attachment").to_owned()
}

fn describe(part: &MessagePart<'_>) -> Value {
    let kind = part.content_type().map_or_else(
        || "application/octet-stream".to_owned(),
        |kind| match &kind.c_subtype {
            Some(subtype) => format!("{}/{subtype}", kind.c_type),
            None => kind.c_type.clone().into_owned(),
        },
    );
    json!({"name": part_name(part), "contentType": kind, "size": part.contents().len()})
}
