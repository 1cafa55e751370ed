//! Where a command talks: results on standard output, everything else on standard error.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to its user there"
)]

use std::fmt::Display;

/// A result.
pub(crate) fn say(text: impl Display) {
    println!("{text}");
}

/// What happens meanwhile, or what went wrong.
pub(crate) fn note(text: impl Display) {
    eprintln!("{text}");
}
