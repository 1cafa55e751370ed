//! What every function needs of its surroundings: the environment, AWS configuration, telemetry,
//! HTTP answers, authorization, SQS batches.

pub mod auth;
pub mod aws;
pub mod environment;
pub mod http;
pub mod sqs;
pub mod telemetry;

pub use environment::{Environment, EnvironmentError};
pub use http::HttpProblem;
