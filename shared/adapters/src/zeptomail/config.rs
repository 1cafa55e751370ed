//! Which mail agent of ZeptoMail, in which data center, and as whom.

use std::fmt;

use comms_core::{
    BaseUrl, Channel, ProviderKind, Secret,
    json::{Object, read},
};
use serde_json::{Value, json};

use crate::config::{
    OwnSender, ProviderConfig, ReadConfig, account_of_key,
    read::{
        MAX_SECRET, Reading, StoredSecret, read_host_url, read_secret, read_sender, require_ascii,
        sender_json, url_json,
    },
};

/// One mail agent of a ZeptoMail account.
#[derive(Clone)]
pub struct ZeptomailConfig {
    /// The agent's send mail token, with or without the scheme that ZeptoMail's page shows before it.
    pub send_mail_token: Secret,
    /// Who the mail is from: an address of a domain that is verified for the agent.
    pub from: OwnSender,
    /// The data center of the account.
    pub region: Region,
    /// Where the API is, if not at the region's own host.
    pub api_url: Option<BaseUrl>,
}

/// A data center of Zoho's. An account is in one of them, and its tokens are good nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// United States.
    Com,
    /// European Union.
    Eu,
    /// India.
    In,
    /// Australia.
    ComAu,
    /// Japan.
    Jp,
    /// Saudi Arabia.
    Sa,
    /// Canada.
    Ca,
}

impl Region {
    const ALL: [Self; 7] = [
        Self::Com,
        Self::Eu,
        Self::In,
        Self::ComAu,
        Self::Jp,
        Self::Sa,
        Self::Ca,
    ];

    /// The name in settings: the domain below which Zoho has the data center.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Com => "com",
            Self::Eu => "eu",
            Self::In => "in",
            Self::ComAu => "com.au",
            Self::Jp => "jp",
            Self::Sa => "sa",
            Self::Ca => "ca",
        }
    }

    /// Where its API is.
    pub(super) const fn api_url(self) -> &'static str {
        match self {
            Self::Com => "https://api.zeptomail.com",
            Self::Eu => "https://api.zeptomail.eu",
            Self::In => "https://api.zeptomail.in",
            Self::ComAu => "https://api.zeptomail.com.au",
            Self::Jp => "https://api.zeptomail.jp",
            Self::Sa => "https://api.zeptomail.sa",
            Self::Ca => "https://api.zeptomail.ca",
        }
    }
}

impl fmt::Debug for ZeptomailConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZeptomailConfig(…)")
    }
}

impl ReadConfig for ZeptomailConfig {
    const KIND: ProviderKind = ProviderKind::new("zeptomail");
    const CHANNELS: &[Channel] = &[Channel::Email];
    const JSON_BYTES: usize = MAX_SECRET + BaseUrl::MAX + 1_024;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let api_url = object.optional("apiUrl", read_host_url);
        let from = read_sender(object, reading.rules);
        require_ascii(object, &from, "ZeptoMail");
        let names = Region::ALL.map(|region| (region.as_str(), region));
        let region = object.optional("region", read::one_of(&names));
        let region = region.unwrap_or(Region::Com);
        let stored = stored.map(|stored| StoredSecret {
            secret: &stored.send_mail_token,
            same_place: stored.api_url == api_url && stored.region == region,
        });
        let token = read_secret(object, "sendMailToken", stored, "region or apiUrl");
        Some(Self {
            send_mail_token: token?,
            from,
            region,
            api_url,
        })
    }
}

impl ProviderConfig for ZeptomailConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = json!({
            "sendMailToken": secret(&self.send_mail_token),
            "region": self.region.as_str(),
            "apiUrl": url_json(self.api_url.as_ref()),
        });
        sender_json(&mut json, &self.from);
        json
    }

    fn own_sender(&self) -> Option<&OwnSender> {
        Some(&self.from)
    }

    fn account_key(&self) -> String {
        account_of_key(Self::KIND, &self.send_mail_token)
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        self.api_url.as_ref()
    }
}
