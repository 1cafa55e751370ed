//! `dead-letters` on the command line.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use clap::{Args, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser as _};
use comms_core::{DeadLetterReason, SystemClock, Tenant};

use super::{
    DeadLetterQueue, Filter, Plan, Report, SourceQueues, Work, age, report::EachLetter, run,
};
use crate::{
    AnyError, Ended,
    arguments::{rate, tenant},
    console::{note, say},
    output::{can_go_on, print_report},
    progress::Progress,
    sdk_config,
    stop::Stop,
};

/// How long a receive waits for a message.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Counts the dead letters by clinic, reason and age, and leaves them as they are.
    List(ListArgs),
    /// Puts dead letters back on the queues that they came from.
    Redrive(RedriveArgs),
    /// Deletes dead letters. They cannot be had back.
    Delete(DeleteArgs),
}

/// Where the dead letters are, and which of them.
#[derive(Debug, Args)]
struct Which {
    /// The URL of the dead-letter queue: the stack's output `DeadLetterQueueUrl`.
    #[arg(long, value_name = "URL")]
    dead_letter_queue: String,
    /// Only of this clinic (or `_global`); may be given several times.
    #[arg(long = "clinic", value_name = "ID", value_parser = tenant)]
    clinics: Vec<Tenant>,
    /// Only with this reason; may be given several times.
    #[arg(long = "reason", value_name = "REASON", value_parser = reasons())]
    reasons: Vec<DeadLetterReason>,
    /// Only of this age at least: 90s, 30m, 12h, 7d.
    #[arg(long, value_name = "AGE", value_parser = age::parse)]
    older_than: Option<Duration>,
    /// Only the message with this id of SQS, as `list --each` shows it; may be given several times.
    #[arg(long = "message", value_name = "ID")]
    messages: Vec<String>,
    /// Dead letters that are looked at, at most.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// The report as JSON, with every message.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// Shows them one by one too.
    #[arg(long)]
    each: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    which: Which,
    /// The URL of the queue: the stack's output `QueueUrl`.
    #[arg(long, value_name = "URL")]
    queue: String,
    /// The URL of the urgent queue: the stack's output `UrgentQueueUrl`.
    #[arg(long, value_name = "URL")]
    urgent_queue: String,
    /// Messages a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Counts what would be put back, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    which: Which,
    /// Messages a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Really deletes. Without it they are counted, and nothing is changed.
    #[arg(long)]
    yes: bool,
}

fn reasons() -> impl clap::builder::TypedValueParser<Value = DeadLetterReason> {
    PossibleValuesParser::new(DeadLetterReason::ALL.map(DeadLetterReason::as_str))
        .try_map(|name| DeadLetterReason::parse(&name).ok_or("is no reason"))
}

pub(crate) async fn run_dead_letters(command: DeadLettersCommand) -> Result<Ended, AnyError> {
    match command {
        DeadLettersCommand::List(args) => {
            let shown = if args.each {
                Shown::EachLetter
            } else {
                Shown::Groups
            };
            carry_out(args.which, Work::List, "looking", 1, shown).await
        }
        DeadLettersCommand::Redrive(args) => {
            let sources = SourceQueues {
                normal: args.queue,
                urgent: args.urgent_queue,
            };
            let work = if args.dry_run {
                Work::List
            } else {
                Work::Redrive(sources)
            };
            carry_out(args.which, work, "putting back", args.rate, Shown::Groups).await
        }
        DeadLettersCommand::Delete(args) => {
            let work = if args.yes { Work::Delete } else { Work::List };
            let ended = carry_out(args.which, work, "deleting", args.rate, Shown::Groups).await;
            if !args.yes {
                note("nothing was deleted: --yes deletes what is counted here");
            }
            ended
        }
    }
}

/// What people are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Groups,
    EachLetter,
}

async fn carry_out(
    which: Which,
    work: Work,
    doing: &'static str,
    rate: u32,
    shown: Shown,
) -> Result<Ended, AnyError> {
    let plan = Plan {
        queue: DeadLetterQueue::new(&sdk_config()?, which.dead_letter_queue, WAIT),
        filter: Filter {
            tenants: which.clinics,
            reasons: which.reasons,
            message_ids: which.messages,
            older_than: which.older_than,
        },
        work,
        limit: which.limit,
        rate,
        clock: Arc::new(SystemClock),
    };
    let mut report = Report::default();
    let mut progress = Progress::new(doing, "messages", std::io::stderr().is_terminal());
    let stop = Stop::at_interrupt();
    let ended = run(&plan, &mut report, &stop, &mut |done, total| {
        progress.at(done, total, "");
    })
    .await;
    progress.finish();
    if shown == Shown::EachLetter && !which.json && !report.letters.is_empty() {
        // With an empty line after it.
        say(EachLetter(&report))?;
    }
    print_report(&report, which.json)?;
    ended.map_err(can_go_on)?;
    let result = (!report.stopped).then_some(());
    Ok(Ended::of(result, report.is_complete()))
}
