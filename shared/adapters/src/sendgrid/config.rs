//! Which SendGrid account, and as whom.

use std::fmt;

use comms_core::{BaseUrl, Mailbox, Secret};

/// What is needed to send through one SendGrid account.
#[derive(Clone)]
pub struct SendgridSettings {
    /// An API key with the scope `mail.send`.
    pub api_key: Secret,
    /// Who the mail is from: a verified sender, or an address of an authenticated domain.
    pub sender: Mailbox,
    /// Where the API is: [`SendgridSettings::GLOBAL_URL`] or [`SendgridSettings::EU_URL`].
    pub api_url: BaseUrl,
    /// Whether messages are checked and not sent (`mail_settings.sandbox_mode`).
    pub sandbox: bool,
}

impl SendgridSettings {
    /// The API of accounts and subusers without a region.
    pub const GLOBAL_URL: &'static str = "https://api.sendgrid.com";
    /// The API of EU regional subusers, whose keys are good nowhere else.
    pub const EU_URL: &'static str = "https://api.eu.sendgrid.com";
}

impl fmt::Debug for SendgridSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendgridSettings(…)")
    }
}
