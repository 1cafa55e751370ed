//! `export` and `erase`: the ledger's data of one recipient.
//!
//! The address is hashed here and is in no request, output or error. Both walk over the whole deliveries table, a page
//! of at most 1 MB at a time.

use std::{collections::HashSet, fmt, io::Write};

use comms_core::{Clock, RequestId};
use comms_delivery::{
    Ledger,
    ledger::records::{AddressedPerson, Erasure},
};
use serde::Serialize;

use crate::{pace::Pace, stop::Stop};

/// Whose data, and where.
pub struct Plan {
    /// The deliveries table.
    pub ledger: Ledger,
    /// The recipient.
    pub person: AddressedPerson,
    /// Pages and requests a second, at most.
    pub rate: u32,
    /// The time, which decides what can no longer be on a queue.
    pub clock: Box<dyn Clock>,
}

/// What to do with the data that is found.
pub enum Work<'w> {
    /// Writes each delivery as a line of JSON.
    Export(&'w mut dyn Write),
    /// Erases it, or only counts it.
    Erase {
        /// Whether to only count.
        is_dry_run: bool,
    },
}

/// What was found and done.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Requests with a delivery of the recipient.
    pub requests: u64,
    /// Deliveries that were exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported: Option<u64>,
    /// What erasing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<Erasure>,
    /// Whether nothing was changed on purpose.
    pub is_dry_run: bool,
    /// Whether the command was interrupted.
    pub is_interrupted: bool,
}

impl Report {
    /// Whether the same command would find nothing left to do.
    pub fn is_complete(&self) -> bool {
        let is_erased = self.erasure.is_none_or(|erasure| {
            erasure.in_flight == 0
                && erasure.changed_meanwhile == 0
                && !(self.is_dry_run && erasure.erased > 0)
        });
        !self.is_interrupted && is_erased
    }
}

/// Any failure, for the user to read.
type AnyError = Box<dyn std::error::Error>;

/// Walks over the table, and keeps `report` up to date. `on_page` is told how many pages and requests there were.
pub async fn run(
    plan: &Plan,
    mut work: Work<'_>,
    report: &mut Report,
    stop: &Stop,
    on_page: &mut dyn FnMut(u64, u64),
) -> Result<(), AnyError> {
    let mut pace = Pace::per_second(plan.rate);
    // A request's items may be on several pages.
    let mut seen: HashSet<RequestId> = HashSet::new();
    let (mut from, mut pages) = (None, 0);
    loop {
        pace.wait().await;
        let found = plan.ledger.walk(from).await?;
        let requests = found.requests.into_iter();
        let requests = requests.filter(|request| request.concerns(&plan.person));
        for id in requests.map(|request| request.id) {
            if stop.is_requested() {
                report.is_interrupted = true;
                return Ok(());
            }
            if !seen.insert(id.clone()) {
                continue;
            }
            pace.wait().await;
            work.carry_out(plan, &id, report).await?;
            report.requests += 1;
        }
        pages += 1;
        on_page(pages, report.requests);
        from = found.next;
        if from.is_none() {
            return Ok(());
        }
    }
}

impl Work<'_> {
    async fn carry_out(
        &mut self,
        plan: &Plan,
        id: &RequestId,
        report: &mut Report,
    ) -> Result<(), AnyError> {
        match self {
            Self::Export(out) => {
                for delivery in plan.ledger.deliveries_of(id, &plan.person).await? {
                    serde_json::to_writer(&mut *out, &delivery)?;
                    out.write_all(b"\n")?;
                    *report.exported.get_or_insert_default() += 1;
                }
            }
            Self::Erase { is_dry_run } => {
                let now = plan.clock.now();
                let erased = plan
                    .ledger
                    .erase(id, &plan.person, *is_dry_run, now)
                    .await?;
                report.erasure.get_or_insert_default().add(erased);
            }
        }
        Ok(())
    }
}

/// What no erasure of the ledger reaches.
const OUT_OF_REACH: &str = "\
not erased by this command:
  delivery ids (keyed hashes): they expire with their items, 30 days after the last change
  logs and metrics: they have request and delivery ids, and no address
  queued messages: they have the content until it is delivered; run the command again when nothing is in flight
  backups of the table (point-in-time recovery, up to 35 days) and exports of it
  what providers and mail servers keep of messages that they accepted";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8} requests have deliveries of this recipient",
            self.requests
        )?;
        if let Some(exported) = self.exported {
            write!(f, "\n{exported:>8} deliveries exported")?;
        }
        if let Some(erasure) = &self.erasure {
            let done = if self.is_dry_run {
                "would be erased"
            } else {
                "erased"
            };
            write!(f, "\n{:>8} deliveries {done}", erasure.erased)?;
            write!(f, "\n{:>8} were erased before", erasure.already_erased)?;
            write!(f, "\n{:>8} are in flight and were left", erasure.in_flight)?;
            let changed = erasure.changed_meanwhile;
            write!(f, "\n{changed:>8} changed meanwhile and were left")?;
        }
        if self.exported.is_none() {
            write!(f, "\n{OUT_OF_REACH}")?;
        }
        Ok(())
    }
}
