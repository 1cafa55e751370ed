//! The progress of a command on standard error: a bar on a terminal, else a line at each tenth.

use std::fmt::Display;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::note;

/// A progress display.
pub(crate) struct Progress {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    /// Starts to display `what`, counted in `unit`s; as a bar on a terminal.
    pub(crate) fn new(what: &'static str, unit: &'static str, terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = "{prefix} [{bar:40}] {pos}/{len} {msg} ({elapsed}, {eta} to go)";
            // The template is fixed; should it ever not be one, the default style shows as much.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        Self {
            what,
            unit,
            bar,
            tenths: 0,
        }
    }

    /// Shows that `done` of `total` are done.
    pub(crate) fn at(&mut self, done: u64, total: u64, detail: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_message(format!("{} {detail}", self.unit));
            bar.set_position(done);
        } else {
            let tenths = done
                .saturating_mul(10)
                .checked_div(total)
                .unwrap_or_default();
            if tenths > self.tenths {
                self.tenths = tenths;
                note(format_args!(
                    "{}: {done} of {total} {} {detail}",
                    self.what, self.unit
                ));
            }
        }
    }

    /// Removes the bar before the report is printed.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
