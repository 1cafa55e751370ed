//! What is counted of a channel, and the attribute of each count.

use std::{collections::BTreeMap, fmt};

use comms_adapters::registry;
use comms_aws::{Item, TableError, item::parse_number};
use comms_core::{
    Channel, Delivery, DeliveryStatus, FailureReason, GlobalCause, ProviderKind, SentVia,
};

/// What is counted of a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Deliveries that this provider accepted.
    Sent(ProviderKind),
    /// Sent by an entry after the first of the chain.
    SentByFallback,
    /// Sent through the platform's own account.
    SentByGlobal,
    /// Sent through the platform's own account for this reason.
    SentByGlobalBecause(GlobalCause),
    /// Sent in this category of the caller's ([`super::categories`]).
    SentInCategory(String),
    /// Sent, and the recipient may have received it twice.
    PossibleDuplicates,
    /// Deliveries that failed for this reason.
    Failed(FailureReason),
    /// Deliveries that may have been sent.
    Unknown,
    /// Deliveries that were not sent before they expired.
    Expired,
    /// How often a delivery was deferred because no provider accepted it. It has not ended.
    Deferrals,
}

impl Counter {
    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "sentByFallback" => Some(Self::SentByFallback),
            "sentByGlobal" => Some(Self::SentByGlobal),
            "possibleDuplicates" => Some(Self::PossibleDuplicates),
            "unknown" => Some(Self::Unknown),
            "expired" => Some(Self::Expired),
            "deferrals" => Some(Self::Deferrals),
            _ => match text.split_once('/')? {
                ("sent", provider) => registry::find(provider).map(|known| Self::Sent(known.kind)),
                ("sentByGlobal", cause) => GlobalCause::parse(cause).map(Self::SentByGlobalBecause),
                ("category", category) => Some(Self::SentInCategory(category.to_owned())),
                ("failed", reason) => FailureReason::parse(reason).map(Self::Failed),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(provider) => write!(f, "sent/{provider}"),
            Self::SentByFallback => f.write_str("sentByFallback"),
            Self::SentByGlobal => f.write_str("sentByGlobal"),
            Self::SentByGlobalBecause(cause) => write!(f, "sentByGlobal/{}", cause.as_str()),
            Self::SentInCategory(category) => write!(f, "category/{category}"),
            Self::PossibleDuplicates => f.write_str("possibleDuplicates"),
            Self::Failed(reason) => write!(f, "failed/{}", reason.as_str()),
            Self::Unknown => f.write_str("unknown"),
            Self::Expired => f.write_str("expired"),
            Self::Deferrals => f.write_str("deferrals"),
        }
    }
}

/// Counts by channel. An absent count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub(super) BTreeMap<(Channel, Counter), u64>);

impl Counts {
    /// One count.
    pub fn get(&self, channel: Channel, counter: Counter) -> u64 {
        self.0.get(&(channel, counter)).copied().unwrap_or_default()
    }

    /// What was sent on a channel, by category.
    pub fn by_category(&self, channel: Channel) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.0.iter().filter(move |((of, _), _)| *of == channel);
        counts.filter_map(|((_, counter), count)| match counter {
            Counter::SentInCategory(category) => Some((category.as_str(), *count)),
            Counter::Sent(_)
            | Counter::SentByFallback
            | Counter::SentByGlobal
            | Counter::SentByGlobalBecause(_)
            | Counter::PossibleDuplicates
            | Counter::Failed(_)
            | Counter::Unknown
            | Counter::Expired
            | Counter::Deferrals => None,
        })
    }

    /// Whether nothing has happened on the channel.
    pub fn is_without(&self, channel: Channel) -> bool {
        !self.0.keys().any(|(of, _)| *of == channel)
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Self) {
        for ((channel, counter), count) in &other.0 {
            self.count(*channel, counter.clone(), *count);
        }
    }

    pub(super) fn count(&mut self, channel: Channel, counter: Counter, by: u64) {
        let count = self.0.entry((channel, counter)).or_default();
        *count = count.saturating_add(by);
    }

    /// How a delivery ended; nothing of one that has not.
    pub(super) fn count_ended(
        &mut self,
        delivery: &Delivery,
        by_fallback: bool,
        category: Option<String>,
    ) {
        let mut count = |counter| self.count(delivery.channel, counter, 1);
        match delivery.status {
            DeliveryStatus::Sent => {
                // One that was sent always says by whom.
                delivery
                    .provider
                    .map(Counter::Sent)
                    .into_iter()
                    .for_each(&mut count);
                category
                    .map(Counter::SentInCategory)
                    .into_iter()
                    .for_each(&mut count);
                let because = delivery.via.and_then(SentVia::because);
                because
                    .map(Counter::SentByGlobalBecause)
                    .into_iter()
                    .for_each(&mut count);
                let flags = [
                    (by_fallback, Counter::SentByFallback),
                    (delivery.was_sent_by_global(), Counter::SentByGlobal),
                    (delivery.possible_duplicate, Counter::PossibleDuplicates),
                ];
                let of_it = flags.into_iter().filter(|(is_so, _)| *is_so);
                of_it.for_each(|(_, counter)| count(counter));
            }
            DeliveryStatus::Failed => {
                // As one that has failed says why.
                delivery
                    .reason
                    .map(Counter::Failed)
                    .into_iter()
                    .for_each(count);
            }
            DeliveryStatus::Unknown => count(Counter::Unknown),
            DeliveryStatus::Expired => count(Counter::Expired),
            DeliveryStatus::Queued | DeliveryStatus::Sending => {}
        }
    }

    /// The counts of an item. What a later version of this program may count is left out.
    pub(crate) fn of_item(item: &Item) -> Result<Self, TableError> {
        let mut counts = Self::default();
        for (name, value) in item {
            let known = name.split_once('/').and_then(|(channel, counter)| {
                Some((Channel::parse(channel)?, Counter::parse(counter)?))
            });
            if let Some((channel, counter)) = known {
                let count = parse_number(value).ok_or(TableError::Corrupt("usage"))?;
                counts.count(channel, counter, count);
            }
        }
        Ok(counts)
    }
}
