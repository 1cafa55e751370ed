//! Entries of the chain that were not tried because they were down.

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use crate::{
    failure::ErrorKind,
    id::EntryId,
    provider::{Position, ProviderKind},
};

/// An entry that was down and was not tried: another took the message first, or it refuses its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedEntry {
    /// The provider.
    pub provider: ProviderKind,
    /// The provider entry in the settings.
    pub entry: EntryId,
    /// Its place in the chain.
    pub position: Position,
    /// Since when it is down.
    pub since: Timestamp,
    /// What failed last.
    pub last_error: Option<ErrorKind>,
}

/// The only reason so far.
const DOWN: &str = "down";

// The same JSON in the ledger and in answers.
impl Serialize for SkippedEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("SkippedEntry", 6)?;
        json.serialize_field("provider", &self.provider)?;
        json.serialize_field("entry", &self.entry)?;
        json.serialize_field("position", &self.position)?;
        json.serialize_field("reason", DOWN)?;
        json.serialize_field("since", &self.since)?;
        if let Some(kind) = self.last_error {
            json.serialize_field("lastError", &kind)?;
        }
        json.end()
    }
}

impl SkippedEntry {
    /// Reads the form that `Serialize` writes; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        if text("reason")? != DOWN {
            return None;
        }
        Some(Self {
            provider: ProviderKind::parse(text("provider")?)?,
            entry: EntryId::parse(text("entry")?).ok()?,
            position: Position::parse(text("position")?)?,
            since: text("since")?.parse().ok()?,
            last_error: match value.get("lastError") {
                Some(kind) => Some(ErrorKind::parse(kind.as_str()?)?),
                None => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_entries_read_back() {
        for last_error in [None, Some(ErrorKind::Unauthenticated)] {
            let skipped = SkippedEntry {
                provider: ProviderKind::new("smtp"),
                entry: EntryId::primary(),
                position: Position::Primary,
                since: "2026-12-01T09:00:00.123456Z".parse().unwrap(),
                last_error,
            };
            let json = serde_json::to_value(&skipped).unwrap();
            assert_eq!(SkippedEntry::from_json(&json), Some(skipped));
        }
        assert_eq!(SkippedEntry::from_json(&Value::Null), None);
    }
}
