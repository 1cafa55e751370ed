//! Provider errors: their kind, and separately the consequence.
//!
//! An error has a [`Disposition`] (what to do), an [`ErrorKind`] (what happened) and the provider's
//! own code. It has no room for the provider's text: replies repeat addresses, and a
//! `&'static str` cannot.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};
use thiserror::Error;

/// What to do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Refused or never sent, may work soon: the same provider again, then the next.
    Transient,
    /// This provider cannot serve this tenant now: the next provider.
    ProviderDown,
    /// May have been accepted: the tenant's `onAmbiguous` policy decides.
    Ambiguous,
    /// The message or the recipient is at fault: no other provider is tried.
    Final,
}

impl Disposition {
    /// Every disposition.
    pub const ALL: [Self; 4] = [
        Self::Transient,
        Self::ProviderDown,
        Self::Ambiguous,
        Self::Final,
    ];

    /// The name in ledger, logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::ProviderDown => "provider_down",
            Self::Ambiguous => "ambiguous",
            Self::Final => "final",
        }
    }

    /// The disposition with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|disposition| disposition.as_str() == text)
    }
}

/// What to do about a [`Disposition::Transient`] failure when its retries are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AfterRetries {
    /// The next provider is tried.
    NextProvider,
    /// Nobody else is tried now; the same provider may take it later. For limits that concern this
    /// recipient alone, which another sender would only get around.
    Later,
    /// The server refused a connection, as far as it looks because others of the same login are open. There is no retry
    /// before one of those has ended.
    WhenConnectionFree,
    /// Nobody else is tried, and there is one retry at most: the provider does not say whether it
    /// or the message is at fault.
    GiveUp,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The recipient's address does not exist or does not take messages.
    InvalidRecipient,
    /// The message is malformed or over a limit.
    InvalidMessage,
    /// The template is missing, paused, or does not fit its parameters.
    TemplateInvalid,
    /// Refused by a policy: opt-out, country, spam, reply window.
    PolicyRefused,
    /// The credentials were refused, or the server could not prove who it is.
    Unauthenticated,
    /// The sender's identity is not verified or not allowed.
    SenderNotAllowed,
    /// The account is suspended, blocked or unpaid.
    AccountSuspended,
    /// The account's quota is used up.
    QuotaExceeded,
    /// Too many messages at once.
    RateLimited,
    /// The provider does not answer, or says that it cannot now.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// An answer that fits nothing known.
    Unexpected,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::InvalidRecipient,
        Self::InvalidMessage,
        Self::TemplateInvalid,
        Self::PolicyRefused,
        Self::Unauthenticated,
        Self::SenderNotAllowed,
        Self::AccountSuspended,
        Self::QuotaExceeded,
        Self::RateLimited,
        Self::Unavailable,
        Self::Timeout,
        Self::Unexpected,
    ];

    /// Whether people can mend it without a change of the message: a password, a bill, a sender's identity.
    pub const fn is_mendable(self) -> bool {
        match self {
            Self::Unauthenticated
            | Self::SenderNotAllowed
            | Self::AccountSuspended
            | Self::QuotaExceeded => true,
            Self::InvalidRecipient
            | Self::InvalidMessage
            | Self::TemplateInvalid
            | Self::PolicyRefused
            | Self::RateLimited
            | Self::Unavailable
            | Self::Timeout
            | Self::Unexpected => false,
        }
    }

    /// The name in ledger, logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRecipient => "invalid_recipient",
            Self::InvalidMessage => "invalid_message",
            Self::TemplateInvalid => "template_invalid",
            Self::PolicyRefused => "policy_refused",
            Self::Unauthenticated => "unauthenticated",
            Self::SenderNotAllowed => "sender_not_allowed",
            Self::AccountSuspended => "account_suspended",
            Self::QuotaExceeded => "quota_exceeded",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unexpected => "unexpected",
        }
    }

    /// The meaning and the remedy, for a reader who sees only the kind.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::InvalidRecipient => {
                "The recipient's address does not exist or does not take messages; check it."
            }
            Self::InvalidMessage => "The provider refused the message for its form or size.",
            Self::TemplateInvalid => {
                "The template is missing at the provider, paused, or does not fit its parameters."
            }
            Self::PolicyRefused => "The provider refused the message by a policy of its own.",
            Self::Unauthenticated => {
                "The provider refused the login, or could not prove who it is; a test of the settings says what it was."
            }
            Self::SenderNotAllowed => {
                "The provider does not let this account send from this sender; check the sender."
            }
            Self::AccountSuspended => "The provider has suspended the account; ask the provider.",
            Self::QuotaExceeded => "The account's quota at the provider is used up.",
            Self::RateLimited => "The provider was asked for too much at once.",
            Self::Unavailable => {
                "The provider could not be reached, or does not take messages at the moment."
            }
            Self::Timeout => "The provider did not answer in time.",
            Self::Unexpected => "The provider answered with what fits nothing known.",
        }
    }

    /// The same of an attempt that ended with this disposition.
    pub const fn detail_of(self, disposition: Disposition) -> &'static str {
        match (disposition, self) {
            (Disposition::Ambiguous, _) => {
                "The provider did not say whether it took the message; it may have."
            }
            (Disposition::ProviderDown, Self::InvalidRecipient) => {
                "This provider does not take the recipient's address; another may."
            }
            (Disposition::ProviderDown, Self::InvalidMessage) => {
                "This provider does not take the message for its form or size; another may."
            }
            (Disposition::Transient | Disposition::ProviderDown | Disposition::Final, _) => {
                self.detail()
            }
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A provider's own code for what happened (`535 5.7.8`, `131047`, `Throttling`): 1 to 64 of
/// `A-Z a-z 0-9 . _ -` and space, so that no address or text can pass for a code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderCode(String);

impl ProviderCode {
    /// Reads a code; `None` where the text does not look like one.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._- ".contains(&b));
        well_formed.then(|| Self(text.to_owned()))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ProviderCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A failed attempt of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {detail}{}", kind.as_str(), code.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())]
pub struct ProviderError {
    /// What to do about it.
    pub disposition: Disposition,
    /// What happened.
    pub kind: ErrorKind,
    /// The provider's own code, where it gave one.
    pub code: Option<ProviderCode>,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
    /// What to do when the retries of a transient failure are used up.
    pub after_retries: AfterRetries,
    /// Whether this counts against the provider's health for this tenant.
    pub unhealthy: bool,
    /// The meaning and the remedy for the clinic's admin. Fixed texts only.
    pub detail: &'static str,
}

impl ProviderError {
    /// An error without a code, which counts against the provider's health unless it is
    /// [`Disposition::Final`].
    pub const fn new(disposition: Disposition, kind: ErrorKind, detail: &'static str) -> Self {
        let unhealthy = match disposition {
            Disposition::Transient | Disposition::ProviderDown | Disposition::Ambiguous => true,
            Disposition::Final => false,
        };
        Self {
            disposition,
            kind,
            code: None,
            retry_after: None,
            after_retries: AfterRetries::NextProvider,
            unhealthy,
            detail,
        }
    }

    /// Adds the provider's code.
    #[must_use]
    pub fn with_code(mut self, code: Option<ProviderCode>) -> Self {
        self.code = code;
        self
    }

    /// Adds how long the provider is to be left alone.
    #[must_use]
    pub const fn with_retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// The disposition when the retries are used up.
    #[must_use]
    pub const fn after_retries(mut self, after_retries: AfterRetries) -> Self {
        self.after_retries = after_retries;
        self
    }

    /// Leaves the provider's health as it is.
    #[must_use]
    pub const fn health_unchanged(mut self) -> Self {
        self.unhealthy = false;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_agree_with_what_is_serialised() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for disposition in Disposition::ALL {
            assert_eq!(Disposition::parse(disposition.as_str()), Some(disposition));
            assert_eq!(
                serde_json::to_value(disposition).unwrap(),
                disposition.as_str()
            );
        }
    }

    #[test]
    fn an_address_is_not_a_code() {
        assert!(ProviderCode::parse("535 5.7.8").is_some());
        assert!(ProviderCode::parse("patient@example.com").is_none());
        assert!(ProviderCode::parse("").is_none());
        assert!(ProviderCode::parse(&"5".repeat(65)).is_none());
    }
}
