//! How many connections one login may have over all processes: what an entry's pool may open, and what it saw.
//!
//! The pool obeys what it was granted ([`ConnectionLimit::grant`]) and reports what the server did
//! ([`ConnectionLimit::take_seen`]). Who shares that with other processes is no concern of the pool.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use comms_core::{HashKey, Secret};

use super::{config::SmtpConfig, host_limit::HostLimit, slots::Slots};
use crate::net::sockets::IdleConnections;

/// The connections of one entry's pool, as all processes together may have them.
pub struct ConnectionLimit {
    id: u64,
    host: String,
    port: u16,
    user: String,
    password: Secret,
    known: HostLimit,
    max_connections: u32,
    slots: Arc<Slots>,
    idle: Weak<dyn IdleConnections>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: ConnectionsSeen,
    is_shared: bool,
    others_connected: bool,
}

/// What an entry's pool may use of the login's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// So many at the same time.
    Connections(u32),
    /// As many as the settings say. What the server allows is not known.
    Uncounted,
    /// As many as the settings say, of a server that is known to have no limit that matters: idle ones may outlive the
    /// invocation.
    Unlimited,
}

/// What became of an entry's new connections since this was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionsSeen {
    /// Connections that were opened and logged in.
    pub opened: u32,
    /// Connections that the server refused, as far as it looks because of their number.
    pub refused: u32,
}

impl ConnectionLimit {
    pub(super) fn new(
        config: &SmtpConfig,
        slots: Arc<Slots>,
        idle: Weak<dyn IdleConnections>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            host: config.host.to_string().to_ascii_lowercase(),
            port: config.port,
            user: config.user.clone(),
            password: config.password.clone(),
            known: HostLimit::of(&config.host),
            max_connections: config.max_connections.max(1).into(),
            slots,
            idle,
            seen: Mutex::default(),
        }
    }

    /// Tells this pool from every other of the process.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The keyed hash of the login. The password is part of it: who does not have it shares no limit with the mailbox's
    /// owner. `None` if the password cannot be unsealed.
    pub fn account(&self, key: &HashKey) -> Option<String> {
        let password = self.password.expose().ok()?;
        let parts = [
            self.host.as_bytes(),
            &self.port.to_be_bytes(),
            self.user.as_bytes(),
            password.as_bytes(),
        ];
        Some(key.digest("connections", &parts).hex128())
    }

    /// Connections of the settings (`maxConnections`), for each process.
    pub const fn max_connections(&self) -> u32 {
        self.max_connections
    }

    /// The number of connections that the server's operator publishes.
    pub const fn published(&self) -> Option<u32> {
        match self.known {
            HostLimit::Connections(connections) => Some(connections),
            HostLimit::Relay | HostLimit::Unknown => None,
        }
    }

    /// Whether the server is known to have no limit that matters.
    pub const fn is_relay(&self) -> bool {
        matches!(self.known, HostLimit::Relay)
    }

    /// Lets the pool use what was granted. `others_connected` says whether other processes have connections of the login.
    pub fn grant(&self, granted: Granted, others_connected: bool) {
        let (connections, is_unlimited) = match granted {
            Granted::Connections(count) => {
                (Some(usize::try_from(count).unwrap_or(usize::MAX)), false)
            }
            Granted::Uncounted => (None, false),
            Granted::Unlimited => (None, true),
        };
        {
            let mut seen = self.seen();
            seen.is_shared = connections.is_some();
            seen.others_connected = others_connected;
        }
        self.slots.grant(connections);
        self.slots.set_unlimited(is_unlimited);
    }

    /// What was seen since this was asked last.
    pub fn take_seen(&self) -> ConnectionsSeen {
        std::mem::take(&mut self.seen().connections)
    }

    /// Closes the idle connections of this pool, and waits until the server has closed them too, for `limit` at most.
    pub async fn close_idle(&self, limit: Duration) {
        let closes = self
            .idle
            .upgrade()
            .and_then(|idle| idle.close_at_invocation_end(limit));
        if let Some(closes) = closes {
            closes.await;
        }
    }

    /// Whether a connection was closed of which the server has not said that it noticed. Asked once.
    pub fn take_unconfirmed(&self) -> bool {
        self.slots.take_unconfirmed() > 0
    }

    pub(super) fn note_opened(&self) {
        let opened = &mut self.seen().connections.opened;
        *opened = opened.saturating_add(1);
    }

    /// Notes that the server refused a connection. Whether the number of connections in other processes may be why.
    pub(super) fn note_refused(&self) -> bool {
        // Before anybody else is told: the next message of this process must not try the same.
        self.slots.revoke_one();
        self.slots.set_unlimited(false);
        let mut seen = self.seen();
        seen.connections.refused = seen.connections.refused.saturating_add(1);
        !seen.is_shared || seen.others_connected
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while the lock is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ConnectionLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionLimit(…)")
    }
}
