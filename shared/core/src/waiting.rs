//! What a queued delivery waits for, as ledger and answers say it.

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use crate::{EntryId, ErrorKind, Position};

/// What a queued delivery waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The cause of the wait.
    pub reason: WaitReason,
    /// Since when it waits for that.
    pub since: Timestamp,
}

/// The cause of a delivery's wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Every provider refuses the clinic until somebody changes something: a password, a bill, a sender.
    Provider {
        /// The error of the first such provider of the chain.
        kind: ErrorKind,
        /// Its entry in the settings.
        entry: EntryId,
        /// Whose entry it is, and where in the chain; unknown of earlier releases.
        position: Option<Position>,
        /// When the delivery fails if nothing changes.
        until: Timestamp,
    },
    /// A limit of the clinic or of the platform's account is used up.
    Quota,
    /// The rate limit of the next provider is used up for now.
    Pacing,
}

impl WaitReason {
    /// The name in ledger and answers.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Provider { .. } => "provider",
            Self::Quota => "quota",
            Self::Pacing => "pacing",
        }
    }

    /// Whether it is for the same: of providers, the same entry that says the same.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Provider {
                    kind,
                    entry,
                    position,
                    ..
                },
                Self::Provider {
                    kind: other_kind,
                    entry: other_entry,
                    position: other_position,
                    ..
                },
            ) => {
                let is_same_owner = position.is_none()
                    || other_position.is_none()
                    || position.map(Position::is_global) == other_position.map(Position::is_global);
                kind == other_kind && entry == other_entry && is_same_owner
            }
            (Self::Quota, Self::Quota) | (Self::Pacing, Self::Pacing) => true,
            (Self::Provider { .. } | Self::Quota | Self::Pacing, _) => false,
        }
    }
}

impl Waiting {
    /// Waits for `reason` from `now` on, or since the time that `before` says where it is for the same.
    pub fn after(before: Option<&Self>, reason: WaitReason, now: Timestamp) -> Self {
        let same = before.filter(|before| before.reason.is_like(&reason));
        Self {
            since: same.map_or(now, |before| before.since),
            reason,
        }
    }

    /// Reads the form that `Serialize` writes; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        let time = |name: &str| text(name)?.parse::<Timestamp>().ok();
        let reason = match text("for")? {
            "provider" => WaitReason::Provider {
                kind: ErrorKind::parse(text("kind")?)?,
                entry: EntryId::parse(text("entry")?).ok()?,
                position: match value.get("position") {
                    Some(position) => Some(Position::parse(position.as_str()?)?),
                    None => None,
                },
                until: time("until")?,
            },
            "quota" => WaitReason::Quota,
            "pacing" => WaitReason::Pacing,
            _ => return None,
        };
        Some(Self {
            reason,
            since: time("since")?,
        })
    }
}

impl Serialize for Waiting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Waiting", 7)?;
        json.serialize_field("for", self.reason.as_str())?;
        match &self.reason {
            WaitReason::Provider {
                kind,
                entry,
                position,
                until,
            } => {
                json.serialize_field("kind", kind)?;
                json.serialize_field("detail", kind.detail())?;
                json.serialize_field("entry", entry)?;
                if let Some(position) = position {
                    json.serialize_field("position", position)?;
                }
                json.serialize_field("since", &self.since)?;
                json.serialize_field("until", until)?;
            }
            WaitReason::Quota | WaitReason::Pacing => {
                json.serialize_field("since", &self.since)?;
            }
        }
        json.end()
    }
}

/// What a delivery waited for last, before it was tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    waiting: Waiting,
    until: Timestamp,
}

impl Waited {
    /// What it waited for, and since when.
    pub const fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// When the wait was over.
    pub const fn ended_at(&self) -> Timestamp {
        self.until
    }

    /// A wait that was over at `until`.
    pub fn until(waiting: Waiting, until: Timestamp) -> Self {
        let reason = match waiting.reason {
            // When the delivery would have failed does not matter any more.
            WaitReason::Provider {
                kind,
                entry,
                position,
                ..
            } => WaitReason::Provider {
                kind,
                entry,
                position,
                until,
            },
            reason @ (WaitReason::Quota | WaitReason::Pacing) => reason,
        };
        let waiting = Waiting { reason, ..waiting };
        Self { waiting, until }
    }

    /// Reads the form that `Serialize` writes; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        let waiting = Waiting::from_json(value)?;
        let until = value.get("until")?.as_str()?.parse().ok()?;
        Some(Self::until(waiting, until))
    }
}

impl Serialize for Waited {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Waited", 7)?;
        json.serialize_field("for", self.waiting.reason.as_str())?;
        if let WaitReason::Provider {
            kind,
            entry,
            position,
            ..
        } = &self.waiting.reason
        {
            json.serialize_field("kind", kind)?;
            json.serialize_field("detail", kind.detail())?;
            json.serialize_field("entry", entry)?;
            if let Some(position) = position {
                json.serialize_field("position", position)?;
            }
        }
        json.serialize_field("since", &self.waiting.since)?;
        json.serialize_field("until", &self.until)?;
        json.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn provider(kind: ErrorKind, until: i64) -> WaitReason {
        WaitReason::Provider {
            kind,
            entry: EntryId::primary(),
            position: Some(Position::Global),
            until: time(until),
        }
    }

    #[test]
    fn a_wait_reads_back_as_it_was_written_and_not_when_a_part_is_missing() {
        for reason in [
            provider(ErrorKind::Unauthenticated, 9),
            WaitReason::Quota,
            WaitReason::Pacing,
        ] {
            let waiting = Waiting {
                reason,
                since: time(1),
            };
            let json = serde_json::to_value(&waiting).unwrap();
            assert_eq!(Waiting::from_json(&json), Some(waiting), "{json}");
            for name in ["for", "kind", "entry", "since", "until"] {
                let mut without = json.clone();
                if without.as_object_mut().unwrap().remove(name).is_some() {
                    assert_eq!(Waiting::from_json(&without), None, "{without}");
                }
            }
        }
    }

    #[test]
    fn a_wait_that_is_over_reads_back_as_it_was_written() {
        for reason in [
            provider(ErrorKind::Unauthenticated, 9),
            WaitReason::Quota,
            WaitReason::Pacing,
        ] {
            let since = time(1);
            let waited = Waited::until(Waiting { reason, since }, time(5));
            let json = serde_json::to_value(&waited).unwrap();
            assert_eq!(json["until"], "1970-01-01T00:00:05Z");
            assert_eq!(Waited::from_json(&json), Some(waited), "{json}");
            let mut without = json.clone();
            without.as_object_mut().unwrap().remove("until");
            assert_eq!(Waited::from_json(&without), None, "{without}");
        }
    }

    #[test]
    fn the_same_wait_began_when_it_began_first() {
        let refused = provider(ErrorKind::Unauthenticated, 100);
        let first = Waiting::after(None, refused.clone(), time(5));
        assert_eq!(
            Waiting::after(Some(&first), refused, time(9)).since,
            time(5)
        );
        let other = provider(ErrorKind::AccountSuspended, 100);
        assert_eq!(Waiting::after(Some(&first), other, time(9)).since, time(9));
        let quota = Waiting::after(Some(&first), WaitReason::Quota, time(9));
        assert_eq!(quota.since, time(9));
    }
}
