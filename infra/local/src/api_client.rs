//! The API, as the stack's pages ask it: by the platform's operator, with a token of the stack's own.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::SignedDuration;
use reqwest::{Client, Url};

use crate::AnyError;
use crate::request_lines::OWN_USER_AGENT;
use crate::token::{Claims, DeveloperKey};

/// A request may start a function first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The API. Clones share their connections.
#[derive(Clone)]
pub(crate) struct ApiClient {
    client: Client,
    url: String,
    key: DeveloperKey,
}

impl ApiClient {
    /// For the API at `url` (such as `http://127.0.0.1:3000`), which takes tokens of `key`.
    pub(crate) fn new(url: String, key: DeveloperKey) -> Result<Self, AnyError> {
        // Plain HTTP to this machine, whatever proxy the environment names.
        let client = Client::builder()
            .no_proxy()
            .user_agent(OWN_USER_AGENT)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { client, url, key })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Status and body of what it answers to a `GET` of `/api/v1` and these segments.
    pub(crate) async fn get(&self, path: &[&str]) -> Result<(StatusCode, String), AnyError> {
        let token = self.key.token(&Claims {
            clinic: None,
            roles: vec!["SUPER_ADMIN".to_owned()],
            subject: "pages@localhost".to_owned(),
            expires_in: SignedDuration::from_mins(1),
        })?;
        let mut url = Url::parse(&self.url)?;
        // Whatever is in a segment, it stays one: clinics' ids are what somebody wrote into a table.
        url.path_segments_mut()
            .map_err(|()| "the API has no address")?
            .extend(["api", "v1"])
            .extend(path);
        let answer = self.client.get(url).bearer_auth(token).send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    /// What it answers, for a page; 502 where it does not.
    pub(crate) async fn forward(&self, path: &[&str]) -> Response {
        match self.get(path).await {
            Ok((status, body)) => {
                let kind = HeaderValue::from_static("application/json");
                (status, [(CONTENT_TYPE, kind)], body).into_response()
            }
            Err(error) => {
                let text = format!("the API does not answer: {error}\n");
                (StatusCode::BAD_GATEWAY, text).into_response()
            }
        }
    }
}
