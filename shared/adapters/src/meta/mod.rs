//! Meta `WhatsApp` Business Cloud API, Graph v23.0: `POST /{phone-number-id}/messages`.
//!
//! Idempotency: none. `biz_opaque_callback_data` carries the delivery's id, which Meta does not look
//! at and repeats in its webhooks: a message that went out twice can be told by it.
//!
//! Documentation: <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages>
//!
//! Left out, since no communication asks for it: interactive, contact, location and reaction messages,
//! replies to a message, groups. Media go by link; what is uploaded first (`/media`) would have to be
//! kept and deleted here. Parameters of a template go by position; one with named parameters takes
//! `templateComponents`. What becomes of a message comes by webhook and is not received here.

mod config;
mod reply;
mod request;

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, ErrorKind, Mailbox, ProviderError, ProviderKind, Receipt};
use serde_json::Value;

pub use self::config::MetaConfig;
use self::{
    reply::{is_phone_number, receipt, refusal},
    request::{MAX_TEXT, wire},
};
use crate::{
    adapter::{Adapter, BuildError, Parts, api_url},
    config::ReadConfig,
    deadline::Deadline,
    message::Message,
    net::http::{Answer, HttpClients, HttpRequest, classify_transport, of_question},
    provider::{Capabilities, Provider},
    verify::{Report, StageReport, VerifyStage},
};

/// What is asked of a phone number to verify it.
const NUMBER_FIELDS: &str =
    "fields=verified_name,quality_rating,code_verification_status,name_status,throughput";

const CAPABILITIES: Capabilities = Capabilities {
    html: false,
    attachments: false,
    recipients: 1,
    reply_to: false,
    internationalised_addresses: false,
    templates: true,
    media: true,
    text_chars: Some(MAX_TEXT),
    message_bytes: None,
};

/// One phone number of one `WhatsApp` Business account.
pub struct MetaProvider {
    config: MetaConfig,
    api_url: BaseUrl,
    http: HttpClients,
}

impl MetaProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(config: MetaConfig, http: HttpClients) -> Result<Self, BuildError> {
        Ok(Self {
            api_url: api_url(config.api_url.as_ref(), MetaConfig::GRAPH_URL)?,
            config,
            http,
        })
    }

    async fn phone_number(&self, deadline: Deadline) -> Result<Value, ProviderError> {
        let mut url = self.api_url.join([self.config.phone_number_id.as_str()]);
        url.set_query(Some(NUMBER_FIELDS));
        let answer = self.exchange(HttpRequest::get(url), deadline).await?;
        let number = answer.json().ok().filter(is_phone_number);
        match number {
            Some(number) if answer.is_success() => Ok(number),
            Some(_) | None => Err(refusal(&answer)),
        }
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        let request = request.bearer(&self.config.access_token)?;
        self.http
            .send(&self.api_url, request, deadline)
            .await
            .map_err(classify_transport)
    }
}

impl fmt::Debug for MetaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaProvider(…)")
    }
}

impl Adapter for MetaProvider {
    type Config = MetaConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(config: &MetaConfig, _: Option<Mailbox>, parts: &Parts) -> Result<Self, BuildError> {
        Self::new(config.clone(), parts.http.clone())
    }
}

#[async_trait]
impl Provider for MetaProvider {
    fn kind(&self) -> ProviderKind {
        MetaConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let wire = wire(message)?;
        let segments = [self.config.phone_number_id.as_str(), "messages"];
        let url = self.api_url.join(segments);
        let request = HttpRequest::post_json(url, &wire)?;
        receipt(&self.exchange(request, deadline).await?)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        let api_url = &self.api_url;
        if !self
            .http
            .verify_reachable(api_url, &mut report, deadline)
            .await
        {
            return report.end();
        }
        let number = match self.phone_number(deadline).await.map_err(of_question) {
            // Who says that of the number has taken the token.
            Err(error) if error.kind == ErrorKind::SenderNotAllowed => Err(error),
            Err(error) => {
                report.stage::<()>(VerifyStage::Authenticate, Err(error));
                return report.end();
            }
            Ok(number) => Ok(number),
        };
        report.stage(VerifyStage::Authenticate, Ok(()));
        // That the number is there is all: numbers send whose code verification has lapsed or was never
        // asked for (Meta's own test numbers among them), and whose next display name was declined.
        report.stage(VerifyStage::Sender, number);
        report.end()
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests;
