//! Reports and errors, as the commands print them.

use std::{fmt::Display, path::Path};

use serde::Serialize;

use crate::console::say;

/// Prints a report to standard output.
pub(crate) fn print_report(report: &(impl Display + Serialize), json: bool) -> std::io::Result<()> {
    if json {
        say(serde_json::to_string_pretty(report)?)
    } else {
        say(report)
    }
}

/// The error of a file, with its path.
pub(crate) fn in_file(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {}", path.display(), error.kind())
}

/// The error of a run that was cut short.
#[allow(clippy::needless_pass_by_value, reason = "used as a map_err function")]
pub(crate) fn can_go_on(error: impl Display) -> String {
    format!("{error}; what was done before is done, and the same command goes on from there")
}
