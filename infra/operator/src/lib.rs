//! The operator's commands: re-seal what is stored under another KMS key, count what is under which, import the
//! settings of many clinics, see to the dead letters, list who did what, and export or erase what the ledger has of a
//! recipient. `infra/docs/OPERATIONS.md` says when and how.
//!
//! Each command can be stopped anywhere and started again: it does what is left. None prints anything of what settings
//! or messages say: ids, names of items, queues and fields, and codes only.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use aws_config::SdkConfig;
use clap::{Args, Parser, Subcommand, builder::RangedU64ValueParser};
use comms_core::{Clock as _, Secret, SystemClock, Tenant};
use comms_runtime::{Environment, aws};
use comms_settings::SettingsStore;
use serde::Serialize;

mod api;
pub mod audit;
mod clinic;
pub mod clinics_file;
mod console;
pub mod dead_letters;
pub mod import;
mod layout;
mod moments;
mod pace;
mod people;
mod progress;
mod provider;
pub mod purge;
pub mod recipient;
pub mod reseal;
pub mod seal;
pub mod stop;
mod tables;
mod why;

pub use api::{Api, ApiError};

use crate::{
    clinic::{ClinicArgs, run_clinic},
    console::{note, say},
    dead_letters::command::{DeadLettersCommand, run_dead_letters},
    people::{AuditArgs, EraseArgs, ExportArgs, run_audit, run_erase, run_export},
    progress::Progress,
    provider::{ProviderArgs, run_provider},
    why::{WhyArgs, run_why},
};

/// The variable with the token for the API, where no file has it.
const TOKEN_VARIABLE: &str = "COMMS_TOKEN";

/// Keeps clinics' settings, the dead letters and recipients' data in order.
///
/// Exit codes: 0 nothing is left to do, 1 something is (the report says what), 2 the command could not be run, 3 what was
/// asked for is not there, 130 it was interrupted. Every command can be started again and does what is left.
#[derive(Debug, Parser)]
#[command(name = "comms-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts what is sealed under other KMS keys under one key. Region and credentials: `AWS_REGION`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    Reseal(ResealArgs),
    /// Counts what is sealed under which KMS key, and changes nothing. Region and credentials as for `reseal`.
    Status(StatusArgs),
    /// Seals settings that an earlier version of the service wrote without a seal. Opens their credentials for it. Region
    /// and credentials as for `reseal`.
    Seal(SealArgs),
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

#[derive(Debug, Args)]
struct ResealArgs {
    /// The settings table.
    #[arg(long)]
    table: String,
    /// The ARN of the KMS key that everything is to be under.
    #[arg(long, value_name = "KEY_ARN", value_parser = key_arn)]
    key: String,
    /// Only this clinic (or `_global`); may be given several times. Without it: all, and the key of the hashes.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    clinics: Vec<Tenant>,
    /// Re-sealed items a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Counts what there is to do, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SealArgs {
    /// The settings table.
    #[arg(long)]
    table: String,
    /// The KMS key of the stack, for the key of the hashes where there is none yet.
    #[arg(long, value_name = "KEY_ARN", value_parser = key_arn)]
    key: String,
    /// Only this clinic (or `_global`); may be given several times.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    clinics: Vec<Tenant>,
    /// Clinics a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Counts what there is to do, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PurgeArgs {
    /// The settings table.
    #[arg(long)]
    table: String,
    /// Only this clinic (or `_global`); may be given several times.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    clinics: Vec<Tenant>,
    /// Versions a second, at most.
    #[arg(long, default_value = "20", value_parser = rate())]
    rate: u32,
    /// Counts what there is to do, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The settings table.
    #[arg(long)]
    table: String,
    /// The exit code says whether everything is under this KMS key.
    #[arg(long, value_name = "KEY_ARN", value_parser = key_arn)]
    key: Option<String>,
    /// Only this clinic (or `_global`); may be given several times.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    clinics: Vec<Tenant>,
    /// The counts as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// A JSON array, an object by clinic id, or JSON Lines.
    file: PathBuf,
    /// Where the API is: what the stack's output `ApiUrl` says.
    #[arg(long, value_name = "URL", required_unless_present = "dry_run")]
    api: Option<String>,
    /// A file with the token alone. Without it the token is in the variable `COMMS_TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate authorities to trust beside the public ones, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Clinics that have settings get those of the file in their place. Without it they keep theirs.
    #[arg(long)]
    replace: bool,
    /// Checks the file, and sends nothing.
    #[arg(long)]
    dry_run: bool,
    /// Clinics a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Writes the report to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

fn rate() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=1_000)
}

fn tenant(text: &str) -> Result<Tenant, String> {
    Tenant::parse(text).map_err(|error| error.to_string())
}

/// A key's ARN, which is what items name. An alias may mean another key tomorrow, and a key's id another in each
/// account; to find out which would take a right of its own.
fn key_arn(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, "kms", _, _, key] if key.starts_with("key/") => Ok(text.to_owned()),
        _ => Err(
            "must be the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID; \
                  `aws kms describe-key --key-id ALIAS --query KeyMetadata.Arn` says it"
                .to_owned(),
        ),
    }
}

/// Any failure, for the user to read.
type AnyError = Box<dyn std::error::Error>;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Nothing is left to do.
    Done,
    /// The report says what is left.
    SomethingLeft,
    /// Nothing is known by that name.
    NotFound,
    /// By Ctrl-C.
    Interrupted,
}

/// The program: reads the command line, runs the command, and says how it ended.
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

fn store(table: &str, key: &str) -> Result<SettingsStore, AnyError> {
    Ok(SettingsStore::new(&sdk_config()?, table, key))
}

/// AWS as the environment names it.
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

async fn run_reseal(args: ResealArgs) -> Result<Ended, AnyError> {
    let plan = reseal::Plan {
        store: store(&args.table, &args.key)?,
        key_arn: args.key,
        tenants: args.clinics,
        rate: args.rate,
        dry_run: args.dry_run,
    };
    let mut report = reseal::Report::default();
    let mut progress = Progress::new("re-sealing", "items", std::io::stderr().is_terminal());
    let ended = until_interrupted(reseal::run(&plan, &mut report, &mut |done, total| {
        progress.at(done, total, "");
    }))
    .await;
    progress.finish();
    print_report(&report, args.json)?;
    let ended = ended.transpose().map_err(|error| {
        format!("{error}; what was done before is done, and the same command goes on from there")
    })?;
    Ok(match ended {
        None => Ended::Interrupted,
        Some(()) if report.is_complete(&plan.key_arn) => Ended::Done,
        Some(()) => Ended::SomethingLeft,
    })
}

async fn run_seal(args: SealArgs) -> Result<Ended, AnyError> {
    let plan = seal::Plan {
        store: store(&args.table, &args.key)?,
        tenants: args.clinics,
        rate: args.rate,
        dry_run: args.dry_run,
    };
    let mut report = seal::Report::default();
    let mut progress = Progress::new("sealing", "clinics", std::io::stderr().is_terminal());
    let ended = until_interrupted(seal::run(&plan, &mut report, &mut |done, total| {
        progress.at(done, total, "");
    }))
    .await;
    progress.finish();
    print_report(&report, args.json)?;
    Ok(match ended.transpose()? {
        None => Ended::Interrupted,
        Some(()) if report.is_complete() => Ended::Done,
        Some(()) => Ended::SomethingLeft,
    })
}

async fn run_purge(args: PurgeArgs) -> Result<Ended, AnyError> {
    let plan = purge::Plan {
        store: store(&args.table, "")?,
        tenants: args.clinics,
        rate: args.rate,
        dry_run: args.dry_run,
        now: SystemClock.now(),
    };
    let mut report = purge::Report::default();
    let ended = until_interrupted(purge::run(&plan, &mut report)).await;
    print_report(&report, args.json)?;
    Ok(match ended.transpose()? {
        None => Ended::Interrupted,
        Some(()) if report.is_complete() => Ended::Done,
        Some(()) => Ended::SomethingLeft,
    })
}

async fn run_status(args: StatusArgs) -> Result<Ended, AnyError> {
    let store = store(&args.table, args.key.as_deref().unwrap_or_default())?;
    let count = until_interrupted(reseal::count(&store, &args.clinics)).await;
    let Some(count) = count.transpose()? else {
        return Ok(Ended::Interrupted);
    };
    print_report(&count, args.json)?;
    let complete = args.key.is_none_or(|key| count.is_all_under(&key));
    Ok(if complete {
        Ended::Done
    } else {
        Ended::SomethingLeft
    })
}

async fn run_import(args: ImportArgs) -> Result<Ended, AnyError> {
    let api = match args.api {
        Some(url) if !args.dry_run => {
            let token = read_token(args.token_file.as_deref())?;
            let roots = args.ca_file.as_deref().map(read_text).transpose()?;
            Some(Api::new(&url, &token, roots.as_deref())?)
        }
        Some(_) | None => None,
    };
    let plan = import::Plan {
        file: args.file,
        api,
        replace: args.replace,
        rate: args.rate,
    };
    // Made first: whoever asks for a report must not find out at the end that there can be none.
    let mut file = args
        .report
        .as_deref()
        .map(|path| std::fs::File::create(path).map_err(|error| in_file(path, &error)))
        .transpose()?;
    let terminal = std::io::stderr().is_terminal();
    let mut report = import::Report::default();
    let mut checking = Some(Progress::new("checking", "bytes", terminal));
    let mut sending = Progress::new("importing", "bytes", terminal);
    let ended = until_interrupted(import::run(&plan, &mut report, &mut |step| match step {
        import::Step::Checked { bytes, of, clinics } => {
            if let Some(checking) = &mut checking {
                checking.at(bytes, of, format_args!("({clinics} clinics)"));
            }
        }
        import::Step::Sent { bytes, of, clinics } => {
            // Two bars at once would draw over each other.
            checking.take().into_iter().for_each(Progress::finish);
            sending.at(bytes, of, format_args!("({clinics} clinics)"));
        }
    }))
    .await;
    checking.into_iter().for_each(Progress::finish);
    sending.finish();
    print_report(&report, args.json)?;
    if let (Some(file), Some(path)) = (&mut file, &args.report) {
        serde_json::to_writer_pretty(&mut *file, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| in_file(path, &error))?;
    }
    Ok(match ended.transpose()? {
        None => Ended::Interrupted,
        Some(()) if report.is_complete() => Ended::Done,
        Some(()) => Ended::SomethingLeft,
    })
}

/// The token, from a file or the environment: never from the command line, which every user of the machine can read.
fn read_token(file: Option<&Path>) -> Result<Secret, AnyError> {
    let text = match file {
        Some(path) => read_text(path)?,
        None => std::env::var(TOKEN_VARIABLE).map_err(|_| {
            format!("there is no token: name a file with --token-file, or set {TOKEN_VARIABLE}")
        })?,
    };
    Ok(Secret::new(text.trim().to_owned()))
}

fn read_text(path: &Path) -> Result<String, AnyError> {
    std::fs::read_to_string(path).map_err(|error| in_file(path, &error).into())
}

fn in_file(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {}", path.display(), error.kind())
}

fn print_report(report: &(impl Display + Serialize), json: bool) -> std::io::Result<()> {
    if json {
        say(serde_json::to_string_pretty(report)?)
    } else {
        say(report)
    }
}

/// What `work` gives, or `None` when Ctrl-C came first.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        // Where no signal can be waited for, there is none.
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_is_named_by_its_arn_and_nothing_else() {
        let arn = "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd";
        assert_eq!(key_arn(arn).as_deref(), Ok(arn));
        for other in [
            "",
            "alias/clinic-comms",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-central-1:123456789012:alias/clinic-comms",
            "arn:aws:s3:::key/1",
        ] {
            assert!(
                key_arn(other).unwrap_err().contains("describe-key"),
                "{other}"
            );
        }
    }
}
