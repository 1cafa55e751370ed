//! What became of the sockets: counts to be looked at as metrics. Nothing of a clinic, a server or a
//! message is in them.

use std::time::Duration;

use serde::Serialize;

/// The sockets of a process. The first four are as of now; the others were counted since the statistics
/// were last taken, or since the start.
///
/// Of any two looks it holds that `open` before and `opened` between them are `open` afterwards and
/// what was [retired](Retirements::total) between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketStatistics {
    /// Places under the ceiling that are taken: SMTP connections, being made or open, and HTTP requests
    /// in flight.
    pub held: u64,
    /// SMTP connections that are logged in, idle ones among them.
    pub open: u64,
    /// SMTP connections that are kept for the next message.
    pub idle: u64,
    /// Messages that wait, for one of their provider's connections or at the ceiling.
    pub waiting: u64,
    /// SMTP connections that were made and logged in.
    pub opened: u64,
    /// SMTP connections that were kept and taken for a message, once for each time.
    pub reused: u64,
    /// SMTP connections that ended, by why.
    pub retired: Retirements,
    /// Messages that met a kept connection that was dead, and had a new one at once.
    pub stale_retried: u64,
    /// SMTP connections that a server refused as one too many.
    pub one_too_many: u64,
    /// Waits that are over, however they ended.
    pub waited: u64,
    /// How long they took together, in milliseconds.
    pub waited_milliseconds: u64,
    /// Those among them that ended without a connection, because the time was up.
    pub timed_out: u64,
}

/// Why SMTP connections ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirements {
    /// They had carried as many messages as we let one carry, or as the server announced.
    pub messages: u64,
    /// They had carried as many as the server was found to let one carry.
    pub learned: u64,
    /// They had been idle for too long.
    pub idle: u64,
    /// The server had ended them, did not answer on them any more, or said what nobody had asked for.
    pub server_closed: u64,
    /// Another provider needed their place under the ceiling.
    pub ceiling: u64,
    /// The invocation ended: a frozen process leaves its place at the server to others.
    pub invocation_end: u64,
    /// Their conversation was cut short, or their provider is not used any more.
    pub dropped: u64,
}

impl Retirements {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.messages
            + self.learned
            + self.idle
            + self.server_closed
            + self.ceiling
            + self.invocation_end
            + self.dropped
    }

    pub(crate) const fn add(&mut self, why: Retirement) {
        let count = match why {
            Retirement::Messages => &mut self.messages,
            Retirement::Learned => &mut self.learned,
            Retirement::Idle => &mut self.idle,
            Retirement::ServerClosed => &mut self.server_closed,
            Retirement::Ceiling => &mut self.ceiling,
            Retirement::InvocationEnd => &mut self.invocation_end,
            Retirement::Dropped => &mut self.dropped,
        };
        *count += 1;
    }
}

/// Why an SMTP connection ends; see [`Retirements`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retirement {
    Messages,
    Learned,
    Idle,
    ServerClosed,
    Ceiling,
    InvocationEnd,
    Dropped,
}

impl SocketStatistics {
    pub(super) fn add_wait(&mut self, time: Duration) {
        self.waited += 1;
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.waited_milliseconds = self.waited_milliseconds.saturating_add(milliseconds);
    }

    /// What is of now stays, what was counted begins anew.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            held: self.held,
            open: self.open,
            idle: self.idle,
            waiting: self.waiting,
            ..Self::default()
        };
    }
}
