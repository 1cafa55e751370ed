//! The operator's commands, as functions and as the program, against a local AWS and a scripted API.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod clinic;
mod dead_letters;
mod import;
mod people;
mod program;
mod reseal;
mod seal;
mod stories;
mod table;
mod why;
