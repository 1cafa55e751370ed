//! What happened to one delivery, in the order of time.

use comms_core::{Delivery, DeliveryStatus, SkippedEntry, WaitReason, delivery::MAX_ATTEMPTS};
use comms_delivery::{
    deferral::MAX_DEFERRALS,
    ledger::{DeliveryMarks, RequestTrace, Via},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::attempt::AttemptInPlace;
use crate::{
    layout::Tone,
    moments::{between, duration, moment},
};

/// From this length on, the time between two attempts is shown as a wait.
const MIN_PAUSE: SignedDuration = SignedDuration::from_secs(2);

/// What happened. The names are those of the report as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum EventKind {
    /// The request was accepted.
    Accepted,
    /// A worker claimed the delivery for the first time, or recorded that it waits.
    FirstSeen,
    /// A wait that is over, or that the times of two attempts show.
    Waited,
    /// An entry was left out because it was down.
    Skipped,
    /// A provider was asked.
    Attempt,
    /// It was deferred, because no provider took it.
    Deferred,
    /// A worker took it over from one that did not record the outcome.
    TakenOver,
    /// It waits.
    Waiting,
    /// A worker has it.
    Sending,
    /// It came to its end.
    Ended,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// When; not known of some.
    pub(crate) at: Option<Timestamp>,
    /// What.
    #[serde(rename = "event")]
    pub(crate) kind: EventKind,
    /// The same in words.
    pub(crate) text: String,
    #[serde(skip)]
    pub(crate) tone: Tone,
}

/// What happened to `delivery` until `now`.
pub(super) fn of(
    trace: &RequestTrace,
    delivery: &Delivery,
    marks: &DeliveryMarks,
    now: Timestamp,
) -> Vec<Event> {
    let mut events = Events::default();
    events.accepted(trace);
    events.first_seen(trace, marks);
    if let Some(waited) = &delivery.waited {
        let (waiting, end) = (waited.waiting(), waited.ended_at());
        let length = between(waiting.since, end);
        let text = format!("waited {length} for {}", cause(&waiting.reason));
        events.add(Some(waiting.since), EventKind::Waited, Tone::Warning, text);
    }
    events.attempts(delivery);
    events.state(delivery, marks, now);
    events.0.sort_by_key(|(place, _)| *place);
    events.0.into_iter().map(|(_, event)| event).collect()
}

/// For what a delivery waits, in words.
pub(super) fn cause(reason: &WaitReason) -> String {
    match reason {
        WaitReason::Provider {
            kind,
            entry,
            position,
            ..
        } => {
            let whose = if position.is_some_and(comms_core::Position::is_global) {
                "the platform's "
            } else {
                ""
            };
            format!(
                "people to mend {whose}{entry} ({}). {}",
                kind.as_str(),
                kind.detail()
            )
        }
        WaitReason::Quota => {
            "quota. A limit of the clinic or of the platform's account is used up".to_owned()
        }
        WaitReason::Pacing => {
            "the provider's rate. Its account takes no more for the moment".to_owned()
        }
    }
}

/// Events with what they are sorted by: their time, or that of the event before.
#[derive(Default)]
struct Events(Vec<(Option<Timestamp>, Event)>);

impl Events {
    fn add(&mut self, at: Option<Timestamp>, kind: EventKind, tone: Tone, text: String) {
        let before = self.0.last().and_then(|(place, _)| *place);
        let event = Event {
            at,
            kind,
            text,
            tone,
        };
        self.0.push((at.or(before), event));
    }

    fn accepted(&mut self, trace: &RequestTrace) {
        let text = match trace.via {
            Some(Via::Api) => "accepted by HTTP",
            Some(Via::Queue) => "accepted from the queue: a producer's own message",
            None => "accepted",
        };
        let at = trace.request.accepted_at;
        self.add(at, EventKind::Accepted, Tone::Plain, text.to_owned());
    }

    fn first_seen(&mut self, trace: &RequestTrace, marks: &DeliveryMarks) {
        let Some(at) = marks.first_seen else {
            return;
        };
        let text = match trace.request.accepted_at {
            Some(accepted) => format!(
                "taken up for the first time, {} later",
                between(accepted, at)
            ),
            None => "taken up for the first time".to_owned(),
        };
        self.add(Some(at), EventKind::FirstSeen, Tone::Plain, text);
    }

    fn attempts(&mut self, delivery: &Delivery) {
        let attempts = &delivery.attempts;
        let mut end_of_last: Option<Timestamp> = None;
        let are_cut = attempts.len() == MAX_ATTEMPTS;
        for (number, attempt) in (1_usize..).zip(attempts) {
            let pause = end_of_last.zip(attempt.at);
            let pause = pause.map(|(end, at)| at.duration_since(end));
            if let Some(pause) = pause.filter(|pause| *pause >= MIN_PAUSE) {
                let text = format!("waited {} for the next attempt", duration(pause));
                self.add(end_of_last, EventKind::Waited, Tone::Dim, text);
            }
            let is_last = number == attempts.len();
            if is_last {
                self.skipped(&delivery.skipped);
            }
            let in_place = AttemptInPlace {
                number,
                attempt,
                before: number.checked_sub(2).and_then(|place| attempts.get(place)),
                after: attempts.get(number),
            };
            let (tone, mut text) = in_place.words();
            if are_cut && number == 1 {
                text.insert_str(0, "(older attempts are forgotten; the log has them) ");
            }
            self.add(attempt.at, EventKind::Attempt, tone, text);
            let length = SignedDuration::try_from(attempt.duration).unwrap_or(SignedDuration::MAX);
            end_of_last = attempt.at.and_then(|at| at.checked_add(length).ok());
        }
        if attempts.is_empty() {
            self.skipped(&delivery.skipped);
        }
    }

    fn skipped(&mut self, skipped: &[SkippedEntry]) {
        for entry in skipped {
            let why = entry
                .last_error
                .map_or_else(String::new, |kind| format!(" ({})", kind.as_str()));
            let text = format!(
                "left out {}/{} ({}): down since {}{why}",
                entry.provider,
                entry.entry,
                entry.position,
                moment(entry.since)
            );
            self.add(None, EventKind::Skipped, Tone::Warning, text);
        }
    }

    fn state(&mut self, delivery: &Delivery, marks: &DeliveryMarks, now: Timestamp) {
        if marks.takeovers > 0 {
            let text = format!(
                "taken over from a worker that ended without recording the outcome, {}",
                times(marks.takeovers)
            );
            self.add(None, EventKind::TakenOver, Tone::Warning, text);
        }
        if marks.deferrals > 0 {
            let text = format!(
                "deferred because no provider took it, {} of {MAX_DEFERRALS}",
                times(marks.deferrals)
            );
            self.add(None, EventKind::Deferred, Tone::Warning, text);
        }
        match delivery.status {
            DeliveryStatus::Queued => self.queued(delivery, marks, now),
            DeliveryStatus::Sending => {
                let claim = marks.last_claim.as_ref();
                let first = claim.map_or_else(String::new, |(_, entry)| {
                    format!(", with {entry} as the first to be tried")
                });
                let lease = marks.lease_until.map_or_else(String::new, |until| {
                    format!("; its lease ends {}", moment(until))
                });
                let at = claim.map(|(at, _)| *at).or(marks.updated_at);
                let text = format!("a worker has it{first}{lease}");
                self.add(at, EventKind::Sending, Tone::Plain, text);
            }
            DeliveryStatus::Sent
            | DeliveryStatus::Failed
            | DeliveryStatus::Unknown
            | DeliveryStatus::Expired => {
                let (tone, text) = end_text(delivery);
                self.add(delivery.ended_at, EventKind::Ended, tone, text);
            }
        }
    }

    fn queued(&mut self, delivery: &Delivery, marks: &DeliveryMarks, now: Timestamp) {
        let next = marks.not_before.filter(|at| *at > now);
        let next = next.map_or_else(String::new, |at| {
            format!(
                ", next attempt not before {} (in {})",
                moment(at),
                between(now, at)
            )
        });
        let (at, text) = match &delivery.waiting {
            Some(waiting) => {
                let length = between(waiting.since, now);
                (
                    Some(waiting.since),
                    format!(
                        "waits for {length} now{next}, for {}",
                        cause(&waiting.reason)
                    ),
                )
            }
            None if marks.updated_at.is_some() => {
                (marks.updated_at, format!("on its queue again{next}"))
            }
            None => (
                None,
                "on its queue: no worker has recorded anything of it yet".to_owned(),
            ),
        };
        self.add(at, EventKind::Waiting, Tone::Warning, text);
    }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

fn end_text(delivery: &Delivery) -> (Tone, String) {
    let detail = delivery
        .reason
        .map_or_else(String::new, |reason| format!(": {}", reason.detail()));
    match delivery.status {
        DeliveryStatus::Sent => {
            let by = delivery
                .provider
                .map_or_else(String::new, |kind| format!(" by {kind}"));
            (Tone::Good, format!("sent{by}"))
        }
        DeliveryStatus::Failed => (Tone::Bad, format!("failed{detail}")),
        DeliveryStatus::Expired => (Tone::Bad, format!("expired{detail}")),
        DeliveryStatus::Unknown => (Tone::Bad, format!("its outcome is unknown{detail}")),
        DeliveryStatus::Queued | DeliveryStatus::Sending => (Tone::Plain, String::new()),
    }
}
