//! Reading a process's configuration variables.

use std::{fmt::Display, str::FromStr};

/// A source of configuration variables that collects their errors: `comms_runtime::Environment`.
pub trait Variables {
    /// A required variable; empty if it is missing.
    fn required(&self, name: &str) -> String;

    /// An optional variable, or the default.
    fn parsed<T: FromStr<Err: Display> + Default>(&self, name: &str) -> T;

    /// The text of the file that an optional variable names.
    fn file(&self, name: &str) -> Option<String>;
}
