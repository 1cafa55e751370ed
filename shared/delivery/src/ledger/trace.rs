//! What the ledger has of a request beyond what callers are answered: for the operator who asks why.

use std::collections::HashMap;

use comms_aws::{
    Item, TableError,
    item::{find_text, key, optional_text},
};
use comms_core::{DeliveryId, DeliveryStatus, RequestId};
use jiff::Timestamp;

use super::{
    Ledger, RecordedRequest, Via,
    attributes::{ACCEPTED_VIA, REQUEST, count, time},
    details,
    items::delivery,
};

/// A request with what is recorded of each delivery's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestTrace {
    /// The request as callers read it.
    pub request: RecordedRequest,
    /// By which way it came; unknown of earlier releases.
    pub via: Option<Via>,
    /// The marks of each delivery that has an item.
    pub marks: HashMap<DeliveryId, DeliveryMarks>,
}

/// Times and counts of a delivery that callers do not see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryMarks {
    /// When a worker first claimed it, or first recorded that it waits.
    pub first_seen: Option<Timestamp>,
    /// When its item was last changed.
    pub updated_at: Option<Timestamp>,
    /// Before this time nobody may claim it.
    pub not_before: Option<Timestamp>,
    /// Until when its owner may work on it. Only of a delivery that has an owner.
    pub lease_until: Option<Timestamp>,
    /// How often it was deferred because no provider took it.
    pub deferrals: u32,
    /// How often it was taken over from an owner that did not record the outcome.
    pub takeovers: u32,
    /// When the last claim was made, and the entry that was first in its chain, as `smtp/primary`.
    pub last_claim: Option<(Timestamp, String)>,
}

impl DeliveryMarks {
    fn of_item(item: &Item) -> Result<Self, TableError> {
        let is_owned = delivery(item)?.status == DeliveryStatus::Sending;
        let last_claim = details::timestamp(item, "attemptAt")?;
        Ok(Self {
            first_seen: details::timestamp(item, "createdAt")?,
            updated_at: details::timestamp(item, "updatedAt")?,
            not_before: time(item, "notBefore")?,
            lease_until: time(item, "leaseUntil")?.filter(|_| is_owned),
            deferrals: count(item, "deferrals")?,
            takeovers: count(item, "takeovers")?,
            last_claim: last_claim.zip(optional_text(item, "attemptBy")?.cloned()),
        })
    }
}

impl Ledger {
    /// A request with the marks of its deliveries. Two strongly consistent queries of its partition.
    pub async fn trace(
        &self,
        id: &RequestId,
        now: Timestamp,
    ) -> Result<Option<RequestTrace>, TableError> {
        let Some(request) = self.read(id, now).await? else {
            return Ok(None);
        };
        let (mut via, mut marks) = (None, HashMap::new());
        for item in self.items_of(id).await? {
            if find_text(&item, "sk").is_some_and(|name| name == REQUEST) {
                via = optional_text(&item, ACCEPTED_VIA)?
                    .map(|text| Via::parse(text).ok_or(TableError::Corrupt(ACCEPTED_VIA)))
                    .transpose()?;
            } else {
                let id = delivery(&item)?.id;
                marks.insert(id, DeliveryMarks::of_item(&item)?);
            }
        }
        Ok(Some(RequestTrace {
            request,
            via,
            marks,
        }))
    }

    /// How often a message of the queue was begun and its handling did not end. `None` of one that was received once only,
    /// or that is forgotten. One eventually consistent read.
    pub async fn unfinished_starts(&self, message_id: &str) -> Result<Option<u32>, TableError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&format!("started#{message_id}"), "message")))
            .send()
            .await
            .map_err(|error| TableError::new("GetItem", &error))?;
        found.item().map(|item| count(item, "starts")).transpose()
    }
}
