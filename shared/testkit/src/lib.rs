//! Servers that stand in for the outside: AWS, the Lambda Runtime API, SMTP; and certificates for them.

pub mod aws;
pub mod clock;
pub mod runtime_api;
pub mod smtp;
pub mod tls;
