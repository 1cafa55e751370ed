//! What the stack tells the developer: progress and results on standard output, trouble and logs on standard error.

use std::fmt;
use std::time::Instant;

/// Prints a line on standard output.
pub(crate) fn say(line: impl fmt::Display) {
    println!("{line}");
}

/// Prints a line on standard error.
pub(crate) fn warn(line: impl fmt::Display) {
    eprintln!("{line}");
}

/// Milliseconds since `start`, for people.
pub(crate) fn ms(start: Instant) -> String {
    format!("{} ms", start.elapsed().as_millis())
}

/// Start-up as it goes on: each step with the milliseconds since the beginning.
#[derive(Debug)]
pub(crate) struct Progress {
    begin: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
        }
    }

    /// Says that something is ready.
    pub(crate) fn step(&self, what: &str, detail: impl fmt::Display) {
        say(format_args!(
            "{:>6} ms  {what:<10} {detail}",
            self.begin.elapsed().as_millis()
        ));
    }
}
