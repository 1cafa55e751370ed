//! What providers' codes say beyond the kind of the failure: those of which the reader needs more than the kind.
//!
//! The kinds themselves are the adapters' (`classify` of each provider, with its sources).

use comms_core::{ProviderCode, ProviderKind};

/// A provider, the beginning of its code, and what to do.
const KNOWN: [(&str, &str, &str); 27] = [
    (
        "smtp",
        "535 5.7.139",
        "Exchange Online: the password is wrong, or SMTP AUTH is switched off for the mailbox or the tenant.",
    ),
    (
        "smtp",
        "535 5.7.3",
        "Exchange: the password is wrong, or SMTP AUTH is switched off for the mailbox.",
    ),
    (
        "smtp",
        "534 5.7.9",
        "Gmail wants an app password for this login, or a sign-in in a browser first.",
    ),
    (
        "smtp",
        "534 5.7.14",
        "Gmail wants a sign-in in a browser before it accepts this login again.",
    ),
    (
        "smtp",
        "535",
        "The server rejects this user and password. Gmail and Yahoo accept app passwords only.",
    ),
    (
        "smtp",
        "550 5.4.5",
        "Gmail's daily limit of this mailbox is reached; it takes mail again within 24 hours.",
    ),
    (
        "smtp",
        "550 5.7.26",
        "The recipient's server wants SPF or DKIM of the sender's domain; the clinic's DNS has to have them.",
    ),
    (
        "smtp",
        "550 5.7.60",
        "Exchange: this mailbox may not send as the sender's address; grant \"Send as\" or change the sender.",
    ),
    (
        "smtp",
        "552 5.2.2",
        "The recipient's mailbox is full; the recipient has to make room.",
    ),
    (
        "smtp",
        "452 4.2.2",
        "The recipient's mailbox is full; the recipient has to make room.",
    ),
    (
        "smtp",
        "550 5.1.1",
        "There is no mailbox with this address; ask the patient for the right one.",
    ),
    (
        "smtp",
        "421",
        "The server closes connections: too many at once, or a restart. Fewer connections per login may help.",
    ),
    (
        "meta_business",
        "190",
        "The access token has expired or was revoked; make one of a system user, which does not expire.",
    ),
    (
        "meta_business",
        "131042",
        "A payment is due in Meta Business Manager.",
    ),
    (
        "meta_business",
        "131026",
        "The number is not on WhatsApp, has not accepted its terms, or uses an old version; use another channel.",
    ),
    (
        "meta_business",
        "131047",
        "The 24-hour window is closed; send an approved template.",
    ),
    (
        "meta_business",
        "131049",
        "Meta limits marketing to this recipient; try after 24 hours, or by another channel.",
    ),
    (
        "meta_business",
        "132000",
        "The number of parameters is not that of the template.",
    ),
    (
        "meta_business",
        "132001",
        "There is no such template in that language; check name and language in WhatsApp Manager.",
    ),
    (
        "meta_business",
        "132015",
        "The template is paused for its low quality; use another one until Meta resumes it.",
    ),
    (
        "meta_business",
        "133010",
        "The phone number is not registered with the Cloud API.",
    ),
    (
        "twilio",
        "20003",
        "The account SID and the token or key do not fit together, or the account is suspended.",
    ),
    (
        "twilio",
        "21610",
        "The recipient answered STOP; only the recipient can take that back.",
    ),
    (
        "twilio",
        "63016",
        "The 24-hour window is closed; send an approved template.",
    ),
    (
        "twilio",
        "63007",
        "The sender's number is no WhatsApp sender of this account.",
    ),
    (
        "twilio",
        "63018",
        "The sender's rate is used up; send less at once, or ask Twilio for more.",
    ),
    (
        "twilio",
        "63024",
        "The recipient's number is not on WhatsApp; use another channel.",
    ),
];

/// What a provider's code says to do; `None` of those of which the kind says as much.
pub(super) fn meaning(provider: ProviderKind, code: &ProviderCode) -> Option<&'static str> {
    let begins = |known: &str| {
        let rest = code.as_str().strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let mut known = KNOWN.iter();
    let found = known.find(|(of, known, _)| provider.as_str() == *of && begins(known));
    found.map(|(_, _, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use comms_adapters::registry;

    use super::*;

    fn said(provider: &str, code: &str) -> Option<&'static str> {
        let provider = ProviderKind::parse(provider).unwrap();
        meaning(provider, &ProviderCode::parse(code).unwrap())
    }

    #[test]
    fn code_matches_by_provider_and_whole_parts() {
        assert!(said("smtp", "535 5.7.139").unwrap().contains("Exchange"));
        assert!(said("smtp", "535 5.7.8").unwrap().contains("app passwords"));
        assert_eq!(said("smtp", "5350"), None);
        assert_eq!(said("ses", "535 5.7.8"), None);
    }

    #[test]
    fn every_code_of_the_table_is_of_a_registered_provider() {
        for (provider, code, _) in KNOWN {
            assert!(registry::find(provider).is_some(), "{provider}");
            assert!(ProviderCode::parse(code).is_some(), "{code}");
        }
    }
}
