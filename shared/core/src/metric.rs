//! Metrics: an event of `tracing` with the target [`METRICS`]. Its numbers are the values, and its texts the dimensions. The
//! runtime writes them to the log.
//!
//! [`ALL`] lists every metric. A number that is not in it is not a metric. The integration tests fail if the names in the
//! code, this list, the dashboard with its alarms, and LOGGING.md differ.

/// The target of events that are metrics.
pub const METRICS: &str = "comms_metrics";

/// Names of dimensions by which a metric can be looked at. CloudWatch bills every combination of values,
/// so that each of these has few.
pub type Dimensions = &'static [&'static str];

/// Of everything together.
const WHOLE: &[Dimensions] = &[&[]];
/// Together, and for each provider of each channel: five of them, and `none` for each channel.
const BY_PROVIDER: &[Dimensions] = &[&[], &["channel", "provider"]];
/// Together, and for each reason there is.
const BY_REASON: &[Dimensions] = &[&[], &["reason"]];
/// Each way for itself, not the one by the other.
const BY_PROVIDER_OR_REASON: &[Dimensions] = &[&[], &["reason"], &["channel", "provider"]];

/// Something that is counted or measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The field of the event. What ends in `_ms` is measured in milliseconds, all else is counted.
    pub field: &'static str,
    /// The ways to look at it.
    pub by: &'static [Dimensions],
    /// How often it is written.
    pub written: Written,
    /// What it says.
    pub says: &'static str,
}

/// How often a metric is written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// With every event, in a line with the event's ids.
    Each,
    /// Once for an invocation, as a sum: for frequent events that belong to no delivery.
    Summed,
}

const fn each(field: &'static str, by: &'static [Dimensions], says: &'static str) -> Metric {
    Metric {
        field,
        by,
        written: Written::Each,
        says,
    }
}

const fn summed(field: &'static str, says: &'static str) -> Metric {
    Metric {
        field,
        by: WHOLE,
        written: Written::Summed,
        says,
    }
}

/// Every metric.
pub const ALL: &[Metric] = &[
    // Deliveries, when they are recorded.
    each("sent", BY_PROVIDER, "a provider accepted the message"),
    each(
        "failed",
        BY_PROVIDER_OR_REASON,
        "it will not be sent; the provider is the last that was tried, or `none`",
    ),
    each(
        "unknown",
        BY_PROVIDER,
        "it may have been sent, and is not tried again",
    ),
    each("expired", BY_PROVIDER, "its `expiresAt` passed"),
    each(
        "deferred",
        BY_PROVIDER,
        "no provider can take it now, and it is redelivered later",
    ),
    each(
        "possible_duplicate",
        BY_PROVIDER,
        "the recipient may have got it twice",
    ),
    each(
        "latency_ms",
        BY_PROVIDER,
        "from the beginning of the work on a delivery to its recorded outcome",
    ),
    each(
        "time_to_outcome_ms",
        BY_PROVIDER,
        "from the arrival on the queue to the recorded end, waits included",
    ),
    each(
        "unrecorded_outcomes",
        WHOLE,
        "it ended, and its invocation could not write that to the ledger; where the queue did not take it either, the recipient may get it twice",
    ),
    // Providers.
    each(
        "sent_by_fallback",
        BY_PROVIDER,
        "sent by another than the first of the chain; the provider is that first one",
    ),
    each(
        "sent_by_global",
        BY_REASON,
        "sent by the platform's account; the reason is why, as `because` says it",
    ),
    each(
        "on_fallback_ms",
        BY_PROVIDER,
        "with it, for how long that first one has failed",
    ),
    each("provider_down", BY_PROVIDER, "an entry has become `down`"),
    each("attempts_failed", BY_PROVIDER, "an attempt failed"),
    each(
        "logins_refused",
        BY_PROVIDER,
        "of those, because the provider refused the credentials",
    ),
    // Connections.
    summed("sockets_held", "sockets in use or idle"),
    summed("smtp_connections_open", "SMTP connections open"),
    summed("smtp_connections_idle", "of those, idle"),
    summed("smtp_connections_opened", "SMTP connections opened"),
    summed(
        "smtp_connections_reused",
        "messages that went over a connection that was there",
    ),
    summed(
        "smtp_connections_stale",
        "connections that were dead when they were used, and replaced",
    ),
    summed(
        "smtp_connections_refused",
        "connections that a server would not have beside the others",
    ),
    summed(
        "smtp_connections_closed_by_server",
        "idle connections that the server closed",
    ),
    summed(
        "smtp_connections_closed_at_ceiling",
        "idle connections that were closed to open others",
    ),
    summed(
        "smtp_connections_retired",
        "connections that were closed for any reason",
    ),
    summed("connection_waits", "messages that waited for a connection"),
    summed("connection_waits_timed_out", "of those, in vain"),
    summed("connection_wait_ms", "how long they waited, together"),
    // Limits.
    summed(
        "immediate_refused",
        "immediate requests beyond those that a clinic may have in flight (429)",
    ),
    summed(
        "immediate_diverted",
        "immediate requests that went to the queue because their clinic's providers do not answer",
    ),
    summed(
        "quota_writes",
        "writes that count messages against clinics' limits",
    ),
    summed(
        "pacing_writes",
        "writes that take turns at providers with a rate",
    ),
    summed(
        "deferred_by_quota",
        "deliveries that wait for the clinic's limit",
    ),
    summed(
        "deferred_by_pacing",
        "deliveries that wait for their turn at a provider",
    ),
    summed(
        "waiting_for_provider",
        "deliveries that wait until somebody mends what every provider refuses their clinic for",
    ),
    summed(
        "deferred_by_worker_share",
        "deliveries that wait because their clinic's slow ones hold its share of the workers",
    ),
    summed(
        "deferred_by_connections",
        "deliveries that wait because all connections of their provider's login are in use",
    ),
    summed(
        "connection_writes",
        "writes that count connections to mail servers over all processes",
    ),
    // The service itself.
    each(
        "dead_lettered",
        BY_REASON,
        "a message went to the dead-letter queue",
    ),
    summed(
        "queue_claims_refused",
        "queue messages that claimed an acceptance and could not prove it",
    ),
    each("cold_starts", WHOLE, "a process had its first invocation"),
    each(
        "init_ms",
        WHOLE,
        "with it, how long the process took to be ready, without Lambda's own part",
    ),
    summed(
        "callers_refused",
        "requests that their caller was not allowed (403)",
    ),
    summed("config_cache_hits", "settings that were remembered"),
    summed(
        "config_cache_stale",
        "remembered settings that were loaded again: their version moved, or nothing said that it had not",
    ),
    summed(
        "settings_version_reads",
        "reads of a version number, by which remembered settings go on or are loaded again",
    ),
    summed("config_cache_misses", "settings that were read and opened"),
    summed(
        "settings_refused",
        "stored settings that are not as this service wrote them last, and were not used",
    ),
    summed("kms_decrypts", "data keys that KMS opened"),
    summed("kms_data_keys", "data keys that KMS made"),
    summed("kms_errors", "requests that KMS did not answer as asked"),
    summed(
        "aws_errors",
        "requests to DynamoDB, KMS and SQS that failed after their retries",
    ),
    summed(
        "aws_throttled",
        "of those, because there were too many of them",
    ),
];

impl Metric {
    /// The metric of an event's field.
    pub fn of_field(field: &str) -> Option<&'static Self> {
        ALL.iter().find(|metric| metric.field == field)
    }

    /// Its name in CloudWatch: the field in camel case, without the unit. `latency_ms` is `Latency`.
    pub fn name(&self) -> String {
        self.letters().collect()
    }

    /// The letters of its name.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        let words = self.field.trim_end_matches("_ms").split('_');
        words.flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
    }

    /// Its unit, as CloudWatch calls it (API reference, `MetricDatum`).
    pub fn unit(&self) -> &'static str {
        if self.field.ends_with("_ms") {
            "Milliseconds"
        } else {
            "Count"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_the_fields_in_camel_case_and_no_two_are_the_same() {
        let name = |field| Metric::of_field(field).unwrap().name();
        assert_eq!(name("sent_by_fallback"), "SentByFallback");
        assert_eq!(name("latency_ms"), "Latency");
        let unit = |field| Metric::of_field(field).unwrap().unit();
        assert_eq!(
            [unit("sent"), unit("latency_ms")],
            ["Count", "Milliseconds"]
        );
        let names: BTreeSet<_> = ALL.iter().map(Metric::name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn every_metric_can_be_looked_at_without_dimensions() {
        for metric in ALL {
            assert!(metric.by.contains(&[].as_slice()), "{}", metric.field);
        }
    }
}
