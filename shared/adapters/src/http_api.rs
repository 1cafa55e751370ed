//! Providers with an API over HTTP: each message is one request, and the answer says whether it was taken.
//!
//! [`HttpApi`] is what such a provider has of its own. [`HttpApiProvider`] is the rest: the client, the order of a send, and
//! the stages of a check.

use std::{fmt, future::Future};

use async_trait::async_trait;
use comms_core::{BaseUrl, Mailbox, ProviderError, ProviderKind, Receipt};

use crate::{
    adapter::{Adapter, BuildError, Parts},
    config::{ProviderConfig as _, ReadConfig},
    deadline::Deadline,
    message::Message,
    net::http::{HttpClients, HttpRequest, HttpResponse, classify_transport, of_question},
    provider::{Capabilities, Provider},
    verify::{Report, StageReport, VerifyStage},
};

/// One provider's API: its requests, and what its answers mean.
pub trait HttpApi: Send + Sync + Sized + 'static {
    /// The type of its configuration.
    type Config: ReadConfig + Clone;
    /// What it can carry.
    const CAPABILITIES: Capabilities;

    /// Takes over a configuration. `sender` is who e-mail is from.
    fn new(config: Self::Config, sender: Option<Mailbox>) -> Result<Self, BuildError>;

    /// Where the API is when the configuration names no URL.
    fn default_url(config: &Self::Config) -> &'static str;

    /// Adds the credentials, and the headers that every request to this API has.
    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError>;

    /// The request that sends `message`, without credentials; an error if the API cannot carry the message.
    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError>;

    /// Reads the answer to [`HttpApi::request`].
    fn receipt(&self, answer: &HttpResponse, message: &Message) -> Result<Receipt, ProviderError>;

    /// Asks the API whether the credentials are good. Sends no message.
    fn check(
        provider: &HttpApiProvider<Self>,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), ProviderError>> + Send;

    /// Reports what [`HttpApi::check`] found, as stages after TLS.
    fn report(report: &mut Report, checked: Result<(), ProviderError>) {
        report.stage(VerifyStage::Authenticate, checked);
    }
}

/// An account at a provider with an API over HTTP.
pub struct HttpApiProvider<A> {
    pub(crate) api: A,
    pub(crate) api_url: BaseUrl,
    http: HttpClients,
}

impl<A: HttpApi> HttpApiProvider<A> {
    /// Makes the provider; nothing is connected to yet. `sender` is who e-mail is from; other channels have none.
    pub fn new(
        config: A::Config,
        sender: impl Into<Option<Mailbox>>,
        http: HttpClients,
    ) -> Result<Self, BuildError> {
        let api_url = match config.api_url() {
            Some(url) => url.clone(),
            None => BaseUrl::parse(A::default_url(&config)).map_err(|_| BuildError::Url)?,
        };
        Ok(Self {
            api: A::new(config, sender.into())?,
            api_url,
            http,
        })
    }

    /// Adds the credentials to `request`, sends it, and waits for the answer in full.
    pub(crate) async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<HttpResponse, ProviderError> {
        let request = self.api.authorize(request)?;
        let answer = self.http.send(&self.api_url, request, deadline).await;
        answer.map_err(classify_transport)
    }
}

impl<A: HttpApi> fmt::Debug for HttpApiProvider<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpApiProvider({}, …)", A::Config::KIND)
    }
}

impl<A: HttpApi> Adapter for HttpApiProvider<A> {
    type Config = A::Config;
    const CAPABILITIES: Capabilities = A::CAPABILITIES;

    fn build(
        config: &A::Config,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        Self::new(config.clone(), sender, parts.http.clone())
    }
}

#[async_trait]
impl<A: HttpApi> Provider for HttpApiProvider<A> {
    fn kind(&self) -> ProviderKind {
        A::Config::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &A::CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let request = self.api.request(&self.api_url, message)?;
        let answer = self.exchange(request, deadline).await?;
        self.api.receipt(&answer, message)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        let reachable = self
            .http
            .verify_reachable(&self.api_url, &mut report, deadline);
        if reachable.await {
            let checked = A::check(self, deadline).await.map_err(of_question);
            A::report(&mut report, checked);
        }
        report.end()
    }
}
