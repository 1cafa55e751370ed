//! The functions as they are deployed, from the event to the mail server: their own handlers, the real AWS SDK
//! against a local AWS, real SMTP conversations with STARTTLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the test's failure"
)]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

mod alarms;
mod attribution;
mod authorization;
mod callers;
mod categories;
mod ceilings;
mod concurrency;
mod config;
mod config_test;
mod costs;
mod crashes;
mod default_country;
mod destinations;
mod events;
mod fault_matrix;
mod faults;
mod freeze;
mod fresh_settings;
mod functions;
mod hangs;
mod health;
mod idempotency;
mod isolation;
mod large;
mod limits;
mod mailbox;
mod matrix;
mod observability;
mod openapi;
mod operator;
mod patch;
mod people;
mod permissions;
mod platform_account;
mod privacy;
mod process;
mod producers;
mod providers;
mod purge;
mod quotas;
mod recording;
mod recording_by_queue;
mod refused_login;
mod replaced_settings;
mod requests;
mod required_clinic;
mod rotation;
mod send;
mod shares;
mod stalls;
mod tampering;
mod threat_model;
mod true_texts;
mod usage;
mod versions;
mod via;
mod waiting;
mod worker;
mod world;
