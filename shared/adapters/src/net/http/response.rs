//! A provider's answer.

use std::{fmt, time::Duration};

use comms_core::json;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

/// The longest that a provider's wish to be left alone is taken for: a day.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// An answer in full. Its body may hold credentials (Twilio's account has its token in it) and
/// addresses: it is wiped when it is dropped and never printed.
pub struct HttpResponse {
    /// The status.
    pub(crate) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) received: Timestamp,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpResponse({}, …)", self.status)
    }
}

/// The answer is not JSON, or does not say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson;

#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "for tests and fuzz targets alone")]
impl HttpResponse {
    /// An answer as if it had come in at `received`.
    pub(crate) fn of(
        status: u16,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
        received: Timestamp,
    ) -> Self {
        let headers = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, http::HeaderValue::from_str(value).unwrap())
        });
        Self {
            status,
            headers: headers.collect(),
            body: Zeroizing::new(body.into()),
            received,
        }
    }
}

impl HttpResponse {
    /// Whether the status is 2xx.
    pub(crate) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// A header's value, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON, within the limits of what this project reads: as a value each byte of it may take hundreds.
    /// The content type must say that it is: what a proxy or a portal answers is not taken for the provider's word.
    pub(crate) fn json(&self) -> Result<Value, NotJson> {
        if self.is_json() {
            json::parse(&self.body).map_err(|_| NotJson)
        } else {
            Err(NotJson)
        }
    }

    /// What of the body as JSON `T` has a place for; the rest is not kept. The content type counts as
    /// it does for [`HttpResponse::json`].
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, NotJson> {
        if self.is_json() {
            serde_json::from_slice(&self.body).map_err(|_| NotJson)
        } else {
            Err(NotJson)
        }
    }

    fn is_json(&self) -> bool {
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_ascii_lowercase();
        media_type == "application/json"
            || (media_type.starts_with("application/") && media_type.ends_with("+json"))
            // Meta's Graph has answered with this one for as long as it exists.
            || media_type == "text/javascript"
    }

    /// An id that the provider gave, from a header: 1 to 256 visible characters.
    pub(crate) fn id_from_header(&self, name: &str) -> Option<String> {
        self.header(name).and_then(provider_id)
    }

    /// How long the provider asks to be left alone: `Retry-After` in seconds or as a date (RFC 9110
    /// section 10.2.3), else `reset`, a header with the second of Unix time at which its limit ends.
    pub(crate) fn retry_after(&self, reset: Option<&HeaderName>) -> Option<Duration> {
        let until = |time: Timestamp| {
            Duration::try_from(time.duration_since(self.received)).unwrap_or_default()
        };
        let asked = self.header(RETRY_AFTER.as_str()).map(str::trim);
        let asked = asked.and_then(|text| match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => jiff::fmt::rfc2822::parse(text)
                .ok()
                .map(|date| until(date.timestamp())),
        });
        let reset = || {
            let second = self.header(reset?.as_str())?.trim().parse::<i64>().ok()?;
            Some(until(Timestamp::from_second(second).ok()?))
        };
        asked.or_else(reset).map(|wait| wait.min(MAX_RETRY_AFTER))
    }
}

/// An id as a provider gave it, where it looks like one: 1 to 256 visible ASCII characters.
pub(crate) fn provider_id(text: &str) -> Option<String> {
    let fits = (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}
