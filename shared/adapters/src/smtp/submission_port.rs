//! Which port of a mail server goes with which way into TLS. A port that is at odds with `secure`
//! fails on every send, with a handshake error or a silence that says nothing of the reason.

use comms_core::Host;

/// Message submission over TLS from the start (RFC 8314 section 3.3).
const SUBMISSIONS: u16 = 465;
/// Message submission (RFC 6409 section 3.1), with TLS by STARTTLS.
const SUBMISSION: u16 = 587;

/// Servers that many clinics use, with the ports at which they take messages. Port 25, which some of
/// them name too, is for servers among themselves, and most networks close it.
const KNOWN: [(&str, &[u16]); 3] = [
    // https://developers.google.com/workspace/gmail/imap/imap-smtp
    ("smtp.gmail.com", &[SUBMISSION, SUBMISSIONS]),
    // https://learn.microsoft.com/exchange/mail-flow-best-practices/how-to-set-up-a-multifunction-device-or-application-to-send-email-using-microsoft-365-or-office-365
    ("smtp.office365.com", &[SUBMISSION]),
    // https://support.microsoft.com/office/pop-imap-and-smtp-settings-for-outlook-com-d088b986-291d-42b8-9564-9c414e2aa040
    ("smtp-mail.outlook.com", &[SUBMISSION]),
];

/// What is wrong with `port` and `secure` (TLS from the start) at `host`: the field, and what would
/// be right. Ports without a meaning of their own, such as 2525, may be either.
pub(super) fn conflict(
    host: Option<&Host>,
    port: u16,
    secure: bool,
) -> Option<(&'static str, &'static str)> {
    let ports = host.and_then(known_ports);
    if let Some(ports) = ports
        && !ports.contains(&port)
    {
        return Some((
            "port",
            if ports.contains(&SUBMISSIONS) {
                "must be 587 (with secure false) or 465 (with secure true): this server takes messages at no other port"
            } else {
                "must be 587 (with secure false): this server takes messages at no other port"
            },
        ));
    }
    match (port, secure) {
        (SUBMISSIONS, false) => Some((
            "secure",
            "must be true with port 465, where TLS begins at once; or use port 587, where it begins by STARTTLS",
        )),
        (SUBMISSION, true) if ports.is_none_or(|ports| ports.contains(&SUBMISSIONS)) => Some((
            "secure",
            "must be false with port 587, where TLS begins by STARTTLS; or use port 465, where it begins at once",
        )),
        (SUBMISSION, true) => Some((
            "secure",
            "must be false with port 587, where TLS begins by STARTTLS",
        )),
        (_, _) => None,
    }
}

fn known_ports(host: &Host) -> Option<&'static [u16]> {
    match host {
        Host::Name(name) => KNOWN
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, ports)| *ports),
        Host::Ip(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_at_odds_with_secure_is_told_at_the_field_to_change() {
        for (host, port, secure, field) in [
            ("smtp.example.com", 465, true, None),
            ("smtp.example.com", 465, false, Some("secure")),
            ("smtp.example.com", 587, false, None),
            ("smtp.example.com", 587, true, Some("secure")),
            ("smtp.example.com", 2525, true, None),
            ("smtp.example.com", 2525, false, None),
            ("127.0.0.1", 465, false, Some("secure")),
            ("smtp.gmail.com", 465, true, None),
            ("smtp.gmail.com", 587, false, None),
            ("smtp.gmail.com", 465, false, Some("secure")),
            ("smtp.gmail.com", 587, true, Some("secure")),
            ("smtp.gmail.com", 2525, false, Some("port")),
            ("smtp.office365.com", 587, false, None),
            ("smtp.office365.com", 587, true, Some("secure")),
            ("smtp.office365.com", 465, true, Some("port")),
            ("smtp-mail.outlook.com", 587, false, None),
            ("smtp-mail.outlook.com", 465, true, Some("port")),
            ("smtp-mail.outlook.com", 25, false, Some("port")),
        ] {
            let parsed = Host::parse(host).unwrap();
            let found = conflict(Some(&parsed), port, secure);
            assert_eq!(
                found.map(|(field, _)| field),
                field,
                "{host}:{port} {secure}"
            );
        }
        assert!(
            conflict(None, 587, true).is_some(),
            "without a readable host too"
        );
    }

    #[test]
    fn nobody_is_sent_to_a_port_at_which_the_server_does_not_listen() {
        for (name, ports) in KNOWN {
            let host = Host::Name(name.to_owned());
            for (port, secure) in [
                (465, true),
                (465, false),
                (587, true),
                (587, false),
                (1, true),
            ] {
                let advice = conflict(Some(&host), port, secure).map_or("", |(_, advice)| advice);
                let mentions = advice.contains("465") && !advice.starts_with("must be true");
                assert!(!mentions || ports.contains(&465), "{name}: {advice}");
            }
        }
    }
}
