//! A communication read from JSON, with every problem named.

use serde_json::Value;

use super::{
    CommunicationRequest, MAX_CATEGORY, Priority, RequestedTenant, Strategy, Submission,
    content::{Content, read_content},
    expiry::parse_expiry,
    metadata::{read_metadata, refuse_misplaced_clinic},
    recipients::read_recipients,
    word::is_word,
};
use crate::{
    address::EmailAddress,
    channel::Channel,
    country::Country,
    id::IdempotencyKey,
    json::{Object, read},
};

pub(super) fn read_submission(
    mut object: Object<'_>,
    country: Option<Country>,
) -> Option<Submission> {
    let idempotency_key = object.optional("idempotencyKey", read::parsed(IdempotencyKey::parse));
    let category = object.optional("category", read::parsed(parse_category));
    let priority = object.optional(
        "priority",
        read::one_of(&[
            ("low", Priority::Low),
            ("normal", Priority::Normal),
            ("high", Priority::High),
            ("critical", Priority::Critical),
        ]),
    );
    let strategy = object.optional(
        "strategy",
        read::one_of(&[
            ("queued", Strategy::Queued),
            ("immediate", Strategy::Immediate),
        ]),
    );
    let channels = read_channels(&mut object);
    let recipients = read_recipients(&mut object, country);
    let content = Content {
        category: category.clone(),
        ..read_content(
            &mut object,
            channels.as_deref().unwrap_or_default(),
            &recipients,
        )
    };
    let reply_to = object.optional("replyTo", read::parsed(EmailAddress::parse_new));
    let expires_at = object.optional("expiresAt", read::parsed(parse_expiry));
    let (requested, references) = object
        .object("metadata", |metadata| Some(read_metadata(metadata)))
        .unwrap_or_default();
    refuse_misplaced_clinic(&mut object);
    object.finish();
    Some(Submission {
        request: CommunicationRequest {
            category,
            priority: priority.unwrap_or(Priority::Normal),
            strategy: strategy.unwrap_or(Strategy::Queued),
            content,
            recipients,
            channels: channels?,
            reply_to,
            expires_at,
            requested: requested.unwrap_or(RequestedTenant::Unnamed),
            references,
            read_in: country,
        },
        idempotency_key,
    })
}

fn parse_category(text: &str) -> Result<String, String> {
    if is_word(text, 1, MAX_CATEGORY) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be 1 to {MAX_CATEGORY} letters, digits, '-' or '_'"
        ))
    }
}

fn read_channels(object: &mut Object<'_>) -> Option<Vec<Channel>> {
    let items = match object.take("channels") {
        Some(Value::Array(items)) => items,
        Some(_) => {
            object.problem("channels", "must be an array of channel names");
            return None;
        }
        None => {
            object.problem("channels", "is required");
            return None;
        }
    };
    if items.is_empty() {
        object.problem("channels", "must name at least one channel");
    }
    let (mut channels, mut is_right) = (Vec::new(), !items.is_empty());
    for (index, item) in items.into_iter().take(Channel::ALL.len() + 1).enumerate() {
        let channel = item.as_str().and_then(Channel::parse);
        let wrong = match channel {
            None => "must be one of: email, whatsapp",
            Some(channel) if channels.contains(&channel) => {
                "is named already; name each channel once"
            }
            Some(channel) => {
                channels.push(channel);
                continue;
            }
        };
        object.problem_at("channels", index, wrong);
        is_right = false;
    }
    is_right.then_some(channels)
}
