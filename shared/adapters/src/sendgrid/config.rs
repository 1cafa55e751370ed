//! Which SendGrid account, and as whom.

use std::fmt;

use comms_core::{
    BaseUrl, Channel, ProviderKind, Secret,
    json::{Object, read},
};
use serde_json::{Value, json};

use crate::config::{
    OwnSender, ProviderConfig, ReadConfig, account_of_key,
    read::{
        MAX_SECRET, Reading, Rules, StoredSecret, read_host_url, read_secret, read_sender,
        require_ascii, sender_json, url_json,
    },
};

/// One SendGrid account.
#[derive(Clone)]
pub struct SendgridConfig {
    /// An API key with the scope `mail.send`.
    pub api_key: Secret,
    /// Who the mail is from: a verified sender, or an address of an authenticated domain.
    pub from: OwnSender,
    /// Where the API is, if not at [`SendgridConfig::GLOBAL_URL`].
    pub api_url: Option<BaseUrl>,
    /// Whether messages are checked and not sent (`mail_settings.sandbox_mode`).
    pub sandbox: bool,
}

impl SendgridConfig {
    /// The API of accounts and subusers without a region. EU regional subusers, whose keys are good nowhere else, have
    /// `https://api.eu.sendgrid.com`.
    pub const GLOBAL_URL: &'static str = "https://api.sendgrid.com";
}

impl fmt::Debug for SendgridConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridConfig(…)")
    }
}

impl ReadConfig for SendgridConfig {
    const KIND: ProviderKind = ProviderKind::new("sendgrid");
    const CHANNELS: &[Channel] = &[Channel::Email];
    const JSON_BYTES: usize = MAX_SECRET + BaseUrl::MAX + 1_024;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let api_url = object.optional("apiUrl", read_host_url);
        let from = read_sender(object, reading.rules);
        if reading.rules == Rules::Current {
            require_ascii(object, &from, "SendGrid");
        }
        let sandbox = object.optional("sandbox", read::flag);
        let stored = stored.map(|stored| StoredSecret {
            secret: &stored.api_key,
            same_place: stored.api_url == api_url,
        });
        let api_key = read_secret(object, "apiKey", stored, "apiUrl");
        Some(Self {
            api_key: api_key?,
            from,
            api_url,
            sandbox: sandbox.unwrap_or(false),
        })
    }
}

impl ProviderConfig for SendgridConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = json!({
            "apiKey": secret(&self.api_key),
            "apiUrl": url_json(self.api_url.as_ref()),
            "sandbox": self.sandbox,
        });
        sender_json(&mut json, &self.from);
        json
    }

    fn own_sender(&self) -> Option<&OwnSender> {
        Some(&self.from)
    }

    fn account_key(&self) -> String {
        account_of_key(Self::KIND, &self.api_key)
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        self.api_url.as_ref()
    }
}
