//! `why`: what became of one communication, in words, and what to do next.

mod advice;
mod attempt;
mod codes;
mod find;
mod letter;
mod report;
mod timeline;

use clap::Args;
use comms_core::Tenant;

use self::{
    find::{NotFound, Question, find, letters_of},
    report::Report,
};
use crate::{
    AnyError, Ended,
    arguments::{rate, tenant},
    console::{note, say},
    layout::Layout,
    stop::until_interrupted,
    tables::{Stack, TableArgs},
};

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The id of a request, of a delivery, or of a message of SQS, or an idempotency key.
    id: String,
    #[command(flatten)]
    tables: TableArgs,
    /// Whose the idempotency key or the message is (or `_global`). A request's id needs no clinic.
    #[arg(long, value_name = "ID", value_parser = tenant)]
    clinic: Option<Tenant>,
    /// Looks for it among the dead letters too: the stack's output `DeadLetterQueueUrl`. Receives all of them and makes them
    /// visible again.
    #[arg(long, value_name = "URL")]
    dead_letter_queue: Option<String>,
    /// Pages of 1 MB of the deliveries table that are read to find a delivery id, at most. 0 reads none.
    #[arg(long, default_value = "100")]
    pages: u32,
    /// Those pages a second, at most.
    #[arg(long, default_value = "5", value_parser = rate())]
    rate: u32,
    /// Shows every delivery of a request with many recipients.
    #[arg(long)]
    all: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run_why(args: WhyArgs) -> Result<Ended, AnyError> {
    let stack = Stack::new(&args.tables)?;
    let letters = match &args.dead_letter_queue {
        Some(url) => match letters_of(&stack, url).await? {
            Some(letters) => Some(letters),
            None => return Ok(Ended::Interrupted),
        },
        None => None,
    };
    let question = Question {
        id: args.id.trim().to_owned(),
        clinic: args.clinic,
        letters,
        pages: args.pages,
        rate: args.rate,
    };
    let Some(found) = until_interrupted(find(&stack, &question))
        .await
        .transpose()?
    else {
        return Ok(Ended::Interrupted);
    };
    match found {
        Ok(found) => {
            let queue = args.dead_letter_queue.as_deref();
            let report = Report::new(found, queue, args.all || args.json, stack.clock.now());
            if args.json {
                say(serde_json::to_string_pretty(&report)?)?;
            } else {
                say(report.text(Layout::of_stdout()))?;
            }
            Ok(Ended::Done)
        }
        Err(NotFound(looked_for)) => {
            note("nothing is known by this id:");
            for line in looked_for {
                note(format_args!("  {line}"));
            }
            note("what has ended is kept for 30 days");
            Ok(Ended::NotFound)
        }
    }
}
