//! What the text of a host and port alone shows: refused when settings are saved, rather than on every send. What has to be
//! resolved is the guard's concern at each connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use comms_core::{Host, public_address::is_public};

use super::{EgressAllow, EgressError};

impl EgressAllow {
    /// Why no connection to `host` at `port` can ever be made; `None` where one may. `ports` are the ones that the
    /// protocol uses.
    pub fn refusal_by_text(&self, host: &Host, port: u16, ports: &[u16]) -> Option<EgressError> {
        let is_allowed = match host {
            Host::Ip(address) => self.allows(address.to_canonical(), port),
            Host::Name(name) if is_loopback_name(name) => {
                let loopback = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                loopback
                    .into_iter()
                    .any(|address| self.allows(address, port))
            }
            // It may resolve into any of the operator's networks.
            Host::Name(_) => self
                .0
                .iter()
                .any(|(_, only)| only.is_none_or(|only| only == port)),
        };
        if is_allowed {
            return None;
        }
        let may_be_public = match host {
            Host::Ip(address) => is_public(address.to_canonical()),
            Host::Name(name) => !is_loopback_name(name),
        };
        if !may_be_public {
            Some(EgressError::Address)
        } else if ports.contains(&port) {
            None
        } else {
            Some(EgressError::Port)
        }
    }
}

/// RFC 6761 section 6.3, and the names that Linux distributions have for it in `/etc/hosts`.
fn is_loopback_name(name: &str) -> bool {
    const HOSTS: [&str; 8] = [
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
    ];
    HOSTS.contains(&name) || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::egress::SMTP_PORTS;

    fn refusal(allow: &str, host: &str, port: u16) -> Option<EgressError> {
        let allow: EgressAllow = allow.parse().unwrap();
        allow.refusal_by_text(&Host::parse(host).unwrap(), port, &SMTP_PORTS)
    }

    #[test]
    fn what_can_never_be_connected_to_is_seen_in_the_text() {
        for (host, port, refused) in [
            ("smtp.example.com", 587, None),
            ("smtp.example.com", 25, Some(EgressError::Port)),
            ("smtp.example.com", 443, Some(EgressError::Port)),
            ("1.1.1.1", 465, None),
            ("1.1.1.1", 25, Some(EgressError::Port)),
            ("127.0.0.1", 587, Some(EgressError::Address)),
            ("10.1.2.3", 587, Some(EgressError::Address)),
            ("169.254.169.254", 587, Some(EgressError::Address)),
            ("[::1]", 587, Some(EgressError::Address)),
            ("[::ffff:10.0.0.1]", 587, Some(EgressError::Address)),
            ("[64:ff9b::a00:1]", 587, Some(EgressError::Address)),
            ("localhost", 587, Some(EgressError::Address)),
            ("mail.localhost", 587, Some(EgressError::Address)),
            ("localhost.localdomain", 587, Some(EgressError::Address)),
            ("ip6-localhost", 587, Some(EgressError::Address)),
            ("localhost6", 587, Some(EgressError::Address)),
            ("localhost.example.com", 587, None),
        ] {
            assert_eq!(refusal("", host, port), refused, "{host}:{port}");
        }
    }

    #[test]
    fn what_the_operator_allows_is_not_refused() {
        for (allow, host, port, refused) in [
            ("127.0.0.0/8", "127.0.0.1", 1025, None),
            ("127.0.0.0/8", "localhost", 1025, None),
            ("[::1/128]:1025", "mail.localhost", 1025, None),
            (
                "[::1/128]:1025",
                "localhost",
                1026,
                Some(EgressError::Address),
            ),
            ("10.0.0.0/8:25", "relay.example.com", 25, None),
            (
                "10.0.0.0/8:25",
                "relay.example.com",
                26,
                Some(EgressError::Port),
            ),
            ("10.0.0.0/8:25", "10.1.2.3", 25, None),
            ("10.0.0.0/8:25", "10.1.2.3", 587, Some(EgressError::Address)),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]", 25, None),
            ("10.0.0.0/8", "localhost", 587, Some(EgressError::Address)),
        ] {
            assert_eq!(refusal(allow, host, port), refused, "{allow} {host}:{port}");
        }
    }
}
