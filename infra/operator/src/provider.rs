//! `provider`: whose entries of a provider are down, since when, and why.
//!
//! Which clinics have it is in their settings, and no index leads there. So the settings table is walked through, which is
//! announced; health is one read for each clinic that has the provider.

mod report;

use std::io::IsTerminal as _;

use clap::Args;
use comms_adapters::registry;
use comms_core::{HashKey, ProviderKind, Tenant};
use comms_delivery::{TableError, health::Records};
use comms_settings::{Overview, StoreError};
use futures_util::{StreamExt as _, stream};

use self::report::Report;
use crate::{
    AnyError, Ended,
    arguments::rate,
    console::{note, say},
    layout::Layout,
    pace::Pace,
    progress::Progress,
    stop::until_interrupted,
    tables::{Stack, TableArgs},
};

/// Health items that are read at the same time.
const CONCURRENT_READS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct ProviderArgs {
    /// The provider as the settings name it, such as `smtp` or `aws_ses`.
    #[arg(value_name = "NAME", value_parser = provider)]
    provider: ProviderKind,
    #[command(flatten)]
    tables: TableArgs,
    /// Lists healthy, untried and disabled entries too.
    #[arg(long)]
    all: bool,
    /// Pages of 1 MB of the settings table a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

fn provider(text: &str) -> Result<ProviderKind, String> {
    registry::find(text).map(|known| known.kind).ok_or_else(|| {
        let names: Vec<_> = registry::kinds().map(|kind| kind.to_string()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

pub(crate) async fn run_provider(args: ProviderArgs) -> Result<Ended, AnyError> {
    let stack = Stack::new(&args.tables)?;
    let reading = until_interrupted(read(&stack, args.provider, args.rate)).await;
    let Some(report) = reading.transpose()? else {
        return Ok(Ended::Interrupted);
    };
    if report.is_nothing() {
        note(format_args!("no clinic has an entry of {}", args.provider));
        return Ok(Ended::NotFound);
    }
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(report.text(Layout::of_stdout(), args.all, stack.clock.now()))?;
    }
    Ok(if report.is_complete() {
        Ended::Done
    } else {
        Ended::SomethingLeft
    })
}

async fn read(stack: &Stack, kind: ProviderKind, rate: u32) -> Result<Report, AnyError> {
    note(
        "no index leads from a provider to its clinics: reading the settings table, with all versions",
    );
    let key = stack.hash_key().await?;
    let mut progress = Progress::new("reading", "pages", std::io::stderr().is_terminal());
    let mut turns = Pace::per_second(rate);
    let mut report = Report::new(kind);
    let (mut from, mut pages, mut clinics) = (None, 0, 0);
    loop {
        turns.wait().await;
        let page = stack.store.overviews(from).await?;
        pages += 1;
        clinics += page.tenants.len();
        let with_it = page
            .tenants
            .into_iter()
            .filter(|(_, overview)| has(overview, kind));
        let mut healths = stream::iter(with_it)
            .map(|(tenant, overview)| async move {
                let records = health(stack, key, &tenant, &overview).await;
                (tenant, overview, records)
            })
            .buffered(CONCURRENT_READS);
        while let Some((tenant, overview, records)) = healths.next().await {
            match overview {
                Ok(overview) => report.add(&tenant, &overview, &records?),
                Err(error) => report.unreadable(&tenant, &error),
            }
        }
        progress.at(pages, pages, format_args!("({clinics} clinics)"));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    progress.finish();
    report.finish();
    Ok(report)
}

/// Whether a tenant has an entry of the provider, or may have one.
fn has(overview: &Result<Overview, StoreError>, kind: ProviderKind) -> bool {
    overview.as_ref().map_or(true, |overview| {
        let mut entries = overview
            .channels
            .iter()
            .flat_map(|channel| &channel.entries);
        entries.any(|entry| entry.provider == kind)
    })
}

async fn health(
    stack: &Stack,
    key: Option<&HashKey>,
    tenant: &Tenant,
    overview: &Result<Overview, StoreError>,
) -> Result<Records, TableError> {
    match (key, overview) {
        (Some(key), Ok(overview)) => {
            stack
                .health
                .read(key, tenant, overview.version.number)
                .await
        }
        // Without a key no record is authentic.
        (None, _) | (_, Err(_)) => Ok(Records::new()),
    }
}
