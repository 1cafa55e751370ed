//! Asking a command to stop where it may.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether a command has been asked to stop. Clones are asked together.
///
/// For commands that hold something which has to be given back: dropping them in the middle of a request would lose
/// what the answer brings.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asked by the first Ctrl-C. Must be called within a tokio runtime.
    pub(crate) fn at_interrupt() -> Self {
        let stop = Self::default();
        let asked = stop.clone();
        tokio::spawn(async move {
            // Where no signal can be waited for, there is none.
            if tokio::signal::ctrl_c().await.is_ok() {
                asked.request();
            }
        });
        stop
    }

    /// Asks.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
