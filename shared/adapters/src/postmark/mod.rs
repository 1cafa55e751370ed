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

use comms_core::{BaseUrl, Mailbox, ProviderError, Receipt};

pub use self::config::PostmarkConfig;
use self::{
    reply::{read_receipt, read_server},
    request::{MESSAGE_BYTES, RECEIVERS, check_size, wire},
};
use crate::{
    adapter::BuildError,
    deadline::Deadline,
    http_api::{HttpApi, HttpApiProvider},
    message::Message,
    net::http::{HttpRequest, HttpResponse},
    provider::Capabilities,
};

/// Where the token goes (API overview, "Authentication").
const TOKEN: &str = "x-postmark-server-token";

/// One Postmark server.
pub type PostmarkProvider = HttpApiProvider<PostmarkApi>;

/// What Postmark's API has of its own.
pub struct PostmarkApi {
    config: PostmarkConfig,
    sender: Mailbox,
}

impl HttpApi for PostmarkApi {
    type Config = PostmarkConfig;
    const CAPABILITIES: Capabilities = Capabilities {
        recipients: RECEIVERS,
        message_bytes: Some(MESSAGE_BYTES),
        ..Capabilities::EMAIL_API
    };

    fn new(config: PostmarkConfig, sender: Option<Mailbox>) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Ok(Self { config, sender })
    }

    fn default_url(_: &PostmarkConfig) -> &'static str {
        PostmarkConfig::API_URL
    }

    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError> {
        // Without `Accept` it answers 409.
        request
            .accepting_json()
            .key_header(TOKEN, &self.config.server_token)
    }

    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError> {
        let stream = self.config.message_stream.as_deref();
        let stream = stream.unwrap_or(PostmarkConfig::DEFAULT_STREAM);
        let wire = wire(message, &self.sender, stream)?;
        let request = HttpRequest::post_json(api_url.join(["email"]), &wire)?;
        check_size(request.body_len())?;
        Ok(request)
    }

    fn receipt(&self, answer: &HttpResponse, message: &Message) -> Result<Receipt, ProviderError> {
        read_receipt(answer, message)
    }

    /// Whether the token is of a server that sends. Sender signatures and domains are known to the account's token only,
    /// which a server should not have.
    async fn check(provider: &PostmarkProvider, deadline: Deadline) -> Result<(), ProviderError> {
        let request = HttpRequest::get(provider.api_url.join(["server"]));
        read_server(&provider.exchange(request, deadline).await?)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
