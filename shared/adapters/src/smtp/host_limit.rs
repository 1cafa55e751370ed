//! What is known of the connections that well-known mail servers allow one login.
//!
//! The one table of it. Of the rest, each process finds out by refused connections ([`super::slots`]).

use comms_core::Host;

use crate::mime::Feedback;

/// What a server is known to allow one login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostLimit {
    /// So many connections at the same time.
    Connections(u32),
    /// A relay for mail in bulk: it limits messages, and no connection of one login is missed by another client.
    Relay,
    /// Nothing is known.
    Unknown,
}

/// Exchange Online: "up to three concurrent connections"
/// (<https://learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements>).
const MICROSOFT_365: HostLimit = HostLimit::Connections(3);

/// Amazon SES, "Connecting to an Amazon SES SMTP endpoint": `email-smtp.REGION.amazonaws.com`.
const AMAZON_SES: &str = "email-smtp.*.amazonaws.com";

/// Hosts by their names, in which `*` stands for any text.
///
/// Gmail publishes no number for SMTP (its 10, later 15, are for IMAP), and Dovecot's default of 10
/// (`mail_max_userip_connections`) cannot be told from a name: both are found out.
const HOSTS: &[(&str, HostLimit)] = &[
    ("smtp.office365.com", MICROSOFT_365),
    ("smtp-mail.outlook.com", MICROSOFT_365),
    ("outlook.office365.com", MICROSOFT_365),
    ("*.prod.outlook.com", MICROSOFT_365),
    (AMAZON_SES, HostLimit::Relay),
    // 10,000 connections of one server (Twilio SendGrid, "Integrating with the SMTP API").
    ("smtp.sendgrid.net", HostLimit::Relay),
    ("smtp.mailgun.org", HostLimit::Relay),
    ("smtp.eu.mailgun.org", HostLimit::Relay),
    ("smtp.postmarkapp.com", HostLimit::Relay),
    ("smtp.sparkpostmail.com", HostLimit::Relay),
    ("smtp-relay.brevo.com", HostLimit::Relay),
    ("in-v3.mailjet.com", HostLimit::Relay),
    ("smtp.mandrillapp.com", HostLimit::Relay),
];

impl HostLimit {
    /// What is known of a host by its name. An address says nothing.
    pub(super) fn of(host: &Host) -> Self {
        let known = HOSTS.iter().find(|(known, _)| is_named(host, known));
        known.map_or(Self::Unknown, |(_, limit)| *limit)
    }
}

/// Who writes Feedback-ID of what goes through a server: Amazon SES does so itself ("Amazon SES header fields"), and no message
/// should have two.
pub(super) fn feedback_of(host: &Host) -> Feedback {
    if is_named(host, AMAZON_SES) {
        Feedback::ByProvider
    } else {
        Feedback::Named
    }
}

fn is_named(host: &Host, known: &str) -> bool {
    let Host::Name(name) = host else {
        return false;
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match known.split_once('*') {
        Some((start, end)) => name
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
        None => name == known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_is_named_where_the_server_does_not() {
        for (host, feedback) in [
            ("email-smtp.eu-west-1.amazonaws.com", Feedback::ByProvider),
            ("smtp.clinic.example", Feedback::Named),
            ("192.0.2.1", Feedback::Named),
        ] {
            assert_eq!(feedback_of(&Host::parse(host).unwrap()), feedback, "{host}");
        }
    }

    fn of(host: &str) -> HostLimit {
        HostLimit::of(&Host::parse(host).unwrap())
    }

    #[test]
    fn hosts_are_known_by_their_whole_names() {
        for (host, limit) in [
            ("smtp.office365.com", HostLimit::Connections(3)),
            ("SMTP.Office365.com", HostLimit::Connections(3)),
            ("email-smtp.eu-west-1.amazonaws.com", HostLimit::Relay),
            ("ec2-192-0-2-1.compute-1.amazonaws.com", HostLimit::Unknown),
            ("smtp.sendgrid.net", HostLimit::Relay),
            ("smtp.sendgrid.net.evil.example", HostLimit::Unknown),
            ("notsmtp.sendgrid.net", HostLimit::Unknown),
            ("mail.clinic.example", HostLimit::Unknown),
            ("192.0.2.1", HostLimit::Unknown),
        ] {
            assert_eq!(of(host), limit, "{host}");
        }
    }
}
