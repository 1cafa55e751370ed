//! The body of `POST /{phone-number-id}/messages`.

use comms_core::{
    ErrorKind, ProviderError,
    request::{Media, MediaKind, Template, TemplateParams, TemplateValues},
};
use serde::Serialize;
use serde_json::Value;

use crate::message::{Message, check_template_text, invalid, not_carried};

/// Characters of a text (messages reference, `text.body`).
pub(super) const MAX_TEXT: usize = 4_096;

/// Characters of a caption (messages reference, image, video and document messages).
const MAX_CAPTION: usize = 1_024;

/// Characters of a template's name (message templates reference, `name`).
const MAX_TEMPLATE_NAME: usize = 512;

/// Parameters of a text header (template components, "Text header").
const MAX_HEADER_PARAMETERS: usize = 1;

/// Characters of a header's parameter (messages reference, parameter object).
const MAX_HEADER_TEXT: usize = 60;

/// Characters of a parameter of the body beside other components (the same).
const MAX_BODY_TEXT: usize = 1_024;

/// Buttons of a template (template components, "Buttons").
const MAX_BUTTONS: usize = 10;

/// `Message` of the contract.
#[derive(Serialize)]
pub(super) struct Wire<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    /// In E.164 form with its plus sign: without it Meta takes a number that lacks a country code for
    /// one of the sender's country (Cloud API, "Phone numbers").
    to: &'a str,
    biz_opaque_callback_data: &'a str,
    #[serde(flatten)]
    part: Part<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text {
        text: Text<'a>,
    },
    Template {
        template: TemplatePart<'a>,
    },
    #[serde(untagged)]
    Medium(Medium<'a>),
}

#[derive(Serialize)]
struct Text<'a> {
    body: &'a str,
    /// Nobody is to fetch a link before the recipient does: some work once.
    preview_url: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Medium<'a> {
    Image { image: Linked<'a> },
    Video { video: Linked<'a> },
    Document { document: Linked<'a> },
}

#[derive(Serialize)]
struct Linked<'a> {
    link: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
}

#[derive(Serialize)]
struct TemplatePart<'a> {
    name: &'a str,
    language: Language<'a>,
    #[serde(skip_serializing_if = "Components::is_empty")]
    components: Components<'a>,
}

#[derive(Serialize)]
struct Language<'a> {
    /// The only one there is: this language and no other.
    policy: &'static str,
    code: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Components<'a> {
    Given(&'a [Value]),
    Made(Vec<Component<'a>>),
}

impl Components<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Given(components) => components.is_empty(),
            Self::Made(components) => components.is_empty(),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Component<'a> {
    Header {
        parameters: Vec<Parameter<'a>>,
    },
    Body {
        parameters: Vec<Parameter<'a>>,
    },
    Button {
        sub_type: &'static str,
        index: String,
        parameters: [Parameter<'a>; 1],
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Parameter<'a> {
    Text {
        text: &'a str,
    },
    #[serde(untagged)]
    Medium(Medium<'a>),
}

/// The message as Meta takes it, or why it is not even asked.
pub(super) fn wire(message: &Message) -> Result<Wire<'_>, ProviderError> {
    let number = message.number()?;
    let content = &*message.content;
    let part = match (&content.template, &content.media, &content.body) {
        // Where there is a template the body is for other channels: text in its place would reach
        // only who wrote to the clinic within a day.
        (Some(template), media, _) => Part::Template {
            template: template_part(template, media.as_ref())?,
        },
        (None, Some(media), caption) => {
            let caption = caption.as_deref();
            if caption.is_some_and(|text| is_longer(text, MAX_CAPTION)) {
                return Err(invalid(
                    "The body is longer than the 1024 characters that WhatsApp takes beside a medium; shorten it.",
                ));
            }
            Part::Medium(medium(media, caption))
        }
        (None, None, Some(body)) if is_longer(body, MAX_TEXT) => {
            return Err(invalid(
                "The body is longer than the 4096 characters that WhatsApp takes; shorten it.",
            ));
        }
        (None, None, Some(body)) => Part::Text {
            text: Text {
                body,
                preview_url: false,
            },
        },
        (None, None, None) => {
            return Err(invalid(
                "A WhatsApp message needs a body, a template or media.",
            ));
        }
    };
    Ok(Wire {
        messaging_product: "whatsapp",
        recipient_type: "individual",
        to: number.as_str(),
        biz_opaque_callback_data: message.delivery.as_str(),
        part,
    })
}

fn medium<'a>(media: &'a Media, caption: Option<&'a str>) -> Medium<'a> {
    let link = Linked {
        link: media.url.as_str(),
        caption,
        filename: match media.kind {
            MediaKind::Document => media.filename.as_deref(),
            MediaKind::Image | MediaKind::Video => None,
        },
    };
    match media.kind {
        MediaKind::Image => Medium::Image { image: link },
        MediaKind::Video => Medium::Video { video: link },
        MediaKind::Document => Medium::Document { document: link },
    }
}

fn template_part<'a>(
    template: &'a Template,
    media: Option<&'a Media>,
) -> Result<TemplatePart<'a>, ProviderError> {
    let name = template.id.as_str();
    let is_name = (1..=MAX_TEMPLATE_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !is_name {
        return Err(not_here(
            "The templateId is no name of a template at Meta: 1 to 512 of a-z, 0-9 and '_'.",
        ));
    }
    let Some(language) = &template.language else {
        return Err(not_here(
            "Meta needs to know which language of the template is meant; send language.",
        ));
    };
    let components = match &template.values {
        TemplateValues::Components(_) if media.is_some() => {
            return Err(invalid(
                "Media of a template belong into the header of templateComponents.",
            ));
        }
        TemplateValues::Components(components) => Components::Given(components),
        TemplateValues::Params(params) => Components::Made(components(params, media)?),
    };
    Ok(TemplatePart {
        name,
        language: Language {
            policy: "deterministic",
            code: language,
        },
        components,
    })
}

/// A component for each part of the template that something goes into.
fn components<'a>(
    params: &'a TemplateParams,
    media: Option<&'a Media>,
) -> Result<Vec<Component<'a>>, ProviderError> {
    let mut header: Vec<_> = texts(&params.header)?;
    header.extend(media.map(|media| Parameter::Medium(medium(media, None))));
    if header.len() > MAX_HEADER_PARAMETERS {
        return Err(invalid(
            "The header of a template takes one parameter: a text or a medium.",
        ));
    }
    if params
        .header
        .iter()
        .any(|text| is_longer(text, MAX_HEADER_TEXT))
    {
        return Err(invalid(
            "A parameter of the template's header is longer than 60 characters.",
        ));
    }
    if params
        .body
        .iter()
        .any(|text| is_longer(text, MAX_BODY_TEXT))
    {
        return Err(invalid(
            "A parameter of the template's body is longer than 1024 characters.",
        ));
    }
    if params.buttons.len() > MAX_BUTTONS {
        return Err(invalid("A template has at most 10 buttons."));
    }
    let body = texts(&params.body)?;
    let buttons = texts(&params.buttons)?;

    let mut components = Vec::new();
    if !header.is_empty() {
        components.push(Component::Header { parameters: header });
    }
    if !body.is_empty() {
        components.push(Component::Body { parameters: body });
    }
    let buttons = buttons.into_iter().enumerate();
    components.extend(buttons.map(|(index, parameter)| Component::Button {
        sub_type: "url",
        index: index.to_string(),
        parameters: [parameter],
    }));
    Ok(components)
}

/// Meta refuses an empty parameter, and one with a line break, a tab or more than four spaces in a row
/// (message templates, "Guidelines"; error codes, 132018; Twilio says the same of `WhatsApp`, error
/// 63013).
fn texts(texts: &[String]) -> Result<Vec<Parameter<'_>>, ProviderError> {
    for text in texts {
        check_template_text(text)?;
    }
    Ok(texts.iter().map(|text| Parameter::Text { text }).collect())
}

fn is_longer(text: &str, most: usize) -> bool {
    text.chars().count() > most
}

/// Another provider of the chain may have the template.
const fn not_here(detail: &'static str) -> ProviderError {
    not_carried(ErrorKind::TemplateInvalid, detail)
}
