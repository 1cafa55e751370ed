//! Audit lines: an event of `tracing` with the target [`AUDIT`] says who did what. The runtime writes it at every log
//! level.

/// The target of events that are audit lines.
pub const AUDIT: &str = "comms_audit";
