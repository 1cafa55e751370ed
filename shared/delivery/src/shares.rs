//! What one clinic may take of what all clinics share.

use std::{num::NonZeroU32, sync::Arc};

use aws_config::SdkConfig;
use comms_core::Clock;

use crate::{
    connections::Connections,
    in_flight::InFlight,
    slow_workers::{SlowWorkers, WorkerShares},
};

/// The platform's limits for every clinic that has no ceilings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareLimits {
    /// Immediate requests in flight.
    pub immediate_in_flight: NonZeroU32,
    /// Deliveries of priority `high` and `critical` in an hour.
    pub urgent_per_hour: NonZeroU32,
    /// Workers of each queue that slow deliveries may hold.
    pub workers: WorkerShares,
}

impl ShareLimits {
    /// `ImmediateSendsInFlight` of the template.
    pub const IMMEDIATE_IN_FLIGHT: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
    /// `UrgentPerHour` of the template.
    pub const URGENT_PER_HOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(599);
    /// `SlowWorkerSharePercent` of the template.
    pub const WORKER_PERCENT: u32 = 25;
    /// `WorkerConcurrency` of the template.
    pub const WORKERS: u32 = 20;
    /// `UrgentWorkerConcurrency` of the template.
    pub const URGENT_WORKERS: u32 = 10;
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            immediate_in_flight: Self::IMMEDIATE_IN_FLIGHT,
            urgent_per_hour: Self::URGENT_PER_HOUR,
            workers: WorkerShares::of(Self::WORKER_PERCENT, Self::WORKERS, Self::URGENT_WORKERS),
        }
    }
}

/// Counts what each clinic takes, over all processes.
#[derive(Debug)]
pub struct Shares {
    pub(crate) limits: ShareLimits,
    pub(crate) in_flight: InFlight,
    pub(crate) slow: SlowWorkers,
    pub(crate) connections: Connections,
}

impl Shares {
    /// Uses the deliveries table `table`.
    pub fn new(
        config: &SdkConfig,
        table: &str,
        clock: Arc<dyn Clock>,
        limits: ShareLimits,
    ) -> Self {
        Self {
            limits,
            in_flight: InFlight::new(config, table, clock.clone()),
            slow: SlowWorkers::new(config, table, clock.clone(), limits.workers),
            connections: Connections::new(config, table, clock, limits.workers),
        }
    }
}
