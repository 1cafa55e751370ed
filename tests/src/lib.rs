//! What the integration tests share, compiled once: the [`World`] with the functions' handlers, a local AWS and a mail
//! server; processes, queues and requests; the contract and the template as documents.
//!
//! The tests are in `api/`, `delivery/`, `security/` and `faults/`, one program each; `events/` holds what
//! `sam local invoke` is given, `clients/` the programs for generated clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "what is not as it should be is the test's failure"
)]
#![allow(missing_docs, reason = "the tests beside it are its only readers")]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

pub mod accounts;
pub mod contract;
pub mod items;
pub mod logs;
pub mod outcomes;
pub mod permissions;
pub mod process;
pub mod refused;
pub mod reply_to;
pub mod repository;
pub mod routes;

mod api_response;
mod documents;
mod events;
mod invoke;
mod mail;
mod parts;
mod resolver;
mod world;

pub use self::{
    api_response::ApiResponse,
    documents::{communication, email, entry, immediate},
    events::{claims, http_event, record, service, super_admin},
    invoke::{handle_records, post_to},
    mail::Mail,
    parts::{pipeline_with, worker_with},
    process::Process,
    world::{Batch, CLINIC, FROM, FUNCTIONS, PASSWORD, USER, World, access_key_id},
};

// Here and not in a test program, because `infra/fuzz` has it as a module too.
#[cfg(test)]
mod fuzz;
