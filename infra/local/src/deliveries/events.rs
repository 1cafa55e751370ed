//! What the console tells of a delivery: its end, and each deferral.

use std::fmt::Write as _;

use comms_core::{DeliveryStatus, FailureReason};
use jiff::Timestamp;
use serde_json::Value;

use super::row::Row;
use crate::console::{Event, Mark};

/// What happened to a delivery that was `before` and is `row` now, if that is worth a line. `attempts` are those of `row`.
pub(super) fn of(before: Option<&Row>, row: &Row, attempts: &[Value]) -> Option<Event> {
    let (mark, text) = match DeliveryStatus::parse(&row.status)? {
        DeliveryStatus::Sending => return None,
        DeliveryStatus::Queued => waits(before, row, attempts)?,
        DeliveryStatus::Sent
        | DeliveryStatus::Failed
        | DeliveryStatus::Unknown
        | DeliveryStatus::Expired
            if before.is_some_and(Row::has_ended) =>
        {
            return None;
        }
        DeliveryStatus::Sent => (Mark::Done, sent(row, attempts)),
        DeliveryStatus::Failed => (Mark::Failed, not_sent("failed", row, attempts)),
        DeliveryStatus::Unknown => (Mark::Unknown, not_sent("may have been sent", row, attempts)),
        DeliveryStatus::Expired => (Mark::Failed, not_sent("expired", row, attempts)),
    };
    Some(Event {
        at: row.updated_at.unwrap_or_else(Timestamp::now),
        mark,
        subject: format!(
            "{:<12} {:<8} → {:<20}",
            row.clinic_id, row.channel, row.recipient
        ),
        text,
    })
}

fn sent(row: &Row, attempts: &[Value]) -> String {
    let provider = row.provider.as_deref().unwrap_or("a provider");
    let mut text = format!("sent by {provider}");
    if let Some(position) = row.position.as_deref().filter(|place| *place != "primary") {
        let _ = write!(text, ", {position}");
    }
    if let Some(took) = row.took_ms {
        let _ = write!(text, " ({took} ms)");
    }
    if row.possible_duplicate {
        text.push_str(", possibly twice");
    }
    if let Some(why) = last_failure(attempts) {
        let _ = write!(text, "; before that {why}");
    }
    text
}

fn not_sent(what: &str, row: &Row, attempts: &[Value]) -> String {
    let mut text = what.to_owned();
    let reason = row.reason.as_deref().and_then(FailureReason::parse);
    match (last_failure(attempts), reason) {
        // What the provider said is more to the point than that none took it.
        (Some(why), Some(FailureReason::Rejected | FailureReason::AllProvidersFailed) | None) => {
            let _ = write!(text, ": {why}");
        }
        (Some(why), Some(reason)) => {
            let _ = write!(text, ": {why}. {}", reason.detail());
        }
        (None, Some(reason)) => {
            let _ = write!(text, ": {}", reason.detail());
        }
        (None, None) => {}
    }
    text
}

/// What a queued delivery waits for, where that is new.
fn waits(before: Option<&Row>, row: &Row, attempts: &[Value]) -> Option<(Mark, String)> {
    let was_waiting = before.and_then(|before| before.waiting.as_ref());
    if let Some(waiting) = &row.waiting {
        if was_waiting.is_some_and(|was| was["reason"] == waiting["reason"]) {
            return None;
        }
        let text = match waiting["reason"].as_str()? {
            "quota" => "waits for the clinic's rateLimit".to_owned(),
            "pacing" => "waits for the provider's rate".to_owned(),
            "provider" => {
                let why =
                    last_failure(attempts).unwrap_or_else(|| "every provider refuses".to_owned());
                format!("waits until somebody mends its provider: {why}")
            }
            other => format!("waits for {other}"),
        };
        return Some((Mark::Retry, text));
    }
    let deferrals = before.map_or(0, |before| before.deferrals);
    if row.deferrals <= deferrals {
        return None;
    }
    let mut text = "retry".to_owned();
    if let (Some(at), Some(now)) = (row.not_before, row.updated_at) {
        let seconds = at.duration_since(now).as_secs().max(1);
        let _ = write!(text, " in {seconds} s");
    }
    if let Some(why) = last_failure(attempts) {
        let _ = write!(text, ": {why}");
    }
    Some((Mark::Retry, text))
}

/// What the last attempt that failed said, with the provider's own code.
fn last_failure(attempts: &[Value]) -> Option<String> {
    let failed = attempts
        .iter()
        .rfind(|attempt| attempt["outcome"] == "failed")?;
    let provider = failed["provider"].as_str().unwrap_or("a provider");
    let detail = failed["detail"].as_str().unwrap_or("failed");
    Some(match failed["code"].as_str() {
        Some(code) => format!("{provider} said {code}: {detail}"),
        None => format!("{provider}: {detail}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::list::DeliveryList;
    use super::*;

    /// The events of a delivery whose item has these attributes, one after the other.
    fn told(items: &[Value]) -> Vec<(Mark, String)> {
        let mut list = DeliveryList::default();
        let mut told = Vec::new();
        for item in items {
            let mut whole = json!({
                "pk": {"S": "r"}, "sk": {"S": "delivery#a"}, "clinicId": {"S": "clinic-a"}, "channel": {"S": "email"},
                "recipient": {"S": "p***@example.com"}, "createdAt": {"S": "2026-01-01T10:00:00Z"},
                "updatedAt": {"S": "2026-01-01T10:00:00.012Z"},
            });
            for (name, value) in item.as_object().unwrap() {
                whole[name] = value.clone();
            }
            if let Some(event) = list.update(&whole) {
                assert_eq!(
                    event.subject.trim_end(),
                    "clinic-a     email    → p***@example.com"
                );
                told.push((event.mark, event.text));
            }
        }
        told
    }

    fn attempts(attempts: &Value) -> Value {
        json!({"S": attempts.to_string()})
    }

    fn refused() -> Value {
        json!({"provider": "smtp", "outcome": "failed", "code": "451 4.7.1", "detail": "The server asks to wait."})
    }

    #[test]
    fn an_end_is_told_once() {
        let sent = json!({"status": {"S": "sent"}, "provider": {"S": "smtp"}});
        let sending = json!({"status": {"S": "sending"}});
        assert_eq!(
            told(&[sending, sent.clone(), sent]),
            [(Mark::Done, "sent by smtp (12 ms)".to_owned())]
        );
    }

    #[test]
    fn a_fallback_is_told_with_what_the_first_one_said() {
        let sent = json!({"status": {"S": "sent"}, "provider": {"S": "sendgrid"}, "possibleDuplicate": {"BOOL": true},
            "attempts": attempts(&json!([refused(), {"outcome": "accepted", "position": "fallback[0]"}]))});
        let [(mark, text)] = &told(&[sent])[..] else {
            panic!("one line");
        };
        assert_eq!(*mark, Mark::Done);
        assert_eq!(
            text,
            "sent by sendgrid, fallback[0] (12 ms), possibly twice; before that smtp said 451 4.7.1: The server asks to wait."
        );
    }

    #[test]
    fn a_retry_is_told_for_each_deferral_and_pacing_is_no_failure() {
        let waiting = |reason: &str| json!({"S": json!({"reason": reason}).to_string()});
        let paced = json!({"status": {"S": "queued"}, "waiting": waiting("pacing")});
        let deferred = |number: &str| {
            json!({"status": {"S": "queued"}, "deferrals": {"N": number}, "notBefore": {"N": "1767261630012"},
                "attempts": attempts(&json!([refused()]))})
        };
        assert_eq!(
            told(&[
                paced.clone(),
                paced,
                deferred("1"),
                deferred("1"),
                deferred("2")
            ]),
            [
                (Mark::Retry, "waits for the provider's rate".to_owned()),
                (
                    Mark::Retry,
                    "retry in 30 s: smtp said 451 4.7.1: The server asks to wait.".to_owned()
                ),
                (
                    Mark::Retry,
                    "retry in 30 s: smtp said 451 4.7.1: The server asks to wait.".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn a_failure_says_why_and_what_to_do() {
        let ended = |status: &str, reason: &str, tried: &Value| json!({"status": {"S": status}, "reason": {"S": reason}, "attempts": attempts(tried)});
        let told_of = |item| told(&[item]).pop().unwrap();
        let (mark, text) = told_of(ended("failed", "ALL_PROVIDERS_FAILED", &json!([refused()])));
        assert_eq!(mark, Mark::Failed);
        assert_eq!(
            text,
            "failed: smtp said 451 4.7.1: The server asks to wait."
        );
        let (_, text) = told_of(ended("failed", "NO_PROVIDER", &json!([])));
        assert_eq!(
            text,
            format!("failed: {}", FailureReason::NoProvider.detail())
        );
        let (mark, text) = told_of(ended("unknown", "OUTCOME_UNKNOWN", &json!([])));
        assert_eq!(mark, Mark::Unknown);
        assert!(text.contains("Ask the recipient"), "{text}");
    }
}
