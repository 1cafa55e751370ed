//! What a request's item says of the request itself, for those who ask what became of it.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use comms_aws::{
    ConditionalWrite, Item, TableError,
    item::{flag, number_value, optional_text, text, text_value},
};
use comms_core::{
    Country, Delivery, GlobalCause, RequestId, SentVia, SkippedEntry, Tenant, Waited,
    request::{CommunicationRequest, Priority, RequestedTenant, Strategy},
};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Ledger, Outcome,
    attributes::{REQUEST, WAITING, count},
};

const CATEGORY: &str = "category";
const PRIORITY: &str = "priority";
const STRATEGY: &str = "strategy";
/// That the platform's account was asked for by its name.
const NAMED_GLOBAL: &str = "namedGlobal";
/// The country by which the request's numbers without a country code were read.
const COUNTRY: &str = "country";
const REPLAYS: &str = "replays";
/// Why the platform's account sends for a clinic.
pub(super) const BECAUSE: &str = "because";
pub(super) const SKIPPED: &str = "skipped";
const WAITED: &str = "waited";

/// The attributes of a delivery that an earlier attempt may have written, and whether `outcome` removes them.
pub(super) fn outdated(outcome: &Outcome) -> [(&'static str, bool); 3] {
    let has_cause = outcome.via.and_then(SentVia::because).is_some();
    [
        (WAITING, outcome.waiting.is_none() && !outcome.is_untouched),
        (BECAUSE, !has_cause && !outcome.is_untouched),
        (SKIPPED, outcome.skipped.as_ref().is_some_and(Vec::is_empty)),
    ]
}

/// What is kept of a request beside its deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestDetails {
    /// Its category.
    pub category: Option<String>,
    /// How urgent it is; unknown of earlier releases.
    pub priority: Option<Priority>,
    /// Whether it was to be sent while its caller waited; unknown of earlier releases.
    pub strategy: Option<Strategy>,
    /// Whether it asks for the platform's account by its name.
    pub is_named_global: bool,
    /// The country by which its numbers without a country code were read. `None` where it has none, and of earlier releases.
    pub country: Option<Country>,
}

impl RequestDetails {
    /// What is kept of `request`.
    pub fn of(request: &CommunicationRequest) -> Self {
        Self {
            category: request.category.clone(),
            priority: Some(request.priority),
            strategy: Some(request.strategy),
            is_named_global: request.requested == RequestedTenant::Global,
            country: request.read_in,
        }
    }

    /// The attributes of the request's item.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (String, AttributeValue)> {
        let category = self
            .category
            .as_ref()
            .map(|category| text(CATEGORY, category));
        let priority = self
            .priority
            .map(|priority| text(PRIORITY, priority.as_str()));
        let strategy = self
            .strategy
            .map(|strategy| text(STRATEGY, strategy.as_str()));
        let named = self
            .is_named_global
            .then(|| (NAMED_GLOBAL.to_owned(), AttributeValue::Bool(true)));
        let country = self
            .country
            .map(|country| text(COUNTRY, &country.to_string()));
        let optional = [category, priority, strategy, named, country];
        optional.into_iter().flatten()
    }

    pub(super) fn of_item(item: &Item) -> Result<Self, TableError> {
        Ok(Self {
            category: optional_text(item, CATEGORY)?.cloned(),
            priority: optional_text(item, PRIORITY)?
                .map(|text| Priority::parse(text).ok_or(TableError::Corrupt(PRIORITY)))
                .transpose()?,
            strategy: optional_text(item, STRATEGY)?
                .map(|text| Strategy::parse(text).ok_or(TableError::Corrupt(STRATEGY)))
                .transpose()?,
            is_named_global: flag(item, NAMED_GLOBAL)?,
            // Only a repeated request needs the country, and it reads it separately: a corrupt one must not fail a GET.
            country: country(item).unwrap_or_default(),
        })
    }

    /// Why the platform's account sends what belongs to no clinic; `None` of a clinic's.
    pub fn cause_of_global(&self, tenant: &Tenant) -> Option<GlobalCause> {
        match tenant {
            Tenant::Clinic(_) => None,
            Tenant::Global if self.is_named_global => Some(GlobalCause::Requested),
            Tenant::Global => Some(GlobalCause::NoClinicId),
        }
    }
}

fn country(item: &Item) -> Result<Option<Country>, TableError> {
    let parse = |text: &String| Country::parse(text).map_err(|_| TableError::Corrupt(COUNTRY));
    optional_text(item, COUNTRY)?.map(parse).transpose()
}

/// How often a request was posted again under its key.
pub(super) fn replays(item: &Item) -> Result<u32, TableError> {
    count(item, REPLAYS)
}

/// A time as text, where there is one.
pub(super) fn timestamp(item: &Item, name: &'static str) -> Result<Option<Timestamp>, TableError> {
    optional_text(item, name)?
        .map(|text| text.parse().map_err(|_| TableError::Corrupt(name)))
        .transpose()
}

/// Whose account a delivery of a clinic went by: the platform's where the item says why, else the clinic's own where one
/// of its providers accepted it.
pub(super) fn via(item: &Item, delivery: &Delivery) -> Result<Option<SentVia>, TableError> {
    if let Some(cause) = optional_text(item, BECAUSE)? {
        let cause = GlobalCause::parse(cause).ok_or(TableError::Corrupt(BECAUSE))?;
        return Ok(Some(SentVia::Global(cause)));
    }
    let accepted = comms_core::delivery::accepted_position(&delivery.attempts);
    Ok(accepted
        .filter(|position| !position.is_global())
        .map(|_| SentVia::Clinic))
}

pub(super) fn skipped(item: &Item) -> Result<Vec<SkippedEntry>, TableError> {
    let wrong = || TableError::Corrupt(SKIPPED);
    let Some(text) = optional_text(item, SKIPPED)? else {
        return Ok(Vec::new());
    };
    let values: Vec<Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    let entries = values.iter().map(SkippedEntry::from_json);
    entries.collect::<Option<_>>().ok_or_else(wrong)
}

pub(super) fn waited(item: &Item) -> Result<Option<Waited>, TableError> {
    let wrong = || TableError::Corrupt(WAITED);
    let Some(text) = optional_text(item, WAITED)? else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    Waited::from_json(&value).map(Some).ok_or_else(wrong)
}

pub(super) fn waited_value(waited: &Waited) -> Result<AttributeValue, TableError> {
    let json = serde_json::to_string(waited).map_err(|_| TableError::Corrupt(WAITED))?;
    Ok(text_value(&json))
}

impl Ledger {
    /// Whether a request was accepted. A conditional write that changes nothing: the worker writes to the ledger and may not
    /// read it.
    pub async fn is_accepted(&self, id: &RequestId) -> Result<bool, TableError> {
        Ok(self.touched(id).await?.is_some())
    }

    /// The country by which an accepted request was read, by such a write as [`Ledger::is_accepted`] makes.
    pub async fn country_by_write(&self, id: &RequestId) -> Result<Option<Country>, TableError> {
        let item = self.touched(id).await?;
        item.map_or(Ok(None), |item| country(&item))
    }

    /// The same by a strongly consistent read of the request's item alone.
    pub async fn country_by_read(&self, id: &RequestId) -> Result<Option<Country>, TableError> {
        let found = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND sk = :sk")
            .expression_attribute_values(":pk", text_value(id.as_str()))
            .expression_attribute_values(":sk", text_value(REQUEST))
            .consistent_read(true)
            .send()
            .boxed()
            .await
            .map_err(|error| TableError::new("Query", &error))?;
        found.items().first().map_or(Ok(None), country)
    }

    async fn touched(&self, id: &RequestId) -> Result<Option<Item>, TableError> {
        let touched = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", text_value(id.as_str()))
            .key("sk", text_value(REQUEST))
            .condition_expression("attribute_exists(pk)")
            .return_values(ReturnValue::AllNew)
            .send()
            .boxed()
            .await;
        Ok(match ConditionalWrite::of_update(touched)? {
            ConditionalWrite::Done(item) => Some(item),
            ConditionalWrite::ConditionFailed(_) => None,
        })
    }

    /// Counts that a request was posted again under its key.
    pub async fn count_replay(&self, id: &RequestId) -> Result<(), TableError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("pk", text_value(id.as_str()))
            .key("sk", text_value(REQUEST))
            .update_expression("ADD replays :one")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":one", number_value(1))
            .send()
            .boxed()
            .await
            .map(drop)
            .map_err(|error| TableError::new("UpdateItem", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_country_fails_a_repeated_request_and_no_read() {
        let item = Item::from([text(COUNTRY, "Germany")]);
        assert_eq!(country(&item), Err(TableError::Corrupt(COUNTRY)));
        assert_eq!(
            RequestDetails::of_item(&item),
            Ok(RequestDetails::default())
        );
    }
}
