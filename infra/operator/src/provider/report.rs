//! What is shown of a provider.

use std::collections::BTreeMap;

use comms_core::{Channel, EntryId, ErrorKind, Position, ProviderKind, Tenant};
use comms_delivery::health::{Records, name};
use comms_settings::{Overview, StoreError};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    layout::{Cell, Layout, Tone},
    moments::{between, moment},
};

/// Columns of the labels.
const LABEL: usize = 9;

/// The states in the order in which they are shown; what is disabled has none.
const STATES: [&str; 5] = ["down", "degraded", "healthy", "untried", "disabled"];

/// A provider's entries with their health.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    provider: ProviderKind,
    clinics: usize,
    /// Entries by state.
    counts: BTreeMap<&'static str, usize>,
    /// Entries that are down, by what failed last.
    down_by_error: BTreeMap<&'static str, usize>,
    entries: Vec<Entry>,
    /// Clinics whose settings cannot be read, and why.
    unreadable: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    clinic_id: Tenant,
    channel: Channel,
    #[serde(rename = "entry")]
    id: EntryId,
    position: Position,
    /// `down`, `degraded`, `healthy`, `untried` or `disabled`.
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<ErrorKind>,
}

impl Report {
    pub(super) fn new(provider: ProviderKind) -> Self {
        Self {
            provider,
            clinics: 0,
            counts: BTreeMap::new(),
            down_by_error: BTreeMap::new(),
            entries: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.entries.is_empty() && self.unreadable.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Adds a tenant's entries of the provider.
    pub(super) fn add(&mut self, tenant: &Tenant, overview: &Overview, records: &Records) {
        self.clinics += 1;
        for channel in &overview.channels {
            let own = channel.entries.iter();
            for entry in own.filter(|entry| entry.provider == self.provider) {
                let record = records.get(&name(channel.channel, &entry.id));
                let health = match record {
                    _ if !entry.enabled => "disabled",
                    Some(record) => record.state.as_str(),
                    None => "untried",
                };
                let is_ill = matches!(health, "down" | "degraded");
                self.entries.push(Entry {
                    clinic_id: tenant.clone(),
                    channel: channel.channel,
                    id: entry.id.clone(),
                    position: if *tenant == Tenant::Global {
                        entry.position.of_global()
                    } else {
                        entry.position
                    },
                    health,
                    since: record.map(|record| record.since).filter(|_| entry.enabled),
                    last_error: record
                        .and_then(|record| record.last_error)
                        .filter(|_| is_ill),
                });
            }
        }
    }

    /// Notes a tenant whose settings cannot be read.
    pub(super) fn unreadable(&mut self, tenant: &Tenant, error: &StoreError) {
        self.unreadable
            .insert(tenant.to_string(), error.to_string());
    }

    /// Counts and sorts: the platform's own first, then by state, the longest first.
    pub(super) fn finish(&mut self) {
        let rank = |state: &str| STATES.iter().position(|known| *known == state);
        self.entries.sort_by_key(|entry| {
            let is_clinic = entry.clinic_id != Tenant::Global;
            (
                is_clinic,
                rank(entry.health),
                entry.since,
                entry.clinic_id.clone(),
            )
        });
        for entry in &self.entries {
            *self.counts.entry(entry.health).or_default() += 1;
            if entry.health == "down" {
                let error = entry.last_error.map_or("unknown", ErrorKind::as_str);
                *self.down_by_error.entry(error).or_default() += 1;
            }
        }
    }

    /// The report for people: what is down and degraded, and with `all` the rest.
    pub(super) fn text(&self, layout: Layout, all: bool, now: Timestamp) -> String {
        let line = |label: &str, text: &str| layout.labelled(label, LABEL, Tone::Plain, text);
        let mut text = line("provider", self.provider.as_str());
        let counts = STATES
            .iter()
            .filter_map(|state| Some(format!("{} {state}", self.counts.get(state)?)));
        let counts: Vec<_> = counts.collect();
        text.push_str(&line(
            "entries",
            &format!(
                "{} of {} {}: {}",
                self.entries.len(),
                self.clinics,
                if self.clinics == 1 {
                    "clinic"
                } else {
                    "clinics"
                },
                counts.join(", ")
            ),
        ));
        if !self.down_by_error.is_empty() {
            let errors = self.down_by_error.iter();
            let errors: Vec<_> = errors
                .map(|(error, count)| format!("{count} {error}"))
                .collect();
            text.push_str(&line("down by", &errors.join(", ")));
        }
        let platform = self
            .entries
            .iter()
            .filter(|entry| entry.clinic_id == Tenant::Global);
        let platform: Vec<_> = platform
            .map(|entry| format!("{} on {} is {}", entry.id, entry.channel, entry.health))
            .collect();
        let platform = if platform.is_empty() {
            "has no entry of it".to_owned()
        } else {
            platform.join(", ")
        };
        text.push_str(&line("platform", &platform));
        let shown = self.entries.iter();
        let shown = shown.filter(|entry| all || matches!(entry.health, "down" | "degraded"));
        let rows: Vec<_> = shown.map(|entry| row(entry, now)).collect();
        text.push('\n');
        if rows.is_empty() {
            text.push_str(&layout.paint(Tone::Good, "none of its entries is down"));
            text.push('\n');
        } else {
            let titles = [
                "clinic",
                "channel",
                "entry",
                "place",
                "health",
                "since",
                "for",
                "last error",
            ];
            text.push_str(&layout.table(titles, &rows));
        }
        for (clinic, error) in &self.unreadable {
            let error = format!("its settings cannot be read: {error}");
            text.push_str(&layout.labelled(clinic, LABEL, Tone::Bad, &error));
        }
        if let Some(advice) = self.advice() {
            text.push('\n');
            text.push_str(&layout.labelled("to do", LABEL, Tone::Warning, advice));
        }
        text.trim_end().to_owned()
    }

    /// What the picture means.
    fn advice(&self) -> Option<&'static str> {
        let down = self.counts.get("down").copied().unwrap_or_default();
        let refused: usize = self
            .down_by_error
            .iter()
            .filter(|(error, _)| ErrorKind::parse(error).is_some_and(ErrorKind::is_mendable))
            .map(|(_, count)| count)
            .sum();
        match (down, refused) {
            (0, _) => None,
            (1, _) => Some(
                "One entry alone is the clinic's own matter: `comms-operator clinic ID` says what to do.",
            ),
            (down, refused) if refused == down => Some(
                "All of them are refused: passwords, bills or senders, which the clinics' admins mend. Many since the same hour: \
                 the provider has changed its logins, or blocks our addresses.",
            ),
            (_, _) => Some(
                "Several clinics at once: look at the provider's status page. Messages go to fallbacks, or wait and are tried \
                 again by themselves; entries are probed every 30 seconds to 5 minutes.",
            ),
        }
    }
}

fn row(entry: &Entry, now: Timestamp) -> [Cell; 8] {
    let tone = match entry.health {
        "down" => Tone::Bad,
        "degraded" => Tone::Warning,
        "healthy" => Tone::Good,
        _ => Tone::Dim,
    };
    let length = entry.since.map(|since| between(since, now));
    [
        Cell::from(entry.clinic_id.as_str()),
        Cell::from(entry.channel.as_str()),
        Cell::from(entry.id.as_str()),
        Cell::from(entry.position.to_string()),
        Cell::new(entry.health, tone),
        Cell::from(entry.since.map_or_else(String::new, moment)),
        Cell::from(length.unwrap_or_default()),
        Cell::from(entry.last_error.map_or("", ErrorKind::as_str)),
    ]
}
