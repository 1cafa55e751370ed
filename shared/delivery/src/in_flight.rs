//! Immediate sends in flight: how many a clinic may have at the same time, over all processes.
//!
//! A request that is sent while the caller waits holds a process of `send` for as long as the clinic's provider
//! takes. Without a limit, one clinic with a silent server holds every process there is. Each immediate request
//! takes one of the clinic's permits ([`crate::permits`]) before anything is recorded, and releases it when it has
//! been answered. A killed process gives its permits back by their expiry.
//!
//! The same item is a circuit breaker. After [`HUNG_REQUESTS`] consecutive requests for which the providers took
//! [`HANGS_AFTER`] or longer and accepted nothing, the clinic's immediate requests go to the queue at once. Each
//! [`PROBE_INTERVAL`] one request is sent as a probe; the first that is answered closes the circuit. Both are part of
//! the writes that take and release a permit.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use comms_adapters::Deadline;
use comms_aws::{Item, TableError, item::find_number};
use comms_core::{Channel, Clock, Tenant};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use crate::permits::{Permits, Rider, Taken, TakenSlot, spread_by_half};

/// A request for which nothing was accepted in this time has hung.
pub const HANGS_AFTER: Duration = Duration::from_secs(5);
/// Consecutive requests that hang before the circuit opens.
pub const HUNG_REQUESTS: u32 = 3;
/// How long an open circuit sends nothing before the next probe.
pub const PROBE_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// How long a permit lasts after its invocation's deadline: clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);
/// When a refused caller may ask again, and up to half as much later.
const RETRY_AFTER: Duration = Duration::from_secs(4);
/// The longest that releasing may delay an answer.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is done with an immediate request.
#[derive(Debug)]
pub enum Dispatch {
    /// It is sent now.
    Now(InFlightPermit),
    /// It goes to the queue: the clinic's providers do not answer.
    Queue,
    /// It is refused: the clinic has as many in flight as it may.
    TooMany {
        /// How many that is.
        limit: NonZeroU32,
        /// When to ask again.
        after: Duration,
    },
}

/// How a request that had a permit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// A provider answered: it accepted a message, or refused it soon.
    Answered,
    /// No provider accepted anything in [`HANGS_AFTER`].
    Hung,
}

/// Counts the immediate sends of all clinics.
pub struct InFlight {
    permits: Permits,
    clock: Arc<dyn Clock>,
    ended: Arc<Mutex<Vec<Ended>>>,
}

/// A permit that is to be released.
struct Ended {
    slot: TakenSlot,
    tenant: Tenant,
    circuit: Circuit,
    /// What the request says of the providers.
    end: Option<RequestEnd>,
    at: Timestamp,
}

/// The right to send one request now. [`InFlight::release`] gives back what was ended or dropped.
pub struct InFlightPermit {
    slot: Option<TakenSlot>,
    tenant: Tenant,
    circuit: Circuit,
    clock: Arc<dyn Clock>,
    ended: Arc<Mutex<Vec<Ended>>>,
}

impl InFlightPermit {
    /// Says how the request ended, which opens or closes the circuit.
    pub fn end(mut self, end: RequestEnd) {
        self.return_permit(Some(end));
    }

    fn return_permit(&mut self, end: Option<RequestEnd>) {
        if let Some(slot) = self.slot.take() {
            lock(&self.ended).push(Ended {
                slot,
                tenant: self.tenant.clone(),
                circuit: self.circuit.clone(),
                end,
                at: self.clock.now(),
            });
        }
    }
}

impl std::fmt::Debug for InFlightPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InFlightPermit(…)")
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.return_permit(None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while the lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            permits: Permits::new(config, table, clock.clone()),
            clock,
            ended: Arc::default(),
        }
    }

    /// Decides about a request on `channels` that may take until `deadline`. `limit` is the clinic's.
    ///
    /// One write; a few more if others take permits at the same time. An error means that DynamoDB did not answer:
    /// then nothing may be sent.
    pub async fn dispatch(
        &self,
        tenant: &Tenant,
        channels: &[Channel],
        limit: NonZeroU32,
        deadline: Deadline,
    ) -> Result<Dispatch, TableError> {
        let circuit = Circuit::of(channels);
        let partition_key = format!("in-flight#{tenant}");
        let now = self.clock.now();
        let until = now.saturating_add(deadline.remaining() + EXPIRY_MARGIN);
        let until = until.unwrap_or(Timestamp::MAX);
        let take = |rider: Rider, is_refused: fn(&Circuit, &Item, i64) -> bool, seen: i64| {
            let (circuit, partition_key) = (circuit.clone(), partition_key.clone());
            async move {
                let is_refused = |item: &Item| is_refused(&circuit, item, seen);
                let taken =
                    self.permits
                        .take(&partition_key, limit.get(), until, &rider, is_refused);
                taken.await
            }
        };
        let mut taken = take(
            circuit.if_closed(),
            |circuit, item, _| circuit.is_open(item),
            0,
        )
        .await?;
        if let Taken::Refused(item) = &taken {
            let hung_at = circuit.hung_at(item);
            let probe_at = hung_at.saturating_add(nanoseconds(PROBE_INTERVAL));
            let now = nanoseconds_of(now);
            // A clock that is ahead by more than that must not keep the circuit open.
            let is_soon =
                (now..=now.saturating_add(nanoseconds(PROBE_INTERVAL))).contains(&probe_at);
            if is_soon {
                return Ok(Dispatch::Queue);
            }
            let rider = circuit.probing(hung_at, now);
            taken = take(
                rider,
                |circuit, item, seen| circuit.hung_at(item) != seen,
                hung_at,
            )
            .await?;
        }
        Ok(match taken {
            Taken::Slot(slot, _) => Dispatch::Now(InFlightPermit {
                slot: Some(slot),
                tenant: tenant.clone(),
                circuit,
                clock: self.clock.clone(),
                ended: self.ended.clone(),
            }),
            Taken::Refused(_) => Dispatch::Queue,
            Taken::Full => Dispatch::TooMany {
                limit,
                after: spread_by_half(RETRY_AFTER),
            },
        })
    }

    /// Releases the permits that were ended or dropped in this process: once before an invocation ends, since the
    /// process may be frozen afterwards. A permit that is not released expires.
    pub async fn release(&self, deadline: Deadline) {
        let ended = std::mem::take(&mut *lock(&self.ended));
        let writes = ended.iter().map(|ended| async move {
            match self.permits.release(&ended.slot, &ended.rider()).await {
                Ok(Some(before)) => ended.record(&before),
                Ok(None) => {}
                Err(error) => {
                    warn!(%error, "an immediate send's permit was not released, and expires");
                }
            }
        });
        let released = deadline.bound(RELEASE_TIMEOUT, join_all(writes)).await;
        if released.is_err() {
            warn!("permits of immediate sends were not released in time, and expire");
        }
    }
}

impl Ended {
    fn rider(&self) -> Rider {
        match self.end {
            Some(RequestEnd::Answered) => self.circuit.closing(),
            Some(RequestEnd::Hung) => self.circuit.counting(self.at),
            None => Rider::default(),
        }
    }

    /// Logs that the circuit opened or closed, by the item as it was before.
    fn record(&self, before: &Item) {
        let hung = self.circuit.hung(before);
        let (tenant, channels) = (&self.tenant, &self.circuit.channels);
        let is_open = hung >= i64::from(HUNG_REQUESTS);
        match self.end {
            Some(RequestEnd::Hung) if hung + 1 == i64::from(HUNG_REQUESTS) => {
                warn!(clinic_id = %tenant, channels, "circuit opened");
            }
            Some(RequestEnd::Answered) if is_open => {
                info!(clinic_id = %tenant, channels, "circuit closed");
            }
            Some(RequestEnd::Hung | RequestEnd::Answered) | None => {}
        }
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InFlight(…)")
    }
}

fn nanoseconds_of(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn nanoseconds(time: SignedDuration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// The attributes of a clinic's circuit: one circuit for each set of channels.
#[derive(Debug, Clone)]
struct Circuit {
    /// The channels, as logs name them.
    channels: String,
    /// Consecutive requests that hung.
    hung: String,
    /// When the last one did, or the last probe began; in nanoseconds.
    hung_at: String,
}

impl Circuit {
    fn of(channels: &[Channel]) -> Self {
        let names: Vec<_> = Channel::ALL
            .into_iter()
            .filter(|channel| channels.contains(channel))
            .map(Channel::as_str)
            .collect();
        let name = names.join("-");
        Self {
            hung: format!("{name}Hung"),
            hung_at: format!("{name}HungAt"),
            channels: name,
        }
    }

    fn is_open(&self, item: &Item) -> bool {
        self.hung(item) >= i64::from(HUNG_REQUESTS)
    }

    fn hung(&self, item: &Item) -> i64 {
        find_number(item, &self.hung).unwrap_or(0)
    }

    fn hung_at(&self, item: &Item) -> i64 {
        find_number(item, &self.hung_at).unwrap_or(0)
    }

    fn hung_name(&self) -> (String, String) {
        ("#hung".to_owned(), self.hung.clone())
    }

    fn hung_at_name(&self) -> (String, String) {
        ("#hungAt".to_owned(), self.hung_at.clone())
    }

    fn if_closed(&self) -> Rider {
        Rider {
            condition: Some("(attribute_not_exists(#hung) OR #hung < :hungRequests)".to_owned()),
            names: vec![self.hung_name()],
            values: vec![(":hungRequests".to_owned(), i64::from(HUNG_REQUESTS))],
            ..Rider::default()
        }
    }

    /// One of those who see the same time begins the probe; the others see another time. A retry finds its own slot.
    fn probing(&self, seen: i64, now: i64) -> Rider {
        Rider {
            condition: Some("(#hungAt = :seen OR #slot0 = :mine0)".to_owned()),
            sets: vec!["#hungAt = :probeAt".to_owned()],
            names: vec![self.hung_at_name()],
            values: vec![(":seen".to_owned(), seen), (":probeAt".to_owned(), now)],
            ..Rider::default()
        }
    }

    fn counting(&self, now: Timestamp) -> Rider {
        let sets = [
            "#hung = if_not_exists(#hung, :zero) + :one",
            "#hungAt = :hungAt",
        ];
        Rider {
            sets: sets.map(str::to_owned).into(),
            names: vec![self.hung_name(), self.hung_at_name()],
            values: vec![
                (":zero".to_owned(), 0),
                (":one".to_owned(), 1),
                (":hungAt".to_owned(), nanoseconds_of(now)),
            ],
            ..Rider::default()
        }
    }

    fn closing(&self) -> Rider {
        Rider {
            removes: vec!["#hung".to_owned(), "#hungAt".to_owned()],
            names: vec![self.hung_name(), self.hung_at_name()],
            ..Rider::default()
        }
    }
}
