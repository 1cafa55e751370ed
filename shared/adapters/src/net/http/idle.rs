//! Connections that are kept for the next request to the same host.
//!
//! There is no timer behind it, which would not run in a frozen process: connections that were idle for too long are closed
//! when one is taken or put back.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use comms_core::Host;
use tokio::time::Instant;

use super::{Endpoint, connection::Connection};

/// How long an idle connection is kept. Providers' front ends close theirs after a minute or more; one
/// that is about to be closed may swallow a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Idle connections to one host. The answers to a batch come nearly together, so that this is also how many deliveries
/// at once keep their connections from batch to batch, without a TLS handshake for each.
const MAX_IDLE_PER_HOST: usize = 128;
/// Idle connections to all hosts. They are not under the ceiling of [`crate::Sockets`], which counts what is in flight:
/// these, [`crate::net::sockets::CEILING`], and the connections to AWS are less than the file descriptors of a Lambda.
const MAX_IDLE: usize = 384;
/// How often connections to other hosts are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) host: Host,
    pub(super) endpoint: Endpoint,
}

/// The idle connections of a process.
#[derive(Default)]
pub(super) struct Idle(Mutex<IdleByOrigin>);

#[derive(Default)]
struct IdleByOrigin {
    /// Of each origin the connection that was put back last is the last one.
    origins: HashMap<Origin, Vec<(Instant, Connection)>>,
    count: usize,
    swept: Option<Instant>,
}

impl Idle {
    /// The connection to `origin` that was put back last.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(now);
        let (since, connection) = state.origins.get_mut(origin)?.pop()?;
        state.count -= 1;
        is_fresh(since, now).then_some(connection)
    }

    /// Keeps a connection for the next request to `origin`.
    pub(super) fn put_back(&self, origin: Origin, connection: Connection) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(now);
        if state.count >= MAX_IDLE {
            state.close_oldest();
        }
        let connections = state.origins.entry(origin).or_default();
        if connections.len() < MAX_IDLE_PER_HOST {
            connections.push((now, connection));
            state.count += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }
}

impl IdleByOrigin {
    /// Closes what has been idle for too long.
    fn sweep(&mut self, now: Instant) {
        let is_due = |swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL;
        if !self.swept.is_none_or(is_due) {
            return;
        }
        self.swept = Some(now);
        self.origins.retain(|_, connections| {
            connections.retain(|(since, _)| is_fresh(*since, now));
            !connections.is_empty()
        });
        self.count = self.origins.values().map(Vec::len).sum();
    }

    /// Closes the connection that has been idle for the longest, whosever it is.
    fn close_oldest(&mut self) {
        let first =
            |connections: &Vec<(Instant, Connection)>| connections.first().map(|(since, _)| *since);
        let oldest = self
            .origins
            .values_mut()
            .filter(|connections| !connections.is_empty())
            .min_by_key(|connections| first(connections));
        if let Some(connections) = oldest {
            drop(connections.remove(0));
            self.count -= 1;
        }
    }
}

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < IDLE_TIMEOUT
}
