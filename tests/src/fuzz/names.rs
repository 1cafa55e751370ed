//! Hosts, URLs, addresses, numbers and identifiers.

use std::sync::LazyLock;

use comms_adapters::egress::EgressAllow;
use comms_core::{
    AddressMask, BaseUrl, ClinicId, EmailAddress, EntryId, Host, IdempotencyKey, Mailbox,
    PhoneNumber, Position, ProviderCode, RequestId,
};

use super::NUMBERING_PLANS;

/// Names, addresses and URLs: what is taken reads back as the same, in the one spelling that it has then.
pub(super) fn read_names(input: &[u8]) {
    LazyLock::force(&NUMBERING_PLANS);
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    for text in [text, text.lines().next().unwrap_or_default()] {
        if let Ok(host) = Host::parse(text) {
            let written = host.to_string();
            assert!(written.is_ascii() && written.len() <= 253, "{written}");
            // A name that some resolver takes for an address would pass a guard that looks at addresses.
            if let Host::Name(name) = &host {
                let last = name.rsplit('.').next().unwrap_or_default();
                assert!(
                    !last.starts_with("0x") && !last.bytes().all(|byte| byte.is_ascii_digit()),
                    "{name}"
                );
            }
            assert_eq!(Host::parse(&written), Ok(host));
        }
        if let Ok(base) = BaseUrl::parse(text) {
            let written = base.to_string();
            assert!(written.len() <= BaseUrl::MAX, "{written}");
            assert_eq!(BaseUrl::parse(&written).as_ref(), Ok(&base), "{written}");
            let joined = base.join(["v3", "a/b?c#d"]);
            assert_eq!(
                joined.host_str().map(Host::parse),
                Some(Ok(base.host().clone()))
            );
            assert_eq!(
                (joined.query(), joined.fragment()),
                (None, None),
                "{joined}"
            );
        }
        if let Ok(address) = EmailAddress::parse(text) {
            let written = address.as_str();
            assert!(
                written.len() <= 254 && !written.contains([' ', '\r', '\n', '<', '>', '\0']),
                "{written:?}"
            );
            assert_eq!(EmailAddress::parse(written).as_ref(), Ok(&address));
            let masked = address.masked(AddressMask::Domain);
            // Of the local part its first character at most, and never all of it.
            let shown = masked.strip_suffix(&format!("***@{}", address.domain()));
            let is_hidden = |shown: &str| shown.chars().count() <= 1 && shown != address.local();
            assert!(shown.is_some_and(is_hidden), "{masked}");
        }
        if let Ok(phone) = PhoneNumber::parse(text) {
            assert!((8..=16).contains(&phone.as_str().len()));
            assert_eq!(PhoneNumber::parse(phone.as_str()).as_ref(), Ok(&phone));
        }
        if let Ok(name) = Mailbox::parse_name(text) {
            assert_eq!(Mailbox::parse_name(&name).as_ref(), Ok(&name));
        }
        if let Some(position) = Position::parse(text) {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        if let Some(code) = ProviderCode::parse(text) {
            assert!(code.as_str().len() <= 64 && !code.as_str().contains(['@', '+']));
        }
        for id in [
            ClinicId::parse(text).map(|id| id.as_str().to_owned()),
            RequestId::parse(text).map(|id| id.as_str().to_owned()),
            EntryId::parse(text).map(|id| id.as_str().to_owned()),
            IdempotencyKey::parse(text).map(|key| key.as_str().to_owned()),
        ] {
            assert!(id.is_err() || id.as_deref() == Ok(text));
        }
        let _ = text.parse::<EgressAllow>();
    }
}
