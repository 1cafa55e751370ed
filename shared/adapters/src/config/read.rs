//! What the readers of configurations share: secrets, senders, and the URLs of APIs.

use comms_core::{
    BaseUrl, EmailAddress, Mailbox, Secret, Tenant,
    address::AddressError,
    json::{Object, read},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::sender::OwnSender;
use crate::net::egress::{EgressAllow, EgressError, HTTPS_PORTS};

/// Characters of a secret.
pub const MAX_SECRET: usize = 1_024;

/// Whose settings are read, and by which rules.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'t> {
    /// Whose.
    pub tenant: &'t Tenant,
    /// By which rules.
    pub rules: Rules,
}

/// The rules that settings have to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Today's.
    Current,
    /// Those without which they mean nothing.
    Readable,
}

/// A secret that is stored.
pub(crate) struct StoredSecret<'s> {
    pub(crate) secret: &'s Secret,
    /// Whether it would still go to the same place, as the same user.
    pub(crate) same_place: bool,
}

/// Reads a secret: a new one, or the stored one where it is absent or its marker stands there.
/// `place` names the fields that decide where it goes.
pub(crate) fn read_secret(
    object: &mut Object<'_>,
    name: &'static str,
    stored: Option<StoredSecret<'_>>,
    place: &str,
) -> Option<Secret> {
    match object.take(name) {
        Some(Value::String(text)) => {
            let text = Zeroizing::new(text);
            if (1..=MAX_SECRET).contains(&text.chars().count())
                && !text.contains(['\0', '\r', '\n'])
            {
                Some(Secret::new(text))
            } else {
                object.problem(
                    name,
                    format!("must be 1 to {MAX_SECRET} characters without line breaks"),
                );
                None
            }
        }
        Some(marker) if marker.get("configured") != Some(&Value::Bool(true)) => {
            object.problem(
                name,
                "must be a string, or the marker that GET shows in its place",
            );
            None
        }
        marker => match stored {
            Some(stored) if stored.same_place => Some(stored.secret.clone()),
            Some(_) => {
                object.problem(
                    name,
                    format!("must be sent again, because {place} has changed"),
                );
                None
            }
            None if marker.is_some() => {
                object.problem(name, "must be sent: none is stored for this entry");
                None
            }
            None => {
                object.problem(name, "is required");
                None
            }
        },
    }
}

/// Reads the address of a sender by these rules.
pub fn parse_sender(rules: Rules) -> fn(&str) -> Result<EmailAddress, AddressError> {
    match rules {
        Rules::Current => EmailAddress::parse_new,
        Rules::Readable => EmailAddress::parse,
    }
}

/// Reads the sender of an entry: `fromEmail` and `fromName`.
pub(crate) fn read_sender(object: &mut Object<'_>, rules: Rules) -> OwnSender {
    OwnSender {
        email: object.optional("fromEmail", read::parsed(parse_sender(rules))),
        name: object
            .optional("fromName", read::parsed(Mailbox::parse_name))
            .filter(|name| !name.is_empty()),
    }
}

/// Writes what [`read_sender`] reads.
pub(crate) fn sender_json(json: &mut Value, from: &OwnSender) {
    json["fromEmail"] = json!(from.email);
    json["fromName"] = json!(from.name);
}

/// Adds a problem where a provider does not take the sender's address for what stands before its `@`.
pub(crate) fn require_ascii(object: &mut Object<'_>, from: &OwnSender, provider: &str) {
    let needs = from
        .email
        .as_ref()
        .is_some_and(EmailAddress::needs_smtputf8);
    if needs {
        object.problem(
            "fromEmail",
            format!("must have ASCII characters only before the '@': {provider} takes no others"),
        );
    }
}

/// Takes out those of `names` that are `null`. Where there are several ways to say something, those
/// that are not used are not looked at, and would be taken for unknown fields.
pub(crate) fn drop_unset(object: &mut Object<'_>, names: &[&'static str]) {
    for name in names {
        if object.is_missing(name) {
            object.take(name);
        }
    }
}

/// A URL without a path: what follows it is the adapter's affair.
pub(crate) fn read_host_url(value: Value) -> Result<BaseUrl, String> {
    let url = read::parsed(BaseUrl::parse)(value)?;
    if url.path_segments().next().is_none() {
        Ok(url)
    } else {
        Err("must be a URL without a path, such as https://api.example.com".to_owned())
    }
}

/// Writes the URL of an API.
pub(crate) fn url_json(url: Option<&BaseUrl>) -> Value {
    json!(url.map(ToString::to_string))
}

/// Why nothing can ever be connected to at `apiUrl`; `None` where it is not set, or may be.
pub(crate) fn api_url_refusal(
    allow: &EgressAllow,
    url: Option<&BaseUrl>,
) -> Option<(&'static str, &'static str)> {
    let url = url?;
    // In clear only where the operator allows it.
    let ports: &[u16] = if url.is_https() { &HTTPS_PORTS } else { &[] };
    let detail = match allow.refusal_by_text(url.host(), url.port(), ports)? {
        EgressError::Address | EgressError::Unresolved => {
            "must be at a host on the public internet: this deployment does not connect to this address"
        }
        EgressError::Port if url.is_https() => {
            "must be at port 443: this deployment connects to no other port"
        }
        EgressError::Port => "must be an https URL: nothing is sent in clear",
    };
    Some(("apiUrl", detail))
}
