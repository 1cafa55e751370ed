//! Servers that stand in for the outside: AWS, the Lambda Runtime API, HTTP APIs, SMTP; and certificates for them.

pub mod aws;
pub mod builders;
mod changes;
pub mod clock;
pub mod dynamodb;
pub mod fault_proxy;
pub mod fuzz;
pub mod host_guard;
pub mod hostile;
pub mod http;
pub mod jwt;
pub mod logs;
pub mod runtime_api;
pub mod smtp;
pub mod tls;
