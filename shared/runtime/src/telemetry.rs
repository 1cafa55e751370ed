//! Logs and metrics: one JSON object per event, on standard output, from where Lambda takes them.
//!
//! Only this project's crates write, and the Lambda runtime its warnings. Libraries log what they
//! send and receive, at some level or other; here that is patients' data and credentials.

pub(crate) mod metrics;

use comms_core::metric::METRICS;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use self::metrics::NAMESPACE;
use self::metrics::{MetricLayer, OnlyMetrics};

/// How much is logged: `LOG_LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(LevelFilter);

impl Default for LogLevel {
    fn default() -> Self {
        Self(LevelFilter::INFO)
    }
}

impl std::str::FromStr for LogLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self(LevelFilter::TRACE)),
            "debug" => Ok(Self(LevelFilter::DEBUG)),
            "" | "info" => Ok(Self(LevelFilter::INFO)),
            "warn" => Ok(Self(LevelFilter::WARN)),
            "error" => Ok(Self(LevelFilter::ERROR)),
            _ => Err("must be one of: trace, debug, info, warn, error"),
        }
    }
}

/// Which targets are logged at `level`.
pub fn targets(level: LogLevel) -> Targets {
    // Crates of this project, by the beginning of their names; nobody else is at the table.
    Targets::new()
        .with_default(LevelFilter::OFF)
        .with_target("comms_", level.0)
        // They have lines of their own.
        .with_target(METRICS, LevelFilter::OFF)
        .with_target("lambda_runtime", level.0.min(LevelFilter::WARN))
}

/// Starts logging, and writing metrics at whatever level. A second call in one process changes nothing.
///
/// A panic is logged by its place alone: its text may quote what it stumbled over.
pub fn init(level: LogLevel) {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "panicked");
    }));
    let events = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(std::io::stdout)
        .with_filter(targets(level));
    let metrics = MetricLayer(std::io::stdout).with_filter(OnlyMetrics);
    // An error says that a subscriber is there already.
    let _ = tracing_subscriber::registry()
        .with(events)
        .with(metrics)
        .try_init();
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_silent_at_every_level() {
        let targets = targets("trace".parse().unwrap());
        assert!(targets.would_enable("comms_delivery::pipeline", &Level::TRACE));
        assert!(targets.would_enable("comms_send", &Level::TRACE));
        for library in [
            "lettre",
            "hyper",
            "aws_smithy_runtime",
            "aws_sdk_kms",
            "rustls",
            "reqwest",
            "h2",
        ] {
            assert!(!targets.would_enable(library, &Level::ERROR), "{library}");
        }
        assert!(!targets.would_enable("lambda_runtime", &Level::INFO));
        assert!(!targets.would_enable(METRICS, &Level::ERROR));
    }
}
