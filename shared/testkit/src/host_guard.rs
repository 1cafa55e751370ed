//! Which requests a listener on a developer's machine answers: those by its own name, and none that a page of another
//! site made a browser send.
//!
//! A page whose name is made to resolve to this machine (DNS rebinding) is of the same origin as the listener, for the
//! browser. What gives it away is the name in `Host`, which the browser does not let it choose.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use http::header::{HOST, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri};

/// By which browsers say how a page and what it asks for are related (Fetch Metadata Request Headers, W3C).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The name by which a container reaches the machine that it runs on.
const CONTAINERS_HOST: &str = "host.docker.internal";

/// A name by which a listener may be asked: `NAME` or `NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    name: String,
    /// Any port, if there is none.
    port: Option<u16>,
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) =
            name_and_port(text).ok_or("not a name such as dev.example or dev.example:8080")?;
        Ok(Self { name, port })
    }
}

/// The origin of a page, exactly as browsers send it (RFC 6454 section 6.2): scheme, host, and a port that is not the
/// scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOrigin(String);

impl FromStr for PageOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Browsers leave out the scheme's own port (WHATWG URL, "URL serializing"), and no page is at port 0.
        let authority = text
            .strip_prefix("https://")
            .map(|authority| (authority, 443))
            .or_else(|| Some((text.strip_prefix("http://")?, 80)));
        let is_origin = authority.is_some_and(|(authority, own_port)| {
            let port = name_and_port(authority).map(|(_, port)| port);
            port.is_some_and(|port| port != Some(own_port) && port != Some(0))
                && !authority.contains('*')
        });
        if is_origin && text == text.to_ascii_lowercase() {
            Ok(Self(text.to_owned()))
        } else {
            Err("not an origin such as https://app.example.com or http://localhost:5173".to_owned())
        }
    }
}

impl PageOrigin {
    /// Whether an `Origin` header is this one.
    pub fn is(&self, header: &http::HeaderValue) -> bool {
        header.as_bytes() == self.0.as_bytes()
    }
}

/// What browsers may do with a listener from pages of other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossOrigin {
    /// Read, as a link does: `GET` and `HEAD`. Without CORS the other page does not see the answer.
    Read,
    /// Nothing: only programs have business here.
    Nothing,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 421 (RFC 9110 section 15.5.20) or 403.
    pub status: StatusCode,
    /// What to do about it.
    pub message: String,
}

/// Decides which requests a listener answers. Clones share it.
#[derive(Debug, Clone)]
pub struct HostGuard {
    port: u16,
    bound: IpAddr,
    cross_origin: CrossOrigin,
    more: Arc<[AllowedHost]>,
    pages: Arc<[PageOrigin]>,
}

impl HostGuard {
    /// For the listener that is bound to `address`, which may be asked by `more` names as well.
    pub fn new(address: SocketAddr, cross_origin: CrossOrigin, more: &[AllowedHost]) -> Self {
        Self {
            port: address.port(),
            bound: address.ip(),
            cross_origin,
            more: more.into(),
            pages: Arc::default(),
        }
    }

    /// The same, which pages of these origins may ask too. By its own name only, as everybody.
    #[must_use]
    pub fn allowing_pages(self, pages: &[PageOrigin]) -> Self {
        Self {
            pages: pages.into(),
            ..self
        }
    }

    /// Refuses a request that another site may be behind.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let is_own = host.is_some_and(|host| self.is_own(host, 80))
            && hosts.next().is_none()
            // A request target may name the host as well (RFC 9112 section 3.2.2).
            && uri.authority().is_none_or(|host| self.is_own(host.as_str(), 80));
        if !is_own {
            return Err(self.misdirected());
        }
        let is_read = *method == Method::GET || *method == Method::HEAD;
        if is_read && self.cross_origin == CrossOrigin::Read {
            return Ok(());
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        if let (Some(origin), None) = (origins.next(), origins.next())
            && self.pages.iter().any(|page| page.is(origin))
        {
            return Ok(());
        }
        let is_foreign = |origin: &http::HeaderValue| !self.is_own_origin(origin.as_bytes());
        let is_cross_site = headers
            .get_all(SEC_FETCH_SITE)
            .iter()
            .any(|site| site != "same-origin" && site != "none");
        if is_cross_site || headers.get_all(ORIGIN).iter().any(is_foreign) {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                message: "A page of another origin sent this request. Send it by a program; for the API, start the \
                          stack with --cors-origin and the page's origin, such as http://localhost:5173; for a page \
                          of the stack itself under another name, with --allow-host NAME:PORT.\n"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// The same for every route of `routes`.
    pub fn protect(self, routes: Router) -> Router {
        routes.layer(middleware::from_fn(move |request: Request, next: Next| {
            let checked = self.check(request.method(), request.uri(), request.headers());
            async move {
                match checked {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => (refusal.status, refusal.message).into_response(),
                }
            }
        }))
    }

    fn is_own(&self, authority: &str, default_port: u16) -> bool {
        let Some((name, port)) = name_and_port(authority) else {
            return false;
        };
        let port = port.unwrap_or(default_port);
        let is_here = match name.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == self.bound,
            Err(_) => name == "localhost" || name == CONTAINERS_HOST,
        };
        let is_allowed = |allowed: &AllowedHost| {
            allowed.name == name && allowed.port.is_none_or(|allowed| allowed == port)
        };
        (is_here && port == self.port) || self.more.iter().any(is_allowed)
    }

    fn is_own_origin(&self, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else {
            return false;
        };
        let authority = |scheme| origin.strip_prefix(scheme);
        authority("http://").is_some_and(|authority| self.is_own(authority, 80))
            || authority("https://").is_some_and(|authority| self.is_own(authority, 443))
    }

    fn misdirected(&self) -> Refusal {
        let bound = SocketAddr::new(self.bound, self.port);
        let mut message = format!(
            "This is {bound} (localhost:{0}, {CONTAINERS_HOST}:{0}",
            self.port
        );
        for allowed in self.more.iter() {
            let _ = write!(message, ", {}", allowed.name);
        }
        message.push_str("); the request asks for another host. Start the stack with --allow-host NAME to allow it.\n");
        Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            message,
        }
    }
}

/// Name, in lower case and without brackets, and port of `NAME[:PORT]`.
fn name_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    let name = authority.host();
    let port = authority.port_u16();
    // An authority may have a user, or a port that is none.
    let rest = text.strip_prefix(name)?;
    let is_whole = match port {
        Some(port) => rest.strip_prefix(':') == Some(port.to_string().as_str()),
        None => rest.is_empty(),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    (is_whole && !name.is_empty()).then(|| (name.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn guard(bound: &str, cross_origin: CrossOrigin) -> HostGuard {
        let more = ["dev.example", "page.example:5173"].map(|host| host.parse().unwrap());
        HostGuard::new(bound.parse().unwrap(), cross_origin, &more)
    }

    fn status(guard: &HostGuard, method: &Method, headers: &[(HeaderName, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut all = HeaderMap::new();
        all.extend(headers.map(|(name, value)| (Some(name), value)));
        let checked = guard.check(method, &Uri::from_static("/"), &all);
        checked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_listener_answers_by_its_own_names_only() {
        let guard = guard("172.17.0.1:4566", CrossOrigin::Nothing);
        for (host, expected) in [
            ("127.0.0.1:4566", 200),
            ("127.9.9.9:4566", 200),
            ("localhost:4566", 200),
            ("LOCALHOST:4566", 200),
            ("[::1]:4566", 200),
            ("172.17.0.1:4566", 200),
            ("host.docker.internal:4566", 200),
            ("dev.example", 200),
            ("dev.example:1", 200),
            ("page.example:5173", 200),
            ("page.example:4566", 421),
            ("attacker.example:4566", 421),
            ("attacker.example", 421),
            ("localhost.attacker.example:4566", 421),
            ("127.0.0.1.attacker.example:4566", 421),
            ("localhost:4567", 421),
            ("localhost", 421),
            ("0.0.0.0:4566", 421),
            ("172.17.0.2:4566", 421),
            ("[::ffff:127.0.0.1]:4566", 421),
            ("localhost.:4566", 421),
            ("localhost:4566@attacker.example", 421),
            ("attacker.example@localhost:4566", 421),
            ("localhost:4566, attacker.example", 421),
            ("localhost:04566", 421),
            ("localhost:", 421),
            ("", 421),
        ] {
            assert_eq!(
                status(&guard, &Method::POST, &[(HOST, host)]),
                expected,
                "{host}"
            );
        }
        assert_eq!(status(&guard, &Method::POST, &[]), 421);
        let twice = [(HOST, "localhost:4566"), (HOST, "attacker.example")];
        assert_eq!(status(&guard, &Method::POST, &twice), 421);
        let target = Uri::from_static("http://attacker.example/");
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost:4566"))]);
        assert!(guard.check(&Method::GET, &target, &headers).is_err());
    }

    #[test]
    fn a_page_of_another_origin_may_read_or_do_nothing() {
        let own = (HOST, "localhost:8025");
        for (name, value, is_own) in [
            (ORIGIN, "http://localhost:8025", true),
            (ORIGIN, "http://127.0.0.1:8025", true),
            (ORIGIN, "https://page.example:5173", true),
            (ORIGIN, "http://localhost:3000", false),
            (ORIGIN, "https://attacker.example", false),
            (ORIGIN, "null", false),
            (SEC_FETCH_SITE, "same-origin", true),
            (SEC_FETCH_SITE, "none", true),
            (SEC_FETCH_SITE, "same-site", false),
            (SEC_FETCH_SITE, "cross-site", false),
        ] {
            let headers = [own.clone(), (name, value)];
            let expected = if is_own { 200 } else { 403 };
            for (cross_origin, read) in [(CrossOrigin::Nothing, expected), (CrossOrigin::Read, 200)]
            {
                let guard = guard("127.0.0.1:8025", cross_origin);
                assert_eq!(status(&guard, &Method::GET, &headers), read, "GET {value}");
                for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
                    assert_eq!(
                        status(&guard, &method, &headers),
                        expected,
                        "{method} {value}"
                    );
                }
            }
        }
    }
}
