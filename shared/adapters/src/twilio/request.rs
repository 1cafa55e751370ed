//! The form of `POST …/Messages.json`.

use comms_core::{
    ErrorKind, ProviderError,
    account::ContentSid,
    request::{Template, TemplateValues},
};
use serde_json::{Map, Value};

use super::config::TwilioConfig;
use crate::message::{Message, check_template_text, invalid, not_carried};

/// Characters of a text (message resource, `Body`).
pub(super) const MAX_TEXT: usize = 1_600;

/// Variables of a content template ("Using variables with content templates").
const MAX_VARIABLES: usize = 100;

/// Characters of a variable's value (the same).
const MAX_VARIABLE: usize = 1_600;

/// The message as Twilio takes it (`CreateMessageRequest` of the contract), or why it is not even
/// asked.
pub(super) fn form(
    config: &TwilioConfig,
    message: &Message,
) -> Result<Vec<(&'static str, String)>, ProviderError> {
    let number = message.number()?;
    let (from, service) = config.sender.parts();
    let mut form = vec![("To", whatsapp_address(number.as_str()))];
    form.extend(from.map(|number| ("From", whatsapp_address(number.as_str()))));
    form.extend(service.map(|service| ("MessagingServiceSid", service.to_string())));

    let content = &*message.content;
    match (&content.template, &content.media, &content.body) {
        (Some(_), Some(_), _) => {
            return Err(not_here(
                "Twilio takes the media of a template from the template itself; leave media away, or use a provider that takes them.",
            ));
        }
        // Where there is a template the body is for other channels.
        (Some(template), None, _) => {
            let (sid, variables) = content_template(config, template)?;
            form.push(("ContentSid", sid.to_string()));
            form.extend(variables.map(|variables| ("ContentVariables", variables)));
        }
        (None, None, None) => {
            return Err(invalid(
                "A WhatsApp message needs a body, a template or media.",
            ));
        }
        (None, media, body) => {
            if let Some(body) = body {
                if body.chars().count() > MAX_TEXT {
                    return Err(invalid(
                        "The body is longer than the 1600 characters that Twilio takes; shorten it.",
                    ));
                }
                form.push(("Body", body.clone()));
            }
            form.extend(
                media
                    .as_ref()
                    .map(|media| ("MediaUrl", media.url.as_str().to_owned())),
            );
        }
    }
    form.extend(
        config
            .status_callback
            .as_ref()
            .map(|url| ("StatusCallback", url.clone())),
    );
    Ok(form)
}

/// A number as Twilio names it on this channel, with one prefix however many it had.
pub(super) fn whatsapp_address(number: &str) -> String {
    const PREFIX: &str = "whatsapp:";
    format!("{PREFIX}{}", number.trim_start_matches(PREFIX))
}

/// The content template that a request's name stands for, and what goes into it: one JSON object as
/// text, its keys counted from "1".
fn content_template(
    config: &TwilioConfig,
    template: &Template,
) -> Result<(ContentSid, Option<String>), ProviderError> {
    let known = config.templates.get(&template.id).cloned();
    let Some(sid) = known.or_else(|| ContentSid::parse(&template.id).ok()) else {
        return Err(not_here(
            "Twilio has no template of this name; save its content SID (HX…) under the name in the entry's templates, or send the SID as templateId.",
        ));
    };
    let params = match &template.values {
        TemplateValues::Params(params) => params,
        TemplateValues::Components(_) => {
            return Err(not_here(
                "Twilio takes no templateComponents, which are of Meta's form; send templateParams.",
            ));
        }
    };
    let mut variables = Map::new();
    for (index, text) in params.iter().enumerate() {
        check_template_text(text)?;
        if text.chars().count() > MAX_VARIABLE {
            return Err(invalid(
                "A parameter of the template is longer than 1600 characters.",
            ));
        }
        variables.insert((index + 1).to_string(), text.into());
    }
    if variables.len() > MAX_VARIABLES {
        return Err(invalid("A template takes at most 100 parameters."));
    }
    let variables = (!variables.is_empty()).then(|| Value::Object(variables).to_string());
    Ok((sid, variables))
}

/// Another provider of the chain may have the template.
const fn not_here(detail: &'static str) -> ProviderError {
    not_carried(ErrorKind::TemplateInvalid, detail)
}
