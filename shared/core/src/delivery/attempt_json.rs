//! Attempts and refused copies as JSON, in answers and in the ledger.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use super::{Attempt, AttemptOutcome, stored};
use crate::{
    failure::{Disposition, ErrorKind, ProviderCode},
    id::EntryId,
    provider::{CopyField, Position, ProviderKind, RefusedCopy},
};

impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Attempt", 13)?;
        json.serialize_field("provider", &self.provider)?;
        json.serialize_field("entry", &self.entry)?;
        json.serialize_field("position", &self.position)?;
        match &self.outcome {
            AttemptOutcome::Accepted { refused_copies } => {
                json.serialize_field("outcome", "accepted")?;
                if !refused_copies.is_empty() {
                    json.serialize_field("refusedCopies", refused_copies)?;
                }
            }
            AttemptOutcome::Failed {
                disposition,
                kind,
                code,
            } => {
                json.serialize_field("outcome", "failed")?;
                json.serialize_field("disposition", disposition)?;
                json.serialize_field("kind", kind)?;
                json.serialize_field("detail", kind.detail_of(*disposition))?;
                if let Some(code) = code {
                    json.serialize_field("code", code)?;
                }
            }
        }
        if let Some(at) = &self.at {
            json.serialize_field("at", at)?;
        }
        json.serialize_field(
            "durationMs",
            &u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        )?;
        if self.possible_duplicate {
            json.serialize_field("possibleDuplicate", &true)?;
        }
        if self.reply_to_dropped {
            json.serialize_field("replyTo", REPLY_TO_DROPPED)?;
        }
        json.end()
    }
}

/// The `replyTo` of an attempt without the Reply-To that was wanted.
const REPLY_TO_DROPPED: &str = "dropped";

impl Attempt {
    /// Reads the form that `Serialize` writes; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        let outcome = match text("outcome")? {
            "accepted" => AttemptOutcome::Accepted {
                refused_copies: match value.get("refusedCopies") {
                    Some(copies) => copies
                        .as_array()?
                        .iter()
                        .map(refused_copy_from_json)
                        .collect::<Option<_>>()?,
                    None => Vec::new(),
                },
            },
            "failed" => AttemptOutcome::Failed {
                disposition: Disposition::parse(text("disposition")?)?,
                kind: ErrorKind::parse(text("kind")?)?,
                code: code_from_json(value)?,
            },
            _ => return None,
        };
        Some(Self {
            provider: ProviderKind::parse(text("provider")?)?,
            entry: EntryId::parse(text("entry")?).ok()?,
            position: Position::parse(text("position")?)?,
            outcome,
            at: stored::time_from_json(value)?,
            duration: Duration::from_millis(value.get("durationMs")?.as_u64()?),
            possible_duplicate: match value.get("possibleDuplicate") {
                Some(flag) => flag.as_bool()?,
                None => false,
            },
            reply_to_dropped: match value.get("replyTo") {
                Some(what) => (what.as_str()? == REPLY_TO_DROPPED).then_some(true)?,
                None => false,
            },
        })
    }
}

/// The code of an attempt or a refused copy, which may have none.
#[allow(clippy::option_option, reason = "unreadable, absent, and there")]
fn code_from_json(value: &Value) -> Option<Option<ProviderCode>> {
    match value.get("code") {
        Some(code) => ProviderCode::parse(code.as_str()?).map(Some),
        None => Some(None),
    }
}

// `{"copy":"cc/0","code":"550 5.1.1"}`: the place in the request as a JSON pointer would have it.
impl Serialize for RefusedCopy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("RefusedCopy", 3)?;
        json.serialize_field("copy", &format!("{}/{}", self.field.as_str(), self.index))?;
        if let Some(code) = &self.code {
            json.serialize_field("code", code)?;
        }
        if self.is_unknown {
            json.serialize_field("outcome", UNKNOWN)?;
        }
        json.end()
    }
}

/// The outcome of a copy that may have gone out.
const UNKNOWN: &str = "unknown";

fn refused_copy_from_json(value: &Value) -> Option<RefusedCopy> {
    let (field, index) = value.get("copy")?.as_str()?.split_once('/')?;
    let field = [CopyField::Cc, CopyField::Bcc]
        .into_iter()
        .find(|known| known.as_str() == field)?;
    Some(RefusedCopy {
        field,
        index: index.parse().ok()?,
        code: code_from_json(value)?,
        is_unknown: match value.get("outcome") {
            Some(outcome) => outcome.as_str()? == UNKNOWN,
            None => false,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_read_back_as_they_were_written() {
        let failed = AttemptOutcome::Failed {
            disposition: Disposition::ProviderDown,
            kind: ErrorKind::Unauthenticated,
            code: ProviderCode::parse("535 5.7.8"),
        };
        let accepted = |refused_copies| AttemptOutcome::Accepted { refused_copies };
        let refused = vec![
            RefusedCopy {
                field: CopyField::Cc,
                index: 0,
                code: ProviderCode::parse("550 5.1.1"),
                is_unknown: false,
            },
            RefusedCopy {
                field: CopyField::Bcc,
                index: 11,
                code: None,
                is_unknown: true,
            },
        ];
        for (outcome, possible_duplicate) in [
            (accepted(Vec::new()), true),
            (accepted(refused), false),
            (failed, false),
        ] {
            let attempt = Attempt {
                provider: ProviderKind::new("smtp"),
                entry: EntryId::primary(),
                position: Position::Fallback(1),
                outcome,
                at: Some("2026-12-01T09:00:00.123Z".parse().unwrap()),
                duration: Duration::from_millis(12),
                possible_duplicate,
                reply_to_dropped: possible_duplicate,
            };
            let json = serde_json::to_value(&attempt).unwrap();
            assert_eq!(Attempt::from_json(&json), Some(attempt.clone()), "{json}");
            let stored = Attempt::to_stored(std::slice::from_ref(&attempt)).unwrap();
            assert!(
                !stored.contains("detail") && stored.contains("\"at\":1796115600123"),
                "{stored}"
            );
            let stored: Value = serde_json::from_str(&stored).unwrap();
            assert_eq!(Attempt::from_json(&stored[0]), Some(attempt), "{stored}");
        }
        assert_eq!(Attempt::from_json(&Value::Null), None);
    }

    #[test]
    fn an_unreadable_member_is_not_taken_for_an_absent_one() {
        let attempt = serde_json::json!({"provider": "smtp", "entry": "primary", "position": "primary",
            "outcome": "failed", "disposition": "final", "kind": "timeout", "code": "550 5.1.1", "durationMs": 1,
            "possibleDuplicate": true});
        assert!(Attempt::from_json(&attempt).is_some());
        for (name, wrong) in [
            ("code", serde_json::json!("planted@example.com")),
            ("code", Value::Null),
            ("possibleDuplicate", serde_json::json!("true")),
            ("replyTo", serde_json::json!("kept")),
            ("durationMs", serde_json::json!(-1)),
            ("at", serde_json::json!("yesterday")),
            ("at", Value::Null),
        ] {
            let mut attempt = attempt.clone();
            attempt[name] = wrong;
            assert_eq!(Attempt::from_json(&attempt), None, "{attempt}");
        }
    }
}
