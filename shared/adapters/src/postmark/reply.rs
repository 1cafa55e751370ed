//! What Postmark's answers mean.

use comms_core::{
    CopyField, Disposition, EmailAddress, ErrorKind, ProviderCode, ProviderError, Receipt,
    RefusedCopy,
};
use serde::Deserialize;

use crate::{
    message::Message,
    net::http::{CONTENT_TOO_LARGE, HttpResponse, classify_status, provider_id, too_large},
};

/// "Inactive recipient."
const INACTIVE: i64 = 406;
/// What the text of an accepted message says before the addresses that it does not go to
/// (Postmark's own client for Ruby, `InactiveRecipientError::PATTERNS`).
const INACTIVE_AMONG_OTHERS: &str = "inactive addresses:";

/// What a message is answered with that is sent by the token for tests, and that reaches nobody (Postmark, "Sending API",
/// `POSTMARK_API_TEST`).
const ACCEPTED_AS_TEST: &str = "Test job accepted";

/// What is read of the answer to a message, and of an error.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    error_code: Option<i64>,
    /// Repeats addresses: looked at and dropped.
    message: Option<String>,
    #[serde(rename = "MessageID")]
    message_id: Option<String>,
}

/// What is read of a server. Its tokens, which stand beside it, are not kept.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    /// What tells a server from any other object.
    #[serde(rename = "ID")]
    _id: i64,
    delivery_type: Option<String>,
}

/// The receipt is Postmark's id of the message: where it took the message, and does not leave the recipient out.
pub(super) fn read_receipt(
    answer: &HttpResponse,
    message: &Message,
) -> Result<Receipt, ProviderError> {
    let reply = answer.read::<Reply>().ok();
    let accepted = reply
        .as_ref()
        .filter(|reply| answer.status == 200 && reply.error_code == Some(0));
    let Some(accepted) = accepted else {
        return Err(refusal(answer, reply.as_ref()));
    };
    let text = accepted.message.as_deref().unwrap_or_default();
    if text.eq_ignore_ascii_case(ACCEPTED_AS_TEST) {
        return Err(reaches_nobody(
            "The token is Postmark's for tests, by which messages reach nobody; save the token of a server.",
        ));
    }
    let left_out = Inactive::read(text);
    if left_out.has(&message.mailbox()?.address) {
        let error = classify(INACTIVE, Fault::Other).unwrap_or_else(|| classify_status(answer));
        return Err(error.with_code(code(INACTIVE)));
    }
    let id = accepted.message_id.as_deref().and_then(provider_id);
    let mut receipt = Receipt::new(id.ok_or_else(|| classify_status(answer))?);
    receipt.refused_copies = left_out.copies(message);
    Ok(receipt)
}

/// The addresses of an accepted message that it does not go to.
struct Inactive(Vec<String>);

impl Inactive {
    fn read(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let Some((_, named)) = text.split_once(INACTIVE_AMONG_OTHERS) else {
            return Self(Vec::new());
        };
        let named = named.split(['\n', ';']).next().unwrap_or_default();
        // Postmark ends the list by a full stop, behind which a sentence may follow.
        let named = named.split(". ").next().unwrap_or_default();
        let addresses = named.split(',').map(|address| {
            let address = address.trim();
            address.trim_end_matches('.').to_owned()
        });
        Self(addresses.filter(|address| !address.is_empty()).collect())
    }

    fn has(&self, address: &EmailAddress) -> bool {
        let address = address.as_str();
        self.0
            .iter()
            .any(|named| named.eq_ignore_ascii_case(address))
    }

    fn copies(&self, message: &Message) -> Vec<RefusedCopy> {
        let content = &message.content;
        let of = |field: CopyField, copies: &[EmailAddress]| -> Vec<RefusedCopy> {
            let named = copies.iter().zip(0_u8..);
            let named = named.filter(|(copy, _)| self.has(copy));
            let refused = named.map(|(_, index)| RefusedCopy {
                field,
                index,
                code: code(INACTIVE),
                is_unknown: false,
            });
            refused.collect()
        };
        let mut refused = of(CopyField::Cc, &content.cc);
        refused.extend(of(CopyField::Bcc, &content.bcc));
        refused
    }
}

/// Whether the token that asked is one of a server that sends to everybody.
pub(super) fn read_server(answer: &HttpResponse) -> Result<(), ProviderError> {
    if !answer.is_success() {
        return Err(refusal(answer, answer.read::<Reply>().ok().as_ref()));
    }
    let Ok(server) = answer.read::<Server>() else {
        return Err(classify_status(answer));
    };
    // A sandbox server takes messages, and brings them to nobody (Server API, `DeliveryType`).
    if server.delivery_type.as_deref() == Some("Sandbox") {
        return Err(reaches_nobody(
            "The token is one of a sandbox server, whose messages reach nobody; save the token of a live server.",
        ));
    }
    Ok(())
}

fn reaches_nobody(detail: &'static str) -> ProviderError {
    ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::SenderNotAllowed,
        detail,
    )
}

/// What an answer means that is not what was asked for.
fn refusal(answer: &HttpResponse, reply: Option<&Reply>) -> ProviderError {
    if answer.status == CONTENT_TOO_LARGE {
        return too_large(answer);
    }
    let number = reply.and_then(|reply| reply.error_code);
    let text = reply.and_then(|reply| reply.message.as_deref());
    let fault = text.map_or(Fault::Other, Fault::of);
    let known = number.and_then(|number| classify(number, fault));
    let error = match (known, number) {
        (Some(known), Some(number)) => known.with_code(code(number)),
        (_, Some(number)) if number > 0 => classify_status(answer).with_code(code(number)),
        (_, _) => classify_status(answer),
    };
    match answer.retry_after(None) {
        Some(wait) if error.kind == ErrorKind::RateLimited => error.with_retry_after(wait),
        Some(_) | None => error,
    }
}

fn code(number: i64) -> Option<ProviderCode> {
    ProviderCode::parse(&number.to_string())
}

/// Which field error 300 is about, as its text says in quotes ("Invalid 'From' address: …", "Error parsing 'To': …").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The sender.
    Sender,
    /// The recipient's address.
    Recipient,
    /// Anything else, or it is not said.
    Other,
}

impl Fault {
    fn of(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        if text.contains("'from'") {
            Self::Sender
        } else if text.contains("'to'") {
            Self::Recipient
        } else {
            Self::Other
        }
    }
}

/// What Postmark's error codes mean (<https://postmarkapp.com/developer/api/overview#error-codes>); `None` for one that no
/// message or check is answered with.
///
/// What says nothing about the server, its account or the sender leaves the health as it is.
pub(super) fn classify(number: i64, fault: Fault) -> Option<ProviderError> {
    use Disposition::{Final, ProviderDown, Transient};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, InvalidRecipient, QuotaExceeded, RateLimited,
        SenderNotAllowed, Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    Some(match (number, fault) {
        (10, _) => error(
            ProviderDown,
            Unauthenticated,
            "Postmark refused the server token; save one that is active, of a server and not of the account.",
        ),
        // The message is not taken: the API is offline.
        (100, _) => error(
            Transient,
            Unavailable,
            "Postmark is offline for maintenance; it did not take the message.",
        ),
        // The sender is the entry's, not the message's: the next entry has another.
        (300, Fault::Sender) => error(
            ProviderDown,
            SenderNotAllowed,
            "Postmark does not take the sender's address; check fromEmail.",
        ),
        (300, Fault::Recipient) => error(
            Final,
            InvalidRecipient,
            "Postmark rejected the recipient's address; check it.",
        ),
        (300, Fault::Other) => error(
            Final,
            InvalidMessage,
            "Postmark refused the message for its form; check its copies, title, body and files.",
        ),
        (400, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender has no Sender Signature at Postmark; add one for fromEmail, or verify its domain.",
        ),
        (401, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender's signature at Postmark is not confirmed; confirm it by the link that Postmark sent.",
        ),
        // How it was asked, which is the same for every message.
        (402 | 403 | 409, _) => error(
            ProviderDown,
            Unexpected,
            "Postmark did not understand the request; this is a fault of the platform's.",
        )
        .health_unchanged(),
        (405, _) => error(
            ProviderDown,
            QuotaExceeded,
            "The Postmark account has no credits left; buy more or wait for the next period.",
        ),
        (INACTIVE, _) => error(
            Final,
            InvalidRecipient,
            "Postmark has the recipient on its list of inactive addresses: an earlier message bounced or was reported as spam.",
        ),
        (411, _) => error(
            Final,
            InvalidMessage,
            "Postmark takes no files of this type; send another, or a link.",
        ),
        // A limit of the sender's own account: until it is approved it reaches addresses of its own domain alone.
        (412, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The Postmark account is not approved yet and reaches its own domain alone; request approval.",
        )
        .health_unchanged(),
        (413, _) => error(
            ProviderDown,
            AccountSuspended,
            "The Postmark account may not send; ask Postmark's support.",
        ),
        (429, _) => error(
            Transient,
            RateLimited,
            "Postmark was asked for too much at once.",
        )
        .health_unchanged(),
        (1_221 | 1_222 | 1_226 | 1_227 | 1_235 | 1_236, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The message stream is not there, archived, or not one to send by; check messageStream.",
        ),
        _ => return None,
    })
}
