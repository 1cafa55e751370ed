//! Which Twilio account, and as whom.

use std::{collections::BTreeMap, fmt};

use comms_core::{
    BaseUrl, Channel, PhoneNumber, ProviderKind, PublicUrl, Secret,
    account::{ContentSid, MessagingServiceSid, TwilioAccountSid, TwilioApiKeySid},
    json::{Object, read},
};
use serde_json::{Value, json};

use crate::config::{
    ProviderConfig, ReadConfig,
    read::{
        MAX_SECRET, Reading, Rules, StoredSecret, drop_unset, read_host_url, read_secret, url_json,
    },
};

/// Content templates of one Twilio entry.
pub const MAX_TEMPLATES: usize = 100;
/// Characters of the name of a template.
const MAX_TEMPLATE_NAME: usize = 128;
/// Bytes of a remembered content template: its name, its id, and its place in a map.
const TEMPLATE_BYTES: usize = 256;

/// One Twilio account with one sender.
#[derive(Clone)]
pub struct TwilioConfig {
    /// The account.
    pub account_sid: TwilioAccountSid,
    /// How to log in to it.
    pub login: TwilioLogin,
    /// Who the message is from.
    pub sender: TwilioSender,
    /// Where the API is, if not at [`TwilioConfig::GLOBAL_URL`]: that of a region.
    pub api_url: Option<BaseUrl>,
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

impl TwilioConfig {
    /// Twilio's API for accounts without a region (`US1`).
    pub const GLOBAL_URL: &str = "https://api.twilio.com";
}

impl TwilioSender {
    /// The number and the service, of which there is at least one.
    pub(super) const fn parts(&self) -> (Option<&PhoneNumber>, Option<&MessagingServiceSid>) {
        match self {
            Self::Number(number) => (Some(number), None),
            Self::Service(service) => (None, Some(service)),
            Self::NumberOfService(number, service) => (Some(number), Some(service)),
        }
    }
}

impl fmt::Debug for TwilioConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwilioConfig(…)")
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

impl ReadConfig for TwilioConfig {
    const KIND: ProviderKind = ProviderKind::new("twilio");
    const CHANNELS: &[Channel] = &[Channel::Whatsapp];
    const JSON_BYTES: usize = MAX_SECRET
        + PublicUrl::MAX
        + BaseUrl::MAX
        + MAX_TEMPLATES * (MAX_TEMPLATE_NAME + 64)
        + 1_024;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let account_sid = object.required("accountSid", read::parsed(TwilioAccountSid::parse));
        let api_url = object.optional("apiUrl", read_host_url);
        let sender = read_twilio_sender(object);
        let status_callback = object.optional("statusCallback", |value| match reading.rules {
            Rules::Current => {
                read::parsed(PublicUrl::parse)(value).map(|url| url.as_str().to_owned())
            }
            // Saved before hosts and ports were checked. Twilio calls it, this service does not.
            Rules::Readable => read::text(1, PublicUrl::MAX)(value),
        });
        let templates = read_templates(object);
        let same_account = stored.is_some_and(|stored| {
            Some(&stored.account_sid) == account_sid.as_ref() && stored.api_url == api_url
        });
        let login = read_login(object, stored.map(|stored| &stored.login), same_account);
        Some(Self {
            account_sid: account_sid?,
            login: login?,
            sender: sender?,
            api_url,
            status_callback,
            templates: templates.unwrap_or_default(),
        })
    }
}

fn read_twilio_sender(object: &mut Object<'_>) -> Option<TwilioSender> {
    let number = object.optional("fromNumber", |value| {
        let text = read::string(value)?;
        // As Twilio's own console shows it.
        let number = text.strip_prefix("whatsapp:").unwrap_or(&text);
        PhoneNumber::parse(number).map_err(|error| error.to_string())
    });
    let no_service = object.is_missing("messagingServiceSid");
    let service = object.optional(
        "messagingServiceSid",
        read::parsed(MessagingServiceSid::parse),
    );
    if number.is_none() && no_service {
        object.missing(
            "fromNumber",
            "is required, unless there is a messagingServiceSid",
        );
    }
    match (number, service) {
        (Some(number), Some(service)) => Some(TwilioSender::NumberOfService(number, service)),
        (Some(number), None) => Some(TwilioSender::Number(number)),
        (None, Some(service)) => Some(TwilioSender::Service(service)),
        (None, None) => None,
    }
}

fn read_templates(object: &mut Object<'_>) -> Option<BTreeMap<String, ContentSid>> {
    object.object("templates", |templates| {
        Some(templates.rest(
            MAX_TEMPLATES,
            |name| (1..=MAX_TEMPLATE_NAME).contains(&name.len()),
            |value| read::parsed(ContentSid::parse)(value),
            &format!(
                "must be a content SID (HX and 32 hexadecimal digits) under a name of 1 to {MAX_TEMPLATE_NAME} bytes"
            ),
        ))
    })
}

fn read_login(
    object: &mut Object<'_>,
    stored: Option<&TwilioLogin>,
    same_account: bool,
) -> Option<TwilioLogin> {
    drop_unset(object, &["authToken", "apiKeySid", "apiKeySecret"]);
    let by_key = !object.is_missing("apiKeySid") || !object.is_missing("apiKeySecret");
    if by_key && !object.is_missing("authToken") {
        object.take("authToken");
        object.problem(
            "authToken",
            "stands beside an API key; send either authToken, or apiKeySid with apiKeySecret",
        );
    }
    if by_key {
        let sid = object.required("apiKeySid", read::parsed(TwilioApiKeySid::parse));
        let stored = stored.and_then(|stored| match stored {
            TwilioLogin::ApiKey {
                sid: stored,
                secret,
            } => Some(StoredSecret {
                secret,
                same_place: same_account && sid.as_ref() == Some(stored),
            }),
            TwilioLogin::AuthToken(_) => None,
        });
        let changed = "accountSid, apiKeySid or apiUrl";
        let secret = read_secret(object, "apiKeySecret", stored, changed);
        return Some(TwilioLogin::ApiKey {
            sid: sid?,
            secret: secret?,
        });
    }
    let stored = stored.and_then(|stored| match stored {
        TwilioLogin::AuthToken(secret) => Some(StoredSecret {
            secret,
            same_place: same_account,
        }),
        TwilioLogin::ApiKey { .. } => None,
    });
    read_secret(object, "authToken", stored, "accountSid or apiUrl").map(TwilioLogin::AuthToken)
}

impl ProviderConfig for TwilioConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let (number, service) = self.sender.parts();
        let mut json = json!({
            "accountSid": self.account_sid,
            "fromNumber": number.map(PhoneNumber::as_str),
            "messagingServiceSid": service,
            "apiUrl": url_json(self.api_url.as_ref()),
            "statusCallback": self.status_callback,
        });
        if !self.templates.is_empty() {
            json["templates"] = json!(self.templates);
        }
        match &self.login {
            TwilioLogin::AuthToken(token) => json["authToken"] = secret(token),
            TwilioLogin::ApiKey { sid, secret: key } => {
                json["apiKeySid"] = json!(sid);
                json["apiKeySecret"] = secret(key);
            }
        }
        json
    }

    fn account_key(&self) -> String {
        let sender = match &self.sender {
            TwilioSender::Number(number) => number.as_str().to_owned(),
            TwilioSender::Service(service) | TwilioSender::NumberOfService(_, service) => {
                service.to_string()
            }
        };
        format!("{}\n{}\n{sender}", Self::KIND, self.account_sid)
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        self.api_url.as_ref()
    }

    fn settings_bytes(&self) -> usize {
        self.templates.len() * TEMPLATE_BYTES
    }
}
