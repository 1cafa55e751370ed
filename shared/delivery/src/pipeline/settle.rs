//! The end of an invocation: connections close, unused quota is released, usage and metrics are written.

use std::sync::atomic::{AtomicU64, Ordering};

use comms_adapters::{Deadline, SocketStatistics};
use comms_core::metric::METRICS;
use futures_util::future::{join, join3};
use tracing::info;

use super::Pipeline;

impl Pipeline {
    /// Ends an invocation: closes idle connections, releases unused quota, writes usage, and emits the metrics of quotas and
    /// rate limits since the last call.
    pub async fn settle(&self, deadline: Deadline) {
        let releases = join3(
            self.shares.in_flight.release(deadline),
            self.shares.slow.release(deadline),
            self.end_connections(deadline),
        );
        let writes = join(
            self.quotas.release_leases(deadline),
            self.usage.write(deadline),
        );
        join(writes, releases).await;
        self.record_connections();
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let (quota_writes, pacing_writes) =
            (self.quotas.take_writes(), self.rate_limiter.take_writes());
        let (by_quota, by_pacing) = (
            take(&self.deferred.quota),
            take(&self.deferred.rate_limiter),
        );
        let by_worker_share = take(&self.deferred.worker_share);
        let by_provider = take(&self.deferred.provider);
        let by_connections = take(&self.deferred.connections);
        let connection_writes = self.shares.connections.take_writes();
        let waiting = by_quota + by_pacing + by_provider + by_worker_share + by_connections;
        if quota_writes + pacing_writes + connection_writes + waiting > 0 {
            info!(
                target: METRICS,
                quota_writes,
                pacing_writes,
                deferred_by_quota = by_quota,
                deferred_by_pacing = by_pacing,
                waiting_for_provider = by_provider,
                connection_writes,
                deferred_by_worker_share = by_worker_share,
                deferred_by_connections = by_connections,
            );
        }
    }

    /// Emits the metrics of connections to providers since the last call. Emits none if nothing happened and none is open.
    fn record_connections(&self) {
        let seen = self.factory.sockets().take_statistics();
        if seen == SocketStatistics::default() {
            return;
        }
        info!(
            target: METRICS,
            sockets_held = seen.held,
            smtp_connections_open = seen.open,
            smtp_connections_idle = seen.idle,
            smtp_connections_opened = seen.opened,
            smtp_connections_reused = seen.reused,
            smtp_connections_stale = seen.stale_retried,
            smtp_connections_refused = seen.one_too_many,
            smtp_connections_closed_by_server = seen.retired.server_closed,
            smtp_connections_closed_at_ceiling = seen.retired.ceiling,
            smtp_connections_retired = seen.retired.total(),
            connection_waits = seen.waited,
            connection_waits_timed_out = seen.timed_out,
            connection_wait_ms = seen.waited_milliseconds,
        );
    }
}
