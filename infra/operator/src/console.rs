//! The output of a command: results on standard output, everything else on standard error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write as _},
};

/// Prints a result. A reader that closes the pipe early is no error.
pub(crate) fn say(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    match said {
        // The reader of the pipe has gone.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

/// Prints progress or an error. If standard error is closed, the work goes on.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
