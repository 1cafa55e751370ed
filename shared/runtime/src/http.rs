//! HTTP: routes, what a request may be, and answers in JSON, with errors as problem details (RFC 9457).

mod body;
mod deadline;
mod head;
mod problem;
pub mod query;
mod response;
pub mod routes;
mod serve;

pub use body::{body_bytes, json_body};
pub use deadline::{remaining, time_left};
pub use head::{MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES};
pub use problem::HttpProblem;
pub use response::{json_response, json_text_response};
pub use serve::{HttpFunction, handle, invocation, source_address, trace};
