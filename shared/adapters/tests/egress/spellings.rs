//! Every spelling of a place that may not be connected to.

use super::*;

/// What becomes of a spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is no host: settings with it are not saved.
    NoHost,
    /// It is an address, and refused as one; nothing is resolved.
    Address,
    /// It is a name, resolved once, and refused for what that gave.
    Name,
}
use Fate::{Address, Name, NoHost};

/// Spellings of places that a clinic must not reach: the text, its fate as an SMTP host, and its fate as
/// the host in a URL. URLs are read as WHATWG has it, which takes more spellings for an address.
const SPELLINGS: &[(&str, Fate, Fate)] = &[
    // IPv4 as it should be.
    ("127.0.0.1", Address, Address),
    ("127.255.255.254", Address, Address),
    ("0.0.0.0", Address, Address),
    ("10.0.0.1", Address, Address),
    ("100.64.0.1", Address, Address),
    ("169.254.169.254", Address, Address),
    ("169.254.170.2", Address, Address),
    ("172.31.0.2", Address, Address),
    ("192.168.0.1", Address, Address),
    ("192.0.0.192", Address, Address),
    ("100.100.100.200", Address, Address),
    ("255.255.255.255", Address, Address),
    // Short forms (inet_aton).
    ("127.1", NoHost, Address),
    ("127.0.1", NoHost, Address),
    ("0", NoHost, Address),
    ("10.1", NoHost, Address),
    ("169.254.43518", NoHost, Address),
    // Decimal.
    ("2130706433", NoHost, Address),
    ("2852039166", NoHost, Address),
    ("4294967295", NoHost, Address),
    ("4294967296", NoHost, NoHost),
    ("6425673729", NoHost, NoHost),
    // Octal, leading zeros.
    ("0177.0.0.1", NoHost, Address),
    ("0177.0.0.01", NoHost, Address),
    ("017700000001", NoHost, Address),
    ("127.0.0.01", NoHost, Address),
    ("00000177.0.0.1", NoHost, Address),
    ("0251.0376.0251.0376", NoHost, Address),
    // Hexadecimal.
    ("0x7f.0.0.1", NoHost, Address),
    ("0x7f.0x0.0x0.0x1", NoHost, Address),
    ("0x7f000001", NoHost, Address),
    ("0X7F000001", NoHost, Address),
    ("0x7f.1", NoHost, Address),
    ("0xa9.0xfe.0xa9.0xfe", NoHost, Address),
    ("0xA9FEA9FE", NoHost, Address),
    ("0x", NoHost, Address),
    ("127.0.0.0x1", NoHost, Address),
    // Mixed.
    ("0x7f.0.01", NoHost, Address),
    ("0251.254.169.254", NoHost, Address),
    ("169.0xfe.0251.254", NoHost, Address),
    // Out of range, too many, signs, blanks.
    ("256.0.0.1", NoHost, NoHost),
    ("127.0.0.1.1", NoHost, NoHost),
    ("127.0.0.256", NoHost, NoHost),
    ("+127.0.0.1", NoHost, NoHost),
    ("-127.0.0.1", NoHost, NoHost),
    ("127. 0.0.1", NoHost, NoHost),
    ("127.0.0.1/8", NoHost, Address),
    ("127.0.0.1\0", NoHost, NoHost),
    ("127.0.0.1\n", NoHost, Address),
    ("12\t7.0.0.1", NoHost, Address),
    // Trailing and doubled dots.
    ("127.0.0.1.", NoHost, Address),
    ("127.0.0.1..", NoHost, NoHost),
    ("127..0.0.1", NoHost, NoHost),
    (".127.0.0.1", NoHost, NoHost),
    ("localhost.", NoHost, NoHost),
    ("api.example.", NoHost, NoHost),
    // Digits of other kinds: full-width, circled, mathematical, superscript, Arabic-Indic, Devanagari.
    ("１２７.０.０.１", Address, Address),
    ("１６９.２５４.１６９.２５４", Address, Address),
    ("①②⑦.⓪.⓪.①", Address, Address),
    ("①⑥⑨.②⑤④.①⑥⑨.②⑤④", Address, Address),
    ("𝟏𝟐𝟕.𝟎.𝟎.𝟏", Address, Address),
    ("𝟙𝟚𝟟.𝟘.𝟘.𝟙", Address, Address),
    ("¹²⁷.⁰.⁰.¹", Address, Address),
    ("١٢٧.٠.٠.١", NoHost, NoHost),
    ("१२७.०.०.१", Name, Name),
    ("０ｘ７ｆ.1", NoHost, Address),
    ("２１３０７０６４３３", NoHost, Address),
    ("⑴⑵⑺.0.0.1", NoHost, NoHost),
    ("⒈⒉⒎.0.0.1", NoHost, NoHost),
    // Dots of other kinds.
    ("127。0。0。1", Address, Address),
    ("127．0．0．1", Address, Address),
    ("127｡0｡0｡1", Address, Address),
    ("127․0․0․1", NoHost, NoHost),
    ("127。0。0。1。", NoHost, Address),
    // Characters that are not seen: soft hyphen, zero-width space, joiners, word joiner, byte order mark.
    ("127.0.0.1\u{ad}", Address, Address),
    ("1\u{ad}27.0.0.1", Address, Address),
    ("12\u{200b}7.0.0.1", Address, Address),
    ("12\u{200c}7.0.0.1", NoHost, NoHost),
    ("12\u{200d}7.0.0.1", NoHost, NoHost),
    ("12\u{2060}7.0.0.1", Address, Address),
    ("\u{feff}127.0.0.1", Address, Address),
    ("127.0.0.1\u{fe0f}", Address, Address),
    ("\u{202e}1.0.0.721", NoHost, NoHost),
    // Percent-encoding.
    ("%31%32%37.0.0.1", NoHost, Address),
    ("127%2e0%2e0%2e1", NoHost, Address),
    ("127.0.0.1%00", NoHost, NoHost),
    ("%6c%6f%63%61%6c%68%6f%73%74", NoHost, Name),
    // Users, ports, paths and backslashes.
    ("good.example@127.0.0.1", NoHost, NoHost),
    ("good.example:443@127.0.0.1", NoHost, NoHost),
    ("@127.0.0.1", NoHost, Address),
    ("127.0.0.1:25", NoHost, NoHost),
    ("127.0.0.1\\@good.example", NoHost, Address),
    ("good.example\\@127.0.0.1", NoHost, Name),
    ("127.0.0.1#@good.example", NoHost, NoHost),
    ("127.0.0.1?@good.example", NoHost, NoHost),
    ("127.0.0.1/@good.example", NoHost, Address),
    ("//127.0.0.1", NoHost, Address),
    ("\\\\127.0.0.1", NoHost, Address),
    ("127.0.0.1,good.example", NoHost, NoHost),
    ("127.0.0.1 good.example", NoHost, NoHost),
    // IPv6.
    ("::1", Address, Address),
    ("[::1]", Address, Address),
    ("0:0:0:0:0:0:0:1", Address, Address),
    ("0000:0000:0000:0000:0000:0000:0000:0001", Address, Address),
    ("::", Address, Address),
    ("fd00:ec2::254", Address, Address),
    ("FD00:EC2:0::254", Address, Address),
    ("fd00::1", Address, Address),
    ("fe80::1", Address, Address),
    ("fec0::1", Address, Address),
    ("ff02::1", Address, Address),
    ("2001:db8::1", Address, Address),
    ("3fff::1", Address, Address),
    ("100::1", Address, Address),
    ("5f00::1", Address, Address),
    ("[::1]:25", NoHost, NoHost),
    ("[::1", NoHost, NoHost),
    ("::1]", NoHost, NoHost),
    ("[[::1]]", NoHost, NoHost),
    ("[127.0.0.1]", NoHost, NoHost),
    ("[::1].", NoHost, NoHost),
    ("[1::2::3]", NoHost, NoHost),
    ("[v1.fe80::a]", NoHost, NoHost),
    // Zones.
    ("fe80::1%eth0", NoHost, NoHost),
    ("[fe80::1%eth0]", NoHost, NoHost),
    ("[fe80::1%25eth0]", NoHost, NoHost),
    ("::1%1", NoHost, NoHost),
    // IPv4 in IPv6: mapped, compatible, translated, NAT64, local NAT64, 6to4, Teredo, ISATAP.
    ("::ffff:127.0.0.1", Address, Address),
    ("::ffff:7f00:1", Address, Address),
    ("::FFFF:7F00:0001", Address, Address),
    ("[0:0:0:0:0:ffff:127.0.0.1]", Address, Address),
    ("::ffff:a9fe:a9fe", Address, Address),
    ("::ffff:127.1", NoHost, NoHost),
    ("::ffff:0177.0.0.1", NoHost, NoHost),
    ("::127.0.0.1", Address, Address),
    ("::7f00:1", Address, Address),
    ("::ffff:0:127.0.0.1", Address, Address),
    ("::ffff:0:7f00:1", Address, Address),
    ("64:ff9b::7f00:1", Address, Address),
    ("64:ff9b::127.0.0.1", Address, Address),
    ("64:ff9b::169.254.169.254", Address, Address),
    ("64:ff9b:1::7f00:1", Address, Address),
    ("64:ff9b:1:ffff::127.0.0.1", Address, Address),
    ("2002:7f00:1::", Address, Address),
    ("2002:7f00:0001::1", Address, Address),
    ("2002:a9fe:a9fe::1", Address, Address),
    ("2001::7f00:1", Address, Address),
    ("2001:0:7f00:1::80ff:fffe", Address, Address),
    ("fe80::5efe:7f00:1", Address, Address),
    ("2606:4700::5efe:7f00:1", Address, Address),
    ("2606:4700::200:5efe:127.0.0.1", Address, Address),
    // Names.
    ("localhost", Name, Name),
    ("LOCALHOST", Name, Name),
    ("ｌｏｃａｌｈｏｓｔ", Name, Name),
    ("loc\u{ad}alhost", Name, Name),
    ("localhost.localdomain", Name, Name),
    ("ip6-localhost", Name, Name),
    ("metadata.google.internal", Name, Name),
    ("instance-data.ec2.internal", Name, Name),
    ("127.0.0.1.nip.io", Name, Name),
    ("7f000001.rbndr.example", Name, Name),
    ("host.docker.internal", Name, Name),
    ("0x7f.1.example", Name, Name),
    ("xn--bcher-kva.example", Name, Name),
    ("xn--11h.0.0.1", NoHost, NoHost),
    ("xn--", NoHost, NoHost),
    ("", NoHost, NoHost),
    (".", NoHost, NoHost),
    ("*", NoHost, NoHost),
];

/// Addresses off the public internet, one of each range that there is.
const FORBIDDEN: &[&str] = &[
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:2::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2606:4700::5efe:7f00:1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

/// An address as it stands in a URL.
fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

async fn fate_as_smtp_host(text: &str, trap: &Trap) -> Fate {
    let Ok(host) = Host::parse(text) else {
        return NoHost;
    };
    let names = Names::answering(&[]);
    let provider = Egress::new("", names.clone()).smtp(host, trap.port);
    let refused = smtp_refusal(EgressError::Address);
    assert_eq!(refusal(&provider).await, refused, "{text:?}");
    let asked = names.asked();
    assert_eq!(
        verified(&provider).await,
        (vec![VerifyStage::Resolve], refused.detail),
        "{text:?}"
    );
    match (asked, names.asked()) {
        (0, 0) => Address,
        (1, 2) => Name,
        other => panic!("{text:?} was resolved {other:?} times"),
    }
}

async fn fate_in_url(text: &str, trap: &Trap) -> Fate {
    let Ok(url) = BaseUrl::parse(&format!("https://{}:{}/", in_url(text), trap.port)) else {
        return NoHost;
    };
    let names = Names::answering(&[]);
    let provider = Egress::new("", names.clone()).sendgrid(url);
    let refused = refusal(&provider).await;
    assert_eq!(
        (refused.disposition, refused.detail),
        (Disposition::ProviderDown, URL_ADDRESS),
        "{text:?}"
    );
    let asked = names.asked();
    assert_eq!(
        verified(&provider).await,
        (vec![VerifyStage::Resolve], URL_ADDRESS),
        "{text:?}"
    );
    match (asked, names.asked()) {
        (0, 0) => Address,
        (1, 2) => Name,
        other => panic!("{text:?} was resolved {other:?} times"),
    }
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_place_is_connected_to() {
    let trap = Trap::set();
    let mut wrong = Vec::new();
    for (text, as_host, as_url) in SPELLINGS {
        let found = (
            fate_as_smtp_host(text, &trap).await,
            fate_in_url(text, &trap).await,
        );
        if found != (*as_host, *as_url) {
            wrong.push(format!("{text:?}: {found:?}"));
        }
        assert!(!trap.was_sprung(), "{text:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn the_trap_notices_a_connection() {
    let trap = Trap::set();
    let egress = Egress::new("127.0.0.0/8", Names::answering(&[]));
    let url = format!("http://127.0.0.1:{}", trap.port);
    let (provider, sprung) = (egress.sendgrid_at(&url), async {
        while !trap.was_sprung() {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        () = sprung => {}
        result = send(&provider) => panic!("{result:?}"),
    }
}

#[tokio::test]
async fn a_name_is_refused_for_every_range_that_it_may_resolve_to() {
    for forbidden in FORBIDDEN {
        let twice: &[&[&str]] = &[&[forbidden], &[forbidden, forbidden]];
        let names = Names::answering(twice);
        let egress = Egress::new("", names.clone());
        // An alias shows nothing of itself but the addresses at its end.
        let smtp = egress.smtp(Host::parse("alias.example").unwrap(), 587);
        for _ in twice {
            assert_eq!(
                refusal(&smtp).await,
                smtp_refusal(EgressError::Address),
                "{forbidden}"
            );
        }
        assert_eq!(names.asked(), 2);

        let names = Names::answering(twice);
        let sendgrid = Egress::new("", names.clone()).sendgrid_at("https://alias.example");
        for _ in twice {
            assert_eq!(refusal(&sendgrid).await.detail, URL_ADDRESS, "{forbidden}");
        }
        assert_eq!(names.asked(), 2);
    }
}
