//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use comms_core::Tenant;

use crate::{
    arguments::{key_arn, rate, tenant},
    clinic::ClinicArgs,
    dead_letters::command::DeadLettersCommand,
    people::{AuditArgs, EraseArgs, ExportArgs},
    provider::ProviderArgs,
    why::WhyArgs,
};

/// Keeps clinics' settings, the dead letters and recipients' data in order.
///
/// Exit codes: 0 nothing is left to do, 1 something is (the report says what), 2 the command could not be run, 3 there is
/// nothing with the given name, 130 it was interrupted. Every command can be started again and does what is left.
#[derive(Debug, Parser)]
#[command(name = "comms-operator", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Puts what is sealed under other KMS keys under one key. Region and credentials: `AWS_REGION`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    Reseal(SealingArgs),
    /// Counts what is sealed under which KMS key, and changes nothing. Region and credentials as for `reseal`.
    Status(StatusArgs),
    /// Seals settings that an earlier version of the service wrote without a seal. Opens their credentials for it. Region
    /// and credentials as for `reseal`.
    Seal(SealingArgs),
    /// Removes the content of expired and purged versions with their data keys, which `DynamoDB` does within days. Region
    /// and credentials as for `reseal`.
    Purge(PurgeArgs),
    /// Saves the settings of the clinics in a file, through the HTTP API.
    Import(ImportArgs),
    /// Counts dead letters, puts them back on their queues, deletes them. Region and credentials as for `reseal`.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Writes the deliveries of one recipient as lines of JSON. Region and credentials as for `reseal`.
    Export(ExportArgs),
    /// Erases what the ledger has of one recipient. Region and credentials as for `reseal`.
    Erase(EraseArgs),
    /// Lists who sent, who read and who changed. Region and credentials as for `reseal`.
    Audit(AuditArgs),
    /// Says what became of a communication and what to do next. Region and credentials as for `reseal`.
    Why(WhyArgs),
    /// Shows a clinic's settings without secrets, its providers' health, quota and outcomes. Region and credentials as for
    /// `reseal`.
    Clinic(ClinicArgs),
    /// Shows which clinics' entries of a provider are down, since when and why. Region and credentials as for `reseal`.
    Provider(ProviderArgs),
}

/// The items of the settings table that a command works on, and the form of its report.
#[derive(Debug, Args)]
pub(crate) struct SettingsTableArgs {
    /// The settings table.
    #[arg(long)]
    pub(crate) table: String,
    /// Only this clinic (or `_global`); may be given several times. Without it: all.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    pub(crate) clinics: Vec<Tenant>,
    /// The report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A change of data keys.
#[derive(Debug, Args)]
pub(crate) struct SealingArgs {
    #[command(flatten)]
    pub(crate) items: SettingsTableArgs,
    /// The ARN of the KMS key. `reseal` puts everything under it; `seal` uses it for the key of the hashes, if there is none.
    #[arg(long, value_name = "KEY_ARN", value_parser = key_arn)]
    pub(crate) key: String,
    /// Items (`reseal`) or clinics (`seal`) a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    pub(crate) rate: u32,
    /// Counts the items that would change, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) items: SettingsTableArgs,
    /// Versions a second, at most.
    #[arg(long, default_value = "20", value_parser = rate())]
    pub(crate) rate: u32,
    /// Counts the versions that are due, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) items: SettingsTableArgs,
    /// The exit code says whether everything is under this KMS key.
    #[arg(long, value_name = "KEY_ARN", value_parser = key_arn)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A JSON array, an object by clinic id, or JSON Lines.
    pub(crate) file: PathBuf,
    /// The address of the API: the stack's output `ApiUrl`.
    #[arg(long, value_name = "URL", required_unless_present = "dry_run")]
    pub(crate) api: Option<String>,
    /// A file with the token alone. Without it the token is in the variable `COMMS_TOKEN`.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate authorities to trust beside the public ones, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Replaces the settings of clinics that have some. Without it these clinics keep theirs.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Checks the file, and sends nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Clinics a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    pub(crate) rate: u32,
    /// Writes the report to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_two_options_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
