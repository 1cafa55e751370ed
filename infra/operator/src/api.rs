//! A client of the HTTP API for the import: reads the version of a clinic's settings, and replaces them.

mod reply;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use comms_adapters::tls::{TlsConfigs, TlsError};
use comms_core::{Secret, Tenant};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
    },
    redirect,
};
use thiserror::Error;
use tokio::time::sleep;
use url::{Host, Url};

pub(crate) use reply::{SAVED_MEANWHILE, SettingsReply};
use reply::{classify, printable};

/// Time limit of one attempt: API Gateway gives up after 30 seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// Attempts of one request.
const ATTEMPTS: u32 = 6;
/// The longest wait between two attempts, whatever the answer asks for.
const MAX_WAIT_DURATION: Duration = Duration::from_mins(1);
/// The wait after the first attempt. It doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Why the API cannot be used. Every further request would fail in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// The address is not a URL of the API.
    #[error(
        "--api must be a URL such as https://api.example.com; plain http:// goes to this machine only"
    )]
    Url,
    /// The token is not a bearer token.
    #[error("the token is not one: it must be the text of a bearer token, and nothing beside it")]
    Token,
    /// Further trust roots, or TLS itself, cannot be used.
    #[error("--ca-file cannot be used: {0}")]
    Tls(#[from] TlsError),
    /// The token is not accepted (401), or does not allow this (403).
    #[error(
        "the API answered {0}: the token is wrong or has expired, or does not allow to manage this clinic's settings. \
         Nothing was sent after that; with another token the same command goes on from there"
    )]
    Unauthorized(u16),
    /// It could not be reached in any attempt; the text says why.
    #[error(
        "{0}, {ATTEMPTS} times. Nothing was sent after that; the same command goes on from there"
    )]
    Unreachable(String),
    /// There is no such route.
    #[error(
        "the API answered 404: is --api the address of clinic-comms? Nothing was sent after that"
    )]
    NoSuchRoute,
}

/// The precondition of a PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// There are no settings yet.
    Nothing,
    /// The settings have the version with this entity tag.
    Version(String),
}

/// The API, and the right to use it.
pub struct Api {
    client: Client,
    base: Url,
    authorization: HeaderValue,
    first_wait: Duration,
}

/// Without the token.
impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Api {
    /// The API at `url`, asked with `token`; `ca_pem` has certificate authorities to trust beside the public ones.
    /// Connects to nothing.
    pub fn new(url: &str, token: &Secret, ca_pem: Option<&str>) -> Result<Self, ApiError> {
        let mut base = Url::parse(url).map_err(|_| ApiError::Url)?;
        let this_machine = match base.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
            None => false,
        };
        let plain = match base.scheme() {
            "https" => false,
            "http" if this_machine => true,
            _ => return Err(ApiError::Url),
        };
        let usable = base.username().is_empty()
            && base.password().is_none()
            && base.query().is_none()
            && base.fragment().is_none();
        if !usable {
            return Err(ApiError::Url);
        }
        let path = base
            .path()
            .trim_end_matches('/')
            .trim_end_matches("/api/v1");
        let path = format!("{path}/api/v1/clinics/");
        base.set_path(&path);

        let token = token.expose().map_err(|_| ApiError::Token)?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ApiError::Token);
        }
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", *token)).map_err(|_| ApiError::Token)?;
        authorization.set_sensitive(true);

        // The clone shares roots, verifier and sessions.
        let tls = Arc::unwrap_or_clone(TlsConfigs::new(ca_pem)?.client(None)?);
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(!plain)
            // A redirect would send the token to another server.
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("clinic-comms-operator/", env!("CARGO_PKG_VERSION")));
        if plain {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client.build().map_err(|_| TlsError::Setup)?,
            base,
            authorization,
            first_wait: FIRST_WAIT,
        })
    }

    /// Reads the version of a tenant's settings.
    pub(crate) async fn get(&self, tenant: &Tenant) -> Result<SettingsReply, ApiError> {
        self.ask(Method::GET, tenant, None).await
    }

    /// Replaces a tenant's settings by `body`.
    pub(crate) async fn put(
        &self,
        tenant: &Tenant,
        precondition: &Precondition,
        body: Bytes,
    ) -> Result<SettingsReply, ApiError> {
        let failed =
            |_| SettingsReply::Failed("the API answered with a version that is none".to_owned());
        let condition = match precondition {
            Precondition::Nothing => Ok((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Precondition::Version(etag) => HeaderValue::try_from(etag).map(|etag| (IF_MATCH, etag)),
        };
        match condition.map_err(failed) {
            Ok((name, value)) => {
                self.ask(Method::PUT, tenant, Some((name, value, body)))
                    .await
            }
            Err(failed) => Ok(failed),
        }
    }

    /// Sends the request, and repeats it after a temporary refusal or without an answer. A PUT may be repeated: its
    /// precondition keeps it from taking effect twice.
    async fn ask(
        &self,
        method: Method,
        tenant: &Tenant,
        put: Option<(HeaderName, HeaderValue, Bytes)>,
    ) -> Result<SettingsReply, ApiError> {
        let mut tried = 1;
        loop {
            let mut request = self
                .client
                .request(method.clone(), self.url(tenant)?)
                .header(AUTHORIZATION, self.authorization.clone());
            if let Some((name, value, body)) = &put {
                request = request
                    .header(name, value)
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.clone());
            }
            let answered = request.send().await;
            let wait = match answered {
                Ok(response) if is_temporary(response.status()) => {
                    if tried == ATTEMPTS {
                        let status = response.status().as_u16();
                        let failed = format!("the API answered {status}, {ATTEMPTS} times");
                        return Ok(SettingsReply::Failed(failed));
                    }
                    retry_after(&response)
                }
                Ok(response) => return classify(&method, response).await,
                Err(error) if tried == ATTEMPTS => {
                    return Err(ApiError::Unreachable(unreached(&error)));
                }
                Err(_) => None,
            };
            let wait = wait.unwrap_or(self.first_wait * (1 << (tried - 1)));
            sleep(wait.min(MAX_WAIT_DURATION)).await;
            tried += 1;
        }
    }

    fn url(&self, tenant: &Tenant) -> Result<Url, ApiError> {
        self.base.join(tenant.as_str()).map_err(|_| ApiError::Url)
    }
}

/// True for an answer that may differ in a while: throttled, or a gateway without a backend at the moment.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3), the form that this API and API Gateway send.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Why a request was not answered.
fn unreached(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "the API did not answer in time"
    } else if error.is_connect() {
        "the API cannot be reached"
    } else {
        "the connection to the API broke"
    };
    // The innermost cause has the reason: a refused connection, a certificate. The outer ones repeat the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() || std::ptr::addr_eq(cause, error) {
        what.to_owned()
    } else {
        format!("{what} ({})", printable(&cause.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use comms_testkit::{
        http::{HttpServer, Reply},
        tls::TestCa,
    };
    use serde_json::json;

    use super::*;

    /// A client that repeats a request at once.
    fn without_waits(url: &str, ca_pem: Option<&str>) -> Api {
        let mut api = Api::new(url, &Secret::new("token".to_owned()), ca_pem).unwrap();
        api.first_wait = Duration::ZERO;
        api
    }

    async fn get(api: &Api) -> Result<SettingsReply, ApiError> {
        api.get(&Tenant::parse("clinic-1").unwrap()).await
    }

    #[tokio::test]
    async fn an_api_that_is_not_there_is_tried_again_and_then_given_up_with_its_reason() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let error = get(&without_waits(&url, None)).await.unwrap_err();
        let ApiError::Unreachable(why) = &error else {
            panic!("{error}");
        };
        assert!(
            why.contains("cannot be reached (Connection refused"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn no_authority_is_trusted_but_the_public_ones_and_the_named_one() {
        let (ca, other) = (TestCa::new(), TestCa::new());
        let server = HttpServer::builder()
            .tls(ca.server_config(&["localhost"]))
            .start()
            .await
            .unwrap();
        server.always(
            "GET",
            "/api/v1/clinics/clinic-1",
            Reply::json(200, json!({})),
        );
        for roots in [None, Some(other.pem())] {
            let error = get(&without_waits(&server.url(), roots.as_deref())).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains("certificate"), "{error}");
        }
        assert!(server.requests().is_empty());
        let trusted = without_waits(&server.url(), Some(&ca.pem()));
        assert_eq!(get(&trusted).await, Ok(SettingsReply::Done { etag: None }));
    }
}
