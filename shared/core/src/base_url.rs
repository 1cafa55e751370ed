//! The URL at which a provider's API begins: scheme, host, port and path, and nothing else.

use std::fmt;

use thiserror::Error;
use url::Url;

use crate::host::Host;

/// The text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be an https URL such as https://api.example.com, without user, query or fragment, of at \
     most {} characters",
    BaseUrl::MAX
)]
pub struct BaseUrlError;

/// The beginning of an API's URLs. `http` is a spelling of it too: whether that may be used is the
/// egress guard's concern, which knows what the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    url: Url,
    host: Host,
    port: u16,
}

impl BaseUrl {
    /// Characters of a base URL.
    pub const MAX: usize = 512;

    /// Reads a URL. A trailing slash means nothing.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        if text.len() > Self::MAX {
            return Err(BaseUrlError);
        }
        let mut url = Url::parse(text).map_err(|_| BaseUrlError)?;
        if !matches!(url.scheme(), "https" | "http")
            || !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(BaseUrlError);
        }
        // One reader of hosts decides what is a name and what is an address.
        let host = Host::parse(url.host_str().ok_or(BaseUrlError)?).map_err(|_| BaseUrlError)?;
        url.set_host(Some(&match &host {
            Host::Ip(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
            Host::Ip(std::net::IpAddr::V4(_)) | Host::Name(_) => host.to_string(),
        }))
        .map_err(|_| BaseUrlError)?;
        let port = url.port_or_known_default().ok_or(BaseUrlError)?;
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        // In its own spelling, which has three characters for each byte beyond ASCII: a URL that is
        // stored is read again.
        if url.as_str().len() > Self::MAX {
            return Err(BaseUrlError);
        }
        Ok(Self { url, host, port })
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, the scheme's own where none is given.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is https.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The segments of the path.
    pub fn path_segments(&self) -> impl Iterator<Item = &str> {
        self.url
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
    }

    /// The URL of `segments` below it. A segment is one segment, whatever is in it.
    pub fn join<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.url.clone();
        // An http URL always has a path to add to.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_reads_back_and_joins_by_segments() {
        for (text, joined) in [
            ("https://api.example.com", "https://api.example.com/a/b"),
            ("https://api.example.com/", "https://api.example.com/a/b"),
            (
                "https://API.example.com:443/v23.0/",
                "https://api.example.com/v23.0/a/b",
            ),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/a/b"),
            (
                "https://[2606:4700::1111]/x",
                "https://[2606:4700::1111]/x/a/b",
            ),
        ] {
            let base = BaseUrl::parse(text).unwrap();
            assert_eq!(base.join(["a", "b"]).as_str(), joined);
            assert_eq!(BaseUrl::parse(&base.to_string()), Ok(base.clone()));
        }
        let base = BaseUrl::parse("https://api.example.com/v1").unwrap();
        assert_eq!(
            base.join(["../x", "a?b#c"]).as_str(),
            "https://api.example.com/v1/..%2Fx/a%3Fb%23c"
        );
        assert_eq!(base.port(), 443);
        assert_eq!(base.path_segments().collect::<Vec<_>>(), ["v1"]);
    }

    #[test]
    fn an_address_in_a_url_is_seen_as_one_however_it_is_spelled() {
        for text in [
            "https://127.1",
            "https://2130706433",
            "https://0x7f.0.0.1",
            "https://0177.0.0.1",
            "https://127.0.0.1.",
            "https://１２７.０.０.１",
        ] {
            if let Ok(base) = BaseUrl::parse(text) {
                assert_eq!(base.host(), &Host::Ip([127, 0, 0, 1].into()), "{text}");
            }
        }
        let mapped = BaseUrl::parse("https://[::ffff:127.0.0.1]/").unwrap();
        assert!(matches!(mapped.host(), Host::Ip(_)));
    }

    #[test]
    fn a_url_at_the_limit_reads_back_and_one_beyond_it_is_refused_in_any_spelling() {
        let ascii = |length: usize| format!("https://a.example/{}", "x".repeat(length - 18));
        let base = BaseUrl::parse(&ascii(BaseUrl::MAX)).unwrap();
        assert_eq!(BaseUrl::parse(&base.to_string()), Ok(base));
        assert_eq!(BaseUrl::parse(&ascii(BaseUrl::MAX + 1)), Err(BaseUrlError));
        // 2 bytes each as they are given, 6 as they are stored.
        let foreign = |letters: usize| format!("https://a.example/{}", "ä".repeat(letters));
        assert!(BaseUrl::parse(&foreign((BaseUrl::MAX - 18) / 6)).is_ok());
        assert_eq!(
            BaseUrl::parse(&foreign((BaseUrl::MAX - 18) / 6 + 1)),
            Err(BaseUrlError)
        );
    }

    #[test]
    fn what_is_no_base_is_refused() {
        let long = format!("https://a.example/{}", "x".repeat(BaseUrl::MAX));
        for text in [
            "",
            "api.example.com",
            "ftp://api.example.com",
            "https://user@api.example.com",
            "https://user:pw@api.example.com",
            "https://api.example.com/?q",
            "https://api.example.com/#f",
            "https://",
            "https://a b/",
            "file:///etc/passwd",
            long.as_str(),
        ] {
            assert_eq!(BaseUrl::parse(text), Err(BaseUrlError), "{text}");
        }
    }
}
