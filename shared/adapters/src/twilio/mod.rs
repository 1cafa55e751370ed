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

use std::fmt;

use async_trait::async_trait;
use comms_core::{BaseUrl, ErrorKind, Mailbox, ProviderError, ProviderKind, Receipt};
use url::Url;

pub use self::config::{MAX_TEMPLATES, TwilioConfig, TwilioLogin, TwilioSender};
use self::{
    reply::{is_not_found, may_send, receipt},
    request::{MAX_TEXT, form},
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

/// The API's version, as it stands in its URLs.
const VERSION: &str = "2010-04-01";
/// A message that does not exist, for a question that reads nothing.
const NO_MESSAGE: &str = "SM00000000000000000000000000000000.json";

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

/// One Twilio account with one sender.
pub struct TwilioProvider {
    config: TwilioConfig,
    api_url: BaseUrl,
    http: HttpClients,
}

impl TwilioProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(config: TwilioConfig, http: HttpClients) -> Result<Self, BuildError> {
        Ok(Self {
            api_url: api_url(config.api_url.as_ref(), TwilioConfig::GLOBAL_URL)?,
            config,
            http,
        })
    }

    async fn exchange(
        &self,
        request: HttpRequest,
        deadline: Deadline,
    ) -> Result<Answer, ProviderError> {
        let request = match &self.config.login {
            TwilioLogin::AuthToken(token) => {
                request.basic(self.config.account_sid.as_str(), token)?
            }
            TwilioLogin::ApiKey { sid, secret } => request.basic(sid.as_str(), secret)?,
        };
        self.http
            .send(&self.api_url, request, deadline)
            .await
            .map_err(classify_transport)
    }

    /// That the credentials are good, and the account active where they may read that.
    ///
    /// A standard API key, which is what Twilio advises to send with, may not read accounts, and is
    /// refused with the words for a wrong one (error 20003, "Possible causes"). It may read messages:
    /// asked for one that does not exist, Twilio says that it does not, and by that that the key is good.
    async fn check_account(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let account = HttpRequest::get(self.account_url());
        let refused = match may_send(&self.exchange(account, deadline).await?) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match self.config.login {
            TwilioLogin::ApiKey { .. } if refused.kind == ErrorKind::Unauthenticated => {}
            TwilioLogin::ApiKey { .. } | TwilioLogin::AuthToken(_) => return Err(refused),
        }
        let message = HttpRequest::get(self.url(&["Messages", NO_MESSAGE]));
        is_not_found(&self.exchange(message, deadline).await?)
    }
}

impl TwilioProvider {
    /// What the account is under: `Accounts/{AccountSid}` and `segments`.
    fn url(&self, segments: &[&str]) -> Url {
        let account = [VERSION, "Accounts", self.config.account_sid.as_str()];
        self.api_url
            .join(account.into_iter().chain(segments.iter().copied()))
    }

    fn account_url(&self) -> Url {
        let file = format!("{}.json", self.config.account_sid);
        self.api_url.join([VERSION, "Accounts", &file])
    }
}

impl fmt::Debug for TwilioProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioProvider(…)")
    }
}

impl Adapter for TwilioProvider {
    type Config = TwilioConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(config: &TwilioConfig, _: Option<Mailbox>, parts: &Parts) -> Result<Self, BuildError> {
        Self::new(config.clone(), parts.http.clone())
    }
}

#[async_trait]
impl Provider for TwilioProvider {
    fn kind(&self) -> ProviderKind {
        TwilioConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let form = form(&self.config, message)?;
        let fields: Vec<_> = form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let request = HttpRequest::post_form(self.url(&["Messages.json"]), &fields);
        receipt(&self.exchange(request, deadline).await?)
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        // Whether the number is a sender of the account's is known to another API only.
        let question = self.check_account(deadline);
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
