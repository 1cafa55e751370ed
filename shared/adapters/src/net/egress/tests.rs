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
        "168.63.129.16",
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
        "168.63.129.15",
        "168.63.129.17",
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

/// Whoever set it looks for the part that the error names.
#[test]
fn what_an_operator_wrote_wrong_is_named_by_its_number() {
    for (text, part) in [
        ("wrong", 1),
        ("10.0.0.0/8,wrong,also wrong", 2),
        ("10.0.0.0/8, ,10.1.0.0/16:0", 3),
    ] {
        let error = text.parse::<EgressAllow>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("part {part} is")), "{error}");
    }
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
