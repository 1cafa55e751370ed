//! A clinic's page as text.

use std::fmt::Write as _;

use super::report::Report;
use crate::{
    layout::{Cell, Layout, Tone},
    moments::moment,
};

/// Columns of the labels.
const LABEL: usize = 9;

impl Report {
    /// The report for people.
    pub(super) fn text(&self, layout: Layout) -> String {
        let line = |label: &str, text: &str| layout.labelled(label, LABEL, Tone::Plain, text);
        let mut text = line("clinic", self.clinic_id.as_str());
        text.push_str(&line("settings", &self.settings.words));
        for channel in &self.channels {
            let global = match (self.clinic_id.clinic(), channel.uses_global) {
                (None, _) => "",
                (Some(_), true) => "the platform's account sends when all entries fail; ",
                (Some(_), false) => "never by the platform's account; ",
            };
            let words = format!("{global}onAmbiguous is {}", channel.on_ambiguous);
            text.push_str(&line(channel.channel.as_str(), &words));
        }
        let mut section = |title: &str, table: String| {
            if !table.is_empty() {
                let _ = write!(text, "\n{}\n{table}", layout.paint(Tone::Strong, title));
            }
        };
        section("providers", self.entries_table(layout));
        section("quota", self.quota_table(layout));
        section("outcomes (days of UTC)", self.outcomes_table(layout));
        if !self.next_steps.is_empty() {
            text.push('\n');
        }
        for (number, step) in self.next_steps.iter().enumerate() {
            let label = if number == 0 { "to do" } else { "" };
            text.push_str(&layout.labelled(label, LABEL, Tone::Warning, step));
        }
        text.trim_end().to_owned()
    }

    fn entries_table(&self, layout: Layout) -> String {
        if self.entries.is_empty() {
            return String::new();
        }
        let rows = self.entries.iter().map(|entry| {
            let tone = match entry.health {
                "down" => Tone::Bad,
                "degraded" => Tone::Warning,
                "healthy" => Tone::Good,
                _ => Tone::Dim,
            };
            let health = if entry.enabled {
                entry.health
            } else {
                "disabled"
            };
            let error = entry.last_error.map_or("", comms_core::ErrorKind::as_str);
            [
                Cell::from(entry.channel.as_str()),
                Cell::from(entry.id.as_str()),
                Cell::from(entry.provider.as_str()),
                Cell::from(entry.position.to_string()),
                Cell::new(health, if entry.enabled { tone } else { Tone::Dim }),
                Cell::from(entry.since.map_or_else(String::new, moment)),
                Cell::from(error),
            ]
        });
        let titles = [
            "channel",
            "entry",
            "provider",
            "place",
            "health",
            "since",
            "last error",
        ];
        layout.table(titles, &rows.collect::<Vec<_>>())
    }

    fn quota_table(&self, layout: Layout) -> String {
        if self.quotas.is_empty() {
            return String::new();
        }
        let rows = self.quotas.iter().map(|quota| {
            let is_full = quota
                .limit
                .is_some_and(|limit| quota.used >= u64::from(limit));
            let tone = if is_full { Tone::Bad } else { Tone::Plain };
            [
                Cell::from(quota.of),
                Cell::from(format!("a {}", quota.period).replace("a hour", "an hour")),
                Cell::new(quota.used.to_string(), tone),
                Cell::from(
                    quota
                        .limit
                        .map_or_else(|| "the stack's".to_owned(), |limit| limit.to_string()),
                ),
                Cell::from(quota.until.map_or_else(String::new, moment)),
            ]
        });
        layout.table(
            ["of", "in", "used", "limit", "window ends"],
            &rows.collect::<Vec<_>>(),
        )
    }

    fn outcomes_table(&self, layout: Layout) -> String {
        if self.outcomes.is_empty() {
            return "nothing ended today or yesterday\n".to_owned();
        }
        let named = |counts: Vec<(String, u64)>| {
            let counts: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect();
            counts.join(", ")
        };
        let rows = self.outcomes.iter().map(|day| {
            let sent = day.sent.iter().map(|(name, count)| (name.clone(), *count));
            let failed = day
                .failed
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            let failed = named(failed.collect());
            [
                Cell::from(day.date.as_str()),
                Cell::from(day.channel.as_str()),
                Cell::from(named(sent.collect())),
                Cell::new(failed, Tone::Bad),
                Cell::from(shown(day.unknown)),
                Cell::from(shown(day.expired)),
                Cell::from(shown(day.deferrals)),
                Cell::from(shown(day.sent_by_global)),
            ]
        });
        let titles = [
            "day",
            "channel",
            "sent by",
            "failed",
            "unknown",
            "expired",
            "deferrals",
            "by platform",
        ];
        layout.table(titles, &rows.collect::<Vec<_>>())
    }
}

fn shown(count: u64) -> String {
    if count == 0 {
        String::new()
    } else {
        count.to_string()
    }
}
