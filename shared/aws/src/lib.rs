//! AWS, for every crate of the workspace that calls it: clients with retries of their own ([`clients`]), the code of an
//! error ([`error`]), the metrics of failed requests ([`failed_requests`]), what a table did ([`TableError`]), attributes of
//! items ([`item`]), transactions ([`transaction`]), rate limits ([`gcra`]), and SQS ([`queue`]).

pub mod clients;
mod conditional_write;
pub mod error;
mod failed_requests;
pub mod gcra;
pub mod item;
pub mod queue;
mod table_error;
pub mod transaction;

pub use conditional_write::ConditionalWrite;
pub use error::{error_code, had_no_effect, is_for_credentials, is_refusal, is_throttling};
pub use failed_requests::count_failure;
pub use item::Item;
pub use queue::{QueueClient, QueueError};
pub use table_error::TableError;
