//! How far a command is, on standard error: a bar where that is a terminal, else a line at each tenth.

use std::fmt::Display;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::note;

/// How far something is.
pub(crate) struct Progress {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    /// `what` is being done, in `unit`s; on a terminal, as a bar.
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

    /// `done` of `total` is behind us.
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

    /// Takes the bar away, so that the report has the terminal to itself.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
