//! Writes events as lines: a log event as a JSON object with its own fields and those of its spans, so that one field finds
//! all lines of a request, a delivery or a clinic; a metric event in the embedded metric format.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use comms_core::{Clock, SystemClock, metric::METRICS};
use jiff::Timestamp;
use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    INVOCATION, TelemetryConfig,
    fields::Fields,
    line::LogLine,
    metrics::{self, Sums},
};

/// Writes lines to `W`.
pub(super) struct Lines<W> {
    writer: W,
    config: TelemetryConfig,
    sums: Mutex<Sums>,
}

impl<W> Lines<W> {
    pub(super) fn new(config: TelemetryConfig, writer: W) -> Self {
        Self {
            writer,
            config,
            sums: Mutex::default(),
        }
    }
}

impl<W: for<'w> MakeWriter<'w>> Lines<W> {
    fn write(&self, line: &[u8]) {
        // One write, so that lines do not mix. A failure cannot be reported.
        let _ = self.writer.make_writer().write_all(line);
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            // Another of these layers may have put the same there; `insert` would panic.
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let now = SystemClock.now();
        let mut all = Fields::default();
        // From the outermost span inwards: an inner value overrides an outer one.
        let spans = context.event_scope(event).into_iter();
        for span in spans.flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                all.extend(fields);
            }
        }
        if event.metadata().target() == METRICS {
            let mut own = Fields::default();
            event.record(&mut own);
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.take_from(&mut own);
            drop(sums);
            all.extend(&own);
            if let Some(line) = metrics::line(&all, &self.config, now) {
                self.write(&line);
            }
        } else {
            event.record(&mut all);
            self.write(&log_line(event, &all, now));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        if span.metadata().name() != INVOCATION {
            return;
        }
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = std::mem::take(&mut *sums);
        if let Some(mut all) = sums.into_fields() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, said) in fields.iter() {
                    if all.get(name).is_none() {
                        all.set(name, said.clone());
                    }
                }
            }
            if let Some(line) = metrics::line(&all, &self.config, SystemClock.now()) {
                self.write(&line);
            }
        }
    }
}

fn log_line(event: &Event<'_>, all: &Fields, now: Timestamp) -> Vec<u8> {
    let mut line = LogLine::new();
    line.member("timestamp", &now);
    line.member("level", event.metadata().level().as_str());
    if let Some(message) = all.get("message") {
        line.member("message", message);
    }
    line.member("target", event.metadata().target());
    line.fields(&all.iter(), &["timestamp", "level", "message", "target"]);
    line.end()
}
