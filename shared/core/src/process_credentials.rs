//! Whether AWS has reported that the process's own credentials have expired.
//!
//! Lambda gives them as variables when it starts the process, and they are read once. Whoever hears that they are over
//! notes it here, and the process ends after the invocation, so that Lambda starts a new one with new ones.

use std::sync::atomic::{AtomicBool, Ordering};

static ARE_EXPIRED: AtomicBool = AtomicBool::new(false);

/// Notes that AWS refused the process's credentials because they are over.
pub fn note_expired() {
    ARE_EXPIRED.store(true, Ordering::Relaxed);
}

/// Whether that was noted.
pub fn are_expired() -> bool {
    ARE_EXPIRED.load(Ordering::Relaxed)
}
