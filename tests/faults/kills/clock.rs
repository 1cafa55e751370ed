//! The time of a series of runs: the system's and as much again as the test says, in every process of the series.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use comms_core::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use tempfile::{NamedTempFile, TempDir};

/// The clock as the test has it, who moves it.
pub(super) struct SeriesClock {
    /// By how many milliseconds it is fast.
    ahead: AtomicI64,
    directory: TempDir,
}

impl SeriesClock {
    pub(super) fn new() -> Self {
        let clock = Self {
            ahead: AtomicI64::new(0),
            directory: TempDir::new().unwrap(),
        };
        clock.tell();
        clock
    }

    /// Where worker processes read how fast it is.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.path().join("ahead")
    }

    /// Moves it on.
    pub(super) fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        self.ahead.fetch_add(by, Ordering::Relaxed);
        self.tell();
    }

    /// Moves it on to `time`, if that is still to come.
    pub(super) fn advance_to(&self, time: Timestamp) {
        if let Ok(by) = Duration::try_from(time.duration_since(self.now())) {
            self.advance(by + Duration::from_millis(1));
        }
    }

    /// Renames a file of its own: who reads finds the one or the other.
    fn tell(&self) {
        let mut file = NamedTempFile::new_in(self.directory.path()).unwrap();
        write!(file, "{}", self.ahead.load(Ordering::Relaxed)).unwrap();
        file.persist(self.file()).unwrap();
    }
}

impl Clock for SeriesClock {
    fn now(&self) -> Timestamp {
        ahead(self.ahead.load(Ordering::Relaxed))
    }
}

/// The same clock in a worker process.
pub(super) struct ToldClock(pub(super) PathBuf);

impl Clock for ToldClock {
    fn now(&self) -> Timestamp {
        ahead(read(&self.0))
    }
}

fn read(path: &Path) -> i64 {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn ahead(milliseconds: i64) -> Timestamp {
    SystemClock.now() + SignedDuration::from_millis(milliseconds)
}
