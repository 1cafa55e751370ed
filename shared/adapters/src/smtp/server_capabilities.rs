//! What a server offers: the lines of its reply to EHLO (RFC 5321 section 4.1.1.1).

use std::str::FromStr;

/// The extensions that matter here. What a server offers before TLS is forgotten with it (RFC 3207
/// section 4.2): only the reply to the last EHLO counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an extension of its own, offered or not"
)]
pub(super) struct ServerCapabilities {
    /// STARTTLS (RFC 3207).
    pub(super) start_tls: bool,
    /// PIPELINING (RFC 2920).
    pub(super) pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub(super) eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub(super) smtputf8: bool,
    /// SIZE (RFC 1870), with the most bytes that a message may have; 0 where there is no limit or the
    /// server does not say which.
    pub(super) size: Option<u64>,
    /// LIMITS (RFC 9422), with the messages that one connection may carry (MAILMAX), where it says so.
    /// RCPTMAX is no less than the 100 that RFC 5321 section 4.5.3.1.8 asks for, or it is a refused copy.
    pub(super) messages: Option<u32>,
    /// AUTH (RFC 4954), with the mechanisms that we know.
    pub(super) mechanisms: Mechanisms,
}

/// The mechanisms that we know, of those that are offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mechanisms {
    plain: bool,
    login: bool,
}

impl Mechanisms {
    #[cfg(test)]
    pub(super) const ALL: Self = Self {
        plain: true,
        login: true,
    };
    #[cfg(test)]
    pub(super) const NONE: Self = Self {
        plain: false,
        login: false,
    };

    /// In the order in which they are tried.
    pub(super) fn in_order(self) -> impl Iterator<Item = Mechanism> {
        let plain = self.plain.then_some(Mechanism::Plain);
        plain
            .into_iter()
            .chain(self.login.then_some(Mechanism::Login))
    }
}

/// How to log in. Both give the password to the server, inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// PLAIN (RFC 4616), which goes before LOGIN.
    Plain,
    /// LOGIN, which no RFC describes and some servers have alone.
    Login,
}

impl ServerCapabilities {
    /// Reads the lines of a reply to EHLO that was accepted as one. Lines that are no keyword with
    /// parameters are passed over: they offer nothing.
    pub(super) fn parse(reply: &[u8]) -> Self {
        let mut capabilities = Self::default();
        let lines = reply.split(|byte| *byte == b'\n');
        // The first line names the server.
        for line in lines.skip(1) {
            // A line is `250-KEYWORD parameters` or, the last, `250 KEYWORD parameters`.
            let text = line.get(4..).unwrap_or_default();
            let mut words = text
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            if let Some(keyword) = words.next() {
                capabilities.add(&keyword.to_ascii_uppercase(), words);
            }
        }
        // RFC 6531 section 3.1 has both or none; one without the other would be of no use.
        capabilities.smtputf8 &= capabilities.eight_bit_mime;
        capabilities
    }

    fn add<'a>(&mut self, keyword: &[u8], mut parameters: impl Iterator<Item = &'a [u8]>) {
        match keyword {
            b"STARTTLS" => self.start_tls = true,
            b"PIPELINING" => self.pipelining = true,
            b"8BITMIME" => self.eight_bit_mime = true,
            b"SMTPUTF8" => self.smtputf8 = true,
            b"SIZE" => self.size = Some(parameters.next().and_then(number).unwrap_or(0)),
            b"LIMITS" => self.messages = parameters.find_map(most_messages),
            b"AUTH" => parameters.for_each(|name| self.add_mechanism(name)),
            _ => {
                // `AUTH=LOGIN PLAIN`: what servers sent before there was an RFC, and some send still,
                // often beside the proper line.
                if let Some(first) = keyword.strip_prefix(b"AUTH=") {
                    self.add_mechanism(first);
                    parameters.for_each(|name| self.add_mechanism(name));
                }
            }
        }
    }

    fn add_mechanism(&mut self, name: &[u8]) {
        self.mechanisms.plain |= name.eq_ignore_ascii_case(b"PLAIN");
        self.mechanisms.login |= name.eq_ignore_ascii_case(b"LOGIN");
    }
}

/// RFC 1870 allows 20 digits; what does not fit is no limit to us.
fn number<N: FromStr>(word: &[u8]) -> Option<N> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The value of MAILMAX (RFC 9422), which is not 0.
fn most_messages(limit: &[u8]) -> Option<u32> {
    let (name, value) = limit.split_at_checked(b"MAILMAX=".len())?;
    let messages = name
        .eq_ignore_ascii_case(b"MAILMAX=")
        .then(|| number(value));
    messages?.filter(|messages| *messages > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_extension_is_found_in_its_line_and_in_any_case() {
        let capabilities = ServerCapabilities::parse(
            b"250-mail.example greets you\r\n250-size 35882577\r\n250-8bitmime\r\n250-StartTls\r\n\
              250-AUTH LOGIN PLAIN XOAUTH2\r\n250-PIPELINING\r\n\
              250-limits RCPTMAX=50 mailmax=1000\r\n250 SMTPUTF8\r\n",
        );
        let all = ServerCapabilities {
            start_tls: true,
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: true,
            size: Some(35_882_577),
            messages: Some(1_000),
            mechanisms: Mechanisms {
                plain: true,
                login: true,
            },
        };
        assert_eq!(capabilities, all);
    }

    #[test]
    fn the_line_that_names_the_server_offers_nothing() {
        assert_eq!(
            ServerCapabilities::parse(b"250-PIPELINING\r\n250 ok\r\n"),
            ServerCapabilities::default()
        );
        assert_eq!(
            ServerCapabilities::parse(b"250 STARTTLS\r\n"),
            ServerCapabilities::default()
        );
    }

    #[test]
    fn keywords_are_whole_words() {
        for line in [
            "XPIPELINING",
            "PIPELINING-X",
            "X PIPELINING",
            "AUTHENTICATE PLAIN",
            "STARTTLS=1",
        ] {
            let reply = format!("250-mail.example\r\n250 {line}\r\n");
            assert_eq!(
                ServerCapabilities::parse(reply.as_bytes()),
                ServerCapabilities::default(),
                "{line}"
            );
        }
    }

    #[test]
    fn mechanisms_are_read_from_both_forms_of_the_line() {
        use Mechanism::{Login, Plain};
        for (lines, mechanisms) in [
            ("250 AUTH LOGIN", vec![Login]),
            ("250 AUTH=LOGIN", vec![Login]),
            ("250 AUTH=LOGIN PLAIN", vec![Plain, Login]),
            ("250-AUTH=LOGIN\r\n250 AUTH plain login", vec![Plain, Login]),
            ("250-AUTH PLAIN\r\n250 AUTH=LOGIN", vec![Plain, Login]),
            ("250 AUTH PLAIN", vec![Plain]),
            ("250 AUTH CRAM-MD5 XOAUTH2", vec![]),
            ("250 AUTH", vec![]),
        ] {
            let capabilities =
                ServerCapabilities::parse(format!("250-mail.example\r\n{lines}\r\n").as_bytes());
            let offered: Vec<_> = capabilities.mechanisms.in_order().collect();
            assert_eq!(offered, mechanisms, "{lines}");
        }
    }

    #[test]
    fn a_size_without_a_number_that_can_be_read_is_no_limit() {
        for (line, size) in [
            ("SIZE", Some(0)),
            ("SIZE 0", Some(0)),
            ("SIZE many", Some(0)),
            ("SIZE -1", Some(0)),
            ("SIZE 99999999999999999999", Some(0)),
            ("SIZE 10240000", Some(10_240_000)),
            ("SIZES 5", None),
        ] {
            let capabilities =
                ServerCapabilities::parse(format!("250-mail.example\r\n250 {line}\r\n").as_bytes());
            assert_eq!(capabilities.size, size, "{line}");
        }
    }

    #[test]
    fn a_limit_of_messages_that_cannot_be_read_is_none() {
        for (line, messages) in [
            ("LIMITS MAILMAX=1", Some(1)),
            ("LIMITS RCPTMAX=20 MAILMAX=007", Some(7)),
            ("LIMITS MAILMAX=0", None),
            ("LIMITS MAILMAX=", None),
            ("LIMITS MAILMAX=99999999999", None),
            ("LIMITS RCPTMAX=20", None),
            ("LIMITS XMAILMAX=20", None),
            ("LIMITS", None),
        ] {
            let capabilities =
                ServerCapabilities::parse(format!("250-mail.example\r\n250 {line}\r\n").as_bytes());
            assert_eq!(capabilities.messages, messages, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ServerCapabilities::parse(&bytes);
        }
    }
}
