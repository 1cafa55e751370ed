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
        log::set_boxed_logger(Box::new(captured.clone())).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        captured
    });
    work.await;
    let logged = everything.0.lock().unwrap();
    String::from_utf8_lossy(&logged).into_owned()
}
