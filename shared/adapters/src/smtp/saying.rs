//! What only the text of a refusal says: fixed phrases of servers that many clinics use, recognized while the reply is
//! parsed. The text itself is not kept; it repeats addresses.

use std::cmp::Reverse;

/// What the text of a refusal says. Where several phrases are in one reply, the one that begins first counts: behind it a
/// server may quote what another one told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Saying {
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
const PHRASES: [(&str, Saying); 53] = [
    ("recipient address rejected", Saying::Recipient), // Postfix
    ("undeliverable address", Saying::Recipient),      // Postfix
    ("callout verification failed", Saying::Recipient), // Exim, of recipients alone
    ("relay access denied", Saying::NoRelay),          // Postfix
    ("relaying denied", Saying::NoRelay),              // sendmail
    ("relay not permitted", Saying::NoRelay),          // Exim
    ("unable to relay", Saying::NoRelay),              // Exchange
    ("list of allowed rcpthosts", Saying::NoRelay),    // qmail
    ("administrative prohibition", Saying::NoRelay),   // Exim: a deny without a message
    ("storedrv.submission", Saying::SubmissionLimit),
    ("sender address rejected", Saying::Sender), // Postfix, Yandex
    ("not owned by user", Saying::Sender),       // Postfix
    ("not owned by auth user", Saying::Sender),  // Yandex
    ("sender verify failed", Saying::Sender),    // Exim
    ("verification failed for <", Saying::Sender), // Exim, before the lines of a sender's callout
    ("sender verification failed", Saying::Sender),
    ("sendasdenied", Saying::Sender), // Exchange Online: 5.2.252, and 5.2.0 before
    ("send as this sender", Saying::Sender), // Exchange: 5.7.60
    ("send on behalf of", Saying::Sender),
    ("sender address is not allowed", Saying::Sender), // GMX, IONOS
    ("sender address not allowed", Saying::Sender),
    ("sender is not allowed", Saying::Sender), // Zoho
    ("sender not allowed", Saying::Sender),
    ("sender not authorized", Saying::Sender),
    ("sender denied", Saying::Sender), // Exchange: 5.7.1
    ("sender does not match", Saying::Sender),
    ("sender mismatch", Saying::Sender),
    ("sender address does not match", Saying::Sender),
    ("from address", Saying::Sender),
    ("not allowed to send from", Saying::Sender),
    ("not allowed to send as", Saying::Sender),
    ("not allowed to use the from", Saying::Sender),
    ("not authorized to send from", Saying::Sender), // Fastmail
    ("not authorised to send from", Saying::Sender), // Fastmail
    ("not authorized to send as", Saying::Sender),
    ("not permitted to send from", Saying::Sender),
    ("not permitted to send as", Saying::Sender),
    ("mail from must equal", Saying::Sender), // NetEase
    ("must be same as auth", Saying::Sender), // QQ
    ("is not one of your addresses", Saying::Sender), // iCloud
    ("verified sender identity", Saying::Sender), // SendGrid
    ("address is not verified", Saying::NotVerified), // Amazon SES
    ("for test purposes only", Saying::Trial), // Mailgun
    ("trial account", Saying::Trial),         // MailerSend
    ("account is pending approval", Saying::Trial), // Postmark
    ("credentials were incorrect", Saying::WrongLogin), // Exchange Online: 5.7.139
    ("basic authentication is", Saying::NoPasswords), // Exchange Online: 5.7.139, 5.7.30
    ("security defaults policy", Saying::NoPasswords), // Exchange Online: 5.7.139
    ("smtpclientauthentication is disabled", Saying::SmtpAuthOff), // Exchange Online: 5.7.139
    ("application-specific password", Saying::AppPassword), // Google: 534 5.7.9
    ("app password", Saying::AppPassword),
    ("your web browser", Saying::AppPassword), // Google: 534 5.7.9, 534 5.7.14
    ("webloginrequired", Saying::AppPassword), // Google: 534 5.7.9
];

impl Saying {
    /// What the text of a refusal says, all its lines together, where it has one of the phrases.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let said = PHRASES.iter().filter_map(|(phrase, saying)| {
            // It names the part of Exchange that speaks, and what it says comes behind.
            let is_general = *saying == Self::SubmissionLimit;
            let begins = text.find(phrase)?;
            Some(((is_general, begins, Reverse(phrase.len())), *saying))
        });
        said.min_by_key(|(place, _)| *place)
            .map(|(_, saying)| saying)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_is_in_lower_case_and_found_in_any_case() {
        for (phrase, saying) in PHRASES {
            assert_eq!(phrase, phrase.to_ascii_lowercase());
            let text = format!("5.7.1 <a@b.example>: {} x", phrase.to_ascii_uppercase());
            assert_eq!(Saying::of(&text), Some(saying), "{phrase}");
        }
        assert_eq!(Saying::of("5.1.1 User unknown"), None);
    }

    #[test]
    fn a_send_as_refusal_is_no_limit_of_the_mailbox() {
        let text = "5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; x";
        assert_eq!(Saying::of(text), Some(Saying::Sender));
    }

    /// What another server said is quoted behind the words of the one that refuses.
    #[test]
    fn the_phrase_that_begins_first_counts() {
        for (text, saying) in [
            (
                "Callout verification failed: 550 5.7.1 <a@b.example>: Sender address rejected: Access denied",
                Saying::Recipient,
            ),
            (
                "<a@b.example>: Recipient address rejected: undeliverable address: host mx said: 550 Sender address rejected",
                Saying::Recipient,
            ),
            (
                "<a@b.example>: Sender address rejected: undeliverable address: host mx said: Recipient address rejected",
                Saying::Sender,
            ),
            (
                "Verification failed for <a@b.example> Response: 550 Recipient address rejected Sender verify failed",
                Saying::Sender,
            ),
        ] {
            assert_eq!(Saying::of(text), Some(saying), "{text}");
        }
        assert_eq!(Saying::of("Recipient's address does not match"), None);
    }
}
