//! The operator's commands: re-seal items under another KMS key, count the items under each, import the
//! settings of many clinics, handle the dead letters, list who did what, and export or erase the ledger's data of a
//! recipient. `infra/docs/OPERATIONS.md` says when and how.
//!
//! Each command can be stopped anywhere and started again: it does what is left. A command prints ids, names of items,
//! queues and fields, and codes only; it prints nothing of the content of settings or messages.

use std::process::ExitCode;

use aws_config::SdkConfig;
use clap::Parser as _;
use comms_runtime::{Environment, aws};

mod api;
mod arguments;
pub mod audit;
mod cli;
mod clinic;
pub mod clinics_file;
mod commands;
mod console;
pub mod dead_letters;
pub mod import;
mod layout;
mod moments;
mod output;
mod pace;
mod people;
pub mod plan;
mod progress;
mod provider;
pub mod purge;
pub mod recipient;
pub mod reseal;
mod retry;
pub mod seal;
pub mod stop;
mod tables;
mod why;

pub use api::{Api, ApiError};

use crate::{
    cli::{Cli, Command},
    clinic::run_clinic,
    commands::{run_import, run_purge, run_reseal, run_seal, run_status},
    console::note,
    dead_letters::command::run_dead_letters,
    people::{run_audit, run_erase, run_export},
    provider::run_provider,
    why::run_why,
};

/// Any failure, for the user to read.
type AnyError = Box<dyn std::error::Error>;

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Nothing is left to do.
    Done,
    /// The report says what is left.
    SomethingLeft,
    /// There is nothing with the given name.
    NotFound,
    /// By Ctrl-C.
    Interrupted,
}

impl Ended {
    /// The end of a run: `None` if it was interrupted. `is_complete`: nothing is left to do.
    const fn of(result: Option<()>, is_complete: bool) -> Self {
        match result {
            None => Self::Interrupted,
            Some(()) if is_complete => Self::Done,
            Some(()) => Self::SomethingLeft,
        }
    }
}

/// The program: reads the command line, runs the command, and reports its end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AnyError::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                match cli.command {
                    Command::Reseal(args) => Box::pin(run_reseal(args)).await,
                    Command::Status(args) => run_status(args).await,
                    Command::Seal(args) => Box::pin(run_seal(args)).await,
                    Command::Purge(args) => Box::pin(run_purge(args)).await,
                    Command::Import(args) => run_import(args).await,
                    Command::DeadLetters(command) => run_dead_letters(command).await,
                    Command::Export(args) => Box::pin(run_export(args)).await,
                    Command::Erase(args) => Box::pin(run_erase(args)).await,
                    Command::Audit(args) => Box::pin(run_audit(args)).await,
                    Command::Why(args) => Box::pin(run_why(args)).await,
                    Command::Clinic(args) => Box::pin(run_clinic(args)).await,
                    Command::Provider(args) => Box::pin(run_provider(args)).await,
                }
            })
        });
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::SomethingLeft) => ExitCode::FAILURE,
        Ok(Ended::NotFound) => ExitCode::from(3),
        Ok(Ended::Interrupted) => {
            note("interrupted: nothing is half done; the same command goes on with what is left");
            ExitCode::from(130)
        }
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// The AWS configuration of the environment.
fn sdk_config() -> Result<SdkConfig, AnyError> {
    let environment = Environment::of_process();
    let sdk = aws::sdk_config(&environment)?;
    environment.finish().map_err(|error| {
        format!(
            "{error}; `aws configure export-credentials --format env` prints the credentials of a profile or role"
        )
    })?;
    Ok(sdk)
}
