//! What ZeptoMail's answers mean.

use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError, Receipt};
use serde::Deserialize;

use crate::net::http::{CONTENT_TOO_LARGE, HttpResponse, classify_status, provider_id, too_large};

/// "Mandatory field …" is missing or empty.
const MISSING: &str = "GE_102";

/// What is read of the answer to a message that was taken.
#[derive(Deserialize)]
struct Accepted {
    request_id: String,
}

/// What is read of an error.
#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    details: Vec<Detail>,
}

/// Its text and `target_value` repeat addresses, and are not kept.
#[derive(Deserialize)]
struct Detail {
    code: String,
    target: Option<String>,
}

/// The receipt is ZeptoMail's id of the request, by which its logs find the message. 201 is what an accepted message is
/// answered with.
pub(super) fn read_receipt(answer: &HttpResponse) -> Result<Receipt, ProviderError> {
    if !answer.is_success() {
        return Err(refusal(answer));
    }
    let accepted = answer.read::<Accepted>().ok();
    let id = accepted.and_then(|accepted| provider_id(&accepted.request_id));
    id.map(Receipt::new).ok_or_else(|| classify_status(answer))
}

/// Whether the token is good that posted nothing: the answer to it is that everything is missing.
pub(super) fn read_check(answer: &HttpResponse) -> Result<(), ProviderError> {
    let refused = answer.read::<Refused>().ok();
    let is_missing = refused.is_some_and(|refused| {
        let details = refused.error.details;
        details.iter().any(|detail| detail.code == MISSING)
    });
    if (400..500).contains(&answer.status) && is_missing {
        return Ok(());
    }
    Err(refusal(answer))
}

/// What an answer means that is not what was asked for.
fn refusal(answer: &HttpResponse) -> ProviderError {
    if answer.status == CONTENT_TOO_LARGE {
        return too_large(answer);
    }
    let Ok(Refused { error: refused }) = answer.read::<Refused>() else {
        return classify_status(answer);
    };
    let known = refused.details.iter().filter_map(|detail| {
        let field = Field::of(detail.target.as_deref());
        Some((classify(&detail.code, field)?, detail.code.as_str()))
    });
    // Another entry may send what this one refuses for its sender as well.
    let known = known.min_by_key(|(error, _)| error.disposition == Disposition::Final);
    let (error, detail) = match known {
        Some((error, detail)) => (error, Some(detail)),
        None => (
            classify_status(answer),
            refused.details.first().map(|detail| detail.code.as_str()),
        ),
    };
    let code = match detail {
        Some(detail) => format!("{}.{detail}", refused.code),
        None => refused.code,
    };
    let error = error.with_code(ProviderCode::parse(&code));
    match answer.retry_after(None) {
        Some(wait) if error.kind == ErrorKind::RateLimited => error.with_retry_after(wait),
        Some(_) | None => error,
    }
}

/// The field that an error is about (`target`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// The sender, or the address for bounces.
    Sender,
    /// The recipient.
    Recipient,
    /// Another part of the message.
    Message,
    /// It is not said, or by a name that is not known.
    Unknown,
}

impl Field {
    fn of(target: Option<&str>) -> Self {
        let target = target.unwrap_or_default().to_ascii_lowercase();
        // Where it is a path, the field's name is followed by that of a part.
        let mut names = target.split(['.', '/', '[', ']']).rev();
        let known = names.find_map(|name| match name {
            "from" | "bounce_address" => Some(Self::Sender),
            "to" => Some(Self::Recipient),
            "cc" | "bcc" | "reply_to" | "subject" | "textbody" | "htmlbody" | "attachments"
            | "inline_images" | "mime_headers" => Some(Self::Message),
            _ => None,
        });
        known.unwrap_or(Self::Unknown)
    }
}

/// What ZeptoMail's sub codes mean (<https://www.zoho.com/zeptomail/help/api/error-codes.html>), which say more than the
/// code above them: `TM_4001` has four; `None` for one that is not known.
///
/// What says nothing about the agent, its account or the sender leaves the health as it is.
pub(super) fn classify(code: &str, field: Field) -> Option<ProviderError> {
    use Disposition::{Final, ProviderDown};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, InvalidRecipient, QuotaExceeded, SenderNotAllowed,
        Unauthenticated, Unexpected,
    };
    let error = ProviderError::new;
    Some(match (code, field) {
        // The sender is the entry's, not the message's: the next entry has another.
        (MISSING | "SM_113", Field::Sender) | ("SM_111", _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender's domain is not verified for the mail agent, or its address is none; check fromEmail at ZeptoMail.",
        ),
        (MISSING | "SM_113", Field::Recipient) => error(
            Final,
            InvalidRecipient,
            "ZeptoMail rejected the recipient's address; check it.",
        ),
        // It may be the sender, who is the entry's.
        (MISSING | "SM_113", Field::Unknown) => error(
            ProviderDown,
            Unexpected,
            "ZeptoMail refused a field and did not say which; check fromEmail, and the addresses of the message.",
        )
        .health_unchanged(),
        (MISSING | "SM_113", Field::Message) => error(
            Final,
            InvalidMessage,
            "ZeptoMail refused the message for its form; check its copies, title, body and files.",
        ),
        ("SM_120", _) => error(
            Final,
            InvalidMessage,
            "A file is not of the type that it is said to be, or of one that ZeptoMail takes; check the files.",
        ),
        ("SM_127" | "SM_129", _) => error(
            Final,
            InvalidMessage,
            "The message is over one of ZeptoMail's limits; send fewer or smaller files, or a shorter title.",
        ),
        // How it was asked, which is the same for every message.
        ("SM_101" | "UE_106" | "MTR_101", _) => error(
            ProviderDown,
            Unexpected,
            "ZeptoMail did not understand the request; this is a fault of the platform's.",
        )
        .health_unchanged(),
        ("SERR_157", _) => error(
            ProviderDown,
            Unauthenticated,
            "ZeptoMail refused the send mail token; save the mail agent's own, and the region of its account.",
        ),
        ("SERR_156", _) => error(
            ProviderDown,
            Unauthenticated,
            "ZeptoMail takes messages from listed IP addresses alone; remove the list from the account's settings.",
        ),
        ("LE_101" | "LE_102", _) => error(
            ProviderDown,
            QuotaExceeded,
            "The ZeptoMail account's credits are used up or have expired; buy new ones.",
        ),
        ("SMI_115" | "SM_151", _) => error(
            ProviderDown,
            QuotaExceeded,
            "The ZeptoMail account has sent all that it may today; ask ZeptoMail for more, or wait for the next day.",
        ),
        ("SM_133", _) => error(
            ProviderDown,
            QuotaExceeded,
            "The ZeptoMail account has sent all that it may on trial; have it reviewed.",
        ),
        ("SM_128", _) => error(
            ProviderDown,
            AccountSuspended,
            "ZeptoMail has not approved the account yet; have it reviewed.",
        ),
        ("AE_101", _) => error(
            ProviderDown,
            AccountSuspended,
            "ZeptoMail has blocked the account; ask its support.",
        ),
        _ => return None,
    })
}
