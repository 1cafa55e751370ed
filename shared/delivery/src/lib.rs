//! From an accepted communication to recorded outcomes: request, deliveries, ledger, chain, outcome.
//!
//! [`Pipeline`] is the one way a message goes out, whether it came by HTTP or from the queue. The
//! [`ledger`] makes sure that it goes out once.

mod allowance;
pub mod connections;
mod counted;
pub mod deferral;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub mod in_flight;
pub mod ledger;
mod outcome_queue;
mod permits;
pub mod pipeline;
mod policy;
pub mod queue_claim;
pub mod quota;
pub mod rate_limit;
mod reply_to;
mod require_clinic;
pub mod shares;
pub mod slots;
pub mod slow_workers;
pub mod usage;

pub use comms_aws::TableError;
pub use counted::Counted;
pub use health::SharedHealth;
pub use ledger::{Ledger, LedgerError, MessageStart, RecordedRequest};
pub use outcome_queue::send_outcomes;
pub use pipeline::{
    Accepted, ClinicMissing, CountryLookup, DeliveryResult, ExpectedVia, Immediate, ImmediateError,
    OUTCOMES_MAC, OnExhausted, OutcomeMessage, OutcomesOf, Parts, PendingOutcomes, Pipeline,
    PipelineConfig, PipelineError, QueuedMessage, QuotaError, RecordedOutcomes, Requeue,
    UrgentError, UrgentQuota, has_time_to_begin, next_receive,
};
pub use queue_claim::QueueClaim;
pub use quota::{Payer, Quota, Quotas, TakenQuota};
pub use rate_limit::SharedRateLimiter;
pub use require_clinic::RequireClinic;
pub use shares::{ShareLimits, Shares};
pub use slots::Slots;
pub use slow_workers::{WorkQueue, WorkerShares};
pub use usage::Usage;
