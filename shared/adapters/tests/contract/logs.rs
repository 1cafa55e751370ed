//! Everything that is logged while something runs, at every level, by whoever: `tracing`'s events and
//! the `log` crate's records.

use std::{io::Write, sync::OnceLock};

use comms_testkit::logs::Captured;

/// The records of the `log` crate.
struct Records(Captured);

impl log::Log for Records {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(self.0.clone(), "{} {}", record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Runs `work` and returns what was logged meanwhile, by this test or by another of this binary.
///
/// The subscriber is the process's: one that only this thread had would miss whatever another thread
/// met first, because `tracing` remembers that nobody wanted it.
pub(crate) async fn capture(work: impl Future<Output = ()>) -> String {
    static EVERYTHING: OnceLock<Captured> = OnceLock::new();
    let everything = EVERYTHING.get_or_init(|| {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(captured.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log::set_boxed_logger(Box::new(Records(captured.clone()))).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        captured
    });
    work.await;
    everything.text()
}
