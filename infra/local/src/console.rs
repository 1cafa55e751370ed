//! What the stack tells the developer. Results and events go to standard output, trouble and raw logs to standard error.
//!
//! On a terminal lines are colored, and a spinner names what takes longer than a second. In a pipe, and with `NO_COLOR`,
//! they are plain text.

mod event;
mod function_log;
mod spinner;

use std::fmt;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) use event::{Event, Mark};
pub(crate) use function_log::{LogLine, read_line};
pub(crate) use spinner::spin;

/// Whether a spinner is drawn on the last line of the terminal. Whoever writes holds it, so that lines never mix.
static IS_SPINNER_DRAWN: Mutex<bool> = Mutex::new(false);

fn screen() -> MutexGuard<'static, bool> {
    IS_SPINNER_DRAWN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Removes a spinner from the terminal. Where nobody can be told, the work goes on.
fn clear(is_drawn: &mut bool) {
    if std::mem::take(is_drawn) {
        let _ = write!(std::io::stderr(), "\r\x1b[2K");
    }
}

/// Prints a line on standard output.
pub(crate) fn say(line: impl fmt::Display) {
    let mut is_drawn = screen();
    clear(&mut is_drawn);
    anstream::println!("{line}");
}

/// Prints a line on standard error.
pub(crate) fn warn(line: impl fmt::Display) {
    let mut is_drawn = screen();
    clear(&mut is_drawn);
    anstream::eprintln!("{line}");
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
