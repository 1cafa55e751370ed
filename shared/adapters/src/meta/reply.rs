//! What Meta's answers mean.

use std::time::Duration;

use comms_core::{AfterRetries, Disposition, ErrorKind, ProviderCode, ProviderError, Receipt};
use serde_json::Value;

use crate::net::http::{CONTENT_TOO_LARGE, HttpResponse, classify_status, provider_id, too_large};

/// One message in six seconds to one recipient (throughput, "Pair rate limits"), and a burst is paid
/// back at that rate. Each further refusal is waited for four times as long, by who tries again.
const PAIR_LIMIT_WAIT: Duration = Duration::from_secs(6);

/// Meta asks not to repeat what it held back for the recipient's sake before a day is over
/// (error codes, 131049).
const FREQUENCY_LIMIT_WAIT: Duration = Duration::from_hours(24);

/// The receipt is Meta's id of the message. Its `message_status` makes no difference: a message that
/// is held for the quality of its template, or paused, is Meta's to send or to give up on, and it says
/// so by webhook; sent by another provider too it may arrive twice.
pub(super) fn receipt(answer: &HttpResponse) -> Result<Receipt, ProviderError> {
    let body = answer.json().unwrap_or_default();
    let id = body.pointer("/messages/0/id").and_then(Value::as_str);
    match id.and_then(provider_id) {
        Some(id) if answer.is_success() => Ok(Receipt::new(id)),
        Some(_) | None => Err(refusal(answer)),
    }
}

/// What an answer means that is not what was asked for.
pub(super) fn refusal(answer: &HttpResponse) -> ProviderError {
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
fn by_status(answer: &HttpResponse) -> ProviderError {
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
pub(super) fn classify(code: i64, subcode: Option<i64>, status: u16) -> Option<ProviderError> {
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
            "The recipient cannot be reached by WhatsApp from this phone number; use another channel.",
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
pub(super) fn is_phone_number(body: &Value) -> bool {
    let is_text = |name: &str| body.get(name).is_some_and(Value::is_string);
    is_text("id") || is_text("verified_name")
}
