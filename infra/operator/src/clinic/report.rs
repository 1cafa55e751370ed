//! What is shown of a clinic.

use std::collections::BTreeMap;

use comms_adapters::registry;
use comms_core::{Channel, FailureReason, HealthState, Position, ProviderKind, Tenant};
use comms_delivery::{
    Counted,
    health::{Records, name},
    quota::QuotaUse,
    usage::{Counter, Counts},
};
use comms_settings::{Ceilings, Change, Overview, Period, PresentOverview, RateLimit};
use jiff::{Timestamp, civil::Date};
use serde::Serialize;

use crate::moments::{between, moment};

/// What was read.
pub(super) struct Facts {
    pub(super) present: PresentOverview,
    pub(super) records: Records,
    /// The ceilings of `_global`.
    pub(super) defaults: Ceilings,
    pub(super) used: Vec<(Counted, Vec<QuotaUse>)>,
    pub(super) days: BTreeMap<Date, Counts>,
    pub(super) today: Date,
    pub(super) yesterday: Date,
}

impl Facts {
    pub(super) fn is_nothing(&self) -> bool {
        self.present == PresentOverview::Nothing && self.days.is_empty()
    }
}

/// A clinic on a page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) clinic_id: Tenant,
    pub(super) settings: Settings,
    pub(super) entries: Vec<Entry>,
    pub(super) channels: Vec<ChannelReport>,
    pub(super) quotas: Vec<QuotaReport>,
    pub(super) outcomes: Vec<Outcomes>,
    pub(super) next_steps: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    /// `none`, `present`, `deleted` or `unreadable`.
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) saved_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) saved_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) words: String,
}

/// A provider entry with its health.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) channel: Channel,
    #[serde(rename = "entry")]
    pub(super) id: comms_core::EntryId,
    pub(super) provider: ProviderKind,
    pub(super) position: Position,
    pub(super) enabled: bool,
    /// `untried`, `healthy`, `degraded` or `down`.
    pub(super) health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<comms_core::ErrorKind>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChannelReport {
    pub(super) channel: Channel,
    /// Whether the platform's account sends when all entries fail, as settings and ceilings say.
    pub(super) uses_global: bool,
    pub(super) on_ambiguous: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuotaReport {
    /// `email`, `whatsapp` or `urgent`.
    pub(super) of: &'static str,
    pub(super) period: &'static str,
    pub(super) used: u64,
    /// Absent where the settings say nothing: the quota of what is urgent has a default of the stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcomes {
    pub(super) date: String,
    pub(super) channel: Channel,
    pub(super) sent: BTreeMap<String, u64>,
    pub(super) sent_by_global: u64,
    pub(super) possible_duplicates: u64,
    pub(super) failed: BTreeMap<&'static str, u64>,
    pub(super) unknown: u64,
    pub(super) expired: u64,
    pub(super) deferrals: u64,
}

impl Report {
    pub(super) fn new(tenant: &Tenant, facts: &Facts, now: Timestamp) -> Self {
        let overview = match &facts.present {
            PresentOverview::Settings(overview) | PresentOverview::Deleted(overview) => {
                Some(overview)
            }
            PresentOverview::Nothing | PresentOverview::Unreadable(_) => None,
        };
        let own = overview.map_or_else(Ceilings::default, |overview| overview.ceilings);
        let ceilings = match tenant {
            Tenant::Clinic(_) => own.or(facts.defaults),
            Tenant::Global => Ceilings::default(),
        };
        let channels = overview.into_iter().flat_map(|overview| &overview.channels);
        let may_use_global = ceilings.use_global.unwrap_or(true);
        let mut report = Self {
            clinic_id: tenant.clone(),
            settings: settings_of(&facts.present, now),
            entries: overview
                .map_or_else(Vec::new, |overview| entries_of(overview, &facts.records)),
            channels: channels
                .map(|channel| ChannelReport {
                    channel: channel.channel,
                    uses_global: channel.use_global && may_use_global && *tenant != Tenant::Global,
                    on_ambiguous: channel.on_ambiguous.as_str(),
                })
                .collect(),
            quotas: quotas_of(overview.map(|overview| &**overview), ceilings, &facts.used),
            outcomes: outcomes_of(facts),
            next_steps: Vec::new(),
        };
        report.next_steps = report.steps(&facts.present);
        report
    }

    fn steps(&self, present: &PresentOverview) -> Vec<String> {
        let tenant = &self.clinic_id;
        let mut steps = Vec::new();
        match present {
            PresentOverview::Unreadable(_) => steps.push(
                "Nothing goes out for it: see \"Settings that cannot be read\" in OPERATIONS.md.".to_owned(),
            ),
            PresentOverview::Nothing | PresentOverview::Deleted(_) => steps.push(
                "Its messages go by the platform's account, or end NO_PROVIDER where that may not be used.".to_owned(),
            ),
            PresentOverview::Settings(_) => {}
        }
        for entry in self.entries.iter().filter(|entry| entry.enabled) {
            let Some(kind) = entry.last_error.filter(|_| entry.health == "down") else {
                continue;
            };
            steps.push(format!(
                "{}/{} on {}: {} {}",
                entry.provider,
                entry.id,
                entry.channel,
                kind.detail(),
                if kind.is_mendable() {
                    "Its admin has to mend that; saved settings are used at once."
                } else {
                    "It is probed by itself; `comms-operator provider` says whether others have that too."
                }
            ));
        }
        for quota in &self.quotas {
            if quota
                .limit
                .is_some_and(|limit| quota.used >= u64::from(limit))
            {
                steps.push(format!(
                    "The {} quota of this {} is used up: messages of {tenant} wait until it ends.",
                    quota.of, quota.period
                ));
            }
        }
        steps
    }
}

fn settings_of(present: &PresentOverview, now: Timestamp) -> Settings {
    let (state, overview, error) = match present {
        PresentOverview::Nothing => ("none", None, None),
        PresentOverview::Deleted(overview) => ("deleted", Some(overview), None),
        PresentOverview::Settings(overview) => ("present", Some(overview), None),
        PresentOverview::Unreadable(error) => ("unreadable", None, Some(error.to_string())),
    };
    let version = overview.map(|overview| &overview.version);
    let words = match (version, &error) {
        (Some(version), _) => {
            let what = match version.change {
                Change::Saved => "saved".to_owned(),
                Change::Deleted => "deleted".to_owned(),
                Change::Restored { from } => format!("restored from version {from}"),
                Change::Purged { at } => format!("deleted, to be purged {}", moment(at)),
            };
            format!(
                "version {}, {what} {} ({} ago) by {}",
                version.number,
                moment(version.saved_at),
                between(version.saved_at, now),
                version.saved_by
            )
        }
        (None, Some(error)) => format!("cannot be read: {error}"),
        (None, None) => "none".to_owned(),
    };
    Settings {
        state,
        version: version.map(|version| version.number),
        saved_at: version.map(|version| version.saved_at),
        saved_by: version.map(|version| version.saved_by.clone()),
        change: version.map(|version| version.change.as_str()),
        error,
        words,
    }
}

fn entries_of(overview: &Overview, records: &Records) -> Vec<Entry> {
    let mut entries = Vec::new();
    for channel in &overview.channels {
        for entry in &channel.entries {
            let record = records.get(&name(channel.channel, &entry.id));
            let is_well = record.is_none_or(|record| record.state == HealthState::Healthy);
            entries.push(Entry {
                channel: channel.channel,
                id: entry.id.clone(),
                provider: entry.provider,
                position: entry.position,
                enabled: entry.enabled,
                health: record.map_or("untried", |record| record.state.as_str()),
                since: record.map(|record| record.since),
                // What failed before it was well again says nothing of it now.
                last_error: record
                    .and_then(|record| record.last_error)
                    .filter(|_| !is_well),
            });
        }
    }
    entries
}

fn quotas_of(
    overview: Option<&Overview>,
    ceilings: Ceilings,
    used: &[(Counted, Vec<QuotaUse>)],
) -> Vec<QuotaReport> {
    let mut quotas = Vec::new();
    for (counted, windows) in used {
        let limits: BTreeMap<Period, u32> = match counted {
            Counted::Channel(channel) => {
                let channels = overview.into_iter().flat_map(|overview| &overview.channels);
                let mut own = channels.filter(|own| own.channel == *channel);
                let own = own.next().and_then(|own| own.rate_limit);
                let limit = RateLimit::lower(own, ceilings.channel(*channel));
                limit.iter().flat_map(RateLimit::limits).collect()
            }
            Counted::Urgent => {
                let limit = ceilings.urgent_per_hour.map(std::num::NonZeroU32::get);
                limit
                    .into_iter()
                    .map(|limit| (Period::Hour, limit))
                    .collect()
            }
        };
        for period in Period::ALL {
            let window = windows.iter().find(|window| window.period == period);
            let limit = limits.get(&period).copied();
            if window.is_none() && limit.is_none() {
                continue;
            }
            // A limit of a channel that is gone from the settings counts no more.
            if limit.is_none() && *counted != Counted::Urgent {
                continue;
            }
            quotas.push(QuotaReport {
                of: counted.as_str(),
                period: period.as_str(),
                used: window.map_or(0, |window| window.used),
                limit,
                until: window.map(|window| window.until),
            });
        }
    }
    quotas
}

fn outcomes_of(facts: &Facts) -> Vec<Outcomes> {
    let mut outcomes = Vec::new();
    for date in [facts.today, facts.yesterday] {
        let Some(counts) = facts.days.get(&date) else {
            continue;
        };
        for channel in Channel::ALL {
            if counts.is_without(channel) {
                continue;
            }
            let count = |counter| counts.get(channel, counter);
            let sent = registry::kinds().map(|kind| (kind.to_string(), count(Counter::Sent(kind))));
            let failed = FailureReason::ALL
                .into_iter()
                .map(|reason| (reason.as_str(), count(Counter::Failed(reason))));
            outcomes.push(Outcomes {
                date: date.to_string(),
                channel,
                sent: sent.filter(|(_, count)| *count > 0).collect(),
                sent_by_global: count(Counter::SentByGlobal),
                possible_duplicates: count(Counter::PossibleDuplicates),
                failed: failed.filter(|(_, count)| *count > 0).collect(),
                unknown: count(Counter::Unknown),
                expired: count(Counter::Expired),
                deferrals: count(Counter::Deferrals),
            });
        }
    }
    outcomes
}
