//! An open connection with the room that it takes, and the count of both.

use std::time::Duration;

use jiff::Timestamp;

use super::{connection::Connection, slots::Permit};
use crate::net::sockets::{Retirement, Sockets};

/// A connection that is logged in, and what it holds.
pub(super) struct Lease {
    // The socket is closed before its place is free.
    pub(super) connection: Connection,
    pub(super) held: Held,
}

/// What an open connection holds: its room, and its place in the statistics.
pub(super) struct Held {
    open: Open,
    room: Permit,
}

/// One connection in the statistics. Unless something else is said, it ended for a reason of its own.
struct Open {
    sockets: Sockets,
    why: Retirement,
}

/// A connection that is kept.
pub(super) struct IdleConnection {
    pub(super) lease: Lease,
    pub(super) since: Timestamp,
    pub(super) last_use: u64,
    _counted: Counted,
}

/// One idle connection in the statistics.
struct Counted(Sockets);

impl Lease {
    pub(super) fn new(connection: Connection, room: Permit, sockets: Sockets) -> Self {
        sockets.count(|statistics| {
            statistics.open += 1;
            statistics.opened += 1;
        });
        let why = Retirement::Dropped;
        let open = Open { sockets, why };
        let held = Held { open, room };
        Self { connection, held }
    }

    /// Closes a connection that the server still believes in, with a good-bye.
    pub(super) fn retire(self, why: Retirement) {
        let Self { connection, held } = self;
        connection.leave();
        held.drop_as(why);
    }

    /// The same, and waits for the server to close it too, for `limit` at most. Whether it did.
    pub(super) async fn part(self, why: Retirement, limit: Duration) -> bool {
        let Self { connection, held } = self;
        let is_closed = connection.part(limit).await;
        held.drop_as(why);
        is_closed
    }

    /// Closes a connection that is dead.
    pub(super) fn drop_as(self, why: Retirement) {
        let Self { connection, held } = self;
        drop(connection);
        held.drop_as(why);
    }
}

impl Held {
    /// Counts the connection, which is closed already, as ended for `why`.
    pub(super) fn drop_as(mut self, why: Retirement) {
        self.open.why = why;
    }

    /// The same, and keeps the room for another connection.
    pub(super) fn vacate(self, why: Retirement) -> Permit {
        let Self { mut open, room } = self;
        open.why = why;
        room
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let why = self.why;
        self.sockets.count(|statistics| {
            statistics.open -= 1;
            statistics.retired.add(why);
        });
    }
}

impl IdleConnection {
    pub(super) fn new(lease: Lease, since: Timestamp) -> Self {
        let sockets = lease.held.open.sockets.clone();
        sockets.count(|statistics| statistics.idle += 1);
        Self {
            last_use: sockets.next_use(),
            lease,
            since,
            _counted: Counted(sockets),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count(|statistics| statistics.idle -= 1);
    }
}
