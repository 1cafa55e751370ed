//! Stopping a command.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A request to stop. Clones share it.
///
/// For commands that must finish a request before they stop: a command that is dropped loses the answer, and what it
/// received stays locked.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Requested by the first Ctrl-C. Must be called within a tokio runtime.
    pub(crate) fn at_interrupt() -> Self {
        let stop = Self::default();
        let asked = stop.clone();
        tokio::spawn(async move {
            // On a platform without the signal the command runs to its end.
            if tokio::signal::ctrl_c().await.is_ok() {
                asked.request();
            }
        });
        stop
    }

    /// Asks the command to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True after [`Stop::request`].
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The result of `work`, or `None` if Ctrl-C came first.
pub(crate) async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        // On a platform without the signal the work goes on.
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}
