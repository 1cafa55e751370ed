//! Zoho ZeptoMail, API v1.1: `POST /v1.1/email`.
//!
//! Idempotency: none; `client_reference` carries the delivery's id, which comes back in ZeptoMail's webhooks and can be
//! searched for in its logs.
//!
//! Links stay as they were posted and no picture is added: `track_clicks` and `track_opens` are off for every message,
//! whatever the mail agent's own settings say. `Auto-Submitted` and `Feedback-ID` go as `mime_headers`.
//!
//! To check a token, an empty object is posted: it lacks every mandatory field and is no message, whatever else is right.
//! ZeptoMail answers it by what is wrong with the token, else by what is missing.
//!
//! Documentation: <https://www.zoho.com/zeptomail/help/api/email-sending.html>,
//! <https://www.zoho.com/zeptomail/help/api/error-codes.html>
//!
//! Left out: templates, which ZeptoMail holds; the file cache; batches: each delivery is a request of its own.

mod config;
mod reply;
mod request;

use comms_core::{BaseUrl, Mailbox, ProviderError, Receipt};
use serde_json::json;

pub use self::config::{Region, ZeptomailConfig};
use self::{
    reply::{read_check, read_receipt},
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

/// The scheme of `Authorization` (Email sending API, "Authorization token").
const SCHEME: &str = "Zoho-enczapikey";
/// Where messages go, below the API's URL.
const SEND: [&str; 2] = ["v1.1", "email"];

/// One mail agent of ZeptoMail.
pub type ZeptomailProvider = HttpApiProvider<ZeptomailApi>;

/// What ZeptoMail's API has of its own.
pub struct ZeptomailApi {
    config: ZeptomailConfig,
    sender: Mailbox,
}

impl HttpApi for ZeptomailApi {
    type Config = ZeptomailConfig;
    const CAPABILITIES: Capabilities = Capabilities {
        recipients: RECEIVERS,
        message_bytes: Some(MESSAGE_BYTES),
        ..Capabilities::EMAIL_API
    };

    fn new(config: ZeptomailConfig, sender: Option<Mailbox>) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Ok(Self { config, sender })
    }

    fn default_url(config: &ZeptomailConfig) -> &'static str {
        config.region.api_url()
    }

    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError> {
        request
            .accepting_json()
            .scheme(SCHEME, &self.config.send_mail_token)
    }

    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError> {
        let wire = wire(message, &self.sender)?;
        let request = HttpRequest::post_json(api_url.join(SEND), &wire)?;
        check_size(request.body_len())?;
        Ok(request)
    }

    fn receipt(&self, answer: &HttpResponse, _: &Message) -> Result<Receipt, ProviderError> {
        read_receipt(answer)
    }

    async fn check(provider: &ZeptomailProvider, deadline: Deadline) -> Result<(), ProviderError> {
        let nothing = HttpRequest::post_json(provider.api_url.join(SEND), &json!({}))?;
        let answer = provider.exchange(nothing.into_question(), deadline);
        read_check(&answer.await?)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
