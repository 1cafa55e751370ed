//! The log lines and metrics that the functions write, as a test reads them.

use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_testkit::logs::{Captured, listen};
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;

/// What is written on this thread.
pub struct Listening {
    lines: Captured,
    _guard: tracing::subscriber::DefaultGuard,
}

pub fn start_listening() -> Listening {
    let lines = Captured::default();
    let layer = telemetry::layer(TelemetryConfig::default(), lines.clone());
    Listening {
        _guard: listen(tracing_subscriber::registry().with(layer)),
        lines,
    }
}

impl Listening {
    pub fn lines(&self) -> Vec<Value> {
        let text = self.lines.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The lines that have this metric.
    pub fn metrics(&self, name: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| !line["_aws"].is_null() && !line[name].is_null());
        lines
    }

    pub fn sum(&self, name: &str) -> u64 {
        let lines = self.metrics(name).into_iter();
        lines.map(|line| line[name].as_u64().unwrap()).sum()
    }

    /// The log lines with this message.
    pub fn said(&self, message: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["message"] == message);
        lines
    }
}
