//! Where a command talks: results on standard output, everything else on standard error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write as _},
};

/// A result. That nobody reads it to its end is no error.
pub(crate) fn say(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    match said {
        // The reader of a pipe has gone: it has read what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

/// What happens meanwhile, or what went wrong. Where nobody can be told, the work goes on.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
