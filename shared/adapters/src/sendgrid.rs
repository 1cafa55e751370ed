//! Twilio SendGrid, API v3: `POST /v3/mail/send`.
//!
//! Idempotency: none; `custom_args` carry the delivery's id.
//!
//! Documentation: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, Mailbox, ProviderError, ProviderKind, Receipt, Secret};

use crate::{
    deadline::Deadline,
    http::HttpClients,
    message::Message,
    provider::{Capabilities, Provider, StageReport},
};

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    receivers: 1_000,
    reply_to: true,
    internationalised_addresses: false,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: Some(30_000_000),
};

/// What is needed to send through one SendGrid account.
#[derive(Clone)]
pub struct SendgridSettings {
    /// An API key with the scope `mail.send`.
    pub api_key: Secret,
    /// Who the mail is from: a verified sender, or an address of an authenticated domain.
    pub sender: Mailbox,
    /// Where the API is; [`SendgridSettings::GLOBAL_URL`], or the one for EU regional subusers.
    pub api_url: BaseUrl,
    /// Whether messages are checked and not sent (`mail_settings.sandbox_mode`).
    pub sandbox: bool,
}

/// One SendGrid account.
pub struct SendgridProvider {
    settings: SendgridSettings,
    http: HttpClients,
}

impl SendgridProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: SendgridSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }
}

impl fmt::Debug for SendgridProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridProvider(…)")
    }
}

impl fmt::Debug for SendgridSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridSettings(…)")
    }
}

#[async_trait]
impl Provider for SendgridProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sendgrid
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(
        &self,
        _message: &Message,
        _deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        Err(ProviderError::new(
            comms_core::Disposition::ProviderDown,
            comms_core::ErrorKind::Unavailable,
            "not yet",
        ))
    }

    async fn verify(&self, _deadline: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}
