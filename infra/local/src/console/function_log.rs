//! What of a function's log a developer is told: trouble. What becomes of messages and requests is told by the tables and
//! the gateway, in one line each; `--logs` gives the rest.

use comms_functions::Function;
use jiff::Timestamp;
use serde_json::Value;

use super::{Event, Mark};

/// Events that another line of the console tells of.
const TOLD_ELSEWHERE: [&str; 7] = [
    "a message is a dead letter",
    "attempt failed",
    "delivery returned to the queue",
    "refused",
    "sent by a fallback",
    "a stage failed",
    "answered",
];

/// Fields that say why, in the order in which they are shown.
const WHY: [&str; 6] = ["clinicId", "provider", "to", "kind", "error", "place"];

/// What a line is to the console.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogLine {
    /// Something to tell.
    Event(Event),
    /// A metric or a detail.
    Detail,
    /// A line of metrics (CloudWatch's embedded metric format).
    Metrics,
    /// Not one of the log's lines: the last words of a process.
    Text,
}

/// Reads one line of a function's output.
pub(crate) fn read_line(function: &Function, line: &[u8]) -> LogLine {
    let Ok(Value::Object(line)) = serde_json::from_slice(line) else {
        return LogLine::Text;
    };
    if line.contains_key("_aws") {
        return LogLine::Metrics;
    }
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let (Some(level), Some(message)) = (text("level"), text("message")) else {
        return LogLine::Text;
    };
    let is_health = message == "provider health changed";
    if !is_health && (!matches!(level, "WARN" | "ERROR") || TOLD_ELSEWHERE.contains(&message)) {
        return LogLine::Detail;
    }
    let why: Vec<String> = WHY
        .iter()
        .filter_map(|name| Some((name, text(name)?)))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let mark = match (is_health, text("to"), level) {
        (true, Some("healthy"), _) => Mark::Done,
        (_, _, "ERROR") => Mark::Failed,
        (_, _, _) => Mark::Notice,
    };
    let mut said = message.to_owned();
    if !why.is_empty() {
        said = format!("{said}: {}", why.join(", "));
    }
    let at = text("timestamp").and_then(|at| at.parse().ok());
    LogLine::Event(Event {
        at: at.unwrap_or_else(Timestamp::now),
        mark,
        subject: format!("{:<12}", function.name),
        text: said,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(line: &Value) -> LogLine {
        let worker = comms_functions::named("worker").unwrap();
        read_line(worker, line.to_string().as_bytes())
    }

    #[test]
    fn trouble_is_told_with_its_reason() {
        let line = json!({"timestamp": "2026-01-01T08:20:01Z", "level": "ERROR", "clinicId": "clinic-a",
            "message": "a communication could not be queued", "error": "SQS did not answer"});
        let LogLine::Event(event) = read(&line) else {
            panic!("it is told");
        };
        assert_eq!(event.mark, Mark::Failed);
        assert_eq!(event.subject.trim_end(), "worker");
        assert_eq!(
            event.text,
            "a communication could not be queued: clinicId clinic-a, error SQS did not answer"
        );
    }

    #[test]
    fn details_metrics_and_what_other_lines_tell_are_not_events() {
        for (message, level) in [("cold start", "INFO"), ("attempt failed", "WARN")] {
            let line = json!({"level": level, "message": message});
            assert_eq!(read(&line), LogLine::Detail, "{message}");
        }
        assert_eq!(read(&json!({"_aws": {}, "Sent": 1})), LogLine::Metrics);
    }

    #[test]
    fn a_provider_that_is_well_again_is_good_news() {
        let line = |to: &str, level: &str| json!({"level": level, "message": "provider health changed", "to": to});
        for (to, level, mark) in [
            ("healthy", "INFO", Mark::Done),
            ("down", "WARN", Mark::Notice),
        ] {
            let LogLine::Event(event) = read(&line(to, level)) else {
                panic!("it is told");
            };
            assert_eq!(event.mark, mark, "{to}");
        }
    }

    #[test]
    fn last_words_are_text() {
        let worker = comms_functions::named("worker").unwrap();
        for line in ["memory allocation failed", "[1]", "{\"level\":1}"] {
            assert_eq!(read_line(worker, line.as_bytes()), LogLine::Text, "{line}");
        }
    }
}
