//! The answer to `why`: for people as text, for programs as JSON.

use std::{collections::HashMap, fmt::Write as _};

use comms_core::{
    Channel, Delivery, DeliveryId, DeliveryStatus, FailureReason, GlobalCause, ProviderKind,
    RequestId, SentVia, Tenant,
    request::{Priority, Strategy},
};
use comms_delivery::ledger::{DeliveryMarks, RequestTrace, Via};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    advice::{self, About},
    find::{Found, FoundBy},
    letter::Letter,
    timeline::{self, Event},
};
use crate::{
    layout::{Layout, Tone},
    moments::{clock, day, moment},
};

/// How long nobody takes a delivery over after its lease (`comms_delivery::ledger`), rounded up.
const GRACE: SignedDuration = SignedDuration::from_secs(30);
/// Columns of the labels before a delivery's lines.
const LABEL: usize = 12;
/// Deliveries that are shown of a request, at most: those that need somebody come first.
const MAX_SHOWN: usize = 20;

/// What is known of one request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    found_by: FoundBy,
    request: Option<Request>,
    deliveries: Vec<DeliveryReport>,
    /// Deliveries of the request that are not in `deliveries`, by status.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    not_shown: HashMap<&'static str, usize>,
    /// `None` where the dead-letter queue was not looked at.
    dead_letters: Option<Vec<Letter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs_query: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(rename = "requestId")]
    id: RequestId,
    clinic_id: Tenant,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_via: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<Strategy>,
    replayed: u32,
    deliveries: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryReport {
    delivery_id: DeliveryId,
    channel: Channel,
    /// Masked.
    recipient: String,
    status: DeliveryStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<FailureReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<ProviderKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    possible_duplicate: bool,
    timeline: Vec<Event>,
    next_steps: Vec<String>,
}

impl Report {
    pub(super) fn new(found: Found, queue: Option<&str>, all: bool, now: Timestamp) -> Self {
        let letters = found.letters.map(|letters| {
            let letters = letters.iter();
            letters.map(|letter| Letter::new(letter, queue)).collect()
        });
        let mut report = Self {
            found_by: found.by,
            request: None,
            deliveries: Vec::new(),
            not_shown: HashMap::new(),
            dead_letters: letters,
            logs_query: None,
        };
        if let Some((id, trace)) = found.request {
            report.logs_query = Some(format!("filter requestId = \"{id}\" | sort @timestamp"));
            report.take_deliveries(&trace, found.delivery.as_ref(), all, now);
            report.request = Some(request_of(id, trace));
        }
        report
    }

    fn take_deliveries(
        &mut self,
        trace: &RequestTrace,
        wanted: Option<&DeliveryId>,
        all: bool,
        now: Timestamp,
    ) {
        let mut deliveries: Vec<_> = trace.request.deliveries.iter().collect();
        if let Some(wanted) = wanted {
            deliveries.retain(|delivery| delivery.id == *wanted);
        }
        // Stable: of the same urgency they stay in the order of the request.
        deliveries.sort_by_key(|delivery| urgency(delivery.status));
        let shown = if all { deliveries.len() } else { MAX_SHOWN };
        for delivery in deliveries.iter().skip(shown) {
            *self.not_shown.entry(delivery.status.as_str()).or_default() += 1;
        }
        let shown = deliveries.into_iter().take(shown);
        self.deliveries = shown
            .map(|delivery| delivery_of(trace, delivery, now))
            .collect();
    }

    /// The report for people.
    pub(super) fn text(&self, layout: Layout) -> String {
        let mut text = String::new();
        if let Some(request) = &self.request {
            text.push_str(&request.text(layout));
        }
        let total = self.deliveries.len();
        for (number, delivery) in (1..).zip(&self.deliveries) {
            text.push('\n');
            text.push_str(&delivery.text(layout, number, total));
        }
        if !self.not_shown.is_empty() {
            let mut counts: Vec<_> = self.not_shown.iter().collect();
            counts.sort();
            let counts: Vec<_> = counts
                .iter()
                .map(|(status, count)| format!("{count} {status}"))
                .collect();
            let rest = format!("and {} more (--all shows them)", counts.join(", "));
            let _ = writeln!(text, "\n{}", layout.paint(Tone::Dim, &rest));
        }
        text.push('\n');
        match &self.dead_letters {
            None => text.push_str(&layout.labelled(
                "dead letters",
                LABEL,
                Tone::Dim,
                "not looked at: give --dead-letter-queue",
            )),
            Some(letters) if letters.is_empty() => {
                text.push_str(&layout.labelled("dead letters", LABEL, Tone::Plain, "none of it"));
            }
            Some(letters) => {
                for letter in letters {
                    text.push_str(&letter.text(layout, LABEL));
                }
            }
        }
        if let Some(query) = &self.logs_query {
            text.push_str(&layout.labelled("logs", LABEL, Tone::Dim, query));
        }
        text.trim().to_owned()
    }
}

/// Those that need somebody first.
const fn urgency(status: DeliveryStatus) -> u8 {
    match status {
        DeliveryStatus::Failed | DeliveryStatus::Unknown => 0,
        DeliveryStatus::Expired => 1,
        DeliveryStatus::Queued | DeliveryStatus::Sending => 2,
        DeliveryStatus::Sent => 3,
    }
}

fn request_of(id: RequestId, trace: RequestTrace) -> Request {
    let request = trace.request;
    Request {
        id,
        ended_at: request.ended_at(),
        deliveries: request.deliveries.len(),
        clinic_id: request.tenant,
        accepted_at: request.accepted_at,
        accepted_via: trace.via.map(Via::as_str),
        category: request.details.category,
        priority: request.details.priority,
        strategy: request.details.strategy,
        replayed: request.replays,
    }
}

fn delivery_of(trace: &RequestTrace, delivery: &Delivery, now: Timestamp) -> DeliveryReport {
    let none = DeliveryMarks::default();
    let marks = trace.marks.get(&delivery.id).unwrap_or(&none);
    let taken_over_at = marks.lease_until.and_then(|at| at.checked_add(GRACE).ok());
    let next_steps = advice::next_steps(&About {
        tenant: &trace.request.tenant,
        delivery,
        taken_over_at,
    });
    // Meta's ids have the recipient's number in them.
    let has_number = |kind: ProviderKind| kind.as_str() == "meta_business";
    let message_id = delivery.message_id.clone();
    DeliveryReport {
        delivery_id: delivery.id.clone(),
        channel: delivery.channel,
        recipient: delivery.recipient.clone(),
        status: delivery.status,
        reason: delivery.reason,
        provider: delivery.provider,
        message_id: message_id.filter(|_| !delivery.provider.is_some_and(has_number)),
        via: delivery.via.map(SentVia::as_str),
        because: delivery
            .via
            .and_then(SentVia::because)
            .map(GlobalCause::as_str),
        possible_duplicate: delivery.possible_duplicate,
        timeline: timeline::of(trace, delivery, marks, now),
        next_steps,
    }
}

impl Request {
    fn text(&self, layout: Layout) -> String {
        let line = |label: &str, text: &str| layout.labelled(label, LABEL, Tone::Plain, text);
        let mut text = line("request", self.id.as_str());
        text.push_str(&line("clinic", self.clinic_id.as_str()));
        let mut accepted = self
            .accepted_at
            .map_or_else(|| "at an unknown time".to_owned(), moment);
        accepted.push_str(match self.accepted_via {
            Some("api") => " by HTTP",
            Some("queue") => " from the queue",
            Some(_) | None => "",
        });
        if let Some(category) = &self.category {
            let _ = write!(accepted, ", category {category}");
        }
        if let Some(priority) = self.priority {
            let _ = write!(accepted, ", priority {}", priority.as_str());
        }
        if let Some(strategy) = self.strategy {
            let _ = write!(accepted, ", strategy {}", strategy.as_str());
        }
        match self.replayed {
            0 => {}
            1 => accepted.push_str(", posted again once under its key"),
            times => {
                let _ = write!(accepted, ", posted again {times} times under its key");
            }
        }
        text.push_str(&line("accepted", &accepted));
        if self.deliveries != 1 {
            text.push_str(&line("deliveries", &self.deliveries.to_string()));
        }
        text
    }
}

impl DeliveryReport {
    fn text(&self, layout: Layout, number: usize, total: usize) -> String {
        let tone = match self.status {
            DeliveryStatus::Sent => Tone::Good,
            DeliveryStatus::Queued | DeliveryStatus::Sending => Tone::Warning,
            DeliveryStatus::Failed | DeliveryStatus::Unknown | DeliveryStatus::Expired => Tone::Bad,
        };
        let of = if total > 1 {
            format!("delivery {number}/{total}")
        } else {
            "delivery".to_owned()
        };
        let status = match self.reason {
            Some(reason) => format!("{} ({})", self.status.as_str(), reason.as_str()),
            None => self.status.as_str().to_owned(),
        };
        let what = format!("{} to {}: {status}", self.channel, self.recipient);
        let mut text = layout.labelled(&of, LABEL, tone, &what);
        let line = |label: &str, text: &str| layout.labelled(label, LABEL, Tone::Plain, text);
        text.push_str(&line("id", self.delivery_id.as_str()));
        if let Some(because) = self.because {
            text.push_str(&line(
                "account",
                &format!("the platform's, because: {because}"),
            ));
        }
        let mut last_day = None;
        for event in &self.timeline {
            let label = match event.at {
                Some(at) => {
                    if last_day.replace(day(at)) != Some(day(at)) {
                        let today = layout.paint(Tone::Dim, &day(at));
                        let _ = writeln!(text, "{today}");
                    }
                    clock(at)
                }
                None => String::new(),
            };
            text.push_str(&layout.labelled(&label, LABEL, event.tone, &event.text));
        }
        if let Some(id) = &self.message_id {
            text.push_str(&line("message id", id));
        }
        for (number, step) in self.next_steps.iter().enumerate() {
            let label = if number == 0 { "what to do" } else { "" };
            text.push_str(&layout.labelled(label, LABEL, Tone::Plain, step));
        }
        text
    }
}
