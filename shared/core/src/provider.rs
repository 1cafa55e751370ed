//! Providers as the rest of the system names them: kind, place in the chain, receipt.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{channel::Channel, failure::ProviderCode};

/// The company or server behind an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// A mail server, by SMTP submission.
    Smtp,
    /// Amazon Simple Email Service, API v2.
    AwsSes,
    /// Twilio SendGrid, API v3.
    Sendgrid,
    /// Meta WhatsApp Business Cloud API.
    MetaBusiness,
    /// Twilio Programmable Messaging, WhatsApp.
    Twilio,
}

impl ProviderKind {
    /// Every provider, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::Smtp,
        Self::AwsSes,
        Self::Sendgrid,
        Self::MetaBusiness,
        Self::Twilio,
    ];

    /// The provider with that name in the settings. Platforms that moved over know SES as `ses`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ses" => Some(Self::AwsSes),
            _ => Self::ALL.into_iter().find(|kind| kind.as_str() == text),
        }
    }

    /// The name in settings, ledger, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::AwsSes => "aws_ses",
            Self::Sendgrid => "sendgrid",
            Self::MetaBusiness => "meta_business",
            Self::Twilio => "twilio",
        }
    }

    /// The channel that the provider serves.
    pub const fn channel(self) -> Channel {
        match self {
            Self::Smtp | Self::AwsSes | Self::Sendgrid => Channel::Email,
            Self::MetaBusiness | Self::Twilio => Channel::Whatsapp,
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where in the chain a provider entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// The tenant's primary provider.
    Primary,
    /// A fallback, counted from 0 as in the settings.
    Fallback(u8),
    /// The global account's primary provider.
    Global,
    /// A fallback of the global account, counted from 0.
    GlobalFallback(u8),
}

impl Position {
    /// The same place in the chain of the global account.
    #[must_use]
    pub const fn of_global(self) -> Self {
        match self {
            Self::Primary | Self::Global => Self::Global,
            Self::Fallback(n) | Self::GlobalFallback(n) => Self::GlobalFallback(n),
        }
    }

    /// Whether the entry belongs to the global account.
    pub const fn is_global(self) -> bool {
        match self {
            Self::Primary | Self::Fallback(_) => false,
            Self::Global | Self::GlobalFallback(_) => true,
        }
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.strip_suffix(']')?.parse().ok();
        match text {
            "primary" => Some(Self::Primary),
            "global" => Some(Self::Global),
            _ => {
                if let Some(rest) = text.strip_prefix("fallback[") {
                    number(rest).map(Self::Fallback)
                } else {
                    number(text.strip_prefix("global.fallback[")?).map(Self::GlobalFallback)
                }
            }
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Fallback(n) => write!(f, "fallback[{n}]"),
            Self::Global => f.write_str("global"),
            Self::GlobalFallback(n) => write!(f, "global.fallback[{n}]"),
        }
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A provider's acceptance of a message. Not yet a delivery: bounces come later, by other ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The provider's id of the message; for SMTP the `Message-ID` it was sent with.
    pub message_id: String,
    /// Those of the copies that the provider refused while it took the message.
    pub refused_copies: Vec<RefusedCopy>,
}

impl Receipt {
    /// A receipt for the message with all its copies.
    pub const fn new(message_id: String) -> Self {
        Self {
            message_id,
            refused_copies: Vec::new(),
        }
    }
}

/// A copy (`cc`, `bcc`) that does not go out although the message does. By its place in the request:
/// its address is the patient's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCopy {
    /// The field of the request.
    pub field: CopyField,
    /// Where in that field, from 0.
    pub index: u8,
    /// The provider's code.
    pub code: Option<ProviderCode>,
    /// Whether it may have gone out after all: the provider was given it, and did not say what became of it.
    pub is_unknown: bool,
}

/// The fields of a request that name receivers of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyField {
    /// `cc`: seen by the others.
    Cc,
    /// `bcc`: seen by nobody.
    Bcc,
}

impl CopyField {
    /// The name in requests, ledger and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cc => "cc",
            Self::Bcc => "bcc",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_reads_back_as_it_was_written() {
        for position in [
            Position::Primary,
            Position::Fallback(3),
            Position::Global,
            Position::GlobalFallback(0),
        ] {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        for text in [
            "",
            "fallback",
            "fallback[",
            "fallback[x]",
            "fallback[256]",
            "global.primary",
        ] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_provider_reads_back_by_its_name() {
        for kind in ProviderKind::ALL {
            assert_eq!(ProviderKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(ProviderKind::parse("ses"), Some(ProviderKind::AwsSes));
    }
}
