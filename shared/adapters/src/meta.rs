//! Meta `WhatsApp` Business Cloud API, Graph v23.0: `POST /{phone-number-id}/messages`.
//!
//! Idempotency: none; `biz_opaque_callback_data` carries the delivery's id.
//!
//! Documentation: <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages>

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, ProviderError, ProviderKind, Receipt, Secret, account::GraphId};

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
    text_chars: Some(4_096),
    message_bytes: None,
};

/// What is needed to send from one phone number.
#[derive(Clone)]
pub struct MetaSettings {
    /// A system user's access token with `whatsapp_business_messaging`.
    pub access_token: Secret,
    /// The phone number's id.
    pub phone_number_id: GraphId,
    /// Where the Graph is, version included.
    pub api_url: BaseUrl,
}

/// One phone number of one `WhatsApp` Business account.
pub struct MetaProvider {
    settings: MetaSettings,
    http: HttpClients,
}

impl MetaProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: MetaSettings, http: HttpClients) -> Self {
        Self { settings, http }
    }
}

impl fmt::Debug for MetaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaProvider(…)")
    }
}

impl fmt::Debug for MetaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaSettings(…)")
    }
}

#[async_trait]
impl Provider for MetaProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::MetaBusiness
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
