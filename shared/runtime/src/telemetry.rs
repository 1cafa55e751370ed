//! Logs and metrics: one JSON object per event on standard output, which Lambda collects. `infra/docs/LOGGING.md` describes
//! them for operators.
//!
//! Only this project's crates write, and the Lambda runtime its warnings. Libraries log the data that they send and receive,
//! which here is patients' data and credentials.

mod fields;
mod line;
mod lines;
pub(crate) mod metrics;
mod trace;

#[cfg(test)]
mod tests;

use std::{
    sync::{OnceLock, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use comms_core::{audit::AUDIT, metric::METRICS};
use tracing::{Metadata, Span, Subscriber, info, info_span};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::environment::Environment;

pub use self::trace::TraceHeader;

/// The span of an invocation. What is summed over an invocation is written when it closes.
const INVOCATION: &str = "invocation";

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

/// A switch: `true` or `false` (default).
#[derive(Debug, Clone, Copy, Default)]
struct Switch(bool);

impl std::str::FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "true" => Ok(Self(true)),
            "" | "false" => Ok(Self(false)),
            _ => Err("must be true or false"),
        }
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// How much is logged. Metrics are written at every level.
    pub level: LogLevel,
    /// The namespace of the metrics: `METRICS_NAMESPACE`. Each stack has its own, so that several in one
    /// account are told apart.
    pub namespace: String,
    /// Whether a clinic is a dimension of what is counted by provider: `METRICS_BY_CLINIC`. CloudWatch bills
    /// each metric of each clinic and provider then.
    pub by_clinic: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            namespace: "ClinicComms".to_owned(),
            by_clinic: false,
        }
    }
}

impl TelemetryConfig {
    /// What the environment says.
    pub fn from_environment(environment: &Environment<'_>) -> Self {
        let namespace = environment
            .optional("METRICS_NAMESPACE")
            .filter(|name| !name.is_empty());
        Self {
            level: environment.parsed("LOG_LEVEL"),
            namespace: namespace.unwrap_or_else(|| Self::default().namespace),
            by_clinic: environment.parsed::<Switch>("METRICS_BY_CLINIC").0,
        }
    }
}

/// The log events that are written at `level`: those of this project's crates, and the Lambda runtime's from warnings on.
fn targets(level: LogLevel) -> Targets {
    // By the beginning of their names.
    Targets::new()
        .with_default(LevelFilter::OFF)
        .with_target("comms_", level.0)
        .with_target("lambda_runtime", level.0.min(LevelFilter::WARN))
}

/// Whether something is for our lines: our spans, metrics and audit lines at every level, since the ids that spans hold are
/// what a line is found by.
fn is_ours(targets: &Targets, metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == METRICS
        || target == AUDIT
        || if metadata.is_span() {
            target.starts_with("comms_")
        } else {
            targets.would_enable(target, metadata.level())
        }
}

/// What writes logs and metrics to `writer`.
pub fn layer<S, W>(config: TelemetryConfig, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let targets = targets(config.level);
    lines::Lines::new(config, writer)
        .with_filter(filter_fn(move |metadata| is_ours(&targets, metadata)))
}

/// When this process started, and how far it is.
static PROCESS: OnceLock<Process> = OnceLock::new();

struct Process {
    started: Instant,
    /// How long it took to be ready.
    init: OnceLock<Duration>,
    was_invoked: AtomicBool,
}

/// Starts logging, and writing metrics at whatever level. A second call in one process changes nothing.
///
/// Logs the place of a panic without its text, which may quote data.
pub fn init(environment: &Environment<'_>) {
    PROCESS.get_or_init(|| Process {
        started: Instant::now(),
        init: OnceLock::new(),
        was_invoked: AtomicBool::new(false),
    });
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "panicked");
    }));
    let config = TelemetryConfig::from_environment(environment);
    // An error says that a subscriber is there already.
    let _ = tracing_subscriber::registry()
        .with(layer(config, std::io::stdout))
        .try_init();
}

/// Notes that the process is ready for its first invocation.
pub fn ready() {
    if let Some(process) = PROCESS.get() {
        process.init.get_or_init(|| process.started.elapsed());
    }
}

/// The span of an invocation, in which everything that it does belongs. In the first one of a process `cold_start`
/// is true, and it is said, once, how long the process took to be ready.
pub fn invocation(context: &lambda_runtime::Context, trace: Option<&TraceHeader>) -> Span {
    invocation_of(PROCESS.get(), context, trace)
}

fn invocation_of(
    process: Option<&Process>,
    context: &lambda_runtime::Context,
    trace: Option<&TraceHeader>,
) -> Span {
    let is_first =
        process.is_some_and(|process| !process.was_invoked.swap(true, Ordering::Relaxed));
    let span = info_span!(
        INVOCATION,
        invocation_id = context.request_id,
        trace_id = trace.map(TraceHeader::id),
        cold_start = is_first,
        subject = tracing::field::Empty,
    );
    if is_first {
        let init = process.and_then(|process| process.init.get());
        let init_ms = init.map(|init| u64::try_from(init.as_millis()).unwrap_or(u64::MAX));
        span.in_scope(|| {
            info!(init_ms, "cold start");
            info!(target: METRICS, cold_starts = 1_u64, init_ms);
        });
    }
    span
}

/// The trace of an invocation, as Lambda says it.
pub fn trace_of(context: &lambda_runtime::Context) -> Option<TraceHeader> {
    TraceHeader::parse(context.xray_trace_id.as_deref()?)
}
