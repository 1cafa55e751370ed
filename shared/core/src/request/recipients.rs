//! Who is reached, by which addresses.

use std::collections::HashSet;

use serde::Serialize;

use super::MAX_RECIPIENTS;
use crate::{
    address::{EmailAddress, Mailbox},
    country::Country,
    json::{Object, read},
    phone::PhoneNumber,
    visible::is_turned,
};

/// Somebody to reach.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// The name shown beside the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For the e-mail channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailAddress>,
    /// For the WhatsApp channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone_number: Option<PhoneNumber>,
}

impl Recipient {
    /// One of the recipient's addresses; each recipient has at least one.
    pub(super) fn any_address(&self) -> &str {
        let email = self.email.as_ref().map(EmailAddress::as_str);
        let phone = self.phone_number.as_ref().map(PhoneNumber::as_str);
        email.or(phone).unwrap_or_default()
    }
}

pub(super) fn read_recipients(object: &mut Object<'_>, country: Option<Country>) -> Vec<Recipient> {
    let has_some = object.array_length("recipients") > 0;
    let mut emails = HashSet::new();
    let mut phones = HashSet::new();
    let recipients = object.objects("recipients", MAX_RECIPIENTS, |_, mut item| {
        let unreachable = item.is_missing("email") && item.is_missing("phoneNumber");
        let name = item.optional("name", read::parsed(parse_recipient_name));
        let email = item.optional("email", read::parsed(EmailAddress::parse_new));
        let phone_number = item.optional(
            "phoneNumber",
            read::parsed(|text| PhoneNumber::parse_in(country, text)),
        );
        if unreachable {
            item.problem_here("must have an email or a phoneNumber");
        } else if email
            .as_ref()
            .is_some_and(|email| !emails.insert(mailbox_key(email)))
        {
            item.problem(
                "email",
                "is the address of an earlier recipient; name each address once",
            );
        } else if phone_number
            .as_ref()
            .is_some_and(|phone| !phones.insert(phone.clone()))
        {
            item.problem(
                "phoneNumber",
                "is the number of an earlier recipient; name each number once",
            );
        }
        item.finish();
        Some(Recipient {
            name: name.filter(|name| !name.is_empty()),
            email,
            phone_number,
        })
    });
    if recipients.is_empty() && !has_some {
        object.missing(
            "recipients",
            format!("must name 1 to {MAX_RECIPIENTS} recipients"),
        );
    }
    recipients
}

/// By what an address is known again: RFC 5321 section 2.4 lets a server tell `Ann@` from `ann@`, and none
/// does.
pub(super) fn mailbox_key(address: &EmailAddress) -> String {
    address.as_str().to_lowercase()
}

fn parse_recipient_name(text: &str) -> Result<String, String> {
    if is_turned(text) {
        return Err(
            "must be one line that nothing turns: without U+2028, U+2029, U+202D and U+202E"
                .to_owned(),
        );
    }
    Mailbox::parse_name(text).map_err(|error| error.to_string())
}
