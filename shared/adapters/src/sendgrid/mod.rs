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

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, Mailbox, ProviderError, ProviderKind, Receipt};

pub use self::config::SendgridConfig;
use self::{
    reply::{read_receipt, read_scopes},
    request::{MESSAGE_BYTES, RECEIVERS, check_size, wire},
};
use crate::{
    adapter::{Adapter, BuildError, Parts, api_url},
    config::ReadConfig,
    deadline::Deadline,
    message::Message,
    net::http::{HttpClients, HttpRequest, classify_transport},
    provider::{Capabilities, Provider},
    verify::StageReport,
};

/// Where messages go, below the API's URL.
const SEND: [&str; 3] = ["v3", "mail", "send"];

/// Where a key's permissions are read, below the API's URL.
const SCOPES: [&str; 2] = ["v3", "scopes"];

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

/// One SendGrid account.
pub struct SendgridProvider {
    config: SendgridConfig,
    sender: Mailbox,
    api_url: BaseUrl,
    http: HttpClients,
}

impl SendgridProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(
        config: SendgridConfig,
        sender: Mailbox,
        http: HttpClients,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            api_url: api_url(config.api_url.as_ref(), SendgridConfig::GLOBAL_URL)?,
            config,
            sender,
            http,
        })
    }

    fn request(&self, message: &Message) -> Result<HttpRequest, ProviderError> {
        let url = self.api_url.join(SEND);
        let wire = wire(message, &self.sender, self.config.sandbox)?;
        let request = HttpRequest::post_json(url, &wire)?;
        check_size(request.body_len())?;
        request.bearer(&self.config.api_key)
    }

    /// Whether the key may send. It is all that is asked: senders and quota need permissions that a
    /// key for sending should not have.
    async fn check_key(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let api_url = &self.api_url;
        let request = HttpRequest::get(api_url.join(SCOPES)).bearer(&self.config.api_key)?;
        let answer = self.http.send(api_url, request, deadline).await;
        read_scopes(&answer.map_err(classify_transport)?)
    }
}

impl fmt::Debug for SendgridProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridProvider(…)")
    }
}

impl Adapter for SendgridProvider {
    type Config = SendgridConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(
        config: &SendgridConfig,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Self::new(config.clone(), sender, parts.http.clone())
    }
}

#[async_trait]
impl Provider for SendgridProvider {
    fn kind(&self) -> ProviderKind {
        SendgridConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let request = self.request(message)?;
        let answer = self.http.send(&self.api_url, request, deadline).await;
        let answer = answer.map_err(classify_transport)?;
        read_receipt(&answer, &message.delivery, self.config.sandbox)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let question = self.check_key(deadline);
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
