//! Twilio Programmable Messaging for `WhatsApp`, API 2010-04-01:
//! `POST /2010-04-01/Accounts/{AccountSid}/Messages.json`.
//!
//! Idempotency: none, and there is no field that would carry the delivery's id.
//!
//! Documentation: <https://www.twilio.com/docs/messaging/api/message-resource>
//!
//! Left out: a medium's file name (Twilio shows the one in the URL) and kind (it looks at what it
//! fetches); media of a template, which belong to the template at Twilio; scheduling, validity period
//! and link shortening, which no communication asks for. A content template is of one language, so a
//! request's `language` chooses nothing here. What becomes of a message goes to `StatusCallback` and is
//! not received here.

mod config;
mod reply;
mod request;

use comms_core::{BaseUrl, ErrorKind, Mailbox, ProviderError, Receipt};
use url::Url;

pub use self::config::{MAX_TEMPLATES, TwilioConfig, TwilioLogin, TwilioSender};
use self::{
    reply::{is_not_found, may_send, receipt},
    request::{MAX_TEXT, form},
};
use crate::{
    adapter::BuildError,
    deadline::Deadline,
    http_api::{HttpApi, HttpApiProvider},
    message::Message,
    net::http::{HttpRequest, HttpResponse},
    provider::Capabilities,
};

/// The API's version, as it stands in its URLs.
const VERSION: &str = "2010-04-01";
/// A message that does not exist, for a question that reads nothing.
const NO_MESSAGE: &str = "SM00000000000000000000000000000000.json";

/// One Twilio account with one sender.
pub type TwilioProvider = HttpApiProvider<TwilioApi>;

/// What Twilio's API has of its own.
pub struct TwilioApi {
    config: TwilioConfig,
}

impl TwilioApi {
    /// A resource of the account: `Accounts/{AccountSid}` and `segments`.
    fn url(&self, api_url: &BaseUrl, segments: &[&str]) -> Url {
        let account = [VERSION, "Accounts", self.config.account_sid.as_str()];
        api_url.join(account.into_iter().chain(segments.iter().copied()))
    }

    fn account_url(&self, api_url: &BaseUrl) -> Url {
        let file = format!("{}.json", self.config.account_sid);
        api_url.join([VERSION, "Accounts", &file])
    }
}

impl HttpApi for TwilioApi {
    type Config = TwilioConfig;
    const CAPABILITIES: Capabilities = Capabilities {
        text_chars: Some(MAX_TEXT),
        ..Capabilities::WHATSAPP_API
    };

    fn new(config: TwilioConfig, _: Option<Mailbox>) -> Result<Self, BuildError> {
        Ok(Self { config })
    }

    fn default_url(_: &TwilioConfig) -> &'static str {
        TwilioConfig::GLOBAL_URL
    }

    fn authorize(&self, request: HttpRequest) -> Result<HttpRequest, ProviderError> {
        match &self.config.login {
            TwilioLogin::AuthToken(token) => request.basic(self.config.account_sid.as_str(), token),
            TwilioLogin::ApiKey { sid, secret } => request.basic(sid.as_str(), secret),
        }
    }

    fn request(&self, api_url: &BaseUrl, message: &Message) -> Result<HttpRequest, ProviderError> {
        let form = form(&self.config, message)?;
        let fields: Vec<_> = form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let url = self.url(api_url, &["Messages.json"]);
        Ok(HttpRequest::post_form(url, &fields))
    }

    fn receipt(&self, answer: &HttpResponse, _: &Message) -> Result<Receipt, ProviderError> {
        receipt(answer)
    }

    /// Whether the credentials are good, and the account is active where they may read that. Whether the number is a sender
    /// of the account's is known to another API only.
    ///
    /// A standard API key, which Twilio advises to send with, may not read accounts, and is refused with the words for a
    /// wrong one (error 20003, "Possible causes"). It may read messages: asked for one that does not exist, Twilio answers
    /// 404, which a wrong key never gets.
    async fn check(provider: &TwilioProvider, deadline: Deadline) -> Result<(), ProviderError> {
        let (api, api_url) = (&provider.api, &provider.api_url);
        let account = HttpRequest::get(api.account_url(api_url));
        let refused = match may_send(&provider.exchange(account, deadline).await?) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match api.config.login {
            TwilioLogin::ApiKey { .. } if refused.kind == ErrorKind::Unauthenticated => {}
            TwilioLogin::ApiKey { .. } | TwilioLogin::AuthToken(_) => return Err(refused),
        }
        let message = HttpRequest::get(api.url(api_url, &["Messages", NO_MESSAGE]));
        is_not_found(&provider.exchange(message, deadline).await?)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
