//! Meta `WhatsApp` Business Cloud API, Graph v23.0: `POST /{phone-number-id}/messages`.
//!
//! Idempotency: none. `biz_opaque_callback_data` carries the delivery's id, which Meta does not look
//! at and repeats in its webhooks: a message that went out twice can be told by it.
//!
//! Documentation: <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages>
//!
//! Left out, since no communication asks for it: interactive, contact, location and reaction messages,
//! replies to a message, groups. Media go by link; what is uploaded first (`/media`) would have to be
//! kept and deleted here. Parameters of a template go by position; one with named parameters takes
//! `templateComponents`. What becomes of a message comes by webhook and is not received here.

use std::{fmt, num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use comms_core::{
    AfterRetries, BaseUrl, Disposition, ErrorKind, ProviderCode, ProviderError, ProviderKind,
    Receipt, Secret,
    account::GraphId,
    request::{Media, MediaKind, Template, TemplateParams, TemplateValues},
};
use jiff::SignedDuration;
use serde::Serialize;
use serde_json::Value;

use crate::{
    deadline::Deadline,
    http::{
        Answer, CONTENT_TOO_LARGE, HttpClients, HttpRequest, classify_status, classify_transport,
        of_question, provider_id, too_large,
    },
    message::{Message, check_template_text, invalid, not_carried},
    pacing::Rate,
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
};

impl MetaSettings {
    /// Meta's Graph at the version that this adapter is written for. It is served until 2027-10-08
    /// (Graph API, changelog).
    pub const GRAPH_URL: &str = "https://graph.facebook.com/v23.0";
}

/// Characters of a text (messages reference, `text.body`).
const MOST_TEXT: usize = 4_096;
/// Characters of a caption (messages reference, image, video and document messages).
const MOST_CAPTION: usize = 1_024;
/// Characters of a template's name (message templates reference, `name`).
const MOST_TEMPLATE_NAME: usize = 512;
/// Parameters of a text header (template components, "Text header").
const MOST_HEADER_PARAMETERS: usize = 1;
/// Characters of a header's parameter (messages reference, parameter object).
const MOST_HEADER_TEXT: usize = 60;
/// Characters of a parameter of the body beside other components (the same).
const MOST_BODY_TEXT: usize = 1_024;
/// Buttons of a template (template components, "Buttons").
const MOST_BUTTONS: usize = 10;
/// One message in six seconds to one recipient (throughput, "Pair rate limits"), and a burst is paid
/// back at that rate. Each further refusal is waited for four times as long, by who tries again.
const PAIR_LIMIT_WAIT: Duration = Duration::from_secs(6);
/// Messages that one phone number may send in a second, unless Meta has raised that (Cloud API, "Throughput").
pub(crate) const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(79);
/// Messages from one phone number to one recipient: 45 at once, for which one in six seconds is borrowed
/// (Cloud API, "Pair rate limits").
pub(crate) const PAIR_RATE: Rate = Rate {
    burst: 45,
    interval: SignedDuration::from_secs(6),
};
/// Meta asks not to repeat what it held back for the recipient's sake before a day is over
/// (error codes, 131049).
const FREQUENCY_LIMIT_WAIT: Duration = Duration::from_hours(24);
/// What is asked of a phone number to verify it.
const NUMBER_FIELDS: &str =
    "fields=verified_name,quality_rating,code_verification_status,name_status,throughput";

const CAPABILITIES: Capabilities = Capabilities {
    html: false,
    attachments: false,
    receivers: 1,
    reply_to: false,
    internationalised_addresses: false,
    templates: true,
    media: true,
    text_chars: Some(MOST_TEXT),
    message_bytes: None,
};

/// What is needed to send from one phone number.
#[derive(Clone)]
pub struct MetaSettings {
    /// A system user's access token with `whatsapp_business_messaging`.
    pub access_token: Secret,
    /// The phone number's id.
    pub phone_number_id: GraphId,
    /// Where the Graph is, version included.
    pub api_url: BaseUrl,
}

/// One phone number of one `WhatsApp` Business account.
pub struct MetaProvider {
    settings: MetaSettings,
    http: HttpClients,
}

impl MetaProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: MetaSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }

    async fn phone_number(&self, deadline: Deadline) -> Result<Value, ProviderError> {
        let mut url = self
            .settings
            .api_url
            .join([self.settings.phone_number_id.as_str()]);
        url.set_query(Some(NUMBER_FIELDS));
        let answer = self.exchange(HttpRequest::get(url), deadline).await?;
        let number = answer.json().ok().filter(is_phone_number);
        match number {
            Some(number) if answer.is_success() => Ok(number),
            Some(_) | None => Err(refusal(&answer)),
        }
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        let request = request.bearer(&self.settings.access_token)?;
        self.http
            .send(&self.settings.api_url, request, deadline)
            .await
            .map_err(classify_transport)
    }
}

impl fmt::Debug for MetaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaProvider(…)")
    }
}

impl fmt::Debug for MetaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaSettings(…)")
    }
}

#[async_trait]
impl Provider for MetaProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::MetaBusiness
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let wire = wire(message)?;
        let segments = [self.settings.phone_number_id.as_str(), "messages"];
        let url = self.settings.api_url.join(segments);
        let request = HttpRequest::post_json(url, &wire)?;
        receipt(&self.exchange(request, deadline).await?)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        let api_url = &self.settings.api_url;
        if !self
            .http
            .verify_reachable(api_url, &mut report, deadline)
            .await
        {
            return report.end();
        }
        let number = match self.phone_number(deadline).await.map_err(of_question) {
            // Who says that of the number has taken the token.
            Err(error) if error.kind == ErrorKind::SenderNotAllowed => Err(error),
            Err(error) => {
                report.stage::<()>(VerifyStage::Authenticate, Err(error));
                return report.end();
            }
            Ok(number) => Ok(number),
        };
        report.stage(VerifyStage::Authenticate, Ok(()));
        // That the number is there is all: numbers send whose code verification has lapsed or was never
        // asked for (Meta's own test numbers among them), and whose next display name was declined.
        report.stage(VerifyStage::Sender, number);
        report.end()
    }
}

/// `Message` of the contract.
#[derive(Serialize)]
struct Wire<'a> {
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
fn wire(message: &Message) -> Result<Wire<'_>, ProviderError> {
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
            if caption.is_some_and(|text| is_longer(text, MOST_CAPTION)) {
                return Err(invalid(
                    "The body is longer than the 1024 characters that WhatsApp takes beside a medium; shorten it.",
                ));
            }
            Part::Medium(medium(media, caption))
        }
        (None, None, Some(body)) if is_longer(body, MOST_TEXT) => {
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
    let is_name = (1..=MOST_TEMPLATE_NAME).contains(&name.len())
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
    if header.len() > MOST_HEADER_PARAMETERS {
        return Err(invalid(
            "The header of a template takes one parameter: a text or a medium.",
        ));
    }
    if params
        .header
        .iter()
        .any(|text| is_longer(text, MOST_HEADER_TEXT))
    {
        return Err(invalid(
            "A parameter of the template's header is longer than 60 characters.",
        ));
    }
    if params
        .body
        .iter()
        .any(|text| is_longer(text, MOST_BODY_TEXT))
    {
        return Err(invalid(
            "A parameter of the template's body is longer than 1024 characters.",
        ));
    }
    if params.buttons.len() > MOST_BUTTONS {
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

/// The receipt is Meta's id of the message. Its `message_status` makes no difference: a message that
/// is held for the quality of its template, or paused, is Meta's to send or to give up on, and it says
/// so by webhook; sent by another provider too it may arrive twice.
fn receipt(answer: &Answer) -> Result<Receipt, ProviderError> {
    let body = answer.json().unwrap_or_default();
    let id = body.pointer("/messages/0/id").and_then(Value::as_str);
    match id.and_then(provider_id) {
        Some(id) if answer.is_success() => Ok(Receipt::new(id)),
        Some(_) | None => Err(refusal(answer)),
    }
}

/// What an answer means that is not what was asked for.
fn refusal(answer: &Answer) -> ProviderError {
    if answer.status == CONTENT_TOO_LARGE {
        return too_large(answer);
    }
    let body = answer.json().unwrap_or_default();
    let number = |name: &str| body.get("error")?.get(name)?.as_i64();
    let Some(code) = number("code") else {
        return by_status(answer);
    };
    let subcode = number("error_subcode");
    let error = classify(code, subcode, answer.status).unwrap_or_else(|| by_status(answer));
    let error = match answer.retry_after(None) {
        Some(wait) if error.kind == ErrorKind::RateLimited && error.retry_after.is_none() => {
            error.with_retry_after(wait)
        }
        Some(_) | None => error,
    };
    error.with_code(ProviderCode::parse(&match subcode {
        Some(subcode) => format!("{code}.{subcode}"),
        None => code.to_string(),
    }))
}

/// What an answer without a known code means. The status of a success is not given as a code, since 200
/// is one of Meta's.
fn by_status(answer: &Answer) -> ProviderError {
    let error = classify_status(answer);
    if answer.is_success() {
        error.with_code(None)
    } else {
        error
    }
}

/// What Meta's error codes mean (<https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes>);
/// `None` for one that is not known. 17, 104 and 803 are of the Graph in general, as the contract's
/// `getPhoneNumberById` has them.
///
/// What says nothing about the account, its number or Meta's service leaves the health as it is.
#[allow(clippy::too_many_lines, reason = "one table")]
fn classify(code: i64, subcode: Option<i64>, status: u16) -> Option<ProviderError> {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, InvalidRecipient, PolicyRefused, RateLimited,
        SenderNotAllowed, TemplateInvalid, Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    Some(match (code, subcode) {
        // Whatever a subcode says of 190 (expired, revoked, password changed): a new token is needed.
        (0 | 3 | 10 | 104 | 190 | 200..=299 | 131_005, _) => error(
            ProviderDown,
            Unauthenticated,
            "Meta refused the access token, or it lacks the permission whatsapp_business_messaging; save a new one.",
        ),
        // 100 with subcode 33 is the Graph's "does not exist, cannot be loaded due to missing
        // permissions, or does not support this operation" of the object in the URL: the number.
        (100, Some(33))
        | (33 | 803 | 131_037 | 131_045 | 133_000 | 133_005 | 133_006 | 133_010, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The phone number is not there, not registered, or not allowed to send; check phoneNumberId, and the number and its name in WhatsApp Manager.",
        ),
        (368 | 131_031 | 131_042 | 134_011, _) => error(
            ProviderDown,
            AccountSuspended,
            "Meta has blocked the WhatsApp Business account, or a payment or a consent to terms is due; see WhatsApp Manager.",
        ),
        (130_497, _) => error(
            ProviderDown,
            PolicyRefused,
            "Meta does not let this account send to the recipient's country.",
        )
        .health_unchanged(),
        // 341 and 80008: from experience.
        (4 | 17 | 341 | 613 | 80_007 | 80_008 | 130_429, _) => error(
            Transient,
            RateLimited,
            "Meta was asked for too much at once.",
        )
        .health_unchanged(),
        (131_048 | 131_064, _) => error(
            ProviderDown,
            RateLimited,
            "Meta limits the phone number, since too many of its messages were blocked or reported; see its quality in WhatsApp Manager.",
        ),
        // Another number of the clinic's would only get around what protects the recipient.
        (131_056, _) => error(
            Transient,
            RateLimited,
            "The recipient got too many messages of this phone number in a short time.",
        )
        .health_unchanged()
        .with_retry_after(PAIR_LIMIT_WAIT)
        .after_retries(AfterRetries::Later),
        // "Invalid request or possible server error."
        (1, _) => error(
            Transient,
            Unexpected,
            "Meta could not tell what was wrong: the request, or its service.",
        )
        .health_unchanged()
        .after_retries(AfterRetries::GiveUp),
        (2 | 131_016 | 131_057 | 133_004, _) => error(
            Transient,
            Unavailable,
            "Meta's service, or the account on it, is not available at the moment.",
        ),
        (131_000, _) if status >= 500 => error(
            Ambiguous,
            Unexpected,
            "Something went wrong at Meta while it had the message; it may have taken it.",
        ),
        (131_000, _) => error(
            Transient,
            Unexpected,
            "Something went wrong at Meta; it did not take the message.",
        )
        .health_unchanged(),
        (100 | 131_008 | 131_009 | 131_051 | 131_053 | 135_000, _) => error(
            Final,
            InvalidMessage,
            "Meta refused the form of the message, or could not fetch its media; check parameters and media.",
        ),
        // The test number has a list of recipients; another number of the clinic's may have none.
        (131_030, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "Meta's test number sends to the recipients on its list alone; add the recipient there, or send from a number of your own.",
        )
        .health_unchanged(),
        (130_403 | 131_021 | 131_026 | 131_062, _) => error(
            Final,
            InvalidRecipient,
            "The recipient can not be reached by WhatsApp from this phone number; use another channel.",
        ),
        (131_047, _) => error(
            Final,
            PolicyRefused,
            "The recipient has not written to the clinic within 24 hours; only a template may go.",
        ),
        (130_472 | 131_050, _) => error(
            Final,
            PolicyRefused,
            "Meta does not deliver this message to this recipient: an experiment of its own, or the recipient's wish.",
        ),
        (131_049, _) => error(
            Final,
            PolicyRefused,
            "Meta holds the message back, since the recipient got many of its kind; try after 24 hours.",
        )
        .with_retry_after(FREQUENCY_LIMIT_WAIT),
        (132_001 | 132_015 | 132_016, _) => error(
            ProviderDown,
            TemplateInvalid,
            "The template is missing at Meta in this language, paused or disabled; see its state in WhatsApp Manager.",
        )
        .health_unchanged(),
        (
            131_063 | 132_000 | 132_005 | 132_007 | 132_008 | 132_012 | 132_018 | 132_068 | 132_069,
            _,
        ) => error(
            Final,
            TemplateInvalid,
            "The template does not fit its parameters, or may not be sent as it is; compare it in WhatsApp Manager.",
        ),
        _ => return None,
    })
}

/// Whether a successful answer is about a phone number.
fn is_phone_number(body: &Value) -> bool {
    let is_text = |name: &str| body.get(name).is_some_and(Value::is_string);
    is_text("id") || is_text("verified_name")
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
