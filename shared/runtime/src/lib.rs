//! The surroundings of every function: environment, AWS configuration, telemetry, HTTP answers, authorization, SQS batches.

mod action;
pub mod audit;
pub mod auth;
pub mod aws;
mod bearer;
pub mod environment;
pub mod function;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
pub mod lifetime;
pub mod sqs;
pub mod telemetry;

pub use audit::{AuditSubjects, Trail};
pub use environment::{Environment, EnvironmentError};
pub use function::Function;
pub use http::HttpProblem;
