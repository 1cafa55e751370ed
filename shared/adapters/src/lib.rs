//! Providers: the [`Provider`] trait, one adapter per provider, and the [`Chain`] that uses the best
//! one that works.
//!
//! An adapter turns a [`Message`] into its provider's protocol and the provider's reply into a
//! receipt or a classified [`ProviderError`](comms_core::ProviderError). It does nothing else: no
//! retries, no waiting, no environment. [`chain`] orders the providers and decides what an error means for the next; retries,
//! time limits and the record of every attempt are layers around each. [`rate_limiter`] keeps to a provider's rate limits,
//! [`egress`] says where a connection may go.

pub mod account_rate_limit;
pub mod adapter;
pub mod chain;
pub mod config;
pub mod deadline;
pub mod factory;
#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
mod html_text;
mod http_api;
mod layers;
pub mod message;
pub mod meta;
pub mod mime;
mod net;
pub mod postmark;
pub mod provider;
pub mod rate;
pub mod rate_limiter;
pub mod registry;
pub mod sendgrid;
pub mod ses;
pub mod smtp;
pub mod twilio;
pub mod verify;
pub mod zeptomail;

pub use account_rate_limit::AccountRateLimit;
pub use adapter::{BuildError, Parts};
pub use chain::{Chain, ChainEnd, ChainReport};
pub use config::{OwnSender, ProviderConfig};
pub use deadline::Deadline;
pub use factory::{ChainSpec, EntrySpec, ProviderFactory};
pub use health::Health;
pub use layers::retry;
pub use message::Message;
pub use net::{
    egress,
    egress::EgressGuard,
    http,
    http::HttpClients,
    sockets,
    sockets::{SocketStatistics, Sockets},
    tls,
};
pub use provider::{Capabilities, Provider};
pub use rate::Rate;
pub use rate_limiter::{Admission, ProbePermit, RateLimiter};
pub use verify::{StageOutcome, StageReport, VerifyStage};
