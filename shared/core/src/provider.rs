//! Providers as the rest of the system names them: kind, place in the chain, receipt.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::failure::ProviderCode;

/// The provider behind an adapter, by its name in settings, ledger, logs and metrics.
///
/// The adapters' registry lists the providers. Data of another version of this service may name others and stays readable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderKind {
    /// The name, filled up with zeros.
    name: [u8; ProviderKind::LENGTH],
}

impl ProviderKind {
    /// Characters of a name.
    pub const LENGTH: usize = 24;

    /// A provider's name: 1 to [`ProviderKind::LENGTH`] of a-z, 0-9 and '_'.
    ///
    /// # Panics
    ///
    /// With any other text. Names are constants, so that this is found when they are compiled.
    pub const fn new(name: &'static str) -> Self {
        let kind = Self::parse(name);
        assert!(
            kind.is_some(),
            "a provider's name is 1 to 24 of a-z, 0-9 and '_'"
        );
        match kind {
            Some(kind) => kind,
            None => Self {
                name: [0; Self::LENGTH],
            },
        }
    }

    /// The kind with this name; `None` for a malformed one.
    pub const fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::LENGTH {
            return None;
        }
        let mut name = [0; Self::LENGTH];
        let mut index = 0;
        while index < bytes.len() {
            if !matches!(bytes[index], b'a'..=b'z' | b'0'..=b'9' | b'_') {
                return None;
            }
            name[index] = bytes[index];
            index += 1;
        }
        Some(Self { name })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0);
        let name = &self.name[..end.unwrap_or(Self::LENGTH)];
        // It is ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderKind({})", self.as_str())
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ProviderKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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

    /// The position in the form of [`Display`](fmt::Display).
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
    /// Whether it may have been sent: the provider received it and did not answer.
    pub is_unknown: bool,
}

/// The fields of a request that name recipients of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyField {
    /// `cc`: seen by the others.
    Cc,
    /// `bcc`, which no recipient sees.
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
    fn provider_reads_back_by_its_name_and_sorts_like_it() {
        let names = ["a", "aws_ses", "aws_ses2", "meta_business", "smtp", "x2"];
        let kinds = names.map(|name| ProviderKind::parse(name).unwrap());
        assert!(kinds.is_sorted());
        for (kind, name) in kinds.into_iter().zip(names) {
            assert_eq!((kind.as_str(), kind.to_string().as_str()), (name, name));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        let longest = "a".repeat(ProviderKind::LENGTH);
        assert_eq!(ProviderKind::parse(&longest).unwrap().as_str(), longest);
    }

    #[test]
    fn what_is_no_provider_name_is_not_read() {
        let too_long = "a".repeat(ProviderKind::LENGTH + 1);
        for text in ["", "SMTP", "a b", "a-b", "a\0", "\u{e9}", &too_long] {
            assert_eq!(ProviderKind::parse(text), None, "{text:?}");
        }
    }
}
