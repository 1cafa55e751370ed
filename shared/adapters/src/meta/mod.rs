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

use comms_core::{BaseUrl, ErrorKind, Mailbox, ProviderError, Receipt};

pub use self::config::MetaConfig;
use self::{
    reply::{is_phone_number, receipt, refusal},
    request::{MAX_TEXT, wire},
};
use crate::{
    adapter::BuildError,
    deadline::Deadline,
    http_api::{HttpApi, HttpApiProvider},
    message::Message,
    net::http::{HttpRequest, HttpResponse},
    provider::Capabilities,
    verify::{Report, VerifyStage},
};

/// What is asked of a phone number to verify it.
const NUMBER_FIELDS: &str =
    "fields=verified_name,quality_rating,code_verification_status,name_status,throughput";

/// One phone number of one `WhatsApp` Business account.
pub type MetaProvider = HttpApiProvider<MetaApi>;

/// What Meta's API has of its own.
pub struct MetaApi {
    config: MetaConfig,
}

impl HttpApi for MetaApi {
    type Config = MetaConfig;
    const CAPABILITIES: Capabilities = Capabilities {
        text_chars: Some(MAX_TEXT),
        ..Capabilities::WHATSAPP_API
    };

    fn new(config: MetaConfig, _: Option<Mailbox>) -> Result<Self, BuildError> {
        Ok(Self { config })
    }

    fn default_url(_: &MetaConfig) -> &'static str {
        MetaConfig::GRAPH_URL
    }

    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError> {
        request.bearer(&self.config.access_token)
    }

    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError> {
        let wire = wire(message)?;
        let segments = [self.config.phone_number_id.as_str(), "messages"];
        HttpRequest::post_json(api_url.join(segments), &wire)
    }

    fn receipt(&self, answer: &HttpResponse, _: &Message) -> Result<Receipt, ProviderError> {
        receipt(answer)
    }

    /// Whether the token reads the phone number. That the number is there is all: numbers send whose code verification has
    /// lapsed or was never asked for (Meta's own test numbers among them), and whose next display name was declined.
    async fn check(provider: &MetaProvider, deadline: Deadline) -> Result<(), ProviderError> {
        let number = provider.api.config.phone_number_id.as_str();
        let mut url = provider.api_url.join([number]);
        url.set_query(Some(NUMBER_FIELDS));
        let answer = provider.exchange(HttpRequest::get(url), deadline).await?;
        let number = answer.json().ok().filter(is_phone_number);
        match number {
            Some(_) if answer.is_success() => Ok(()),
            Some(_) | None => Err(refusal(&answer)),
        }
    }

    fn report(report: &mut Report, checked: Result<(), ProviderError>) {
        let sender = match checked {
            // Meta looks at the number only after it has accepted the token.
            Err(error) if error.kind == ErrorKind::SenderNotAllowed => Err(error),
            Err(error) => {
                report.stage::<()>(VerifyStage::Authenticate, Err(error));
                return;
            }
            Ok(()) => Ok(()),
        };
        report.stage(VerifyStage::Authenticate, Ok(()));
        report.stage(VerifyStage::Sender, sender);
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
