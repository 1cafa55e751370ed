//! What processes tell each other about the connections that a server allows one login: a record beside the permits,
//! with a MAC under the deployment's hash key. A record without its MAC counts for nothing.

use aws_sdk_dynamodb::types::AttributeValue;
use comms_aws::{
    Item,
    item::{find_number, number_value},
};
use comms_core::{HashKey, hash::Digest};
use jiff::{SignedDuration, Timestamp};

/// Connections that a login may have before anything is known of its server: as many as Dovecot allows by default
/// (`mail_max_userip_connections`).
pub const FIRST_LIMIT: u32 = 10;
/// A server that took so many connections of a login at the same time, and refused none, is taken for one without a limit.
/// Most mail servers that have a limit have a lower one; one that allows a few more is found by its first refusal.
pub(super) const UNLIMITED_FROM: u32 = 2 * FIRST_LIMIT;
/// How long after the first refusal one more connection is tried. Each further refusal doubles that, up to
/// [`MAX_RAISE_AFTER`]: a limit that was found too low costs little, and one that is right a refusal now and then.
const MIN_RAISE_AFTER: SignedDuration = SignedDuration::from_secs(5);
const MAX_RAISE_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// Refusals within this time are of the same moment.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(3);
/// How long a record counts. A limit that is raised meanwhile is found by trying; one that was lowered, by a refusal.
pub(super) const RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);
/// By how much two processes' clocks may differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

const STATE: &str = "limitState";
const CONNECTIONS: &str = "limitConnections";
const SINCE: &str = "limitSince";
const RAISE_AFTER: &str = "limitRaiseAfter";
const MAC: &str = "limitMac";
const EXPIRES_AT: &str = "expiresAt";

/// How sure a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitState {
    /// The server refused none so far: the limit doubles when all connections are in use.
    Growing,
    /// The server refused one more than this.
    Reached,
    /// The server took [`UNLIMITED_FROM`] at the same time.
    Unlimited,
}

impl LimitState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Reached => "reached",
            Self::Unlimited => "unlimited",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Growing, Self::Reached, Self::Unlimited]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// What was found out about a login's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRecord {
    /// How sure it is.
    pub state: LimitState,
    /// Connections at the same time.
    pub connections: u32,
    /// Since when.
    pub since: Timestamp,
    /// How long after `since` one more is tried.
    pub raise_after: SignedDuration,
}

impl LimitRecord {
    /// The record in an item: `Ok(None)` if there is none, an error if its MAC is wrong.
    pub(super) fn of_item(
        item: &Item,
        account: &str,
        key: &HashKey,
    ) -> Result<Option<Self>, Forged> {
        if !item.contains_key(STATE) {
            return Ok(None);
        }
        let text = |name: &str| item.get(name)?.as_s().ok();
        let record = || {
            let since = find_number(item, SINCE)?;
            Some(Self {
                state: LimitState::parse(text(STATE)?)?,
                connections: find_number(item, CONNECTIONS)?,
                since: Timestamp::from_microsecond(since).ok()?,
                raise_after: SignedDuration::from_secs(find_number(item, RAISE_AFTER)?),
            })
        };
        let record = record().filter(|record| {
            text(MAC).is_some_and(|given| record.mac(account, key).is_hex128(given))
        });
        record.map(Some).ok_or(Forged)
    }

    /// The same as attributes of an item.
    pub(super) fn attributes(
        &self,
        account: &str,
        key: &HashKey,
        now: Timestamp,
    ) -> Vec<(&'static str, AttributeValue)> {
        let kept_until = now.saturating_add(RETENTION).unwrap_or(Timestamp::MAX);
        vec![
            (STATE, AttributeValue::S(self.state.as_str().to_owned())),
            (CONNECTIONS, number_value(self.connections)),
            (SINCE, number_value(self.since.as_microsecond())),
            (RAISE_AFTER, number_value(self.raise_after.as_secs())),
            (MAC, AttributeValue::S(self.mac(account, key).hex128())),
            (EXPIRES_AT, number_value(kept_until.as_second())),
        ]
    }

    fn mac(&self, account: &str, key: &HashKey) -> Digest {
        let parts = [
            account.as_bytes(),
            self.state.as_str().as_bytes(),
            &self.connections.to_be_bytes(),
            &self.since.as_microsecond().to_be_bytes(),
            &self.raise_after.as_secs().to_be_bytes(),
        ];
        key.digest("connection-limit", &parts)
    }

    /// Whether it still counts. A clock that is ahead proves nothing.
    pub(super) fn counts_at(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.since);
        age < RETENTION && age > -CLOCKS_DIFFER
    }

    /// Whether one more connection is tried than the server took.
    fn is_raised_at(&self, now: Timestamp) -> bool {
        now.duration_since(self.since) >= self.raise_after
    }

    /// The limit after every connection of the present one was opened; `None` if it stays.
    pub(super) fn raised(known: Option<Self>, now: Timestamp) -> Option<Self> {
        let grown = |connections: u32| {
            let is_unlimited = connections >= UNLIMITED_FROM;
            let connections = connections.saturating_mul(2);
            Self {
                state: if is_unlimited {
                    LimitState::Unlimited
                } else {
                    LimitState::Growing
                },
                connections,
                since: now,
                raise_after: MIN_RAISE_AFTER,
            }
        };
        match known {
            None => Some(grown(FIRST_LIMIT)),
            Some(record) => match record.state {
                LimitState::Growing => Some(grown(record.connections)),
                LimitState::Reached if record.is_raised_at(now) => Some(Self {
                    connections: record.connections.saturating_add(1),
                    ..record
                }),
                LimitState::Reached | LimitState::Unlimited => None,
            },
        }
    }

    /// The limit after the server refused one beside `others` that are open; `None` if it stays.
    pub(super) fn lowered(known: Option<Self>, others: u32, now: Timestamp) -> Option<Self> {
        if others == 0 {
            // Nothing is known of the others, and with a record the number was not the reason.
            let is_unknown = known.is_none_or(|record| record.state == LimitState::Unlimited);
            return is_unknown.then_some(Self {
                state: LimitState::Growing,
                connections: 2,
                since: now,
                raise_after: MIN_RAISE_AFTER,
            });
        }
        let known = known.filter(|record| record.state == LimitState::Reached);
        let raise_after = known.map_or(MIN_RAISE_AFTER, |record| {
            if now.duration_since(record.since) < SAME_MOMENT {
                record.raise_after
            } else {
                record.raise_after.saturating_mul(2).min(MAX_RAISE_AFTER)
            }
        });
        Some(Self {
            state: LimitState::Reached,
            connections: known.map_or(others, |record| others.min(record.connections)),
            since: now,
            raise_after,
        })
    }
}

/// A record without its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forged;

/// The condition under which a record may replace `known`, with its values.
pub(super) fn unchanged(
    known: Option<&LimitRecord>,
) -> (&'static str, Vec<(&'static str, AttributeValue)>) {
    match known {
        None => ("attribute_not_exists(limitMac)", Vec::new()),
        Some(known) => (
            "limitSince = :seenSince AND limitConnections = :seenConnections",
            vec![
                (":seenSince", number_value(known.since.as_microsecond())),
                (":seenConnections", number_value(known.connections)),
            ],
        ),
    }
}

/// The condition under which a refusal is recorded: it says less than what is there, or that is no refusal.
pub(super) fn lower_than(
    record: &LimitRecord,
) -> (&'static str, Vec<(&'static str, AttributeValue)>) {
    let reached = AttributeValue::S(LimitState::Reached.as_str().to_owned());
    let stale = record.since.saturating_sub(SAME_MOMENT);
    let stale = stale.unwrap_or(Timestamp::MIN).as_microsecond();
    (
        "attribute_not_exists(limitMac) OR limitState <> :reached OR limitConnections > :fewer OR limitSince <= :stale",
        vec![
            (":reached", reached),
            (":fewer", number_value(record.connections)),
            (":stale", number_value(stale)),
        ],
    )
}

/// How many connections a login may have now; `None` for no limit.
pub(super) fn limit(
    record: Option<&LimitRecord>,
    published: Option<u32>,
    now: Timestamp,
) -> Option<u32> {
    let found = match record {
        None => Some(published.unwrap_or(FIRST_LIMIT)),
        Some(record) => match record.state {
            LimitState::Growing => Some(record.connections),
            LimitState::Reached => {
                let more = u32::from(record.is_raised_at(now));
                Some(record.connections.saturating_add(more))
            }
            LimitState::Unlimited => None,
        },
    };
    match (found, published) {
        (Some(found), Some(published)) => Some(found.min(published)),
        (found, published) => found.or(published),
    }
}
