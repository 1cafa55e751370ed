//! URLs that a caller or a clinic names and a provider fetches: media of a message, callbacks of a status.

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;
use url::Url;

use crate::{host::Host, public_address::is_public};

/// Names that never lead to the public internet: special uses (RFC 6761, RFC 6762, RFC 7686, RFC 8375), `internal`, which
/// ICANN reserves for private use (resolution 2024.07.29.06), and names that private networks use although nobody
/// reserved them (RFC 6762 appendix G; `svc` is Kubernetes' own).
const PRIVATE_SUFFIXES: [&str; 14] = [
    "localhost",
    "local",
    "internal",
    "home.arpa",
    "invalid",
    "test",
    "onion",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "svc",
    "localdomain",
];

/// The text is not a public https URL. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be an https URL of at most {} characters on a public host and port 443, without user or password",
    PublicUrl::MAX
)]
pub struct PublicUrlError;

/// An https URL on port 443 whose text names a public host. It may have a fragment, in which Twilio takes connection
/// overrides (<https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides>). This service does not fetch it, so the name is not
/// resolved; what the text alone shows to be private is refused.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Characters of a URL, as given and in its normalized spelling.
    pub const MAX: usize = 2_048;

    /// Reads a URL and normalizes its spelling, which is the one that is stored and read again.
    pub fn parse(text: &str) -> Result<Self, PublicUrlError> {
        if text.len() > Self::MAX {
            return Err(PublicUrlError);
        }
        let mut url = Url::parse(text).map_err(|_| PublicUrlError)?;
        if url.scheme() != "https"
            || !url.username().is_empty()
            || url.password().is_some()
            || url.port_or_known_default() != Some(443)
        {
            return Err(PublicUrlError);
        }
        let host =
            Host::parse(url.host_str().ok_or(PublicUrlError)?).map_err(|_| PublicUrlError)?;
        let is_public = match &host {
            Host::Ip(address) => is_public(*address),
            Host::Name(name) => is_public_name(name),
        };
        if !is_public {
            return Err(PublicUrlError);
        }
        if let Host::Name(name) = &host {
            url.set_host(Some(name)).map_err(|_| PublicUrlError)?;
        }
        let text = String::from(url);
        if text.len() > Self::MAX {
            return Err(PublicUrlError);
        }
        Ok(Self(text))
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name may be one of the public DNS: at least two labels, and none of the suffixes kept for private use.
fn is_public_name(name: &str) -> bool {
    let is_private = |suffix: &&str| {
        name.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    name.contains('.') && !PRIVATE_SUFFIXES.iter().any(is_private)
}

/// A medium's URL often is a capability (a signed link), so it is not printed.
impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicUrl(…)")
    }
}

impl Serialize for PublicUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_is_normalized_and_reads_back() {
        for (text, normalized) in [
            (
                "https://files.clinic.example/a.pdf?t=1",
                "https://files.clinic.example/a.pdf?t=1",
            ),
            (
                "https://Files.Clinic.Example:443/",
                "https://files.clinic.example/",
            ),
            (
                "https://bücher.example/a",
                "https://xn--bcher-kva.example/a",
            ),
            ("https://1.1.1.1/a", "https://1.1.1.1/a"),
            ("https://[2606:4700::1111]/a", "https://[2606:4700::1111]/a"),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!(url.as_str(), normalized);
            assert_eq!(PublicUrl::parse(url.as_str()), Ok(url));
        }
    }

    #[test]
    fn url_whose_text_is_not_public_is_refused() {
        for text in [
            "",
            "files.clinic.example/a",
            "http://files.clinic.example/a",
            "ftp://files.clinic.example/a",
            "https://user@files.clinic.example/",
            "https://:pw@files.clinic.example/",
            "https://files.clinic.example:8443/",
            "https://files.clinic.example:22/",
            "https://localhost/",
            "https://localhost./",
            "https://a.localhost/",
            "https://intranet/",
            "https://printer.local/",
            "https://vault.internal/",
            "https://router.home.arpa/",
            "https://kubernetes.default.svc/",
            "https://nas.lan/",
            "https://wiki.corp/",
            "https://a.onion/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://168.63.129.16/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
        ] {
            assert_eq!(PublicUrl::parse(text), Err(PublicUrlError), "{text}");
        }
    }

    #[test]
    fn url_at_the_limit_reads_back_and_one_beyond_is_refused() {
        let prefix = "https://a.example/".len();
        let ascii = |length: usize| format!("https://a.example/{}", "x".repeat(length - prefix));
        assert!(PublicUrl::parse(&ascii(PublicUrl::MAX)).is_ok());
        assert!(PublicUrl::parse(&ascii(PublicUrl::MAX + 1)).is_err());
        // Two bytes each as given, six as stored.
        let most = (PublicUrl::MAX - prefix) / 6;
        let foreign = |letters: usize| format!("https://a.example/{}", "ä".repeat(letters));
        assert!(PublicUrl::parse(&foreign(most)).is_ok());
        assert!(PublicUrl::parse(&foreign(most + 1)).is_err());
    }
}
