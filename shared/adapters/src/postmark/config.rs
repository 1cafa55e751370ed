//! Which Postmark server, which of its message streams, and as whom.

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

/// Characters of the id of a message stream. Postmark allows 30 (Message Streams API, `ID`).
const MAX_STREAM: usize = 30;

/// One Postmark server and one of its message streams.
#[derive(Clone)]
pub struct PostmarkConfig {
    /// The server's API token.
    pub server_token: Secret,
    /// Who the mail is from: a confirmed sender signature, or an address of a verified domain.
    pub from: OwnSender,
    /// The message stream; [`PostmarkConfig::DEFAULT_STREAM`] where none is set.
    pub message_stream: Option<String>,
    /// Where the API is, if not at [`PostmarkConfig::API_URL`].
    pub api_url: Option<BaseUrl>,
}

impl PostmarkConfig {
    /// Postmark's API, which is one for all accounts.
    pub const API_URL: &'static str = "https://api.postmarkapp.com";
    /// The transactional stream that every server has.
    pub const DEFAULT_STREAM: &'static str = "outbound";
}

impl fmt::Debug for PostmarkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostmarkConfig(…)")
    }
}

impl ReadConfig for PostmarkConfig {
    const KIND: ProviderKind = ProviderKind::new("postmark");
    const CHANNELS: &[Channel] = &[Channel::Email];
    const JSON_BYTES: usize = MAX_SECRET + BaseUrl::MAX + 1_024;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let api_url = object.optional("apiUrl", read_host_url);
        let from = read_sender(object, reading.rules);
        require_ascii(object, &from, "Postmark");
        let message_stream = object.optional("messageStream", read_stream);
        let stored = stored.map(|stored| StoredSecret {
            secret: &stored.server_token,
            same_place: stored.api_url == api_url,
        });
        let server_token = read_secret(object, "serverToken", stored, "apiUrl");
        Some(Self {
            server_token: server_token?,
            from,
            message_stream,
            api_url,
        })
    }
}

/// The id of a message stream: a letter, then letters, digits and '-' (Postmark API, error 1227).
fn read_stream(value: Value) -> Result<String, String> {
    let stream = read::string(value)?;
    let is_id = (1..=MAX_STREAM).contains(&stream.len())
        && stream.starts_with(|first: char| first.is_ascii_lowercase())
        && stream
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_id {
        Ok(stream)
    } else {
        Err(format!(
            "must be the id of a message stream: a letter, then a-z, 0-9 and '-', {MAX_STREAM} characters at most"
        ))
    }
}

impl ProviderConfig for PostmarkConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = json!({
            "serverToken": secret(&self.server_token),
            "messageStream": self.message_stream,
            "apiUrl": url_json(self.api_url.as_ref()),
        });
        sender_json(&mut json, &self.from);
        json
    }

    fn own_sender(&self) -> Option<&OwnSender> {
        Some(&self.from)
    }

    fn account_key(&self) -> String {
        account_of_key(Self::KIND, &self.server_token)
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        self.api_url.as_ref()
    }
}
