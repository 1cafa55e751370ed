//! Twilio SendGrid, API v3: `POST /v3/mail/send`.
//!
//! Idempotency: none; `custom_args` carry the delivery's id, which comes back in SendGrid's events and
//! in its activity search.
//!
//! Links stay as they were posted: click tracking and Google Analytics, which rewrite them, and open
//! tracking, which adds a picture, are off for every message, whatever the account's own settings say.
//! A one-time code's link must not lead through another company's host. Subscription tracking, which
//! adds a footer that the clinic may owe its readers, is left to the account.
//!
//! Documentation: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>

use std::{borrow::Cow, fmt};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{
    BaseUrl, DeliveryId, Disposition, EmailAddress, ErrorKind, Mailbox, ProviderCode,
    ProviderError, ProviderKind, Receipt, Secret, attachment::ContentId, request,
};
use http::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    deadline::Deadline,
    http::{Answer, HttpClients, HttpRequest, classify_status, classify_transport, of_question},
    message::{Message, invalid, not_carried, text_body},
    mime,
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
};

/// Where messages go, below the API's URL.
const SEND: [&str; 3] = ["v3", "mail", "send"];
/// Where a key's permissions are read, below the API's URL.
const SCOPES: [&str; 2] = ["v3", "scopes"];
/// The permission that sending needs.
const SEND_SCOPE: &str = "mail.send";
/// Where SendGrid says by which id it knows a message.
const MESSAGE_ID: &str = "x-message-id";
/// The second of Unix time at which a rate limit ends
/// (<https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits>).
static RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Bytes of a message with its files, which must be fewer; receivers of one message. Custom arguments
/// must be fewer than 10,000 bytes: ours are one id of 32
/// (<https://docs.sendgrid.com/api-reference/mail-send/limitations>).
const MESSAGE_BYTES: usize = 30_000_000;
const RECEIVERS: usize = 1_000;

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    receivers: RECEIVERS,
    reply_to: true,
    internationalised_addresses: false,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: Some(MESSAGE_BYTES),
};

/// What is needed to send through one SendGrid account.
#[derive(Clone)]
pub struct SendgridSettings {
    /// An API key with the scope `mail.send`.
    pub api_key: Secret,
    /// Who the mail is from: a verified sender, or an address of an authenticated domain.
    pub sender: Mailbox,
    /// Where the API is: [`SendgridSettings::GLOBAL_URL`] or [`SendgridSettings::EU_URL`].
    pub api_url: BaseUrl,
    /// Whether messages are checked and not sent (`mail_settings.sandbox_mode`).
    pub sandbox: bool,
}

impl SendgridSettings {
    /// The API of accounts and subusers without a region.
    pub const GLOBAL_URL: &'static str = "https://api.sendgrid.com";
    /// The API of EU regional subusers, whose keys are good nowhere else.
    pub const EU_URL: &'static str = "https://api.eu.sendgrid.com";
}

/// One SendGrid account.
pub struct SendgridProvider {
    settings: SendgridSettings,
    http: HttpClients,
}

impl SendgridProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: SendgridSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }

    fn request(&self, message: &Message) -> Result<HttpRequest, ProviderError> {
        let url = self.settings.api_url.join(SEND);
        let request = HttpRequest::post_json(url, &self.wire(message)?)?;
        check_size(request.body_len())?;
        request.bearer(&self.settings.api_key)
    }

    /// Whether the key may send. It is all that is asked: senders and quota need permissions that a
    /// key for sending should not have.
    async fn check_key(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let api_url = &self.settings.api_url;
        let request = HttpRequest::get(api_url.join(SCOPES)).bearer(&self.settings.api_key)?;
        let answer = self.http.send(api_url, request, deadline).await;
        read_scopes(&answer.map_err(classify_transport)?)
    }
}

impl fmt::Debug for SendgridProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridProvider(…)")
    }
}

impl fmt::Debug for SendgridSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridSettings(…)")
    }
}

#[async_trait]
impl Provider for SendgridProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sendgrid
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let request = self.request(message)?;
        let answer = self
            .http
            .send(&self.settings.api_url, request, deadline)
            .await;
        let answer = answer.map_err(classify_transport)?;
        read_receipt(&answer, &message.delivery, self.settings.sandbox)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        let reachable = self
            .http
            .verify_reachable(&self.settings.api_url, &mut report, deadline);
        if reachable.await {
            let checked = self.check_key(deadline).await.map_err(of_question);
            report.stage(VerifyStage::Authenticate, checked);
        }
        report.end()
    }
}

/// The body of `POST /v3/mail/send`.
#[derive(Serialize)]
struct SendRequest<'a> {
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

impl SendgridProvider {
    /// The message as SendGrid takes it, or why it does not.
    fn wire<'a>(&'a self, message: &'a Message) -> Result<SendRequest<'a>, ProviderError> {
        let recipient = message.mailbox()?;
        let (sender, content) = (&self.settings.sender, &message.content);
        if 1 + content.cc.len() + content.bcc.len() > RECEIVERS {
            return Err(invalid(
                "A message through SendGrid has at most 1,000 receivers; name fewer copies.",
            ));
        }
        check_local_parts(message, recipient, sender)?;
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
            mail_settings: self.settings.sandbox.then_some(MailSettings {
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
}

const fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes < MESSAGE_BYTES {
        return Ok(());
    }
    Err(invalid(
        "The message with its files is 30 MB or more; send smaller files.",
    ))
}

/// Refuses local parts beyond ASCII. SendGrid answers 202 to a message for one and does not send it
/// (<https://github.com/sendgrid/sendgrid-csharp/issues/255>), and does not support them in `from`
/// (<https://docs.sendgrid.com/api-reference/mail-send/limitations>).
fn check_local_parts(
    message: &Message,
    recipient: &Mailbox,
    sender: &Mailbox,
) -> Result<(), ProviderError> {
    let content = &message.content;
    if sender.address.needs_smtputf8() {
        return Err(not_carried(
            ErrorKind::SenderNotAllowed,
            "SendGrid sends from no address with letters beyond ASCII before the @; choose another sender.",
        ));
    }
    let mut receivers = content.cc.iter().chain(&content.bcc);
    if recipient.address.needs_smtputf8() || receivers.any(EmailAddress::needs_smtputf8) {
        return Err(not_carried(
            ErrorKind::InvalidRecipient,
            "SendGrid sends to no address with letters beyond ASCII before the @; a mail server with SMTPUTF8 may.",
        ));
    }
    if message
        .reply_to
        .as_ref()
        .is_some_and(EmailAddress::needs_smtputf8)
    {
        return Err(not_carried(
            ErrorKind::InvalidMessage,
            "SendGrid takes no address for answers with letters beyond ASCII before the @; choose another.",
        ));
    }
    Ok(())
}

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
        // Without parameters: SendGrid refuses a semicolon. A message must not be in base64, which is how SendGrid sends
        // files (RFC 2046 section 5.2.1).
        r#type: match attachment.content_type.essence() {
            essence if essence.starts_with("message/") => "application/octet-stream",
            essence => essence,
        },
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

/// Whether SendGrid took the message, and by which id it knows it.
///
/// 202 is the contract's only word for it. 200 means "valid, and not queued", and is documented for
/// sandbox mode alone (<https://www.twilio.com/docs/sendgrid/for-developers/sending-email/sandbox-mode>);
/// outside of it, like any other 2xx, it is not SendGrid's acceptance.
fn read_receipt(
    answer: &Answer,
    delivery: &DeliveryId,
    sandbox: bool,
) -> Result<Receipt, ProviderError> {
    match answer.status {
        202 => {}
        200 if sandbox => {}
        _ => return Err(read_error(answer)),
    }
    // By the delivery's id it is found as well: `custom_args` has it.
    let id = answer.id_from_header(MESSAGE_ID);
    Ok(Receipt::new(
        id.unwrap_or_else(|| delivery.as_str().to_owned()),
    ))
}

/// Whether the key that asked has the permission to send.
fn read_scopes(answer: &Answer) -> Result<(), ProviderError> {
    #[derive(Deserialize)]
    struct Scopes {
        scopes: Vec<String>,
    }
    let unread = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unexpected,
        "What answered is not SendGrid's API; check apiUrl.",
    );
    let scopes = match answer.status {
        200 => answer
            .json()
            .ok()
            .and_then(|body| Scopes::deserialize(body).ok()),
        201..=299 => None,
        // A question that failed has sent nothing, whatever the status.
        500..=599 => {
            return Err(ProviderError::new(
                Disposition::Transient,
                ErrorKind::Unavailable,
                "SendGrid could not say what the key may do; test the settings again later.",
            )
            .with_code(code(answer)));
        }
        _ => return Err(read_error(answer)),
    };
    let Scopes { scopes } = scopes.ok_or(unread.with_code(code(answer)))?;
    if scopes.iter().any(|scope| scope == SEND_SCOPE) {
        Ok(())
    } else {
        Err(ProviderError::new(
            Disposition::ProviderDown,
            ErrorKind::SenderNotAllowed,
            "The API key may not send; give the key the Mail Send permission.",
        ))
    }
}

/// SendGrid has no codes of its own: the status is the code.
fn code(answer: &Answer) -> Option<ProviderCode> {
    ProviderCode::parse(&answer.status.to_string())
}

fn read_error(answer: &Answer) -> ProviderError {
    let body = answer.json().ok();
    let known = body.and_then(|body| classify(answer.status, Fault::read(&body)));
    let error = known.map_or_else(
        || classify_status(answer),
        |known| known.with_code(code(answer)),
    );
    if answer.status == 429
        && let Some(wait) = answer.retry_after(Some(&RATE_LIMIT_RESET))
    {
        error.with_retry_after(wait)
    } else {
        error
    }
}

/// What SendGrid finds fault with, as far as it changes what to do. Read from the fields and texts of
/// `{"errors":[{"message","field","help"}]}`; the texts repeat addresses and go nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The account's credits are used up.
    Credits,
    /// The account is blocked for a while, for too many requests that were wrong.
    Blocked,
    /// The account is on trial, and may not send to this recipient.
    Trial,
    /// The sender.
    Sender,
    /// The recipient's address.
    Recipient,
    /// Anything else, or it is not said.
    Other,
}

impl Fault {
    fn read(body: &Value) -> Self {
        let errors = body.get("errors").and_then(Value::as_array);
        let faults = errors.into_iter().flatten().map(Self::of);
        // The message is not refused for good while the sender or the account is at fault as well.
        let rank = |fault: &Self| match fault {
            Self::Credits => 0,
            Self::Blocked => 1,
            Self::Trial => 2,
            Self::Sender => 3,
            Self::Recipient => 4,
            Self::Other => 5,
        };
        faults.min_by_key(rank).unwrap_or(Self::Other)
    }

    fn of(error: &Value) -> Self {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let message = text("message").to_ascii_lowercase();
        let field: Vec<_> = text("field").split('.').collect();
        if message.contains("maximum credits exceeded") {
            Self::Credits
        } else if message.contains("temporarily blocked") {
            Self::Blocked
        } else if message.contains("verified sender identity") {
            Self::Sender
        } else if ["trial account", "verified recipient"]
            .iter()
            .any(|word| message.contains(word))
        {
            Self::Trial
        } else {
            match field.as_slice() {
                ["from", ..] => Self::Sender,
                ["personalizations", _, "to"]
                | ["personalizations", _, "to", _]
                | ["personalizations", _, "to", _, "email"] => Self::Recipient,
                _ => Self::Other,
            }
        }
    }
}

/// What a refusal means, and what to do about it; `None` for a status that SendGrid does not document.
///
/// Sources: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors>,
/// <https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses>,
/// <https://support.sendgrid.com/hc/en-us/articles/18322114821403-4XX-API-Errors-and-Troubleshooting-Suggestions>
fn classify(status: u16, fault: Fault) -> Option<ProviderError> {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, QuotaExceeded, RateLimited,
        SenderNotAllowed, Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    Some(match (status, fault) {
        // The sender is the entry's, not the message's: the next entry has another.
        (400, Fault::Sender) => error(
            ProviderDown,
            SenderNotAllowed,
            "SendGrid does not take the sender's address; check fromEmail.",
        ),
        // A limit of the sender's own account, which says nothing of the recipient. SendGrid has no document of its text.
        (400 | 403, Fault::Trial) => error(
            ProviderDown,
            SenderNotAllowed,
            "The SendGrid account is on trial and may not send to this recipient; upgrade the account.",
        )
        .health_unchanged(),
        (400, Fault::Recipient) => error(
            Final,
            InvalidRecipient,
            "SendGrid takes the recipient's address for none; check it.",
        ),
        // A copy's address is part of what was posted: without it, it would be another message.
        (400, Fault::Other) => error(
            Final,
            InvalidMessage,
            "SendGrid refused the message for its form; check its copies, title, body and files.",
        ),
        (413, _) => error(
            Final,
            InvalidMessage,
            "The message with its files is too large for SendGrid; send smaller files.",
        ),
        (400 | 401 | 403, Fault::Credits) => error(
            ProviderDown,
            QuotaExceeded,
            "The SendGrid account's credits are used up; choose a larger plan or wait for the next period.",
        ),
        (401, _) => error(
            ProviderDown,
            Unauthenticated,
            "SendGrid refused the API key; save one that is active, and for an EU subuser the EU apiUrl.",
        ),
        (403, Fault::Sender) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender is no verified Sender Identity of the SendGrid account; verify fromEmail or its domain.",
        ),
        // Trying again at once is what the block is for.
        (400 | 403, Fault::Blocked) => error(
            ProviderDown,
            RateLimited,
            "SendGrid has blocked the account for a while after too many requests that were wrong.",
        ),
        (403, Fault::Recipient | Fault::Other) => error(
            ProviderDown,
            SenderNotAllowed,
            "SendGrid does not let this API key send; give the key the Mail Send permission.",
        ),
        // 406 and 415 are about how it was asked, which is the same for every message.
        (404 | 405 | 406 | 415, _) => error(
            ProviderDown,
            Unexpected,
            "SendGrid's API is not where apiUrl leads; give no more than https:// and the host.",
        ),
        (451, _) => error(
            ProviderDown,
            PolicyRefused,
            "The SendGrid account's data may not leave its region; use that region's apiUrl.",
        ),
        (429, _) => error(
            Transient,
            RateLimited,
            "SendGrid was asked for too much at once.",
        )
        .health_unchanged(),
        // SendGrid does not say that a message it failed on is not sent, and has no idempotency key to
        // try again under: one more try could send a one-time code twice.
        (500..=599, _) => error(
            Ambiguous,
            Unavailable,
            "SendGrid failed while it had the message; it may have taken it.",
        ),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
