//! What a reply means at its stage. The rows are those of `tests/fixtures/smtp/replies.json`.

use std::time::Duration;

use comms_core::{Disposition, ErrorKind, ProviderError};

use super::super::{
    failure::Stage,
    reply::{Reply, Throttling},
    text_hint::TextHint,
};

/// What a reply means, by what it says of the account, and else by its stage.
pub(super) fn classify_reply(stage: Stage, reply: Reply) -> ProviderError {
    let classified = classify_account(reply).unwrap_or_else(|| classify_by_stage(stage, reply));
    classified.with_code(reply.provider_code())
}

/// What a refusal says of the account, at whatever stage it does.
fn classify_account(reply: Reply) -> Option<ProviderError> {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{QuotaExceeded, RateLimited, Unauthenticated};
    let error = ProviderError::new;
    let account = match (reply.throttling, reply.enhanced, reply.text_hint) {
        (Some(Throttling::Rate), _, _) => error(
            Transient,
            RateLimited,
            "The account sends more messages per second than its limit.",
        )
        .health_unchanged(),
        // RFC 3463 section 3.5 has "mail system congestion" for it; Google sends it for the day's limit
        // (Gmail SMTP errors and codes, 550 5.4.5).
        (Some(Throttling::Quota), _, _) | (None, Some((5, 4, 5)), _) => error(
            ProviderDown,
            QuotaExceeded,
            "The account has used up its messages of the day.",
        ),
        (None, _, _) if reply.code < 500 => return None,
        (None, _, Some(TextHint::SmtpAuthOff)) => error(
            ProviderDown,
            Unauthenticated,
            "SMTP AUTH is off for the tenant or the mailbox; let its administrator turn on authenticated SMTP for this mailbox, or send by another provider.",
        ),
        // Exchange Online has 5.7.139 for a wrong password too, and says so in the text alone.
        (None, Some((5, 7, 30 | 139)), text_hint) if text_hint != Some(TextHint::WrongLogin) => {
            error(
                ProviderDown,
                Unauthenticated,
                "The server takes no user name and password for this mailbox (basic authentication is off); let its administrator allow it while the provider still does, or send by another provider.",
            )
        }
        (None, Some((5, 7, 30 | 139)), _) => WRONG_LOGIN,
        // The sender's own mailbox and day, and no recipient's, although the codes are a recipient's (5.2.x).
        (None, Some((5, 2, _)), Some(TextHint::SubmissionLimit)) => SENDERS_QUOTA,
        (None, _, _) => return None,
    };
    Some(account)
}

fn classify_by_stage(stage: Stage, reply: Reply) -> ProviderError {
    use Disposition::Transient;
    use ErrorKind::{Unavailable, Unexpected};
    let error = ProviderError::new;
    match stage {
        Stage::Auth => classify_auth(reply),
        Stage::Body => classify_body(reply),
        Stage::Mail | Stage::Rcpt | Stage::Data if reply.code < 400 => error(
            Transient,
            Unexpected,
            "The server answered with a code that means nothing here; the message was not sent.",
        ),
        Stage::Rcpt => classify_rcpt(reply),
        Stage::Mail if reply.code >= 500 => classify_mail(reply),
        Stage::Data if reply.code >= 500 => classify_refused_message(reply),
        Stage::Pool
        | Stage::Resolve
        | Stage::Connect
        | Stage::Greeting
        | Stage::Ehlo
        | Stage::StartTls
        | Stage::Tls
        | Stage::Mail
        | Stage::Data => error(
            Transient,
            Unavailable,
            "The server does not take mail at the moment.",
        ),
    }
}

const WRONG_LOGIN: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unauthenticated,
    "The server refused the user or the password; check both (some providers want an app password).",
);
const APP_PASSWORD_WANTED: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unauthenticated,
    "The provider wants an app password in place of the mailbox's own; make one in the account's security settings and save it.",
);
const WANTS_LOGIN: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unauthenticated,
    "The server wants a login before it takes mail.",
);
const SENDERS_QUOTA: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::QuotaExceeded,
    "The sender's own mailbox is full, or its account has sent all that it may in a day; empty the mailbox (Sent Items too), or wait for the next day.",
);
const NOT_UNDERSTOOD: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::Unexpected,
    "The server did not understand what it was sent; that says nothing of the message.",
);
const SENDER_NOT_ALLOWED: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The server does not let this user send from this address; check defaultFrom.",
);
/// Of one sender or one recipient, and no word about the server.
const NOT_VERIFIED: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The sender is not verified, or the account is in its provider's sandbox and the recipient is not verified; verify the sender, or request production access.",
)
.health_unchanged();
/// A limit of the sender's own account, which says nothing of the recipient.
const ON_TRIAL: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::SenderNotAllowed,
    "The account is on trial at its provider and may not send to this recipient; have it approved, or upgrade it.",
)
.health_unchanged();
const REFUSED_BY_POLICY: ProviderError = ProviderError::new(
    Disposition::ProviderDown,
    ErrorKind::PolicyRefused,
    "The server refuses this recipient by its policy.",
)
.health_unchanged();
const NO_SUCH_RECIPIENT: ProviderError = ProviderError::new(
    Disposition::Final,
    ErrorKind::InvalidRecipient,
    "The recipient's address does not exist or does not take mail.",
);
const MESSAGE_TOO_LARGE: ProviderError = ProviderError::new(
    Disposition::Final,
    ErrorKind::InvalidMessage,
    "The message is larger than the server takes.",
);

fn classify_auth(reply: Reply) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    match (reply.code, reply.enhanced) {
        (..400, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unexpected,
            "The server asks for more than a user and a password.",
        ),
        // RFC 4954 section 6: 454 is a temporary failure, and 432 4.7.12 wants the user to do something;
        // whatever else is 4yz passes too.
        (400..=499, enhanced) if enhanced != Some((4, 7, 12)) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server cannot check logins at the moment.",
        ),
        // Google's 534 5.7.14 wants a login on its pages, whatever its words.
        (code, enhanced)
            if reply.text_hint == Some(TextHint::AppPassword)
                || (code, enhanced) == (534, Some((5, 7, 14))) =>
        {
            APP_PASSWORD_WANTED
        }
        (501 | 504, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unauthenticated,
            "The server offers AUTH PLAIN or AUTH LOGIN, and takes neither; its administrator has to look.",
        ),
        (_, _) => WRONG_LOGIN,
    }
}

/// A 5yz to MAIL.
fn classify_mail(reply: Reply) -> ProviderError {
    match (reply.code, reply.enhanced) {
        (530 | 534 | 535, _) => WANTS_LOGIN,
        // RFC 3463 section 3.3: a full mailbox, which before any recipient is named is the sender's own.
        (_, Some((5, 2, 2))) => SENDERS_QUOTA,
        (552, _) | (_, Some((5, 3, 4))) => MESSAGE_TOO_LARGE,
        (_, _) if reply.text_hint == Some(TextHint::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.text_hint == Some(TextHint::Trial) => ON_TRIAL,
        (_, _) if reply.text_hint == Some(TextHint::Sender) => SENDER_NOT_ALLOWED,
        (_, Some((5, 1 | 7, _))) => SENDER_NOT_ALLOWED,
        (500..=504 | 555, _) => NOT_UNDERSTOOD,
        (_, _) => SENDER_NOT_ALLOWED,
    }
}

/// What greylisting servers want to see before they take a message: minutes, not seconds.
const GREYLISTING_INTERVAL: Duration = Duration::from_mins(1);

/// A 4yz or 5yz to RCPT of the message's recipient.
fn classify_rcpt(reply: Reply) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    match (reply.code, reply.enhanced) {
        (421, _) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server is closing the connection.",
        ),
        (400..500, Some((4, 5, 3))) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server takes no more recipients for now.",
        )
        .health_unchanged(),
        (400..500, _) => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server does not take mail for this recipient at the moment (greylisting or a busy mailbox).",
        )
        .with_retry_after(GREYLISTING_INTERVAL),
        (530 | 534 | 535, _) => WANTS_LOGIN,
        // RFC 3463 section 3.2: the sender's address. Many servers say only at RCPT what is wrong with MAIL.
        (_, Some((5, 1, 7 | 8) | (5, 7, 60) | (5, 2, 252))) => SENDER_NOT_ALLOWED,
        (_, _) if reply.text_hint == Some(TextHint::Sender) => SENDER_NOT_ALLOWED,
        (_, _) if reply.text_hint == Some(TextHint::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.text_hint == Some(TextHint::Trial) => ON_TRIAL,
        // Exim says so under 550 alone, qmail under 553.
        (_, _) if reply.text_hint == Some(TextHint::NoRelay) => REFUSED_BY_POLICY,
        // Postfix says 553 5.7.1 for `reject_sender_login_mismatch` and its like alone, and by default at RCPT
        // (`smtpd_delay_reject`).
        (553, Some((5, 7, 1))) if reply.text_hint != Some(TextHint::Recipient) => SENDER_NOT_ALLOWED,
        // 5.6.7: the address needs SMTPUTF8, which some server behind this one does not have (RFC 6531).
        (_, Some((5, 1 | 2, _) | (5, 6, 7))) => NO_SUCH_RECIPIENT,
        // RFC 1870 section 6.1 has it here as well as at MAIL.
        (_, Some((5, 3, 4))) => MESSAGE_TOO_LARGE,
        // RFC 3463 section 3.4: the state of the server, and of no recipient.
        (_, Some((5, 3, _))) => ProviderError::new(
            ProviderDown,
            ErrorKind::Unavailable,
            "The server takes no mail; that says nothing of the recipient.",
        ),
        (554 | 571, None) | (_, Some((5, 7, _))) => REFUSED_BY_POLICY,
        (500..=504 | 555, _) | (_, Some((5, 5, _))) => NOT_UNDERSTOOD,
        (_, _) => NO_SUCH_RECIPIENT,
    }
}

/// The reply to a message of which every byte was sent.
fn classify_body(reply: Reply) -> ProviderError {
    use Disposition::Transient;
    match reply.code {
        // 421 among them, by which the server ends the connection as well (RFC 5321 section 3.8).
        400..500 => ProviderError::new(
            Transient,
            ErrorKind::Unavailable,
            "The server could not take the message; it may later.",
        ),
        500.. => classify_refused_message(reply),
        // A 3yz: what the server was given is not complete to it (RFC 5321 section 4.2.1), and only a 2yz makes the message
        // its own (section 4.2.5). But it had the final dot, and may take the message yet.
        _ => ProviderError::new(
            Disposition::Ambiguous,
            ErrorKind::Unexpected,
            "The server asked for more when it had the whole message, and did not say whether it took it.",
        ),
    }
}

/// A 5yz to DATA or to the message.
fn classify_refused_message(reply: Reply) -> ProviderError {
    use Disposition::{Final, ProviderDown};
    match (reply.code, reply.enhanced) {
        (530 | 534 | 535, _) => WANTS_LOGIN,
        // The sender's address (RFC 3463 section 3.2); 5.7.60 and 5.2.252 are Exchange's "may not send
        // as this sender", from experience.
        (_, Some((5, 1, 7 | 8) | (5, 7, 60) | (5, 2, 252))) => SENDER_NOT_ALLOWED,
        (_, _) if reply.text_hint == Some(TextHint::Sender) => SENDER_NOT_ALLOWED,
        (_, _) if reply.text_hint == Some(TextHint::NotVerified) => NOT_VERIFIED,
        (_, _) if reply.text_hint == Some(TextHint::Trial) => ON_TRIAL,
        // 5.2.3: longer than the recipient's mailbox takes (RFC 3463 section 3.3).
        (_, Some((5, 2, 3) | (5, 3, 4))) => MESSAGE_TOO_LARGE,
        (_, Some((5, 1 | 2, _))) => NO_SUCH_RECIPIENT,
        (_, Some((5, 6, _))) => ProviderError::new(
            Final,
            ErrorKind::InvalidMessage,
            "The server refuses the message for its form.",
        ),
        (552, enhanced) if !matches!(enhanced, Some((5, 7, _))) => MESSAGE_TOO_LARGE,
        (500..=504 | 555, None | Some((5, 5, _))) => NOT_UNDERSTOOD,
        (_, _) => ProviderError::new(
            ProviderDown,
            ErrorKind::PolicyRefused,
            "The server refuses the message by its policy.",
        ),
    }
}
