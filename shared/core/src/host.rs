//! A host as a clinic names it: a domain name or an IP address, in exactly one spelling.
//!
//! Resolvers accept many spellings of an address (`127.1`, `2130706433`, `0x7f.0.0.1`). A guard that
//! sees a name where the resolver sees an address guards nothing, so every text that some resolver
//! would take for an IPv4 address is one here, or is refused.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use idna::AsciiDenyList;
use thiserror::Error;

/// Characters of a name (RFC 1035 section 2.3.4: 255 octets with their lengths).
pub const MAX_HOST: usize = 253;
/// Characters of a label, between dots (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// The text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be a host name such as smtp.example.com, of at most {} characters and {} \
     between dots, or an IP address in its usual form",
    MAX_HOST,
    MAX_LABEL
)]
pub struct HostError;

/// A domain name (ASCII, lower case, no trailing dot) or an IP address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to be resolved.
    Name(String),
    /// An address. IPv6 forms of IPv4 addresses are kept as they are: what they embed is the
    /// egress guard's concern.
    Ip(IpAddr),
}

impl Host {
    /// Reads a host. Characters beyond ASCII are converted (UTS 46), which turns full-width digits
    /// into digits before the text is looked at.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return inner
                .parse::<Ipv6Addr>()
                .map(|ip| Self::Ip(ip.into()))
                .map_err(|_| HostError);
        }
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        let name = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::STD3)
            .map_err(|_| HostError)?
            .into_owned();
        let labels_ok = name.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        if !labels_ok || name.len() > MAX_HOST {
            return Err(HostError);
        }
        // WHATWG URL, "ends in a number checker": such a name is an IPv4 address to somebody.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return name
                .parse::<Ipv4Addr>()
                .map(|ip| Self::Ip(ip.into()))
                .map_err(|_| HostError);
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        let loopback = Host::Ip(Ipv4Addr::LOCALHOST.into());
        assert_eq!(Host::parse("127.0.0.1"), Ok(loopback.clone()));
        assert_eq!(
            Host::parse("１２７.０.０.１"),
            Ok(loopback.clone()),
            "full-width digits"
        );
        assert_eq!(
            Host::parse("127。0。0。1"),
            Ok(loopback),
            "ideographic full stops"
        );
        assert_eq!(
            Host::parse("[::1]"),
            Ok(Host::Ip(Ipv6Addr::LOCALHOST.into()))
        );
        for text in [
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f.0.0.1",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.1.",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.0x1",
            "a.1",
            "[127.0.0.1]",
            "[::1",
            "::1]",
            "[::1]:25",
            "fe80::1%eth0",
            "127.0.0.1:25",
        ] {
            assert_eq!(Host::parse(text), Err(HostError), "{text}");
        }
    }

    #[test]
    fn names_are_ascii_and_lower_case() {
        assert_eq!(
            Host::parse("SMTP.Example.COM"),
            Ok(Host::Name("smtp.example.com".into()))
        );
        assert_eq!(
            Host::parse("bücher.example"),
            Ok(Host::Name("xn--bcher-kva.example".into()))
        );
        assert_eq!(Host::parse("localhost"), Ok(Host::Name("localhost".into())));
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a.example",
            "a b",
            "a/b",
            "a@b",
            "a:25",
            "a\0",
            "a_b.example",
            &"a".repeat(64),
        ] {
            assert_eq!(Host::parse(text), Err(HostError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_std_takes_for_an_address_is_one(a in any::<[u8; 4]>(), b in any::<[u16; 8]>()) {
            let v4 = Ipv4Addr::from(a);
            prop_assert_eq!(Host::parse(&v4.to_string()), Ok(Host::Ip(v4.into())));
            let v6 = Ipv6Addr::from(b);
            prop_assert_eq!(Host::parse(&v6.to_string()), Ok(Host::Ip(v6.into())));
        }

        #[test]
        fn a_host_reads_back_as_itself(text in "[a-z0-9.:\\[\\]x-]{0,30}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }
    }
}
