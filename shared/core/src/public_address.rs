//! Which addresses are on the public internet: the tables behind the egress guard and the URLs that providers fetch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv4 ranges that a clinic-supplied host must not reach: all of the IANA IPv4 Special-Purpose
/// Address Registry (RFC 6890, <https://www.iana.org/assignments/iana-ipv4-special-registry>), and
/// multicast (RFC 5771). The AS112 and AMT ranges are globally reachable by the registry, but anycast:
/// what answers there is whatever is nearest, in our own network if it has such a node.
const REFUSED_V4: [Ipv4Net; 19] = [
    // This host on this network (RFC 791).
    v4([0, 0, 0, 0], 8),
    // Private use (RFC 1918).
    v4([10, 0, 0, 0], 8),
    // Shared address space of carriers (RFC 6598).
    v4([100, 64, 0, 0], 10),
    // Loopback (RFC 1122); in a Lambda the runtime API is there.
    v4([127, 0, 0, 0], 8),
    // The wire server of Microsoft's cloud, an address of its public range that only its own machines reach
    // (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
    v4([168, 63, 129, 16], 32),
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

/// Whether an address is on the public internet, so that a clinic may name it. An IPv4 address inside an IPv6 one
/// (mapped, NAT64, ISATAP) decides for both.
pub fn is_public(address: IpAddr) -> bool {
    !is_refused(address)
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
