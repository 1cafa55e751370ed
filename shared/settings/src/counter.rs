//! The counter of a tenant's versions: how far they have come, which of them can be restored, and what is to be purged.
//!
//! It is an item of its own beside the settings, written in the transaction of every change, with a MAC by the
//! deployment's hash key. Settings that are not at its number, or are missing although there is a counter, were put
//! there or taken away by somebody else (`infra/docs/adr/0020-settings-are-authentic-as-a-whole.md`).

use std::fmt::Write as _;

use comms_aws::item::{number, optional_number, required_text, text};
use comms_core::{HashKey, Tenant, hash::Digest};
use jiff::Timestamp;

use crate::item::{Item, attribute, version_number};

/// The sort key of the counter.
pub(crate) const COUNTER: &str = "counter";
/// Versions of a tenant that keep their content, at most.
pub const MAX_KEPT_VERSIONS: usize = 100;
/// Bytes of the content of all kept versions of a tenant, at most.
pub const MAX_KEPT_BYTES: usize = 10_000_000;

/// What the MAC is for.
const PURPOSE: &str = "settings-counter";

/// A version that still has its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptVersion {
    pub(crate) number: u64,
    pub(crate) bytes: usize,
}

/// A purge that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purge {
    /// Versions up to this number are purged.
    pub(crate) through: u64,
    /// From then on nobody can restore them.
    pub(crate) at: Timestamp,
}

impl Purge {
    pub(crate) fn is_due(self, now: Timestamp) -> bool {
        self.at <= now
    }
}

/// How far a tenant's versions have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The highest number that was given.
    pub(crate) number: u64,
    /// The versions that can be restored, the oldest first.
    pub(crate) kept: Vec<KeptVersion>,
    pub(crate) purge: Option<Purge>,
}

/// The counter as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CounterState {
    Missing,
    /// Its MAC does not hold.
    Forged,
    Valid(Counter),
}

/// The number of a tenant's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CounterNumber {
    Missing,
    /// Its MAC does not hold.
    Forged,
    Number(u64),
}

impl From<&CounterState> for CounterNumber {
    fn from(state: &CounterState) -> Self {
        match state {
            CounterState::Missing => Self::Missing,
            CounterState::Forged => Self::Forged,
            CounterState::Valid(counter) => Self::Number(counter.number),
        }
    }
}

impl Counter {
    /// The counter after one more version, which has `bytes` of content or none, and the versions that lose theirs for
    /// it.
    pub(crate) fn next(&self, bytes: Option<usize>, now: Timestamp) -> (Self, Vec<u64>) {
        let number = self.number + 1;
        let mut next = Self {
            number,
            kept: self.kept.clone(),
            purge: self.purge,
        };
        let mut dropped = next.end_due_purge(now);
        next.kept
            .extend(bytes.map(|bytes| KeptVersion { number, bytes }));
        dropped.extend(next.trim());
        (next, dropped)
    }

    /// Carries out a purge that is due. Gives the versions that lose their content by it.
    pub(crate) fn end_due_purge(&mut self, now: Timestamp) -> Vec<u64> {
        let Some(purge) = self.purge.take_if(|purge| purge.is_due(now)) else {
            return Vec::new();
        };
        let is_due = |kept: &mut KeptVersion| kept.number <= purge.through;
        let ended = self.kept.extract_if(.., is_due);
        ended.map(|kept| kept.number).collect()
    }

    /// Whether the version `number` is under a purge that can still be undone.
    pub(crate) fn is_purge_pending(&self, number: u64, now: Timestamp) -> bool {
        self.purge
            .is_some_and(|purge| number <= purge.through && !purge.is_due(now))
    }

    /// Takes back the purge that the version `number` is under, if it can still be undone.
    pub(crate) fn take_pending_purge(&mut self, number: u64, now: Timestamp) -> Option<Purge> {
        let is_pending = self.is_purge_pending(number, now);
        self.purge.take_if(|_| is_pending)
    }

    /// Lets the oldest versions go until the rest keeps to the limits. The newest one always stays.
    pub(crate) fn trim(&mut self) -> Vec<u64> {
        let mut total: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        let excess = self
            .kept
            .iter()
            .enumerate()
            .take_while(|(index, kept)| {
                let count = self.kept.len() - index;
                let is_over = count > 1 && (count > MAX_KEPT_VERSIONS || total > MAX_KEPT_BYTES);
                total -= if is_over { kept.bytes } else { 0 };
                is_over
            })
            .count();
        self.kept.drain(..excess).map(|kept| kept.number).collect()
    }

    /// Whether the version `number` can be restored.
    pub(crate) fn keeps(&self, number: u64, now: Timestamp) -> bool {
        let is_purged = self
            .purge
            .is_some_and(|purge| number <= purge.through && purge.is_due(now));
        !is_purged && self.kept.iter().any(|kept| kept.number == number)
    }

    pub(crate) fn to_item(&self, tenant: &Tenant, key: &HashKey) -> Item {
        let kept = kept_text(&self.kept);
        let mut item = Item::from([
            text(attribute::PK, tenant.as_str()),
            text(attribute::SK, COUNTER),
            number(attribute::VERSION, self.number),
            text(attribute::KEPT, &kept),
            text(
                attribute::MAC,
                &mac(tenant, self.number, &kept, self.purge, key).hex128(),
            ),
        ]);
        if let Some(purge) = self.purge {
            item.extend([
                number(attribute::PURGE_THROUGH, purge.through),
                number(attribute::PURGE_AT, purge.at.as_second()),
            ]);
        }
        item
    }

    /// Reads the counter of `tenant`; `None` where it is not one that was written with `key`.
    pub(crate) fn from_item(item: &Item, tenant: &Tenant, key: &HashKey) -> Option<Self> {
        let version = version_number(item).ok()?;
        let kept = required_text(item, attribute::KEPT).ok()?;
        let found = required_text(item, attribute::MAC).ok()?;
        let number = |name| optional_number::<i64>(item, name).ok();
        let purge = match (
            number(attribute::PURGE_THROUGH)?,
            number(attribute::PURGE_AT)?,
        ) {
            (None, None) => None,
            (Some(through), Some(at)) => Some(Purge {
                through: u64::try_from(through).ok()?,
                at: Timestamp::from_second(at).ok()?,
            }),
            (Some(_), None) | (None, Some(_)) => return None,
        };
        mac(tenant, version, kept, purge, key)
            .is_hex128(found)
            .then_some(())?;
        Some(Self {
            number: version,
            kept: read_kept(kept)?,
            purge,
        })
    }
}

impl CounterState {
    pub(crate) fn of(item: Option<&Item>, tenant: &Tenant, key: Option<&HashKey>) -> Self {
        match (item, key) {
            (None, _) => Self::Missing,
            (Some(_), None) => Self::Forged,
            (Some(item), Some(key)) => {
                Counter::from_item(item, tenant, key).map_or(Self::Forged, Self::Valid)
            }
        }
    }

    pub(crate) const fn valid(&self) -> Option<&Counter> {
        match self {
            Self::Valid(counter) => Some(counter),
            Self::Missing | Self::Forged => None,
        }
    }
}

fn mac(tenant: &Tenant, number: u64, kept: &str, purge: Option<Purge>, key: &HashKey) -> Digest {
    let purge = purge.map_or_else(String::new, |purge| {
        format!("{}:{}", purge.through, purge.at.as_second())
    });
    let parts: [&[u8]; 4] = [
        tenant.as_str().as_bytes(),
        &number.to_be_bytes(),
        kept.as_bytes(),
        purge.as_bytes(),
    ];
    key.digest(PURPOSE, &parts)
}

/// `NUMBER:BYTES` of each, separated by commas.
fn kept_text(kept: &[KeptVersion]) -> String {
    let mut text = String::new();
    for KeptVersion { number, bytes } in kept {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}{number}:{bytes}");
    }
    text
}

fn read_kept(text: &str) -> Option<Vec<KeptVersion>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (number, bytes) = part.split_once(':')?;
            Some(KeptVersion {
                number: number.parse().ok()?,
                bytes: bytes.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn counter() -> Counter {
        Counter {
            number: 9,
            kept: vec![
                KeptVersion {
                    number: 7,
                    bytes: 300,
                },
                KeptVersion {
                    number: 9,
                    bytes: 40,
                },
            ],
            purge: Some(Purge {
                through: 7,
                at: now(),
            }),
        }
    }

    #[test]
    fn a_counter_is_read_as_it_was_written_and_not_when_anything_differs() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let key = HashKey::from_bytes(&[1; 32]);
        let item = counter().to_item(&tenant, &key);
        assert_eq!(Counter::from_item(&item, &tenant, &key), Some(counter()));
        let other = Tenant::parse("clinic-2").unwrap();
        assert_eq!(Counter::from_item(&item, &other, &key), None);
        let another_key = HashKey::from_bytes(&[2; 32]);
        assert_eq!(Counter::from_item(&item, &tenant, &another_key), None);
        for name in ["version", "kept", "mac", "purgeThrough", "purgeAt"] {
            let mut without = item.clone();
            without.remove(name);
            assert_eq!(Counter::from_item(&without, &tenant, &key), None, "{name}");
            let mut changed = item.clone();
            changed.insert(name.to_owned(), AttributeValue::N("8".to_owned()));
            assert_eq!(Counter::from_item(&changed, &tenant, &key), None, "{name}");
        }
    }

    #[test]
    fn the_hundred_newest_versions_keep_their_content() {
        let mut counter = Counter {
            number: 0,
            kept: Vec::new(),
            purge: None,
        };
        for number in 1..=MAX_KEPT_VERSIONS as u64 + 2 {
            let (next, dropped) = counter.next(Some(1), now());
            let over = number.saturating_sub(MAX_KEPT_VERSIONS as u64);
            let expected = if over > 0 { vec![over] } else { vec![] };
            assert_eq!(dropped, expected, "{number}");
            counter = next;
        }
        assert_eq!(counter.kept.len(), MAX_KEPT_VERSIONS);
        let (deleted, dropped) = counter.next(None, now());
        assert_eq!((deleted.kept, dropped), (counter.kept, vec![]));
    }

    #[test]
    fn kept_versions_have_ten_megabytes_together_and_the_newest_always_stays() {
        let kept = |number, bytes| KeptVersion { number, bytes };
        let counter = Counter {
            number: 3,
            kept: vec![kept(1, 10), kept(2, MAX_KEPT_BYTES - 10), kept(3, 0)],
            purge: None,
        };
        assert_eq!(counter.next(Some(10), now()).1, [1]);
        assert_eq!(counter.next(Some(11), now()).1, [1, 2]);
        let (next, dropped) = counter.next(Some(MAX_KEPT_BYTES + 1), now());
        assert_eq!((next.kept.len(), dropped), (1, vec![1, 2, 3]));
    }

    #[test]
    fn purged_versions_are_kept_until_the_period_is_over() {
        let counter = counter();
        let before = now() - jiff::SignedDuration::from_secs(1);
        assert!(counter.keeps(7, before) && counter.keeps(9, before));
        assert!(!counter.keeps(7, now()) && counter.keeps(9, now()));
        assert!(!counter.keeps(8, before), "it has no content");
        let (next, dropped) = counter.next(Some(1), before);
        assert_eq!((next.purge, dropped), (counter.purge, vec![]));
        let (next, dropped) = counter.next(Some(1), now());
        assert_eq!((next.purge, dropped), (None, vec![7]));
    }
}
