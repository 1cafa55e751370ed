//! Twilio SendGrid, API v3: `POST /v3/mail/send`.
//!
//! Idempotency: none; `custom_args` carry the delivery's id, which comes back in SendGrid's events and
//! in its activity search.
//!
//! Links stay as they were posted: click tracking and Google Analytics, which rewrite them, and open
//! tracking, which adds a picture, are off for every message, whatever the account's own settings say.
//! A one-time code's link must not lead through another company's host. Subscription tracking, which
//! adds a footer that the clinic may owe its readers, is left to the account.
//!
//! Documentation: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>

mod config;
mod reply;
mod request;

use comms_core::{BaseUrl, Mailbox, ProviderError, Receipt};

pub use self::config::SendgridConfig;
use self::{
    reply::{read_receipt, read_scopes},
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

/// Where messages go, below the API's URL.
const SEND: [&str; 3] = ["v3", "mail", "send"];

/// Where a key's permissions are read, below the API's URL.
const SCOPES: [&str; 2] = ["v3", "scopes"];

/// One SendGrid account.
pub type SendgridProvider = HttpApiProvider<SendgridApi>;

/// What SendGrid's API has of its own.
pub struct SendgridApi {
    config: SendgridConfig,
    sender: Mailbox,
}

impl HttpApi for SendgridApi {
    type Config = SendgridConfig;
    const CAPABILITIES: Capabilities = Capabilities {
        recipients: RECEIVERS,
        message_bytes: Some(MESSAGE_BYTES),
        ..Capabilities::EMAIL_API
    };

    fn new(config: SendgridConfig, sender: Option<Mailbox>) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Ok(Self { config, sender })
    }

    fn default_url(_: &SendgridConfig) -> &'static str {
        SendgridConfig::GLOBAL_URL
    }

    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError> {
        request.bearer(&self.config.api_key)
    }

    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError> {
        let wire = wire(message, &self.sender, self.config.sandbox)?;
        let request = HttpRequest::post_json(api_url.join(SEND), &wire)?;
        check_size(request.body_len())?;
        Ok(request)
    }

    fn receipt(&self, answer: &HttpResponse, message: &Message) -> Result<Receipt, ProviderError> {
        read_receipt(answer, &message.delivery, self.config.sandbox)
    }

    /// Whether the key may send. Nothing else is asked: senders and quota need permissions that a key for sending should
    /// not have.
    async fn check(provider: &SendgridProvider, deadline: Deadline) -> Result<(), ProviderError> {
        let request = HttpRequest::get(provider.api_url.join(SCOPES));
        read_scopes(&provider.exchange(request, deadline).await?)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
