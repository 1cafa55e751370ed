//! `audit`: who sent, who read, who changed.
//!
//! Sends are read from the ledger, changes from the settings' versions, and reads from exported audit lines of the logs
//! (`infra/docs/LOGGING.md`). Nothing is written.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    io::BufRead,
};

use comms_core::{Clock, RequestId, SubjectHash, SystemClock, Tenant, audit::AUDIT};
use comms_delivery::{Ledger, ledger::records::AddressedPerson};
use comms_settings::SettingsStore;
use serde::Serialize;
use serde_json::Value;

use crate::{pace::Pace, reseal};

/// Versions that are read at a time.
const VERSIONS: u8 = 100;

/// The subject of the question.
pub enum About {
    /// A clinic, or the global account.
    Clinic(Tenant),
    /// A caller: the token's subject, or SQS's id of a producer.
    Subject {
        /// As the settings' versions have it.
        plain: String,
        /// As the ledger and the logs have it: of the text as it is, and of a producer without its session.
        hashes: Vec<SubjectHash>,
    },
    /// A recipient.
    Recipient(Box<AddressedPerson>),
}

/// Where to look.
pub struct Plan {
    /// The settings table.
    pub store: SettingsStore,
    /// The deliveries table.
    pub ledger: Ledger,
    /// The subject of the question.
    pub about: About,
    /// Pages a second, at most.
    pub rate: u32,
}

/// One thing that somebody did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    /// When (RFC 3339).
    pub at: String,
    /// For which clinic.
    pub clinic_id: String,
    /// What: an action of the API, or what changed the settings.
    pub action: String,
    /// Who: a keyed hash, or the subject itself where the source has it.
    pub who: Option<String>,
    /// A request's id, or a version of the settings.
    pub what: Option<String>,
    /// How it ended; deeds of the tables were done.
    pub outcome: String,
    /// Where this is known from: `ledger`, `settings`, `log`.
    pub source: &'static str,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Deeds, the oldest first.
    pub deeds: Vec<Deed>,
    /// Lines of the logs that are no audit lines.
    pub other_lines: u64,
    /// Whether log lines were given: without them, no reads are known.
    pub has_logs: bool,
}

/// Any failure, for the user to read.
type AnyError = Box<dyn std::error::Error>;

/// Looks for deeds in both tables and in `logs`.
pub async fn run(plan: &Plan, logs: Vec<Box<dyn BufRead>>) -> Result<Report, AnyError> {
    let mut report = Report {
        has_logs: !logs.is_empty(),
        ..Report::default()
    };
    let requests = sends(plan, &mut report.deeds).await?;
    changes(plan, &mut report.deeds).await?;
    for log in logs {
        for line in log.lines() {
            match deed_of_line(&line?) {
                Some(deed) if is_about(&plan.about, &deed, &requests) => report.deeds.push(deed),
                Some(_) => {}
                None => report.other_lines += 1,
            }
        }
    }
    report.deeds.sort();
    Ok(report)
}

/// The acceptances that the question is about, and their requests.
async fn sends(plan: &Plan, deeds: &mut Vec<Deed>) -> Result<HashSet<RequestId>, AnyError> {
    let mut pace = Pace::per_second(plan.rate);
    let mut requests = HashSet::new();
    let mut from = None;
    loop {
        pace.wait().await;
        let found = plan.ledger.walk(from).await?;
        for request in found.requests {
            let is_recipients =
                matches!(&plan.about, About::Recipient(person) if request.concerns(person));
            if is_recipients {
                requests.insert(request.id.clone());
            }
            let Some(acceptance) = &request.acceptance else {
                continue;
            };
            let is_asked = match &plan.about {
                About::Clinic(tenant) => acceptance.clinic_id == tenant.as_str(),
                About::Subject { hashes, .. } => is_one_of(acceptance.by.as_ref(), hashes),
                About::Recipient(_) => is_recipients,
            };
            if is_asked {
                let via = acceptance.via.as_deref().unwrap_or("unknown");
                deeds.push(Deed {
                    at: acceptance.accepted_at.clone(),
                    clinic_id: acceptance.clinic_id.clone(),
                    action: "send".to_owned(),
                    who: acceptance.by.clone(),
                    what: Some(request.id.to_string()),
                    outcome: format!("accepted by {via}"),
                    source: "ledger",
                });
            }
        }
        from = found.next;
        if from.is_none() {
            return Ok(requests);
        }
    }
}

/// The versions of settings that the question is about.
async fn changes(plan: &Plan, deeds: &mut Vec<Deed>) -> Result<(), AnyError> {
    let (tenants, of_subject) = match &plan.about {
        About::Clinic(tenant) => (BTreeSet::from([tenant.as_str().to_owned()]), None),
        About::Subject { plain, .. } => (reseal::owners(&plan.store).await?, Some(plain)),
        About::Recipient(_) => return Ok(()),
    };
    for tenant in tenants.iter().filter_map(|id| Tenant::parse(id).ok()) {
        let mut before = None;
        loop {
            let clock: &dyn Clock = &SystemClock;
            let page = plan
                .store
                .versions(&tenant, before, VERSIONS, clock)
                .await?;
            for version in page.versions {
                if of_subject.is_some_and(|subject| *subject != version.saved_by) {
                    continue;
                }
                deeds.push(Deed {
                    at: version.saved_at.to_string(),
                    clinic_id: tenant.to_string(),
                    action: format!("settings_{}", version.change.as_str()),
                    who: Some(version.saved_by),
                    what: Some(format!("version {}", version.number)),
                    outcome: "done".to_owned(),
                    source: "settings",
                });
            }
            before = page.next;
            if before.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// An audit line of the logs; `None` for any other line.
fn deed_of_line(line: &str) -> Option<Deed> {
    let line: Value = serde_json::from_str(line.trim()).ok()?;
    let text = |name: &str| line.get(name)?.as_str().map(str::to_owned);
    if text("target")? != AUDIT {
        return None;
    }
    Some(Deed {
        at: text("timestamp")?,
        clinic_id: text("clinicId").unwrap_or_default(),
        action: text("action")?,
        who: text("subject"),
        what: text("requestId"),
        outcome: text("outcome")?,
        source: "log",
    })
}

fn is_about(about: &About, deed: &Deed, requests: &HashSet<RequestId>) -> bool {
    match about {
        About::Clinic(tenant) => deed.clinic_id == tenant.as_str(),
        About::Subject { plain, hashes } => {
            deed.who.as_ref() == Some(plain) || is_one_of(deed.who.as_ref(), hashes)
        }
        About::Recipient(_) => deed
            .what
            .as_deref()
            .and_then(|id| RequestId::parse(id).ok())
            .is_some_and(|id| requests.contains(&id)),
    }
}

fn is_one_of(who: Option<&String>, hashes: &[SubjectHash]) -> bool {
    who.is_some_and(|who| hashes.iter().any(|hash| hash.as_str() == who))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = "-".to_owned();
        let rows = self.deeds.iter().map(|deed| {
            [
                &deed.at,
                &deed.clinic_id,
                &deed.action,
                deed.who.as_ref().unwrap_or(&none),
                deed.what.as_ref().unwrap_or(&none),
                &deed.outcome,
            ]
        });
        let titles = ["time", "clinic", "action", "who", "what", "outcome"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(titles.each_ref()).chain(rows).collect();
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &rows {
            let cells = row.iter().zip(widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        if self.has_logs {
            write!(
                f,
                "{} deeds; {} other log lines",
                self.deeds.len(),
                self.other_lines
            )
        } else {
            write!(
                f,
                "{} deeds; reads are only in the logs: give exported lines with --log",
                self.deeds.len()
            )
        }
    }
}
