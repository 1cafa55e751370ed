//! Twilio Programmable Messaging for `WhatsApp`, API 2010-04-01:
//! `POST /2010-04-01/Accounts/{AccountSid}/Messages.json`.
//!
//! Idempotency: none.
//!
//! Documentation: <https://www.twilio.com/docs/messaging/api/message-resource>

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use comms_core::{
    BaseUrl, PhoneNumber, ProviderError, ProviderKind, Receipt, Secret,
    account::{ContentSid, MessagingServiceSid, TwilioAccountSid, TwilioApiKeySid},
};

use crate::{
    deadline::Deadline,
    http::HttpClients,
    message::Message,
    provider::{Capabilities, Provider, StageReport},
};

const CAPABILITIES: Capabilities = Capabilities {
    html: false,
    attachments: false,
    receivers: 1,
    reply_to: false,
    internationalised_addresses: false,
    templates: true,
    media: true,
    text_chars: Some(1_600),
    message_bytes: None,
};

/// What is needed to send through one Twilio account.
#[derive(Clone)]
pub struct TwilioSettings {
    /// The account.
    pub account_sid: TwilioAccountSid,
    /// How to log in to it.
    pub login: TwilioLogin,
    /// Who the message is from.
    pub sender: TwilioSender,
    /// Where the API is; another than [`TwilioSettings::GLOBAL_URL`] for a region.
    pub api_url: BaseUrl,
    /// Where Twilio reports what becomes of a message: an https URL.
    pub status_callback: Option<String>,
    /// The content templates, by the names under which requests ask for them.
    pub templates: BTreeMap<String, ContentSid>,
}

/// How to log in.
#[derive(Clone)]
pub enum TwilioLogin {
    /// As the account itself.
    AuthToken(Secret),
    /// By an API key, which can be revoked on its own.
    ApiKey {
        /// The key.
        sid: TwilioApiKeySid,
        /// Its secret.
        secret: Secret,
    },
}

/// Who a message is from. At least one of the two, or both.
#[derive(Clone)]
pub enum TwilioSender {
    /// A `WhatsApp` number.
    Number(PhoneNumber),
    /// A messaging service, which chooses a number of its own.
    Service(MessagingServiceSid),
    /// A number of a messaging service.
    NumberOfService(PhoneNumber, MessagingServiceSid),
}

/// One Twilio account with one sender.
pub struct TwilioProvider {
    settings: TwilioSettings,
    http: HttpClients,
}

impl TwilioProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: TwilioSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }
}

impl fmt::Debug for TwilioProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioProvider(…)")
    }
}

impl fmt::Debug for TwilioLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioLogin(…)")
    }
}

impl fmt::Debug for TwilioSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioSender(…)")
    }
}

impl fmt::Debug for TwilioSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioSettings(…)")
    }
}

#[async_trait]
impl Provider for TwilioProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Twilio
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
