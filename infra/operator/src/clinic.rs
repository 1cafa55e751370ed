//! `clinic`: the state of one clinic on a page, without a secret or an address.

mod report;
mod text;

use clap::Args;
use comms_core::{Channel, Tenant};
use comms_delivery::{Counted, health::Records, usage::day_of};
use comms_settings::{Ceilings, PresentOverview};
use jiff::ToSpan as _;

use self::report::{Facts, Report};
use crate::{
    AnyError, Ended,
    arguments::tenant,
    console::{note, say},
    layout::Layout,
    stop::until_interrupted,
    tables::{Stack, TableArgs},
};

#[derive(Debug, Args)]
pub(crate) struct ClinicArgs {
    /// The clinic's id, or `_global` for the platform's account.
    #[arg(value_name = "ID", value_parser = tenant)]
    clinic: Tenant,
    #[command(flatten)]
    tables: TableArgs,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run_clinic(args: ClinicArgs) -> Result<Ended, AnyError> {
    let stack = Stack::new(&args.tables)?;
    let read = until_interrupted(facts(&stack, &args.clinic)).await;
    let Some(facts) = read.transpose()? else {
        return Ok(Ended::Interrupted);
    };
    if facts.is_nothing() {
        note(format_args!(
            "nothing is known of {}: it has no settings, and nothing was sent for it in the last two days",
            args.clinic
        ));
        return Ok(Ended::NotFound);
    }
    let is_readable = !matches!(facts.present, PresentOverview::Unreadable(_));
    let report = Report::new(&args.clinic, &facts, stack.clock.now());
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(report.text(Layout::of_stdout()))?;
    }
    Ok(if is_readable {
        Ended::Done
    } else {
        Ended::SomethingLeft
    })
}

/// All that is read: some ten items, and no walk over a table.
async fn facts(stack: &Stack, tenant: &Tenant) -> Result<Facts, AnyError> {
    let present = stack.store.overview(tenant).await?;
    let records = match (&present, stack.hash_key().await?) {
        (PresentOverview::Settings(overview), Some(key)) => {
            let version = overview.version.number;
            stack.health.read(key, tenant, version).await?
        }
        // Without a key no record is authentic, and without settings there is none.
        (
            PresentOverview::Settings(_)
            | PresentOverview::Nothing
            | PresentOverview::Deleted(_)
            | PresentOverview::Unreadable(_),
            _,
        ) => Records::new(),
    };
    let defaults = match tenant {
        Tenant::Clinic(_) => match stack.store.overview(&Tenant::Global).await? {
            PresentOverview::Settings(overview) | PresentOverview::Deleted(overview) => {
                overview.ceilings
            }
            PresentOverview::Nothing | PresentOverview::Unreadable(_) => Ceilings::default(),
        },
        Tenant::Global => Ceilings::default(),
    };
    let counted = Channel::ALL
        .map(Counted::from)
        .into_iter()
        .chain([Counted::Urgent]);
    let mut used = Vec::new();
    for counted in counted {
        used.push((counted, stack.quotas.used(tenant, counted).await?));
    }
    let today = day_of(stack.clock.now());
    let yesterday = today.checked_sub(1.day()).unwrap_or(today);
    let days = stack.usage.read(tenant, yesterday, today).await?;
    Ok(Facts {
        present,
        records,
        defaults,
        used,
        days,
        today,
        yesterday,
    })
}
