//! Where a connection to a clinic-supplied host may go.
//!
//! A name is resolved once, every address is checked, and the connection is made to a checked
//! address: nobody resolves the name again in between. Addresses that are not on the public internet
//! are refused unless the operator allows them (`EGRESS_ALLOW`); a clinic can not.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;
use comms_core::Host;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// Ports for SMTP submission: 465 (RFC 8314), 587 (RFC 6409), and 2525, which providers offer where
/// the other two are blocked.
pub const SMTP_PORTS: [u16; 3] = [465, 587, 2525];

/// IPv4 ranges that a clinic-supplied host must not reach: all of the IANA IPv4 Special-Purpose
/// Address Registry (RFC 6890, <https://www.iana.org/assignments/iana-ipv4-special-registry>), and
/// multicast (RFC 5771). The AS112 and AMT ranges are globally reachable by the registry, but anycast:
/// what answers there is whatever is nearest, in our own network if it has such a node.
const REFUSED_V4: [Ipv4Net; 18] = [
    // This host on this network (RFC 791).
    v4([0, 0, 0, 0], 8),
    // Private use (RFC 1918).
    v4([10, 0, 0, 0], 8),
    // Shared address space of carriers (RFC 6598).
    v4([100, 64, 0, 0], 10),
    // Loopback (RFC 1122); in a Lambda the runtime API is there.
    v4([127, 0, 0, 0], 8),
    // Link-local (RFC 3927); the clouds' metadata services are there.
    v4([169, 254, 0, 0], 16),
    // Private use (RFC 1918).
    v4([172, 16, 0, 0], 12),
    // IETF protocol assignments (RFC 6890), the anycast addresses of PCP and TURN among them.
    v4([192, 0, 0, 0], 24),
    // Documentation (RFC 5737).
    v4([192, 0, 2, 0], 24),
    // AS112 (RFC 7535).
    v4([192, 31, 196, 0], 24),
    // Automatic multicast tunneling (RFC 7450).
    v4([192, 52, 193, 0], 24),
    // Relays of 6to4, which has ended (RFC 7526).
    v4([192, 88, 99, 0], 24),
    // Private use (RFC 1918).
    v4([192, 168, 0, 0], 16),
    // AS112 (RFC 7534).
    v4([192, 175, 48, 0], 24),
    // Benchmarks (RFC 2544).
    v4([198, 18, 0, 0], 15),
    // Documentation (RFC 5737).
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Multicast (RFC 5771).
    v4([224, 0, 0, 0], 4),
    // Reserved (RFC 1112), limited broadcast (RFC 8190) among it.
    v4([240, 0, 0, 0], 4),
];

/// The only IPv6 addresses that are on the public internet: `2000::/3` (RFC 4291 section 2.4,
/// <https://www.iana.org/assignments/ipv6-address-space>). Outside of it are, among others, loopback,
/// the spellings of IPv4 addresses (`::/96`, `::ffff:0:0:0/96` of RFC 2765), the local NAT64 prefix
/// (`64:ff9b:1::/48`, RFC 8215), discard-only and dummy prefixes (`100::/64`, RFC 6666;
/// `100:0:0:1::/64`, RFC 9780), segment routing (`5f00::/16`, RFC 9602), unique local (`fc00::/7`, RFC
/// 4193; AWS has its metadata service at `fd00:ec2::254`), link-local, site-local and multicast.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What of [`PUBLIC_V6`] a clinic-supplied host must not reach: all of the IANA IPv6 Special-Purpose
/// Address Registry (<https://www.iana.org/assignments/iana-ipv6-special-registry>).
const REFUSED_V6: [Ipv6Net; 5] = [
    // IETF protocol assignments (RFC 2928): Teredo, benchmarks, ORCHID, drones' ids, and the anycast
    // addresses of PCP, TURN, AMT and AS112.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    // Documentation (RFC 3849).
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    // 6to4 (RFC 3056), which embeds IPv4 addresses.
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    // AS112 (RFC 7534).
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
    // Documentation (RFC 9637).
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// `64:ff9b::/96`, RFC 6052 section 2.1: an IPv4 address as it is reached from an IPv6-only subnet,
/// where DNS64 gives no other.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(s0, s1, s2, s3, s4, s5, s6, s7), prefix)
}

/// Why a host may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EgressError {
    /// The port is none that the protocol uses.
    #[error("the port is not one that may be connected to")]
    Port,
    /// No address of the host is on the public internet.
    #[error("the host's address is not one that may be connected to")]
    Address,
    /// The name does not resolve.
    #[error("the host's name does not resolve")]
    Unresolved,
}

/// What an operator allows beyond the public internet: `EGRESS_ALLOW`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressAllow(Vec<(IpNet, Option<u16>)>);

/// The part of `EGRESS_ALLOW`, counted from 1, that is not `CIDR`, `CIDR:port`, or `[IPv6 CIDR]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("part {0} is neither CIDR nor CIDR:port, such as 10.1.0.0/16:587 or [fd00::/8]:465")]
pub struct EgressAllowError(usize);

impl FromStr for EgressAllow {
    type Err = EgressAllowError;

    /// Reads a comma-separated list; nothing at all allows nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
            .map(|(index, part)| {
                let wrong = || EgressAllowError(index + 1);
                if let Ok(net) = part.parse::<IpNet>() {
                    return Ok((net, None));
                }
                let (net, port) = part.rsplit_once(':').ok_or_else(wrong)?;
                let net = net
                    .strip_prefix('[')
                    .and_then(|inner| inner.strip_suffix(']'))
                    .unwrap_or(net);
                let net = net.parse::<IpNet>().map_err(|_| wrong())?;
                let port = port
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(wrong)?;
                Ok((net, Some(port)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl EgressAllow {
    fn allows(&self, address: IpAddr, port: u16) -> bool {
        self.0
            .iter()
            .any(|(net, only)| net.contains(&address) && only.is_none_or(|only| only == port))
    }
}

/// Turns names into addresses.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The addresses of `name`, in the order in which they should be tried.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // Port 0 because the system's interface wants one.
        Ok(tokio::net::lookup_host((name, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

/// Says where a connection may go.
#[derive(Clone)]
pub struct EgressGuard {
    allow: EgressAllow,
    resolver: Arc<dyn Resolver>,
}

impl EgressGuard {
    /// Allows the public internet and `allow`.
    pub fn new(allow: EgressAllow, resolver: Arc<dyn Resolver>) -> Self {
        Self { allow, resolver }
    }

    /// The addresses of `host`: one lookup, or none for an address.
    pub async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, EgressError> {
        let addresses = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => self
                .resolver
                .resolve(name)
                .await
                .map_err(|_| EgressError::Unresolved)?,
        };
        if addresses.is_empty() {
            Err(EgressError::Unresolved)
        } else {
            Ok(addresses)
        }
    }

    /// Those of `addresses` that may be connected to on `port`. `ports` are the ones that the
    /// protocol uses.
    pub fn check(
        &self,
        addresses: &[IpAddr],
        port: u16,
        ports: &[u16],
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let mut refused = EgressError::Address;
        let mut checked = Vec::with_capacity(addresses.len());
        for address in addresses {
            // `::ffff:a.b.c.d` is a.b.c.d, and is connected to as such.
            let address = address.to_canonical();
            if self.allow.allows(address, port) {
                checked.push(SocketAddr::new(address, port));
            } else if !is_refused(address) {
                if ports.contains(&port) {
                    checked.push(SocketAddr::new(address, port));
                } else {
                    refused = EgressError::Port;
                }
            }
        }
        if checked.is_empty() {
            Err(refused)
        } else {
            Ok(checked)
        }
    }
}

impl std::fmt::Debug for EgressGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressGuard")
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

fn is_refused(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => REFUSED_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            let embeds_refused = || is_refused(Ipv4Addr::new(a, b, c, d).into());
            if NAT64.contains(&address) {
                return embeds_refused();
            }
            !PUBLIC_V6.contains(&address)
                || REFUSED_V6.iter().any(|net| net.contains(&address))
                || (is_isatap(address) && embeds_refused())
        }
    }
}

/// Whether the address is one of ISATAP (RFC 5214 section 6.1), whose routers forward to the IPv4
/// address in its last 32 bits.
const fn is_isatap(address: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = address.segments();
    // The universal/local bit is set where the IPv4 address is unique.
    high & !0x0200 == 0 && low == 0x5efe
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names(Vec<IpAddr>);

    #[async_trait]
    impl Resolver for Names {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    fn guard(allow: &str) -> EgressGuard {
        EgressGuard::new(allow.parse().unwrap(), Arc::new(Names(Vec::new())))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_off_the_public_internet_are_refused() {
        let guard = guard("");
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.1.1",
            "192.175.48.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::a9fe:a9fe",
            "::ffff:0:8.8.8.8",
            "64:ff9b:1::1",
            "64:ff9b:1::101:101",
            "64:ff9b::1:101:101",
            "64:ff9c::101:101",
            "100::1",
            "100:0:0:1::1",
            "1fff:ffff::1",
            "2001::1",
            "2001:1::1",
            "2001:2::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:10::1",
            "2001:20::1",
            "2001:30::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2606:4700::5efe:7f00:1",
            "2606:4700::200:5efe:a00:1",
            "2620:4f:8000::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert_eq!(
                guard.check(&[ip(text)], 587, &SMTP_PORTS),
                Err(EgressError::Address),
                "{text}"
            );
        }
    }

    #[test]
    fn neighbours_of_refused_ranges_are_not_refused() {
        let guard = guard("");
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.31.195.255",
            "192.31.197.0",
            "192.52.192.255",
            "192.52.194.0",
            "192.175.47.255",
            "192.175.49.0",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::101:101",
            "2000::1",
            "2001:200::1",
            "2003::1",
            "2606:4700::5efe:101:101",
            "2606:4700::5eff:7f00:1",
            "2606:4700::400:5efe:7f00:1",
            "2620:4f:7fff::1",
            "2620:4f:8001::1",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            assert!(guard.check(&[ip(text)], 587, &SMTP_PORTS).is_ok(), "{text}");
        }
    }

    #[test]
    fn only_the_protocols_ports_are_allowed() {
        let guard = guard("");
        for port in [1, 22, 25, 80, 443, 3306, 6379, 11211] {
            assert_eq!(
                guard.check(&[ip("1.1.1.1")], port, &SMTP_PORTS),
                Err(EgressError::Port),
                "{port}"
            );
        }
        for port in SMTP_PORTS {
            let checked = guard.check(&[ip("1.1.1.1")], port, &SMTP_PORTS).unwrap();
            assert_eq!(checked, [SocketAddr::new(ip("1.1.1.1"), port)]);
        }
    }

    #[test]
    fn an_operator_may_allow_a_range_or_one_port_of_it() {
        let guard = guard("127.0.0.0/8, 10.1.0.0/16:2500,[fd00::/8]:465");
        assert!(guard.check(&[ip("127.0.0.1")], 54321, &SMTP_PORTS).is_ok());
        assert!(guard.check(&[ip("10.1.2.3")], 2500, &SMTP_PORTS).is_ok());
        assert!(guard.check(&[ip("10.1.2.3")], 587, &SMTP_PORTS).is_err());
        assert!(guard.check(&[ip("10.2.0.1")], 2500, &SMTP_PORTS).is_err());
        assert!(guard.check(&[ip("fd00::1")], 465, &SMTP_PORTS).is_ok());
        let mapped = guard
            .check(&[ip("::ffff:127.0.0.1")], 1, &SMTP_PORTS)
            .unwrap();
        assert_eq!(mapped, ["127.0.0.1:1".parse().unwrap()]);
        for text in [
            "127.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/8:0",
            "10.0.0.0/8:70000",
            "host:25",
            "10.0.0.0/8:",
        ] {
            assert!(text.parse::<EgressAllow>().is_err(), "{text}");
        }
        assert_eq!(" , ".parse(), Ok(EgressAllow::default()));
    }

    #[tokio::test]
    async fn of_a_names_addresses_only_the_checked_ones_are_left() {
        let guard = EgressGuard::new(
            EgressAllow::default(),
            Arc::new(Names(vec![ip("10.0.0.1"), ip("1.1.1.1"), ip("::1")])),
        );
        let host = Host::parse("rebinding.example").unwrap();
        let addresses = guard.resolve(&host).await.unwrap();
        let checked = guard.check(&addresses, 587, &SMTP_PORTS).unwrap();
        assert_eq!(checked, ["1.1.1.1:587".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_unresolved() {
        let host = Host::parse("nothing.example").unwrap();
        assert_eq!(guard("").resolve(&host).await, Err(EgressError::Unresolved));
    }
}
