//! What only the text of a refusal tells: fixed phrases of servers that many clinics use, recognized while the reply is
//! parsed. The text itself is not kept; it repeats addresses.

use std::cmp::Reverse;

/// What only the text of a refusal tells. Where a reply has several of the phrases, the first one counts: a server may quote
/// another server's reply behind its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextHint {
    /// The server does not relay mail to where the recipient is, or takes none from this session, which says nothing of the
    /// recipient.
    NoRelay,
    /// The recipient is refused.
    Recipient,
    /// The server put the message into the sender's own mailbox first, and could not: that mailbox is full, or the
    /// account has used up its day (Exchange Online: <https://learn.microsoft.com/exchange/mail-flow-best-practices/smtp-submission-improvements>).
    SubmissionLimit,
    /// The login may not send from the sender's address, or the address cannot be one.
    Sender,
    /// An address is not verified: the sender's, or the recipient's while the account is in a sandbox (Amazon SES).
    NotVerified,
    /// The account is on trial, or in a sandbox, and may not send to this recipient.
    Trial,
    /// The login itself was wrong, under a code that means something else by itself.
    WrongLogin,
    /// The server takes no user name and password (<https://learn.microsoft.com/exchange/clients-and-mobile-in-exchange-online/deprecation-of-basic-authentication-exchange-online>).
    NoPasswords,
    /// SMTP AUTH is off for the tenant or the mailbox; a token is refused in the same way (<https://aka.ms/smtp_auth_disabled>).
    SmtpAuthOff,
    /// An app password is wanted (<https://support.google.com/mail/?p=InvalidSecondFactor>,
    /// <https://support.google.com/mail/?p=WebLoginRequired>).
    AppPassword,
}

/// The phrases, in lower case, with whose they are.
const PHRASES: [(&str, TextHint); 53] = [
    ("recipient address rejected", TextHint::Recipient), // Postfix
    ("undeliverable address", TextHint::Recipient),      // Postfix
    ("callout verification failed", TextHint::Recipient), // Exim, of recipients alone
    ("relay access denied", TextHint::NoRelay),          // Postfix
    ("relaying denied", TextHint::NoRelay),              // sendmail
    ("relay not permitted", TextHint::NoRelay),          // Exim
    ("unable to relay", TextHint::NoRelay),              // Exchange
    ("list of allowed rcpthosts", TextHint::NoRelay),    // qmail
    ("administrative prohibition", TextHint::NoRelay),   // Exim: a deny without a message
    ("storedrv.submission", TextHint::SubmissionLimit),
    ("sender address rejected", TextHint::Sender), // Postfix, Yandex
    ("not owned by user", TextHint::Sender),       // Postfix
    ("not owned by auth user", TextHint::Sender),  // Yandex
    ("sender verify failed", TextHint::Sender),    // Exim
    ("verification failed for <", TextHint::Sender), // Exim, before the lines of a sender's callout
    ("sender verification failed", TextHint::Sender),
    ("sendasdenied", TextHint::Sender), // Exchange Online: 5.2.252, and 5.2.0 before
    ("send as this sender", TextHint::Sender), // Exchange: 5.7.60
    ("send on behalf of", TextHint::Sender),
    ("sender address is not allowed", TextHint::Sender), // GMX, IONOS
    ("sender address not allowed", TextHint::Sender),
    ("sender is not allowed", TextHint::Sender), // Zoho
    ("sender not allowed", TextHint::Sender),
    ("sender not authorized", TextHint::Sender),
    ("sender denied", TextHint::Sender), // Exchange: 5.7.1
    ("sender does not match", TextHint::Sender),
    ("sender mismatch", TextHint::Sender),
    ("sender address does not match", TextHint::Sender),
    ("from address", TextHint::Sender),
    ("not allowed to send from", TextHint::Sender),
    ("not allowed to send as", TextHint::Sender),
    ("not allowed to use the from", TextHint::Sender),
    ("not authorized to send from", TextHint::Sender), // Fastmail
    ("not authorised to send from", TextHint::Sender), // Fastmail
    ("not authorized to send as", TextHint::Sender),
    ("not permitted to send from", TextHint::Sender),
    ("not permitted to send as", TextHint::Sender),
    ("mail from must equal", TextHint::Sender), // NetEase
    ("must be same as auth", TextHint::Sender), // QQ
    ("is not one of your addresses", TextHint::Sender), // iCloud
    ("verified sender identity", TextHint::Sender), // SendGrid
    ("address is not verified", TextHint::NotVerified), // Amazon SES
    ("for test purposes only", TextHint::Trial), // Mailgun
    ("trial account", TextHint::Trial),         // MailerSend
    ("account is pending approval", TextHint::Trial), // Postmark
    ("credentials were incorrect", TextHint::WrongLogin), // Exchange Online: 5.7.139
    ("basic authentication is", TextHint::NoPasswords), // Exchange Online: 5.7.139, 5.7.30
    ("security defaults policy", TextHint::NoPasswords), // Exchange Online: 5.7.139
    (
        "smtpclientauthentication is disabled",
        TextHint::SmtpAuthOff,
    ), // Exchange Online: 5.7.139
    ("application-specific password", TextHint::AppPassword), // Google: 534 5.7.9
    ("app password", TextHint::AppPassword),
    ("your web browser", TextHint::AppPassword), // Google: 534 5.7.9, 534 5.7.14
    ("webloginrequired", TextHint::AppPassword), // Google: 534 5.7.9
];

impl TextHint {
    /// What the text of a refusal says, all its lines together, where it has one of the phrases.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let said = PHRASES.iter().filter_map(|(phrase, text_hint)| {
            // It names the part of Exchange that speaks, and what it says comes behind.
            let is_general = *text_hint == Self::SubmissionLimit;
            let begins = text.find(phrase)?;
            Some(((is_general, begins, Reverse(phrase.len())), *text_hint))
        });
        said.min_by_key(|(place, _)| *place)
            .map(|(_, text_hint)| text_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_is_in_lower_case_and_found_in_any_case() {
        for (phrase, text_hint) in PHRASES {
            assert_eq!(phrase, phrase.to_ascii_lowercase());
            let text = format!("5.7.1 <a@b.example>: {} x", phrase.to_ascii_uppercase());
            assert_eq!(TextHint::of(&text), Some(text_hint), "{phrase}");
        }
        assert_eq!(TextHint::of("5.1.1 User unknown"), None);
    }

    #[test]
    fn a_send_as_refusal_is_no_limit_of_the_mailbox() {
        let text = "5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; x";
        assert_eq!(TextHint::of(text), Some(TextHint::Sender));
    }

    /// What another server said is quoted behind the words of the one that refuses.
    #[test]
    fn the_phrase_that_begins_first_counts() {
        for (text, text_hint) in [
            (
                "Callout verification failed: 550 5.7.1 <a@b.example>: Sender address rejected: Access denied",
                TextHint::Recipient,
            ),
            (
                "<a@b.example>: Recipient address rejected: undeliverable address: host mx said: 550 Sender address rejected",
                TextHint::Recipient,
            ),
            (
                "<a@b.example>: Sender address rejected: undeliverable address: host mx said: Recipient address rejected",
                TextHint::Sender,
            ),
            (
                "Verification failed for <a@b.example> Response: 550 Recipient address rejected Sender verify failed",
                TextHint::Sender,
            ),
        ] {
            assert_eq!(TextHint::of(text), Some(text_hint), "{text}");
        }
        assert_eq!(TextHint::of("Recipient's address does not match"), None);
    }
}
