//! Twilio Programmable Messaging for `WhatsApp`, API 2010-04-01:
//! `POST /2010-04-01/Accounts/{AccountSid}/Messages.json`.
//!
//! Idempotency: none, and there is no field that would carry the delivery's id.
//!
//! Documentation: <https://www.twilio.com/docs/messaging/api/message-resource>
//!
//! Left out: a medium's file name (Twilio shows the one in the URL) and kind (it looks at what it
//! fetches); media of a template, which belong to the template at Twilio; scheduling, validity period
//! and link shortening, which no communication asks for. A content template is of one language, so a
//! request's `language` chooses nothing here. What becomes of a message goes to `StatusCallback` and is
//! not received here.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use comms_core::{
    BaseUrl, Disposition, ErrorKind, PhoneNumber, ProviderCode, ProviderError, ProviderKind,
    Receipt, Secret,
    account::{ContentSid, MessagingServiceSid, TwilioAccountSid, TwilioApiKeySid},
    request::{Template, TemplateValues},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::{
    deadline::Deadline,
    http::{
        Answer, CONTENT_TOO_LARGE, HttpClients, HttpRequest, classify_status, classify_transport,
        of_question, provider_id, too_large,
    },
    message::{Message, check_template_text, invalid, not_carried},
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
};

impl TwilioSettings {
    /// Twilio's API for accounts without a region (`US1`).
    pub const GLOBAL_URL: &str = "https://api.twilio.com";
}

/// The API's version, as it stands in its URLs.
const VERSION: &str = "2010-04-01";
/// Characters of a text (message resource, `Body`).
const MOST_TEXT: usize = 1_600;
/// Variables of a content template ("Using variables with content templates").
const MOST_VARIABLES: usize = 100;
/// Characters of a variable's value (the same).
const MOST_VARIABLE: usize = 1_600;
/// A full queue and a daily limit pass in minutes or hours: longer than any invocation lasts (AWS
/// Lambda quotas: 15 minutes), so that nobody waits for it within one.
const LATER: Duration = Duration::from_mins(15);
/// A message that does not exist, for a question that reads nothing.
const NO_MESSAGE: &str = "SM00000000000000000000000000000000.json";
/// "The requested resource was not found."
const NOT_FOUND: i64 = 20_404;

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

/// What is needed to send through one Twilio account.
#[derive(Clone)]
pub struct TwilioSettings {
    /// The account.
    pub account_sid: TwilioAccountSid,
    /// How to log in to it.
    pub login: TwilioLogin,
    /// Who the message is from.
    pub sender: TwilioSender,
    /// Where the API is; another than [`TwilioSettings::GLOBAL_URL`] for a region.
    pub api_url: BaseUrl,
    /// Where Twilio reports what becomes of a message: an https URL.
    pub status_callback: Option<String>,
    /// The content templates, by the names under which requests ask for them.
    pub templates: BTreeMap<String, ContentSid>,
}

/// How to log in.
#[derive(Clone)]
pub enum TwilioLogin {
    /// As the account itself.
    AuthToken(Secret),
    /// By an API key, which can be revoked on its own.
    ApiKey {
        /// The key.
        sid: TwilioApiKeySid,
        /// Its secret.
        secret: Secret,
    },
}

/// Who a message is from. At least one of the two, or both.
#[derive(Clone)]
pub enum TwilioSender {
    /// A `WhatsApp` number.
    Number(PhoneNumber),
    /// A messaging service, which chooses a number of its own.
    Service(MessagingServiceSid),
    /// A number of a messaging service.
    NumberOfService(PhoneNumber, MessagingServiceSid),
}

/// One Twilio account with one sender.
pub struct TwilioProvider {
    settings: TwilioSettings,
    http: HttpClients,
}

impl TwilioProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: TwilioSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        let request = match &self.settings.login {
            TwilioLogin::AuthToken(token) => {
                request.basic(self.settings.account_sid.as_str(), token)?
            }
            TwilioLogin::ApiKey { sid, secret } => request.basic(sid.as_str(), secret)?,
        };
        self.http
            .send(&self.settings.api_url, request, deadline)
            .await
            .map_err(classify_transport)
    }

    /// That the credentials are good, and the account active where they may read that.
    ///
    /// A standard API key, which is what Twilio advises to send with, may not read accounts, and is
    /// refused with the words for a wrong one (error 20003, "Possible causes"). It may read messages:
    /// asked for one that does not exist, Twilio says that it does not, and by that that the key is good.
    async fn check_account(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let account = HttpRequest::get(self.settings.account_url());
        let refused = match may_send(&self.exchange(account, deadline).await?) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match self.settings.login {
            TwilioLogin::ApiKey { .. } if refused.kind == ErrorKind::Unauthenticated => {}
            TwilioLogin::ApiKey { .. } | TwilioLogin::AuthToken(_) => return Err(refused),
        }
        let message = HttpRequest::get(self.settings.url(&["Messages", NO_MESSAGE]));
        is_not_found(&self.exchange(message, deadline).await?)
    }
}

impl TwilioSettings {
    /// What the account is under: `Accounts/{AccountSid}` and `segments`.
    fn url(&self, segments: &[&str]) -> Url {
        let account = [VERSION, "Accounts", self.account_sid.as_str()];
        self.api_url
            .join(account.into_iter().chain(segments.iter().copied()))
    }

    fn account_url(&self) -> Url {
        let file = format!("{}.json", self.account_sid);
        self.api_url.join([VERSION, "Accounts", &file])
    }
}

impl fmt::Debug for TwilioProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioProvider(…)")
    }
}

impl fmt::Debug for TwilioLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioLogin(…)")
    }
}

impl fmt::Debug for TwilioSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioSender(…)")
    }
}

impl fmt::Debug for TwilioSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioSettings(…)")
    }
}

#[async_trait]
impl Provider for TwilioProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Twilio
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let form = form(&self.settings, message)?;
        let fields: Vec<_> = form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let request = HttpRequest::post_form(self.settings.url(&["Messages.json"]), &fields);
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
        // Whether the number is a sender of the account's is known to another API only.
        report.stage(
            VerifyStage::Authenticate,
            self.check_account(deadline).await.map_err(of_question),
        );
        report.end()
    }
}

/// The message as Twilio takes it (`CreateMessageRequest` of the contract), or why it is not even
/// asked.
fn form(
    settings: &TwilioSettings,
    message: &Message,
) -> Result<Vec<(&'static str, String)>, ProviderError> {
    let number = message.number()?;
    let (from, service) = match &settings.sender {
        TwilioSender::Number(number) => (Some(number), None),
        TwilioSender::Service(service) => (None, Some(service)),
        TwilioSender::NumberOfService(number, service) => (Some(number), Some(service)),
    };
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
            let (sid, variables) = content_template(settings, template)?;
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
                if body.chars().count() > MOST_TEXT {
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
        settings
            .status_callback
            .as_ref()
            .map(|url| ("StatusCallback", url.clone())),
    );
    Ok(form)
}

/// A number as Twilio names it on this channel, with one prefix however many it had.
fn whatsapp_address(number: &str) -> String {
    const PREFIX: &str = "whatsapp:";
    format!("{PREFIX}{}", number.trim_start_matches(PREFIX))
}

/// The content template that a request's name stands for, and what goes into it: one JSON object as
/// text, its keys counted from "1".
fn content_template(
    settings: &TwilioSettings,
    template: &Template,
) -> Result<(ContentSid, Option<String>), ProviderError> {
    let known = settings.templates.get(&template.id).cloned();
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
        if text.chars().count() > MOST_VARIABLE {
            return Err(invalid(
                "A parameter of the template is longer than 1600 characters.",
            ));
        }
        variables.insert((index + 1).to_string(), text.into());
    }
    if variables.len() > MOST_VARIABLES {
        return Err(invalid("A template takes at most 100 parameters."));
    }
    let variables = (!variables.is_empty()).then(|| Value::Object(variables).to_string());
    Ok((sid, variables))
}

/// Another provider of the chain may have the template.
const fn not_here(detail: &'static str) -> ProviderError {
    not_carried(ErrorKind::TemplateInvalid, detail)
}

/// What is read of the answer to a message that was taken.
#[derive(Deserialize)]
struct Resource {
    sid: Option<String>,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    error_code: Value,
}

/// What is read of an error.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: Value,
    /// Repeats addresses: looked at and dropped.
    #[serde(default)]
    message: Value,
}

/// What is read of an account. The auth token beside it is not kept.
#[derive(Deserialize)]
struct Account {
    status: String,
}

/// The receipt is the SID of the message, unless Twilio says of it already that it came to nothing.
fn receipt(answer: &Answer) -> Result<Receipt, ProviderError> {
    if !answer.is_success() {
        return Err(refusal(answer));
    }
    let Ok(resource) = answer.read::<Resource>() else {
        return Err(classify_status(answer));
    };
    let status = resource.status.as_str().unwrap_or_default();
    let failed = matches!(status, "failed" | "undelivered" | "canceled");
    // Only of a message that failed is the code the end of it: any other Twilio has, and goes on with.
    if failed {
        let code = resource.error_code.as_i64();
        let known = code.and_then(|code| classify(code, answer.status, false));
        let error = match known {
            Some(error) => error,
            // It is known not to have gone out, and not that another provider would fail too.
            None => ProviderError::new(
                Disposition::ProviderDown,
                ErrorKind::Unexpected,
                "Twilio took the message and could not send it; its log says why.",
            )
            .health_unchanged(),
        };
        return Err(error.with_code(code.and_then(|code| ProviderCode::parse(&code.to_string()))));
    }
    match resource.sid.as_deref().and_then(provider_id) {
        Some(sid) => Ok(Receipt::new(sid)),
        None => Err(classify_status(answer)),
    }
}

/// What an answer means that is not what was asked for.
fn refusal(answer: &Answer) -> ProviderError {
    if answer.status == CONTENT_TOO_LARGE {
        return too_large(answer);
    }
    let body = answer.read::<Refusal>().ok();
    let code = body.as_ref().and_then(|body| body.code.as_i64());
    let inactive = body
        .as_ref()
        .and_then(|body| body.message.as_str())
        .is_some_and(says_inactive);
    let error = code
        .and_then(|code| classify(code, answer.status, inactive))
        .unwrap_or_else(|| classify_status(answer));
    let error = match answer.retry_after(None) {
        Some(wait) if error.kind == ErrorKind::RateLimited => error.with_retry_after(wait),
        Some(_) | None => error,
    };
    match code {
        Some(code) => error.with_code(ProviderCode::parse(&code.to_string())),
        None => error,
    }
}

/// Whether the message of error 20003 is about an account that is closed or suspended, rather than
/// about credentials (<https://www.twilio.com/docs/api/errors/20003>; there is no list of its messages).
fn says_inactive(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["not active", "inactive", "suspended", "closed"]
        .iter()
        .any(|word| message.contains(word))
}

/// What Twilio's error codes mean (<https://www.twilio.com/docs/api/errors>); `None` for one that is
/// not known. Many of them come by webhook only, or on a message that was taken (a 2xx `status`).
///
/// What says nothing about the account or the sender leaves the health as it is.
#[allow(clippy::too_many_lines, reason = "one table")]
fn classify(code: i64, status: u16, inactive: bool) -> Option<ProviderError> {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, InvalidRecipient, PolicyRefused, QuotaExceeded,
        RateLimited, SenderNotAllowed, TemplateInvalid, Unauthenticated, Unavailable,
    };
    let error = ProviderError::new;
    Some(match code {
        20_003 if inactive => error(
            ProviderDown,
            AccountSuspended,
            "The Twilio account is suspended or closed; see Twilio's console.",
        ),
        // 20008: test credentials; 20404: no such account; 70051: a key without the permission.
        20_003 | 20_008 | NOT_FOUND | 70_051 => error(
            ProviderDown,
            Unauthenticated,
            "Twilio refused the credentials, or they are not of this account or region; check accountSid and the token or key, and save them again.",
        ),
        10_001 | 20_005 | 30_002 | 63_020 | 63_051 => error(
            ProviderDown,
            AccountSuspended,
            "The Twilio account, or its WhatsApp Business account, is not active; see Twilio's console.",
        ),
        20_429 | 63_017 => error(
            Transient,
            RateLimited,
            "Twilio was asked for too much at once.",
        )
        .health_unchanged(),
        // 60728: the account's hourly limit.
        21_611 | 30_001 | 60_728 | 63_018 | 63_038 => error(
            Transient,
            QuotaExceeded,
            "The sender's queue at Twilio is full, or a limit of messages is reached.",
        )
        .health_unchanged()
        .with_retry_after(LATER),
        21_211 | 21_614 | 63_003 | 63_024 => error(
            Final,
            InvalidRecipient,
            "The recipient's number can not be reached by WhatsApp; check it or use another channel.",
        ),
        // Limits of the sender's own account, which another provider does not have.
        21_219 | 21_608 => error(
            ProviderDown,
            SenderNotAllowed,
            "A trial account at Twilio sends to verified numbers alone; upgrade the account, or verify the recipient's number there.",
        )
        .health_unchanged(),
        63_015 => error(
            ProviderDown,
            SenderNotAllowed,
            "The recipient has not joined Twilio's sandbox; send from a WhatsApp sender of your own.",
        )
        .health_unchanged(),
        21_610 | 63_033 => error(
            Final,
            PolicyRefused,
            "The recipient does not want messages of this sender.",
        ),
        21_408 => error(
            ProviderDown,
            PolicyRefused,
            "The Twilio account may not send to the recipient's country; allow it in Twilio's console (geo permissions).",
        )
        .health_unchanged(),
        21_212 | 21_606 | 21_659 | 21_660 | 21_701 | 21_703 | 21_704 | 63_001 | 63_002 | 63_007 => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender is no WhatsApp sender of this Twilio account; check fromNumber and messagingServiceSid.",
        ),
        20_422 | 21_602 | 21_603 | 21_609 | 21_617 | 21_619 | 21_655 | 21_656 | 21_910
        | 63_005 | 63_021 | 63_031 => error(
            Final,
            InvalidMessage,
            "Twilio refused the form of the message; check its length, parameters and media.",
        ),
        63_016 => error(
            Final,
            PolicyRefused,
            "The recipient has not written to the clinic within 24 hours; only a template may go.",
        ),
        63_013 | 63_032 | 63_049 => error(
            Final,
            PolicyRefused,
            "WhatsApp refused the message by a policy of its own.",
        ),
        63_027 | 63_028 | 63_030 | 63_040 | 63_041 | 63_042 => error(
            Final,
            TemplateInvalid,
            "The template is missing, rejected or paused, or does not fit its parameters; see its state in Twilio's console.",
        ),
        20_500 | 30_410 | 63_009 | 63_010 | 63_012 if status >= 500 => error(
            Ambiguous,
            Unavailable,
            "Twilio failed while it had the message; it may have taken it.",
        ),
        20_500 | 30_410 | 63_009 | 63_010 | 63_012 => error(
            Transient,
            Unavailable,
            "Twilio, or WhatsApp behind it, is not available at the moment; the message did not go out.",
        )
        .health_unchanged(),
        _ => return None,
    })
}

/// Whether an account may send: `account_enum_status` of the contract.
fn may_send(answer: &Answer) -> Result<(), ProviderError> {
    match answer.read::<Account>() {
        Ok(account) if answer.is_success() && account.status == "active" => Ok(()),
        Ok(_) if answer.is_success() => Err(ProviderError::new(
            Disposition::ProviderDown,
            ErrorKind::AccountSuspended,
            "The Twilio account is suspended or closed; see Twilio's console.",
        )),
        Ok(_) | Err(_) => Err(refusal(answer)),
    }
}

/// Whether the answer is that there is no such message.
fn is_not_found(answer: &Answer) -> Result<(), ProviderError> {
    match answer.read::<Refusal>() {
        Ok(body) if answer.status == 404 && body.code.as_i64() == Some(NOT_FOUND) => Ok(()),
        Ok(_) | Err(_) => Err(refusal(answer)),
    }
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
