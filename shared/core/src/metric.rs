//! Metrics, as those who count know them: an event of `tracing` with the target [`METRICS`], whose
//! numbers are values and whose texts are dimensions. How they reach a dashboard is the runtime's
//! concern.

/// The target of events that are metrics.
pub const METRICS: &str = "comms_metrics";
