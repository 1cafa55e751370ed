//! `export`, `erase` and `audit` on the command line.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{ArgGroup, Args};
use comms_core::{HashKey, SubjectHash, SystemClock, Tenant};
use comms_delivery::{Ledger, ledger::records::AddressedPerson};
use comms_settings::{HashKeys, SettingsStore};

use crate::{
    AnyError, Ended,
    arguments::{rate, tenant},
    audit,
    console::note,
    output::{can_go_on, in_file, print_report},
    progress::Progress,
    recipient, sdk_config,
    stop::{Stop, until_interrupted},
};

/// The tables.
#[derive(Debug, Args)]
struct Tables {
    /// The settings table: the stack's output `SettingsTableName`. It has the key of the hashes.
    #[arg(long, value_name = "TABLE")]
    settings_table: String,
    /// The deliveries table: the stack's output `DeliveriesTableName`.
    #[arg(long, value_name = "TABLE")]
    deliveries_table: String,
    /// Pages of the table and requests a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    tables: Tables,
    /// The e-mail address or phone number; `-` reads it from standard input, where no list of processes shows it.
    #[arg(long, value_name = "ADDRESS")]
    recipient: String,
    /// Writes to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    tables: Tables,
    /// The e-mail address or phone number; `-` reads it from standard input, where no list of processes shows it.
    #[arg(long, value_name = "ADDRESS")]
    recipient: String,
    /// Counts what would be erased, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("about").required(true).args(["clinic", "subject", "recipient"])))]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    tables: Tables,
    /// What was done for this clinic (or `_global`).
    #[arg(long, value_name = "ID", value_parser = tenant)]
    clinic: Option<Tenant>,
    /// What this caller did: the subject of the token, or the id of a queue producer's role.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// What was done about this recipient; `-` reads the address from standard input.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// A file of exported log lines (`infra/docs/LOGGING.md`), or `-`; may be given several times.
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

impl Tables {
    fn store(&self) -> Result<SettingsStore, AnyError> {
        // Reading needs no key of one's own: each item names the key that it is under.
        Ok(SettingsStore::new(&sdk_config()?, &self.settings_table, ""))
    }

    fn ledger(&self) -> Result<Ledger, AnyError> {
        Ok(Ledger::new(&sdk_config()?, &self.deliveries_table))
    }

    async fn hash_key(&self) -> Result<HashKey, AnyError> {
        let keys = HashKeys::new(self.store()?);
        let key = keys.find().await?.cloned();
        key.ok_or_else(|| {
            "the settings table has no key of the hashes: nothing was sent yet".into()
        })
    }

    async fn person(&self, address: &str) -> Result<AddressedPerson, AnyError> {
        let address = if address == "-" {
            std::io::read_to_string(std::io::stdin())?
        } else {
            address.to_owned()
        };
        // The error names what is wrong, and does not repeat the address.
        Ok(AddressedPerson::parse(&address, self.hash_key().await?)?)
    }

    async fn plan(&self, address: &str) -> Result<recipient::Plan, AnyError> {
        Ok(recipient::Plan {
            ledger: self.ledger()?,
            person: self.person(address).await?,
            rate: self.rate,
            clock: Box::new(SystemClock),
        })
    }
}

pub(crate) async fn run_export(args: ExportArgs) -> Result<Ended, AnyError> {
    let plan = args.tables.plan(&args.recipient).await?;
    let mut report = recipient::Report {
        exported: Some(0),
        ..recipient::Report::default()
    };
    let mut out: Box<dyn std::io::Write> = match &args.output {
        Some(path) => Box::new(create_private(path).map_err(|error| in_file(path, &error))?),
        None => Box::new(std::io::stdout()),
    };
    let ended = carry_out(
        &plan,
        recipient::Work::Export(&mut *out),
        "exporting",
        &mut report,
    )
    .await;
    out.flush()?;
    // Standard output has the lines alone.
    note(&report);
    ended
}

/// Creates a file that only its owner reads and writes; an older one of this name becomes so.
fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

pub(crate) async fn run_erase(args: EraseArgs) -> Result<Ended, AnyError> {
    let plan = args.tables.plan(&args.recipient).await?;
    let is_dry_run = args.dry_run;
    let mut report = recipient::Report {
        is_dry_run,
        erasure: Some(comms_delivery::ledger::records::Erasure::default()),
        ..recipient::Report::default()
    };
    let work = recipient::Work::Erase { is_dry_run };
    let ended = carry_out(&plan, work, "erasing", &mut report).await;
    print_report(&report, args.json)?;
    ended
}

async fn carry_out(
    plan: &recipient::Plan,
    work: recipient::Work<'_>,
    doing: &'static str,
    report: &mut recipient::Report,
) -> Result<Ended, AnyError> {
    let mut progress = Progress::new(doing, "pages", std::io::stderr().is_terminal());
    let stop = Stop::at_interrupt();
    let ended = recipient::run(plan, work, report, &stop, &mut |pages, requests| {
        progress.at(pages, pages, format_args!("({requests} requests)"));
    })
    .await;
    progress.finish();
    ended.map_err(can_go_on)?;
    let result = (!report.is_interrupted).then_some(());
    Ok(Ended::of(result, report.is_complete()))
}

pub(crate) async fn run_audit(args: AuditArgs) -> Result<Ended, AnyError> {
    let tables = &args.tables;
    let about = match (args.clinic, args.subject, args.recipient) {
        (Some(clinic), _, _) => audit::About::Clinic(clinic),
        (None, Some(plain), _) => {
            let key = tables.hash_key().await?;
            let hashes = [
                SubjectHash::of(&key, &plain),
                SubjectHash::of_sender(&key, &plain),
            ];
            let hashes = hashes.into_iter().flatten().collect();
            audit::About::Subject { plain, hashes }
        }
        (None, None, address) => {
            let address = address.unwrap_or_default();
            audit::About::Recipient(Box::new(tables.person(&address).await?))
        }
    };
    let mut logs: Vec<Box<dyn BufRead>> = Vec::new();
    for path in &args.logs {
        logs.push(if path.as_os_str() == "-" {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let file = File::open(path).map_err(|error| in_file(path, &error))?;
            Box::new(BufReader::new(file))
        });
    }
    let plan = audit::Plan {
        store: tables.store()?,
        ledger: tables.ledger()?,
        about,
        rate: tables.rate,
    };
    let Some(report) = until_interrupted(audit::run(&plan, logs))
        .await
        .transpose()?
    else {
        return Ok(Ended::Interrupted);
    };
    print_report(&report, args.json)?;
    Ok(Ended::Done)
}
