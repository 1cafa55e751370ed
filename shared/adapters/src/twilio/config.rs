//! Which Twilio account, and as whom.

use std::{collections::BTreeMap, fmt};

use comms_core::{
    BaseUrl, PhoneNumber, Secret,
    account::{ContentSid, MessagingServiceSid, TwilioAccountSid, TwilioApiKeySid},
};
use url::Url;

impl TwilioSettings {
    /// Twilio's API for accounts without a region (`US1`).
    pub const GLOBAL_URL: &str = "https://api.twilio.com";
}

/// The API's version, as it stands in its URLs.
const VERSION: &str = "2010-04-01";

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

impl TwilioSettings {
    /// What the account is under: `Accounts/{AccountSid}` and `segments`.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let account = [VERSION, "Accounts", self.account_sid.as_str()];
        self.api_url
            .join(account.into_iter().chain(segments.iter().copied()))
    }

    pub(super) fn account_url(&self) -> Url {
        let file = format!("{}.json", self.account_sid);
        self.api_url.join([VERSION, "Accounts", &file])
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
