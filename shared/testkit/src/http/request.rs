//! A request as it was received, and what HTTP demands of one.

use std::fmt::Write as _;

use serde_json::Value;

use super::reply::Reply;

/// The headers that differ from run to run or hold a credential: [`ReceivedRequest::transcript`] shows that they
/// are there, not what they say. So does it with every header whose name begins with `amz-sdk-`.
const VEILED: [&str; 8] = [
    "authorization",
    "cookie",
    "host",
    "proxy-authorization",
    "user-agent",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
];

/// A request that the server read to its end, whatever it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The method.
    pub method: String,
    /// The path as it came, nothing decoded.
    pub path: String,
    /// What came behind the question mark, nothing decoded.
    pub query: Option<String>,
    /// The headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
    /// The connection it came on, counted from 1.
    pub connection: u64,
}

impl ReceivedRequest {
    /// The first value of a header; the case of its name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON, [`Value::Null`] when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The fields of an `application/x-www-form-urlencoded` body in order, decoded. Empty when the request says
    /// that its body is something else: anything could be read as a form.
    pub fn form(&self) -> Vec<(String, String)> {
        let is_form = self.header("content-type").is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        if is_form {
            form_urlencoded::parse(&self.body).into_owned().collect()
        } else {
            Vec::new()
        }
    }

    /// The request in the notation of HTTP/1.1, with `\n` for line ends, for snapshots: `POST /x HTTP/1.1`, the
    /// headers in order, an empty line, the body as it came (bytes that are not UTF-8 are replaced).
    ///
    /// The value of a header that differs from run to run or holds a credential is `…`: `authorization`, `cookie`,
    /// `host`, `proxy-authorization`, `user-agent`, `x-amz-date`, `x-amz-security-token`, `x-amz-user-agent` and
    /// all `amz-sdk-*`.
    pub fn transcript(&self) -> String {
        let mut text = format!("{} {}", self.method, self.path);
        if let Some(query) = &self.query {
            let _ = write!(text, "?{query}");
        }
        text.push_str(" HTTP/1.1\n");
        for (name, value) in &self.headers {
            let veiled = VEILED.contains(&name.as_str())
                || name.starts_with("amz-sdk-")
                || name.ends_with("-token");
            let value = if veiled { "…" } else { value };
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&self.body));
        text
    }

    /// What HTTP demands of a request, and what providers do beyond that.
    ///
    /// `server_name` is the name that the client asked for in its TLS handshake.
    pub(super) fn check(&self, server_name: Option<&str>) -> Result<(), Refusal> {
        if !is_path(&self.path) || !self.query.as_deref().is_none_or(is_query) {
            return Err(Refusal(400, "the target is no path with a query"));
        }
        let mut hosts = self.headers.iter().filter(|(name, _)| name == "host");
        let (Some((_, host)), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal(400, "a request has one host"));
        };
        let host = host
            .rsplit_once(':')
            .map_or(host.as_str(), |(name, _)| name);
        if host.is_empty() {
            return Err(Refusal(400, "the host is empty"));
        }
        if server_name.is_some_and(|name| !name.eq_ignore_ascii_case(host)) {
            return Err(Refusal(421, "TLS asked for another host"));
        }
        if self.body.is_empty() {
            return Ok(());
        }
        if matches!(self.method.as_str(), "GET" | "HEAD") {
            return Err(Refusal(400, "a request of this method has no body"));
        }
        if self.header("content-type").is_none_or(str::is_empty) {
            return Err(Refusal(415, "the body has no type"));
        }
        Ok(())
    }
}

/// Why a request is not taken: the status it is answered with, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str);

impl Refusal {
    pub(super) fn reply(self) -> Reply {
        Reply::new(self.0).content_type("text/plain").body(self.1)
    }
}

/// RFC 3986, section 3.3: an absolute path.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && is_of_uri(path, b"/:@")
}

/// RFC 3986, section 3.4.
fn is_query(query: &str) -> bool {
    is_of_uri(query, b"/?:@")
}

/// Whether there are only unreserved characters, sub-delimiters, whole percent escapes and what else is allowed.
fn is_of_uri(text: &str, also: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => {
                byte.is_ascii_alphanumeric()
                    || b"-._~!$&'()*+,;=".contains(&byte)
                    || also.contains(&byte)
            }
        };
        if !good {
            return false;
        }
    }
    true
}
