//! The HTTP API as the import sees it: read a clinic's version, replace its settings.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use comms_adapters::tls::{TlsConfigs, TlsError};
use comms_core::{Problems, Secret, Tenant};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
        RETRY_AFTER,
    },
    redirect,
};
use serde_json::Value;
use thiserror::Error;
use tokio::time::sleep;
use url::{Host, Url};

/// The longest that one try of a request may take: API Gateway gives up after 30 seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// Tries of one request.
const TRIES: u32 = 6;
/// The longest wait between two tries, whatever the answer asks for.
const MAX_WAIT_DURATION: Duration = Duration::from_mins(1);
/// The wait after the first try, which doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// What is said of a clinic whose settings somebody else saved in between.
pub(crate) const SAVED_MEANWHILE: &str =
    "somebody else saved at the same time; run the import again";
/// Bytes of an answer that are read: more than a clinic's settings with everything in them.
const MAX_ANSWER: usize = 1 << 20;
/// Characters of a text in an answer that are shown.
const MAX_TEXT: usize = 400;

/// Why the API cannot be asked at all. Whatever is asked next will fail as this did.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// The address is none.
    #[error(
        "--api must be a URL such as https://api.example.com; plain http:// goes to this machine only"
    )]
    Url,
    /// The token is none.
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
    /// It could not be reached in all tries: why.
    #[error("{0}, {TRIES} times. Nothing was sent after that; the same command goes on from there")]
    Unreachable(String),
    /// There is no such route.
    #[error(
        "the API answered 404: is --api the address of clinic-comms? Nothing was sent after that"
    )]
    NoSuchRoute,
}

/// What became of one request, after its tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 or 201.
    Done {
        /// The version that the settings are at.
        etag: Option<String>,
    },
    /// 404 to a GET.
    Absent,
    /// 412: the settings are not at the version that was named.
    OtherVersion,
    /// 400, 413 or 422: the document is not taken.
    Refused(Problems),
    /// Anything else. What it was, without anything of what was sent.
    Failed(String),
}

/// Which version is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replaces {
    /// None: there must not be any.
    Nothing,
    /// The one with this tag.
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

        // Roots, verifier and sessions stay shared; the rest is small.
        let tls = Arc::unwrap_or_clone(TlsConfigs::new(ca_pem)?.client(None)?);
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(!plain)
            // The token is for the API and for nobody to whom it may point.
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

    /// At which version a tenant's settings are.
    pub(crate) async fn get(&self, tenant: &Tenant) -> Result<Answer, ApiError> {
        self.ask(Method::GET, tenant, None).await
    }

    /// Puts `body` in the place of a tenant's settings.
    pub(crate) async fn put(
        &self,
        tenant: &Tenant,
        replaces: &Replaces,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let failed = |_| Answer::Failed("the API answered with a version that is none".to_owned());
        let condition = match replaces {
            Replaces::Nothing => Ok((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Replaces::Version(etag) => HeaderValue::try_from(etag).map(|etag| (IF_MATCH, etag)),
        };
        match condition.map_err(failed) {
            Ok((name, value)) => {
                self.ask(Method::PUT, tenant, Some((name, value, body)))
                    .await
            }
            Err(failed) => Ok(failed),
        }
    }

    /// Makes the request, again while it is refused for now or cannot be made. A PUT may be repeated: it names the
    /// version that it replaces, so it cannot take effect twice.
    async fn ask(
        &self,
        method: Method,
        tenant: &Tenant,
        put: Option<(HeaderName, HeaderValue, Bytes)>,
    ) -> Result<Answer, ApiError> {
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
                Ok(response) if passes(response.status()) => {
                    if tried == TRIES {
                        let status = response.status().as_u16();
                        let failed = format!("the API answered {status}, {TRIES} times");
                        return Ok(Answer::Failed(failed));
                    }
                    retry_after(&response)
                }
                Ok(response) => return classify(&method, response).await,
                Err(error) if tried == TRIES => {
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

/// Whether the same request may be answered otherwise in a while: throttled, a gateway that has nobody behind it at the
/// moment.
fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3), as this API and API Gateway say it.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// What kept a request from being answered.
fn unreached(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "the API did not answer in time"
    } else if error.is_connect() {
        "the API cannot be reached"
    } else {
        "the connection to the API broke"
    };
    // The innermost cause, which says why: a refused connection, a certificate. The outer ones repeat the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() || std::ptr::addr_eq(cause, error) {
        what.to_owned()
    } else {
        format!("{what} ({})", shown(&cause.to_string()))
    }
}

/// What an answer means that is not worth another try.
async fn classify(method: &Method, response: Response) -> Result<Answer, ApiError> {
    let status = response.status().as_u16();
    let etag = response.headers().get(ETAG);
    let etag = etag.and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let problem = problem_of(response).await;
    Ok(match status {
        200 | 201 => Answer::Done { etag },
        401 | 403 => return Err(ApiError::Unauthorized(status)),
        // API Gateway's own 404, to what it has no route for, is no problem of ours.
        404 if *method == Method::GET && problem.is_some() => Answer::Absent,
        404 => return Err(ApiError::NoSuchRoute),
        409 => Answer::Failed(SAVED_MEANWHILE.to_owned()),
        412 => Answer::OtherVersion,
        400 | 413 | 422 => Answer::Refused(problems_of(status, &problem.unwrap_or_default())),
        _ => {
            let code = problem
                .as_ref()
                .and_then(|problem| problem["code"].as_str());
            let code = code.map(|code| format!(" ({})", shown(code)));
            let code = code.unwrap_or_default();
            Answer::Failed(format!("the API answered {status}{code}"))
        }
    })
}

/// The problem details (RFC 9457) of an answer of clinic-comms.
async fn problem_of(mut response: Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    let problem: Value = serde_json::from_slice(&body).ok()?;
    problem.get("code").is_some().then_some(problem)
}

/// The fields that are wrong, as the API names them; where it names none, the problem as a whole.
fn problems_of(status: u16, problem: &Value) -> Problems {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(shown);
    let mut problems = Problems::default();
    for error in problem
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        problems.add(
            text(error, "pointer").unwrap_or_default(),
            text(error, "detail").unwrap_or_default(),
        );
    }
    if problems.is_empty() {
        let detail = text(problem, "detail");
        problems.add(
            "",
            detail.unwrap_or_else(|| format!("the API answered {status}")),
        );
    }
    problems
}

/// A text from outside, as it may stand on a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use comms_testkit::{
        http::{HttpServer, Reply},
        tls::TestCa,
    };
    use serde_json::json;

    use super::*;

    /// An API that is asked again at once.
    fn impatient(url: &str, ca_pem: Option<&str>) -> Api {
        let mut api = Api::new(url, &Secret::new("token".to_owned()), ca_pem).unwrap();
        api.first_wait = Duration::ZERO;
        api
    }

    async fn get(api: &Api) -> Result<Answer, ApiError> {
        api.get(&Tenant::parse("clinic-1").unwrap()).await
    }

    #[tokio::test]
    async fn an_api_that_is_not_there_is_tried_again_and_then_given_up_with_its_reason() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let error = get(&impatient(&url, None)).await.unwrap_err();
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
            let error = get(&impatient(&server.url(), roots.as_deref())).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains("certificate"), "{error}");
        }
        assert!(server.requests().is_empty());
        let trusted = impatient(&server.url(), Some(&ca.pem()));
        assert_eq!(get(&trusted).await, Ok(Answer::Done { etag: None }));
    }
}
