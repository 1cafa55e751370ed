//! What SendGrid's answers mean.

use comms_core::{DeliveryId, Disposition, ErrorKind, ProviderCode, ProviderError, Receipt};
use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;

use crate::net::http::{HttpResponse, classify_status};

/// The permission that sending needs.
const SEND_SCOPE: &str = "mail.send";

/// Where SendGrid says by which id it knows a message.
const MESSAGE_ID: &str = "x-message-id";

/// The second of Unix time at which a rate limit ends
/// (<https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits>).
static RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Whether SendGrid took the message, and by which id it knows it.
///
/// 202 is the contract's only word for it. 200 means "valid, and not queued", and is documented for
/// sandbox mode alone (<https://www.twilio.com/docs/sendgrid/for-developers/sending-email/sandbox-mode>);
/// outside of it, like any other 2xx, it is not SendGrid's acceptance.
pub(super) fn read_receipt(
    answer: &HttpResponse,
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
pub(super) fn read_scopes(answer: &HttpResponse) -> Result<(), ProviderError> {
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
fn code(answer: &HttpResponse) -> Option<ProviderCode> {
    ProviderCode::parse(&answer.status.to_string())
}

fn read_error(answer: &HttpResponse) -> ProviderError {
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
pub(super) enum Fault {
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
pub(super) fn classify(status: u16, fault: Fault) -> Option<ProviderError> {
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
