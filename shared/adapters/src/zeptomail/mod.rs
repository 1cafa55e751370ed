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

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, Mailbox, ProviderError, ProviderKind, Receipt};
use serde_json::json;

pub use self::config::{Region, ZeptomailConfig};
use self::{
    reply::{read_check, read_receipt},
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

/// The scheme of `Authorization` (Email sending API, "Authorization token").
const SCHEME: &str = "Zoho-enczapikey";
/// Where messages go, below the API's URL.
const SEND: [&str; 2] = ["v1.1", "email"];

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

/// One mail agent of ZeptoMail.
pub struct ZeptomailProvider {
    config: ZeptomailConfig,
    sender: Mailbox,
    api_url: BaseUrl,
    http: HttpClients,
}

impl ZeptomailProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(
        config: ZeptomailConfig,
        sender: Mailbox,
        http: HttpClients,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            api_url: api_url(config.api_url.as_ref(), config.region.api_url())?,
            config,
            sender,
            http,
        })
    }

    fn request(&self, message: &Message) -> Result<HttpRequest, ProviderError> {
        let wire = wire(message, &self.sender)?;
        let request = HttpRequest::post_json(self.api_url.join(SEND), &wire)?;
        check_size(request.body_len())?;
        Ok(request)
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        let request = request
            .accepting_json()
            .scheme(SCHEME, &self.config.send_mail_token)?;
        let answer = self.http.send(&self.api_url, request, deadline).await;
        answer.map_err(classify_transport)
    }

    async fn check_token(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let nothing = HttpRequest::post_json(self.api_url.join(SEND), &json!({}))?;
        read_check(&self.exchange(nothing.into_question(), deadline).await?)
    }
}

impl fmt::Debug for ZeptomailProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZeptomailProvider(…)")
    }
}

impl Adapter for ZeptomailProvider {
    type Config = ZeptomailConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(
        config: &ZeptomailConfig,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Self::new(config.clone(), sender, parts.http.clone())
    }
}

#[async_trait]
impl Provider for ZeptomailProvider {
    fn kind(&self) -> ProviderKind {
        ZeptomailConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let request = self.request(message)?;
        read_receipt(&self.exchange(request, deadline).await?)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let question = self.check_token(deadline);
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
