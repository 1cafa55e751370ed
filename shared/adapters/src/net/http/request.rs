//! A request to a provider.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{Disposition, ErrorKind, ProviderError, Secret};
use http::{
    HeaderName, HeaderValue, Method, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use serde::Serialize;
use url::{Position, Url};
use zeroize::Zeroizing;

use super::failure::local_failure;

/// A request to a provider.
pub struct HttpRequest {
    pub(super) request: reqwest::Request,
    is_question: bool,
}

impl HttpRequest {
    /// A question.
    pub(crate) fn get(url: Url) -> Self {
        Self {
            request: reqwest::Request::new(Method::GET, url),
            is_question: true,
        }
    }

    /// The same request as a question: it cannot be a message, whatever its method is.
    pub(crate) fn into_question(mut self) -> Self {
        self.is_question = true;
        self
    }

    /// A message as JSON.
    pub(crate) fn post_json(url: Url, wire: &impl Serialize) -> Result<Self, ProviderError> {
        let body = serde_json::to_vec(wire).map_err(|_| local_failure())?;
        Ok(Self::post(url, "application/json", body))
    }

    /// A message as a form (`application/x-www-form-urlencoded`).
    pub(crate) fn post_form(url: Url, fields: &[(&str, &str)]) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let body = form.finish().into_bytes();
        Self::post(url, "application/x-www-form-urlencoded", body)
    }

    fn post(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut request = reqwest::Request::new(Method::POST, url);
        let content_type = HeaderValue::from_static(content_type);
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        *request.body_mut() = Some(body.into());
        Self {
            request,
            is_question: false,
        }
    }

    /// Bytes of its body.
    pub(crate) fn body_len(&self) -> usize {
        let body = self.request.body().and_then(reqwest::Body::as_bytes);
        body.unwrap_or_default().len()
    }

    /// Adds `Authorization: Bearer` (RFC 6750).
    pub(crate) fn bearer(self, token: &Secret) -> Result<Self, ProviderError> {
        let token = token.expose().map_err(|_| local_failure())?;
        self.authorization(&Zeroizing::new(format!("Bearer {}", *token)))
    }

    /// Adds `Authorization: Basic` (RFC 7617).
    pub(crate) fn basic(self, user: &str, password: &Secret) -> Result<Self, ProviderError> {
        let password = password.expose().map_err(|_| local_failure())?;
        let pair = Zeroizing::new(format!("{user}:{}", *password));
        let pair = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
        self.authorization(&Zeroizing::new(format!("Basic {}", *pair)))
    }

    /// Adds `Authorization` with a scheme of the provider's own: `scheme` and the key, separated by a space. A key that
    /// has the scheme before it, as providers' pages show it, is taken without.
    pub(crate) fn scheme(self, scheme: &str, key: &Secret) -> Result<Self, ProviderError> {
        let key = key.expose().map_err(|_| local_failure())?;
        let bare = match key.split_once(' ') {
            Some((own, bare)) if own.eq_ignore_ascii_case(scheme) => bare.trim(),
            Some(_) | None => &key,
        };
        self.authorization(&Zeroizing::new(format!("{scheme} {bare}")))
    }

    /// Adds the key in a header of the provider's own.
    pub(crate) fn key_header(
        self,
        name: &'static str,
        key: &Secret,
    ) -> Result<Self, ProviderError> {
        let key = key.expose().map_err(|_| local_failure())?;
        self.sensitive(HeaderName::from_static(name), &key)
    }

    /// Asks for an answer as JSON and nothing else, which some providers insist on.
    pub(crate) fn accepting_json(mut self) -> Self {
        let json = HeaderValue::from_static("application/json");
        self.request.headers_mut().insert(ACCEPT, json);
        self
    }

    fn authorization(self, value: &Zeroizing<String>) -> Result<Self, ProviderError> {
        self.sensitive(AUTHORIZATION, value)
    }

    fn sensitive(
        mut self,
        name: HeaderName,
        value: &Zeroizing<String>,
    ) -> Result<Self, ProviderError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            ProviderError::new(
                Disposition::ProviderDown,
                ErrorKind::Unauthenticated,
                "The key has characters that no key has; save it again.",
            )
        })?;
        value.set_sensitive(true);
        self.request.headers_mut().insert(name, value);
        Ok(self)
    }

    /// Whether it sends no message.
    pub(super) const fn is_question(&self) -> bool {
        self.is_question
    }

    /// The request as it goes over a connection to its host: the target in origin form (RFC 9112 section 3.2.1), with the
    /// headers that every request has. `None` where the URL cannot be written so.
    pub(super) fn into_wire(mut self) -> Option<http::Request<reqwest::Body>> {
        let url = self.request.url();
        let host = match (url.host_str()?, url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let host = HeaderValue::try_from(host).ok()?;
        let target =
            PathAndQuery::try_from(&url[Position::BeforePath..Position::AfterQuery]).ok()?;
        let headers = self.request.headers_mut();
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("*/*"));
        let user_agent = concat!("clinic-comms/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(user_agent));
        headers.insert(HOST, host);
        let mut request = http::Request::try_from(self.request).ok()?;
        *request.uri_mut() = Uri::from(target);
        Some(request)
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpRequest(…)")
    }
}
