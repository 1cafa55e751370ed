//! What is said of a tenant's settings without a credential being opened: for operators, who may not open one.
//!
//! The counter's MAC and the version's number are checked. The seal over the whole of the settings is not: that takes the
//! data key under which the credentials are. So nothing is sent by what is read here.

use std::num::NonZeroU32;

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::chain::AmbiguityPolicy;
use comms_aws::TableError;
use comms_core::{Channel, EntryId, Position, ProviderKind, Tenant};
use futures_util::FutureExt as _;
use serde_json::Value;

use crate::{
    ceilings::Ceilings,
    item::{CURRENT, Item, StoredItem, attribute},
    rate_limit::{Period, RateLimit},
    store::{SettingsStore, StoreError, verified::Verified},
    version::Version,
};

/// A tenant's settings without their credentials.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// Which version, when and by whom.
    pub version: Version,
    /// The channels that are set. None of a deletion.
    pub channels: Vec<ChannelOverview>,
    /// What the platform allows the tenant, as far as its own document says.
    pub ceilings: Ceilings,
}

/// One channel of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelOverview {
    /// The channel.
    pub channel: Channel,
    /// The entries in the order in which they are tried.
    pub entries: Vec<EntryOverview>,
    /// Whether the platform's account may send when all of these fail.
    pub use_global: bool,
    /// What is done when it is not known whether a message went out.
    pub on_ambiguous: AmbiguityPolicy,
    /// How many messages may be sent in a time.
    pub rate_limit: Option<RateLimit>,
}

/// A provider entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryOverview {
    /// Its id in the channel.
    pub id: EntryId,
    /// Its provider.
    pub provider: ProviderKind,
    /// Its place in the chain.
    pub position: Position,
    /// Whether it is used.
    pub enabled: bool,
}

/// What there is of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub enum PresentOverview {
    /// No settings were ever saved.
    Nothing,
    /// They were deleted.
    Deleted(Box<Overview>),
    /// Settings.
    Settings(Box<Overview>),
    /// Settings that are refused or cannot be read, and why.
    Unreadable(StoreError),
}

/// Tenants of one page of a walk over all of them.
#[derive(Debug)]
pub struct OverviewPage {
    /// Each tenant with its present settings. Their counters are not looked at.
    pub tenants: Vec<(Tenant, Result<Overview, StoreError>)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<OverviewStart>,
}

/// A place in the walk.
#[derive(Debug, Clone)]
pub struct OverviewStart(Item);

impl SettingsStore {
    /// The overview of one tenant's present settings. Two strongly consistent reads, and with the first of a process one
    /// more and one KMS Decrypt for the key of the hashes.
    pub async fn overview(&self, tenant: &Tenant) -> Result<PresentOverview, StoreError> {
        let (_, verified) = self.read_verified(tenant).await?;
        let overview = match verified {
            Ok(Verified::Nothing) => return Ok(PresentOverview::Nothing),
            Ok(Verified::Deleted(tombstone)) => tombstone.ceilings().map(|ceilings| {
                PresentOverview::Deleted(Box::new(Overview {
                    version: tombstone.version,
                    channels: Vec::new(),
                    ceilings,
                }))
            }),
            Ok(Verified::Settings(item)) => {
                let document = item.outline();
                let overview = document.and_then(|document| overview_of(item.version, &document));
                overview.map(|overview| PresentOverview::Settings(Box::new(overview)))
            }
            Err(error) => Err(error),
        };
        match overview {
            Err(error) if error.is_worth_a_retry() => Err(error),
            Err(error) => Ok(PresentOverview::Unreadable(error)),
            Ok(overview) => Ok(overview),
        }
    }

    /// The tenants with present settings, a page of at most 1 MB of the table at a time. It reads all versions on its way.
    pub async fn overviews(&self, from: Option<OverviewStart>) -> Result<OverviewPage, StoreError> {
        let answer = self
            .dynamodb
            .scan()
            .table_name(&self.table)
            .filter_expression("sk = :current")
            .expression_attribute_values(":current", AttributeValue::S(CURRENT.to_owned()))
            .set_exclusive_start_key(from.map(|OverviewStart(key)| key))
            .send()
            .boxed()
            .await
            .map_err(|error| TableError::new("Scan", &error))?;
        let items = answer.items.unwrap_or_default().into_iter();
        Ok(OverviewPage {
            tenants: items.filter_map(|item| tenant_of(&item)).collect(),
            next: answer.last_evaluated_key.map(OverviewStart),
        })
    }
}

/// The tenant of a present item with its overview; `None` of a deletion, and of what is no tenant's.
fn tenant_of(item: &Item) -> Option<(Tenant, Result<Overview, StoreError>)> {
    let tenant = Tenant::parse(item.get(attribute::PK)?.as_s().ok()?).ok()?;
    let overview = match StoredItem::from_item(item) {
        Ok(StoredItem::Settings(item)) => item
            .outline()
            .and_then(|document| overview_of(item.version, &document)),
        Ok(StoredItem::Tombstone(_) | StoredItem::Record(_)) => return None,
        Err(error) => Err(error),
    };
    Some((tenant, overview))
}

/// Reads what the store has written. A missing or changed field is an error that names none of its values.
fn overview_of(version: Version, document: &Value) -> Result<Overview, StoreError> {
    let channels = Channel::ALL
        .into_iter()
        .filter(|channel| document.get(channel.as_str()).is_some())
        .map(|channel| channel_of(channel, &document[channel.as_str()]))
        .collect::<Option<Vec<_>>>()
        .ok_or(StoreError::corrupt(attribute::DOCUMENT))?;
    let ceilings = document.get(crate::ceilings::CEILINGS);
    let kept = serde_json::json!({crate::ceilings::CEILINGS: ceilings});
    Ok(Overview {
        version,
        channels,
        ceilings: match ceilings {
            Some(_) => Ceilings::read_kept(kept).map_err(StoreError::Invalid)?,
            None => Ceilings::default(),
        },
    })
}

fn channel_of(channel: Channel, value: &Value) -> Option<ChannelOverview> {
    let fallbacks = value.get("fallback")?.as_array()?.iter().zip(0_u8..);
    let fallbacks = fallbacks.map(|(entry, n)| entry_of(Position::Fallback(n), entry));
    let primary = entry_of(Position::Primary, value.get("primary")?);
    let on_ambiguous = value.get("onAmbiguous")?.as_str()?;
    Some(ChannelOverview {
        channel,
        entries: std::iter::once(primary)
            .chain(fallbacks)
            .collect::<Option<_>>()?,
        use_global: value.pointer("/fallbackStrategy/useGlobal")?.as_bool()?,
        on_ambiguous: [AmbiguityPolicy::Failover, AmbiguityPolicy::Hold]
            .into_iter()
            .find(|policy| policy.as_str() == on_ambiguous)?,
        rate_limit: value.get("rateLimit").and_then(limit_of),
    })
}

fn entry_of(position: Position, value: &Value) -> Option<EntryOverview> {
    let text = |name: &str| value.get(name)?.as_str();
    Some(EntryOverview {
        id: EntryId::parse(text("id")?).ok()?,
        provider: ProviderKind::parse(text("provider")?)?,
        position,
        enabled: value.get("enabled")?.as_bool()?,
    })
}

fn limit_of(value: &Value) -> Option<RateLimit> {
    RateLimit::new(Period::ALL.into_iter().filter_map(|period| {
        let limit = value.get(period.field())?.as_u64()?;
        Some((period, NonZeroU32::new(u32::try_from(limit).ok()?)?))
    }))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{document::CommunicationSettings, version::Change};

    fn version() -> Version {
        Version {
            number: 3,
            saved_at: Timestamp::UNIX_EPOCH,
            saved_by: "admin".to_owned(),
            source_address: None,
            change: Change::Saved,
            changed: Vec::new(),
        }
    }

    #[test]
    fn an_overview_agrees_with_the_settings_whose_outline_it_reads() {
        let document = json!({
            "email": {
                "primary": {"provider": "smtp", "credentials": {
                    "host": "smtp.example.com", "port": 587, "secure": false, "user": "u", "password": "p"}},
                "fallback": [{"id": "second", "provider": "smtp", "enabled": false, "credentials": {
                    "host": "smtp.example.org", "port": 587, "secure": false, "user": "u", "password": "p"}}],
                "defaultFrom": "desk@clinic.example", "onAmbiguous": "hold",
                "fallbackStrategy": {"useGlobal": false}, "rateLimit": {"maxPerHour": 100}},
            "ceilings": {"useGlobal": true, "email": {"maxPerDay": 9}}});
        let tenant = Tenant::parse("clinic-1").unwrap();
        let mut problems = comms_core::Problems::default();
        let settings = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
        let settings = problems.or(settings).unwrap();
        let overview = overview_of(version(), &settings.outline()).unwrap();
        assert_eq!(overview.ceilings, settings.ceilings);
        let (read, email) = (&overview.channels[0], settings.email.unwrap());
        assert_eq!(overview.channels.len(), 1);
        assert_eq!(read.rate_limit, email.rate_limit);
        assert_eq!(read.use_global, email.use_global);
        assert_eq!(read.on_ambiguous, email.on_ambiguous);
        let entries: Vec<_> = email
            .entries()
            .map(|(position, entry)| EntryOverview {
                id: entry.id.clone(),
                provider: entry.config.kind(),
                position,
                enabled: entry.enabled,
            })
            .collect();
        assert_eq!(read.entries, entries);
    }

    #[test]
    fn a_document_that_is_not_as_it_was_written_has_no_overview() {
        let corrupt = Err(StoreError::corrupt(attribute::DOCUMENT));
        for document in [json!({"email": {}}), json!({"email": {"primary": 1}})] {
            assert_eq!(overview_of(version(), &document), corrupt, "{document}");
        }
        let empty = overview_of(version(), &json!({})).unwrap();
        assert_eq!(empty.channels, []);
    }
}
