//! From an accepted communication to recorded outcomes: request, deliveries, ledger, chain, outcome.
//!
//! [`Pipeline`] is the one way a message goes out, whether it came by HTTP or from the queue. The
//! [`ledger`] makes sure that it goes out once.

#![cfg_attr(all(test, fuzzing), no_main)]

mod allowance;
pub mod chain_spec;
mod counted;
pub mod deferral;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod ledger;
pub mod pacing;
pub mod pipeline;
mod policy;
pub mod queue_claim;
pub mod quota;
mod recent;
pub mod slots;
pub mod usage;

pub use counted::Counted;
pub use health::SharedHealth;
pub use ledger::{Ledger, LedgerError, RecordedRequest};
pub use pacing::SharedPacing;
pub use pipeline::{
    Accepted, DeliveryResult, HandBack, Patience, Pipeline, PipelineConfig, PipelineError,
    QueuedMessage, QuotaError,
};
pub use queue_claim::QueueClaim;
pub use quota::{Paid, Payer, Quota, Quotas};
pub use slots::Slots;
pub use usage::Usage;
