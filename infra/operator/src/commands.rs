//! The commands on the settings table, and the import.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
};

use comms_core::{Clock as _, Secret, SystemClock};
use comms_settings::SettingsStore;

use crate::{
    AnyError, Api, Ended,
    cli::{ImportArgs, PurgeArgs, SealingArgs, SettingsTableArgs, StatusArgs},
    import,
    output::{can_go_on, in_file, print_report},
    plan::TablePlan,
    progress::Progress,
    purge, reseal, sdk_config, seal,
    stop::until_interrupted,
};

/// The variable with the token for the API, for a command without a token file.
const TOKEN_VARIABLE: &str = "COMMS_TOKEN";

impl SettingsTableArgs {
    /// The plan of a command that changes these items. `key` is the KMS key of the store's own writes, if it makes any.
    fn plan(&self, key: &str, rate: u32, is_dry_run: bool) -> Result<TablePlan, AnyError> {
        Ok(TablePlan {
            store: self.store(key)?,
            tenants: self.clinics.clone(),
            rate,
            is_dry_run,
        })
    }

    fn store(&self, key: &str) -> Result<SettingsStore, AnyError> {
        Ok(SettingsStore::new(&sdk_config()?, &self.table, key))
    }
}

pub(crate) async fn run_reseal(args: SealingArgs) -> Result<Ended, AnyError> {
    let plan = args.items.plan(&args.key, args.rate, args.dry_run)?;
    let mut report = reseal::Report::default();
    let mut progress = Progress::new("re-sealing", "items", std::io::stderr().is_terminal());
    let mut on_item = |done, total| progress.at(done, total, "");
    let run = reseal::run(&plan, &args.key, &mut report, &mut on_item);
    let result = until_interrupted(run).await;
    progress.finish();
    let is_complete = report.is_complete(&args.key);
    print_report(&report, args.items.json)?;
    let result = result.transpose().map_err(can_go_on)?;
    Ok(Ended::of(result, is_complete))
}

pub(crate) async fn run_seal(args: SealingArgs) -> Result<Ended, AnyError> {
    let plan = args.items.plan(&args.key, args.rate, args.dry_run)?;
    let mut report = seal::Report::default();
    let mut progress = Progress::new("sealing", "clinics", std::io::stderr().is_terminal());
    let mut on_clinic = |done, total| progress.at(done, total, "");
    let run = seal::run(&plan, &mut report, &mut on_clinic);
    let result = until_interrupted(run).await;
    progress.finish();
    let is_complete = report.is_complete();
    print_report(&report, args.items.json)?;
    Ok(Ended::of(result.transpose()?, is_complete))
}

pub(crate) async fn run_purge(args: PurgeArgs) -> Result<Ended, AnyError> {
    let plan = args.items.plan("", args.rate, args.dry_run)?;
    let mut report = purge::Report::default();
    let result = until_interrupted(purge::run(&plan, SystemClock.now(), &mut report)).await;
    let is_complete = report.is_complete();
    print_report(&report, args.items.json)?;
    Ok(Ended::of(result.transpose()?, is_complete))
}

pub(crate) async fn run_status(args: StatusArgs) -> Result<Ended, AnyError> {
    let store = args.items.store(args.key.as_deref().unwrap_or_default())?;
    let count = until_interrupted(reseal::count(&store, &args.items.clinics)).await;
    let Some(count) = count.transpose()? else {
        return Ok(Ended::Interrupted);
    };
    print_report(&count, args.items.json)?;
    let is_complete = args.key.is_none_or(|key| count.is_all_under(&key));
    Ok(Ended::of(Some(()), is_complete))
}

pub(crate) async fn run_import(args: ImportArgs) -> Result<Ended, AnyError> {
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
    // Created first: an import of hours must not end with a report that cannot be written.
    let mut file = args
        .report
        .as_deref()
        .map(|path| std::fs::File::create(path).map_err(|error| in_file(path, &error)))
        .transpose()?;
    let terminal = std::io::stderr().is_terminal();
    let mut report = import::Report::default();
    let mut checking = Some(Progress::new("checking", "bytes", terminal));
    let mut sending = Progress::new("importing", "bytes", terminal);
    let result = until_interrupted(import::run(&plan, &mut report, &mut |step| match step {
        import::Step::Checked { bytes, of, clinics } => {
            if let Some(checking) = &mut checking {
                checking.at(bytes, of, format_args!("({clinics} clinics)"));
            }
        }
        import::Step::Sent { bytes, of, clinics } => {
            // Two progress bars would overwrite each other.
            checking.take().into_iter().for_each(Progress::finish);
            sending.at(bytes, of, format_args!("({clinics} clinics)"));
        }
    }))
    .await;
    checking.into_iter().for_each(Progress::finish);
    sending.finish();
    let is_complete = report.is_complete();
    print_report(&report, args.json)?;
    if let (Some(file), Some(path)) = (&mut file, &args.report) {
        serde_json::to_writer_pretty(&mut *file, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| in_file(path, &error))?;
    }
    Ok(Ended::of(result.transpose()?, is_complete))
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
