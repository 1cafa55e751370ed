//! Writes events as lines: a log event as a JSON object with everything that its spans say beside what it
//! says itself, so that one field finds all lines of a request, a delivery or a clinic; a metric event in
//! the embedded metric format.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use comms_core::{Clock, SystemClock, metric::METRICS};
use jiff::Timestamp;
use serde_json::{Map, Value};
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
    fields::{Fields, name_in_line},
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
    fn write(&self, line: &Map<String, Value>) {
        let Ok(mut line) = serde_json::to_string(line) else {
            return;
        };
        line.push('\n');
        // One write, so that no other line comes in between. There is nobody to tell of a failure.
        let _ = self.writer.make_writer().write_all(line.as_bytes());
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
        // From the outermost in: what is further in knows better.
        let spans = context.event_scope(event).into_iter();
        for span in spans.flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                all.0.extend(fields.0.clone());
            }
        }
        if event.metadata().target() == METRICS {
            let mut own = Fields::default();
            event.record(&mut own);
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            let left = sums.add(own);
            drop(sums);
            all.0.extend(left.0);
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
                for (name, value) in &fields.0 {
                    all.0.entry(name).or_insert_with(|| value.clone());
                }
            }
            if let Some(line) = metrics::line(&all, &self.config, SystemClock.now()) {
                self.write(&line);
            }
        }
    }
}

fn log_line(event: &Event<'_>, all: &Fields, now: Timestamp) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), now.to_string().into());
    let level = event.metadata().level().as_str();
    line.insert("level".to_owned(), level.into());
    if let Some(message) = all.0.get("message") {
        line.insert("message".to_owned(), message.clone());
    }
    let target = event.metadata().target();
    line.insert("target".to_owned(), target.into());
    for (field, value) in &all.0 {
        line.entry(name_in_line(field))
            .or_insert_with(|| value.clone());
    }
    line
}
