//! Everything that is logged while something runs, at every level, by whoever: `tracing`'s events and
//! the `log` crate's records.

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
};

use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Captured {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl log::Log for Captured {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(self.clone(), "{} {}", record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Runs `work` and returns what was logged meanwhile.
pub(crate) async fn capture(work: impl Future<Output = ()>) -> String {
    static RECORDS: OnceLock<Captured> = OnceLock::new();
    let records = RECORDS.get_or_init(|| {
        let captured = Captured::default();
        log::set_boxed_logger(Box::new(captured.clone())).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        captured
    });
    let events = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(events.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let mut all = events.0.lock().unwrap().clone();
    all.extend_from_slice(&records.0.lock().unwrap());
    String::from_utf8_lossy(&all).into_owned()
}
