//! A spinner for what takes longer than a second, on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{clear, screen};

/// What ends sooner needs no spinner.
const FIRST_FRAME_DELAY: Duration = Duration::from_secs(1);
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Spins until it is dropped.
#[derive(Debug)]
pub(crate) struct Spinner(Option<JoinHandle<()>>);

/// Names on the terminal what is being waited for. Standard error in a pipe gets nothing.
pub(crate) fn spin(what: impl Into<String>) -> Spinner {
    if !std::io::stderr().is_terminal() {
        return Spinner(None);
    }
    let what = what.into();
    Spinner(Some(tokio::spawn(async move {
        tokio::time::sleep(FIRST_FRAME_DELAY).await;
        for frame in FRAMES.into_iter().cycle() {
            draw(frame, &what);
            tokio::time::sleep(FRAME_INTERVAL).await;
        }
    })))
}

fn draw(frame: char, what: &str) {
    let mut is_drawn = screen();
    let mut out = std::io::stderr();
    // Where nobody can be told, the work goes on.
    let _ = write!(out, "\r\x1b[2K{frame} {what}");
    let _ = out.flush();
    *is_drawn = true;
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            clear(&mut screen());
        }
    }
}
