//! Postmark, API of 2026: `POST /email`, and `GET /server` to check.
//!
//! Idempotency: none; `Metadata` carries the delivery's id, which comes back in Postmark's webhooks and can be searched for
//! in its activity.
//!
//! Links stay as they were posted and no picture is added: `TrackLinks` is `None` and `TrackOpens` is off for every
//! message, whatever the server's own settings say. Postmark writes Feedback-ID itself.
//!
//! Documentation: <https://postmarkapp.com/developer/api/email-api>,
//! <https://postmarkapp.com/developer/api/overview>
//!
//! Left out: templates, which Postmark holds; tags; batches: each delivery is a request of its own.

mod config;
mod reply;
mod request;

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, Mailbox, ProviderError, ProviderKind, Receipt};

pub use self::config::PostmarkConfig;
use self::{
    reply::{read_receipt, read_server},
    request::{MESSAGE_BYTES, RECEIVERS, check_size, wire},
};
use crate::{
    adapter::{Adapter, BuildError, Parts, api_url},
    config::ReadConfig,
    deadline::Deadline,
    message::Message,
    net::http::{Answer, HttpClients, HttpRequest, classify_transport},
    provider::{Capabilities, Provider},
    verify::StageReport,
};

/// Where the token goes (API overview, "Authentication").
const TOKEN: &str = "x-postmark-server-token";

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    recipients: RECEIVERS,
    reply_to: true,
    internationalised_addresses: false,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: Some(MESSAGE_BYTES),
};

/// One Postmark server.
pub struct PostmarkProvider {
    config: PostmarkConfig,
    sender: Mailbox,
    api_url: BaseUrl,
    http: HttpClients,
}

impl PostmarkProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(
        config: PostmarkConfig,
        sender: Mailbox,
        http: HttpClients,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            api_url: api_url(config.api_url.as_ref(), PostmarkConfig::API_URL)?,
            config,
            sender,
            http,
        })
    }

    fn request(&self, message: &Message) -> Result<HttpRequest, ProviderError> {
        let stream = self.config.message_stream.as_deref();
        let wire = wire(
            message,
            &self.sender,
            stream.unwrap_or(PostmarkConfig::DEFAULT_STREAM),
        )?;
        let request = HttpRequest::post_json(self.api_url.join(["email"]), &wire)?;
        check_size(request.body_len())?;
        Ok(request)
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        // Without `Accept` it answers 409.
        let request = request
            .accepting_json()
            .key_header(TOKEN, &self.config.server_token)?;
        let answer = self.http.send(&self.api_url, request, deadline).await;
        answer.map_err(classify_transport)
    }

    /// Whether the token is of a server that sends. Sender signatures and domains are known to the account's token only,
    /// which a server should not have.
    async fn check_server(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let request = HttpRequest::get(self.api_url.join(["server"]));
        read_server(&self.exchange(request, deadline).await?)
    }
}

impl fmt::Debug for PostmarkProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostmarkProvider(…)")
    }
}

impl Adapter for PostmarkProvider {
    type Config = PostmarkConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(
        config: &PostmarkConfig,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Self::new(config.clone(), sender, parts.http.clone())
    }
}

#[async_trait]
impl Provider for PostmarkProvider {
    fn kind(&self) -> ProviderKind {
        PostmarkConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let request = self.request(message)?;
        read_receipt(&self.exchange(request, deadline).await?, message)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let question = self.check_server(deadline);
        let stages = self
            .http
            .verify_credentials(&self.api_url, deadline, question);
        stages.await
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
