//! Dead letters: listing them without their content, returning them to their queues, and deleting them.
//!
//! SQS shows a message only to its receiver. A walk therefore receives all messages, holds them until its end, and makes them
//! visible again, however it ends. A message that is returned to its queue is deleted only after that queue has accepted it. A
//! stop in between leaves it on both queues, and the ledger prevents a second send.

mod age;
pub(crate) mod command;
mod queue;
mod report;

use std::{collections::HashSet, sync::Arc, time::Duration};

pub use comms_aws::QueueError;
use comms_core::{Clock, DeadLetterReason, Tenant};

use self::queue::{Held, Received};
pub use self::{
    queue::{DeadLetterQueue, SourceQueues},
    report::{FoundLetter, Outcome, Report},
};
use crate::{pace::Pace, stop::Stop};

/// What is to be done with which dead letters.
pub struct Plan {
    /// Where they are.
    pub queue: DeadLetterQueue,
    /// Which of them.
    pub filter: Filter,
    /// What is done with them.
    pub work: Work,
    /// Dead letters that are looked at, at most.
    pub limit: u64,
    /// Dead letters a second that something is done with, at most.
    pub rate: u32,
    /// Tells how old they are.
    pub clock: Arc<dyn Clock>,
}

/// What is done with dead letters.
#[derive(Debug)]
pub enum Work {
    /// They are counted, and stay as they are.
    List,
    /// They go back to the queue that they came from.
    Redrive(SourceQueues),
    /// They are deleted.
    Delete,
}

/// Which dead letters. One that is empty takes all.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    /// Of these tenants.
    pub tenants: Vec<Tenant>,
    /// With these reasons.
    pub reasons: Vec<DeadLetterReason>,
    /// With these ids.
    pub message_ids: Vec<String>,
    /// Of this age at least.
    pub older_than: Option<Duration>,
}

impl Filter {
    fn takes(&self, found: &Received) -> bool {
        let of_tenant = match &found.letter.tenant {
            Some(tenant) => self.tenants.contains(tenant),
            None => false,
        };
        (self.tenants.is_empty() || of_tenant)
            && (self.reasons.is_empty() || self.reasons.contains(&found.letter.reason))
            && (self.message_ids.is_empty() || self.message_ids.contains(&found.message_id))
            && self.older_than.is_none_or(|age| found.age >= age)
    }
}

/// Receives that find nothing after which nothing more is looked for, although SQS had counted more than was seen.
const EMPTY_RECEIVES: u32 = 3;

/// Carries out `plan`, and keeps `report` up to date. `on_letter` gets the number of letters received and of all, after each
/// letter. When `stop` is requested, the current requests are completed and no further ones begin.
///
/// Letters that were only listed are visible again afterwards. [`Report::hidden`] counts those for which that failed; they are
/// visible again within [`queue::VISIBILITY`].
pub async fn run(
    plan: &Plan,
    report: &mut Report,
    stop: &Stop,
    on_letter: &mut dyn FnMut(u64, u64),
) -> Result<(), QueueError> {
    let mut held = Held::default();
    let walked = walk(plan, report, &mut held, stop, on_letter).await;
    report.hidden = plan.queue.release(held).await;
    walked
}

async fn walk(
    plan: &Plan,
    report: &mut Report,
    held: &mut Held,
    stop: &Stop,
    on_letter: &mut dyn FnMut(u64, u64),
) -> Result<(), QueueError> {
    let counted = plan.queue.count().await?;
    report.counted = Some(counted.visible);
    report.at_work_elsewhere = counted.not_visible;
    let mut pace = Pace::per_second(plan.rate);
    let mut seen = HashSet::new();
    // Those that come back as dead letters at once would be put back without end.
    let mut put_back = HashSet::new();
    let mut empty = 0;
    while report.seen < plan.limit {
        // A receive that finds nothing does not prove that there is nothing.
        let enough = if report.seen < counted.visible {
            EMPTY_RECEIVES
        } else {
            1
        };
        if empty == enough {
            break;
        }
        if stop.is_requested() {
            report.stopped = true;
            break;
        }
        let batch = plan.queue.receive(&*plan.clock).await?;
        empty = if batch.is_empty() { empty + 1 } else { 0 };
        for found in &batch {
            held.hold(found);
        }
        for found in batch {
            // After a while SQS hands out again what is held.
            if !seen.insert(found.message_id.clone()) {
                continue;
            }
            report.seen += 1;
            if plan.filter.takes(&found) {
                let outcome = if stop.is_requested() {
                    Outcome::Left
                } else if put_back.contains(found.source_message_id()) {
                    Outcome::DeadAgain
                } else {
                    act(plan, &mut pace, &found).await?
                };
                if outcome.is_gone() {
                    held.forget(&found);
                    put_back.insert(found.source_message_id().to_owned());
                }
                report.letters.push(FoundLetter::new(&found, outcome));
            }
            on_letter(report.seen, counted.visible.max(report.seen));
        }
    }
    report.limited = report.seen >= plan.limit;
    Ok(())
}

async fn act(plan: &Plan, pace: &mut Pace, found: &Received) -> Result<Outcome, QueueError> {
    match &plan.work {
        Work::List => Ok(Outcome::Left),
        Work::Redrive(sources) => {
            let Some(source) = sources.of(found) else {
                return Ok(Outcome::Failed(
                    "it came from a queue that is neither --queue nor --urgent-queue".to_owned(),
                ));
            };
            if let Some(why) = found.cannot_be_put_back() {
                return Ok(Outcome::Failed(why));
            }
            pace.wait().await;
            match plan.queue.put_back(found, source).await {
                Ok(()) => {}
                Err(error) if error.is_of_the_message() => {
                    return Ok(Outcome::Failed(error.to_string()));
                }
                Err(error) => return Err(error),
            }
            Ok(match plan.queue.delete(found).await {
                Ok(()) => Outcome::PutBack,
                // The ledger knows it when it comes a second time.
                Err(error) => {
                    Outcome::Failed(format!("it was put back and is here still: {error}"))
                }
            })
        }
        Work::Delete => {
            pace.wait().await;
            plan.queue.delete(found).await?;
            Ok(Outcome::Deleted)
        }
    }
}
