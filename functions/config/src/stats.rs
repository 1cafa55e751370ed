//! What became of a clinic's messages: counts by day, channel, provider and reason.

use std::{cmp::Reverse, collections::BTreeMap};

use comms_adapters::registry;
use comms_core::{Channel, FailureReason, GlobalCause, Tenant};
use comms_delivery::usage::{Counter, Counts, RETENTION_DAYS, categories::OTHER, day_of};
use comms_runtime::{
    HttpProblem,
    auth::Action,
    http::{json_response, query, routes::HandlerResult},
};
use jiff::{Timestamp, ToSpan, civil::Date};
use lambda_http::{Request, http::StatusCode};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::{Access, Deps};

/// Days of an answer, today included, where the request does not say which.
const USUAL_DAYS: u16 = 30;
/// Categories that are named of a day, or of all days together.
const MAX_CATEGORIES: usize = 100;

/// The counts of the days from `from` to `to`. Nothing of a patient has ever been in them.
pub(crate) async fn get(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ViewStatistics)?;
    let range = Range::of(request, deps.clock.now())?;
    let days = deps.usage.read(&access.tenant, range.from, range.to).await;
    let days = days.map_err(|error| {
        warn!(%error, "the usage cannot be read");
        HttpProblem::unavailable()
    })?;
    let body = stats_json(&access.tenant, &range, &days);
    Ok(json_response(StatusCode::OK, &body))
}

/// The days that are asked for, both included.
struct Range {
    from: Date,
    to: Date,
}

impl Range {
    fn of(request: &Request, now: Timestamp) -> Result<Self, HttpProblem> {
        let allowed = format!(
            "It may have from and to, days of UTC as YYYY-MM-DD, of which from is not the later one and which are at most \
             {RETENTION_DAYS} days together, and nothing else."
        );
        let [from, to] = query::parameters(request, ["from", "to"], &allowed)?;
        let range = Self::parse(from.as_deref(), to.as_deref(), now);
        range.ok_or_else(|| query::malformed(allowed))
    }

    fn parse(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Option<Self> {
        let to = match to {
            Some(to) => day(to)?,
            None => day_of(now),
        };
        let from = match from {
            Some(from) => day(from)?,
            None => to.checked_sub(i64::from(USUAL_DAYS - 1).days()).ok()?,
        };
        let days = from.until(to).ok()?.get_days();
        (0..i32::from(RETENTION_DAYS))
            .contains(&days)
            .then_some(Self { from, to })
    }
}

/// A day as RFC 3339 writes it (`full-date`), and in no other way.
fn day(text: &str) -> Option<Date> {
    let day: Date = text.parse().ok()?;
    (day.to_string() == text).then_some(day)
}

fn stats_json(tenant: &Tenant, range: &Range, days: &BTreeMap<Date, Counts>) -> Value {
    let mut totals = Counts::default();
    for counts in days.values() {
        totals.add(counts);
    }
    let days: Vec<_> = days
        .iter()
        .map(|(date, counts)| json!({"date": date.to_string(), "channels": channels(counts)}))
        .collect();
    json!({
        "clinicId": tenant,
        "from": range.from.to_string(),
        "to": range.to.to_string(),
        "totals": channels(&totals),
        "days": days,
    })
}

/// The channels on which something happened.
fn channels(counts: &Counts) -> Map<String, Value> {
    let used = Channel::ALL.into_iter();
    used.filter(|channel| !counts.is_without(*channel))
        .map(|channel| (channel.to_string(), channel_json(counts, channel)))
        .collect()
}

fn channel_json(counts: &Counts, channel: Channel) -> Value {
    let count = |counter| counts.get(channel, counter);
    let by_provider: Vec<_> = registry::kinds()
        .map(|kind| (kind.to_string(), count(Counter::Sent(kind))))
        .collect();
    let by_reason = FailureReason::ALL
        .map(|reason| (reason.as_str().to_owned(), count(Counter::Failed(reason))));
    let by_cause = GlobalCause::ALL.map(|cause| {
        let counter = Counter::SentByGlobalBecause(cause);
        (cause.as_str().to_owned(), count(counter))
    });
    json!({
        "sent": sum(&by_provider),
        "sentByProvider": object(by_provider),
        "sentByFallback": count(Counter::SentByFallback),
        "sentByGlobal": count(Counter::SentByGlobal),
        "sentByGlobalBecause": object(by_cause),
        "sentByCategory": object(by_category(counts, channel)),
        "possibleDuplicates": count(Counter::PossibleDuplicates),
        "failed": sum(&by_reason),
        "failedByReason": object(by_reason),
        "unknown": count(Counter::Unknown),
        "expired": count(Counter::Expired),
        "deferrals": count(Counter::Deferrals),
    })
}

/// The largest categories, and the others together: so that an answer has room for them.
fn by_category(counts: &Counts, channel: Channel) -> Vec<(String, u64)> {
    let mut rest = 0_u64;
    let named = counts.by_category(channel).filter(|(name, count)| {
        let is_named = *name != OTHER;
        rest = rest.saturating_add(if is_named { 0 } else { *count });
        is_named
    });
    let mut named: Vec<_> = named.collect();
    named.sort_by_key(|(name, count)| (Reverse(*count), *name));
    let others = named.split_off(named.len().min(MAX_CATEGORIES));
    let others = others.iter().map(|(_, count)| *count);
    rest = others.fold(rest, u64::saturating_add);
    named.sort_unstable();
    let rest = (OTHER, rest);
    let all = named.into_iter().chain([rest]);
    all.map(|(name, count)| (name.to_owned(), count)).collect()
}

fn sum(counts: &[(String, u64)]) -> u64 {
    counts
        .iter()
        .fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Those that happened.
fn object(counts: impl IntoIterator<Item = (String, u64)>) -> Map<String, Value> {
    let happened = counts.into_iter().filter(|(_, count)| *count > 0);
    happened.map(|(name, count)| (name, json!(count))).collect()
}
