//! What Twilio's answers mean.

use std::time::Duration;

use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError, Receipt};
use serde::Deserialize;
use serde_json::Value;

use crate::net::http::{CONTENT_TOO_LARGE, HttpResponse, classify_status, provider_id, too_large};

/// A full queue and a daily limit pass in minutes or hours: longer than any invocation lasts (AWS
/// Lambda quotas: 15 minutes), so that nobody waits for it within one.
const LATER: Duration = Duration::from_mins(15);

/// "The requested resource was not found."
const NOT_FOUND: i64 = 20_404;

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
pub(super) fn receipt(answer: &HttpResponse) -> Result<Receipt, ProviderError> {
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
pub(super) fn refusal(answer: &HttpResponse) -> ProviderError {
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
pub(super) fn classify(code: i64, status: u16, inactive: bool) -> Option<ProviderError> {
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
            "The recipient's number cannot be reached by WhatsApp; check it or use another channel.",
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
pub(super) fn may_send(answer: &HttpResponse) -> Result<(), ProviderError> {
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
pub(super) fn is_not_found(answer: &HttpResponse) -> Result<(), ProviderError> {
    match answer.read::<Refusal>() {
        Ok(body) if answer.status == 404 && body.code.as_i64() == Some(NOT_FOUND) => Ok(()),
        Ok(_) | Err(_) => Err(refusal(answer)),
    }
}
