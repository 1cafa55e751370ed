//! The ledger for operators: a walk over all requests, and the personal data of one recipient in them.
//!
//! A recipient is known by the address alone. The ledger has no address, so each request's delivery ids are derived
//! from it again: that finds deliveries that nobody has claimed yet, and those whose hash was erased.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use comms_aws::{
    ConditionalWrite, Item, TableError,
    item::{find_text, optional_text, required_text, text_value},
};
use comms_core::{
    Channel, Delivery, DeliveryId, DeliveryStatus, EmailAddress, HashKey, PhoneNumber, RequestId,
    address::AddressError,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    Ledger,
    attributes::{ACCEPTED_BY, ACCEPTED_VIA, DELIVERY_PREFIX, REQUEST, key},
    items::{delivery, is_given_up, planned_deliveries},
};

/// What an erased delivery shows in place of the masked address.
pub const ERASED: &str = "(erased)";

/// How long a message may be on a queue (Amazon SQS quotas, message retention): what was accepted before and was never
/// claimed is on none.
const MAX_QUEUED: std::time::Duration = std::time::Duration::from_hours(14 * 24);

/// A person by one address, in each spelling that it may have been accepted in. Prints nothing.
pub struct AddressedPerson {
    addresses: Vec<String>,
    channel: Channel,
    key: HashKey,
}

impl AddressedPerson {
    /// Reads an e-mail address or a phone number as the API does.
    pub fn parse(text: &str, key: HashKey) -> Result<Self, AddressError> {
        let text = text.trim();
        if !text.contains('@') {
            let phone = PhoneNumber::parse(text)?.as_str().to_owned();
            return Ok(Self {
                addresses: vec![phone],
                channel: Channel::Whatsapp,
                key,
            });
        }
        let address = EmailAddress::parse(text)?;
        let mut addresses = vec![address.as_str().to_owned()];
        let lower = address.as_str().to_lowercase();
        if lower != addresses[0] {
            addresses.push(lower);
        }
        Ok(Self {
            addresses,
            channel: Channel::Email,
            key,
        })
    }

    /// The ids of this person's deliveries in a request.
    fn delivery_ids(&self, request: &RequestId) -> Vec<DeliveryId> {
        let other = match self.channel {
            Channel::Email => Channel::Whatsapp,
            Channel::Whatsapp => Channel::Email,
        };
        let derive = |channel: Channel, address: &str| {
            DeliveryId::derive(&self.key, request, channel.as_str(), address)
        };
        let mut ids = Vec::new();
        for address in &self.addresses {
            ids.push(derive(self.channel, address));
            // A recipient without an address on the other channel is told apart by this one.
            ids.push(derive(other, &format!("#{address}")));
        }
        ids
    }
}

/// A place in the walk.
#[derive(Debug, Clone)]
pub struct WalkStart(Item);

/// Requests of one page of the walk.
#[derive(Debug, Default)]
pub struct RequestPage {
    /// Requests with an acceptance in this page, and those with a delivery in it.
    pub requests: Vec<FoundRequest>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<WalkStart>,
}

/// What a page says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRequest {
    /// The request.
    pub id: RequestId,
    /// The acceptance, where the page has it.
    pub acceptance: Option<FoundAcceptance>,
    delivery_ids: Vec<DeliveryId>,
}

/// The acceptance of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundAcceptance {
    /// Whose it is.
    pub clinic_id: String,
    /// When it was accepted.
    pub accepted_at: String,
    /// `api` or `queue`; unknown of earlier releases.
    pub via: Option<String>,
    /// The keyed hash of who sent it.
    pub by: Option<String>,
}

impl FoundRequest {
    /// Whether the page has this delivery of it.
    pub fn has_delivery(&self, id: &DeliveryId) -> bool {
        self.delivery_ids.contains(id)
    }

    /// Whether the page has a delivery of `person`.
    pub fn concerns(&self, person: &AddressedPerson) -> bool {
        let ids = person.delivery_ids(&self.id);
        self.delivery_ids.iter().any(|id| ids.contains(id))
    }
}

/// A delivery of a person, as it is exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PersonsDelivery {
    /// The request.
    pub request_id: RequestId,
    /// Whose it is.
    pub clinic_id: String,
    /// When the request was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<String>,
    /// When the delivery was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// What erasing a person's data from one request did, in deliveries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    /// Erased now, or in a dry run to be erased.
    pub erased: u64,
    /// Erased before.
    pub already_erased: u64,
    /// Still queued or being sent, and left as they are.
    pub in_flight: u64,
    /// Changed by somebody else meanwhile, and left as they are.
    pub changed_meanwhile: u64,
}

impl Erasure {
    /// Adds another request's.
    pub fn add(&mut self, other: Self) {
        self.erased += other.erased;
        self.already_erased += other.already_erased;
        self.in_flight += other.in_flight;
        self.changed_meanwhile += other.changed_meanwhile;
    }
}

impl Ledger {
    /// A page of at most 1 MB of the table, strongly consistent. Items that are no request's are skipped.
    pub async fn walk(&self, from: Option<WalkStart>) -> Result<RequestPage, TableError> {
        let answer = self
            .client
            .scan()
            .table_name(&self.table)
            .filter_expression("sk = :request OR begins_with(sk, :delivery)")
            .expression_attribute_values(":request", text_value(REQUEST))
            .expression_attribute_values(":delivery", text_value(DELIVERY_PREFIX))
            .consistent_read(true)
            .set_exclusive_start_key(from.map(|WalkStart(key)| key))
            .send()
            .await
            .map_err(|error| TableError::new("Scan", &error))?;
        let items = answer.items.unwrap_or_default();
        Ok(RequestPage {
            requests: items.iter().map(found).collect::<Result<_, _>>()?,
            next: answer.last_evaluated_key.map(WalkStart),
        })
    }

    /// All items of a request.
    pub(super) async fn items_of(&self, id: &RequestId) -> Result<Vec<Item>, TableError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text_value(id.as_str()))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut items = Vec::new();
        while let Some(item) = pages.next().await {
            items.push(item.map_err(|error| TableError::new("Query", &error))?);
        }
        Ok(items)
    }

    /// The deliveries of `person` in a request.
    pub async fn deliveries_of(
        &self,
        id: &RequestId,
        person: &AddressedPerson,
    ) -> Result<Vec<PersonsDelivery>, TableError> {
        let items = self.items_of(id).await?;
        let ids = person.delivery_ids(id);
        let acceptance = acceptance_of(&items);
        let accepted_at = acceptance.and_then(|item| find_text(item, "acceptedAt").cloned());
        let mut planned = acceptance.map_or(Ok(Vec::new()), planned_deliveries)?;
        planned.retain(|delivery| ids.contains(&delivery.id));
        let mut found = Vec::new();
        for item in items.iter().filter(|item| is_delivery(item)) {
            let delivery = delivery(item)?;
            if !ids.contains(&delivery.id) {
                continue;
            }
            planned.retain(|planned| planned.id != delivery.id);
            found.push(PersonsDelivery {
                request_id: id.clone(),
                clinic_id: required_text(item, "clinicId")?.clone(),
                accepted_at: accepted_at.clone(),
                updated_at: optional_text(item, "updatedAt")?.cloned(),
                delivery,
            });
        }
        let clinic_id = acceptance.and_then(|item| find_text(item, "clinicId").cloned());
        found.extend(planned.into_iter().map(|delivery| PersonsDelivery {
            request_id: id.clone(),
            clinic_id: clinic_id.clone().unwrap_or_default(),
            accepted_at: accepted_at.clone(),
            updated_at: None,
            delivery,
        }));
        Ok(found)
    }

    /// Erases what is personal of the deliveries of `person` in a request: the masked address, the keyed hash of the
    /// address, the provider's message id, and what is known of copies. Status, provider, reason, attempts and times
    /// stay. So does the delivery's id until the item expires: without it, a message that the queue delivers again would
    /// be sent again. Deliveries that have not ended are left.
    pub async fn erase(
        &self,
        id: &RequestId,
        person: &AddressedPerson,
        is_dry_run: bool,
        now: Timestamp,
    ) -> Result<Erasure, TableError> {
        let items = self.items_of(id).await?;
        let ids = person.delivery_ids(id);
        let mut erasure = Erasure::default();
        let mut ended = Vec::new();
        let mut unclaimed = ids.clone();
        for item in items.iter().filter(|item| is_delivery(item)) {
            let delivery = delivery(item)?;
            if !ids.contains(&delivery.id) {
                continue;
            }
            unclaimed.retain(|id| *id != delivery.id);
            let has_ended = match delivery.status {
                DeliveryStatus::Queued => false,
                DeliveryStatus::Sending => is_given_up(item, now)?,
                DeliveryStatus::Sent
                | DeliveryStatus::Failed
                | DeliveryStatus::Unknown
                | DeliveryStatus::Expired => true,
            };
            if !has_ended {
                erasure.in_flight += 1;
                continue;
            }
            ended.push(delivery.id.clone());
            if delivery.recipient == ERASED {
                erasure.already_erased += 1;
            } else if is_dry_run || self.erase_delivery(id, item, &delivery, now).await? {
                erasure.erased += 1;
            } else {
                erasure.changed_meanwhile += 1;
                ended.retain(|id| *id != delivery.id);
            }
        }
        let Some(acceptance) = acceptance_of(&items) else {
            return Ok(erasure);
        };
        let is_old = is_older_than_the_queue(acceptance, now)?;
        for (place, planned) in planned_deliveries(acceptance)?.into_iter().enumerate() {
            if unclaimed.contains(&planned.id) {
                if planned.recipient == ERASED {
                    erasure.already_erased += 1;
                } else if is_old {
                    erasure.erased += 1;
                } else {
                    erasure.in_flight += 1;
                    continue;
                }
            } else if !ended.contains(&planned.id) {
                continue;
            }
            if planned.recipient != ERASED && !is_dry_run {
                self.erase_planned(id, place, &planned.id).await?;
            }
        }
        Ok(erasure)
    }

    /// Erases a delivery's item, unless somebody changed it since it was read.
    async fn erase_delivery(
        &self,
        request: &RequestId,
        item: &Item,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<bool, TableError> {
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(request, &delivery.id)))
            .condition_expression("#status = :status AND updatedAt = :seen")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", text_value(delivery.status.as_str()))
            .expression_attribute_values(":seen", text_value(required_text(item, "updatedAt")?))
            .expression_attribute_values(":erased", text_value(ERASED))
            .expression_attribute_values(":now", text_value(&now.to_string()));
        let mut expression = "SET recipient = :erased, erasedAt = :now".to_owned();
        if let Some(attempts) = optional_text(item, "attempts")? {
            update = update
                .expression_attribute_values(":attempts", text_value(&without_copies(attempts)?));
            expression.push_str(", attempts = :attempts");
        }
        expression.push_str(" REMOVE addressHash, messageId");
        let written = update.update_expression(expression).send().await;
        Ok(ConditionalWrite::of_update(written)?.is_done())
    }

    /// Erases a recipient of the acceptance, which has them by their places.
    async fn erase_planned(
        &self,
        request: &RequestId,
        place: usize,
        delivery: &DeliveryId,
    ) -> Result<(), TableError> {
        let result = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(HashMap::from([
                ("pk".to_owned(), text_value(request.as_str())),
                ("sk".to_owned(), text_value(REQUEST)),
            ])))
            .update_expression(format!("SET deliveries[{place}].recipient = :erased"))
            .condition_expression(format!("deliveries[{place}].id = :id"))
            .expression_attribute_values(":erased", text_value(ERASED))
            .expression_attribute_values(":id", text_value(delivery.as_str()))
            .send()
            .await;
        match result {
            Ok(_) => Ok(()),
            // It has expired.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(TableError::new("UpdateItem", &error)),
        }
    }
}

fn found(item: &Item) -> Result<FoundRequest, TableError> {
    let id = RequestId::parse(required_text(item, "pk")?).map_err(|_| TableError::Corrupt("pk"))?;
    let name = required_text(item, "sk")?;
    if name != REQUEST {
        let id_of_delivery = name.strip_prefix(DELIVERY_PREFIX).unwrap_or_default();
        let delivery = DeliveryId::parse(id_of_delivery).map_err(|_| TableError::Corrupt("sk"))?;
        return Ok(FoundRequest {
            id,
            acceptance: None,
            delivery_ids: vec![delivery],
        });
    }
    let planned = planned_deliveries(item)?;
    Ok(FoundRequest {
        id,
        acceptance: Some(FoundAcceptance {
            clinic_id: required_text(item, "clinicId")?.clone(),
            accepted_at: required_text(item, "acceptedAt")?.clone(),
            via: optional_text(item, ACCEPTED_VIA)?.cloned(),
            by: optional_text(item, ACCEPTED_BY)?.cloned(),
        }),
        delivery_ids: planned.into_iter().map(|delivery| delivery.id).collect(),
    })
}

fn is_delivery(item: &Item) -> bool {
    find_text(item, "sk").is_some_and(|name| name.starts_with(DELIVERY_PREFIX))
}

fn acceptance_of(items: &[Item]) -> Option<&Item> {
    let mut items = items.iter();
    items.find(|item| find_text(item, "sk").is_some_and(|name| name == REQUEST))
}

fn is_older_than_the_queue(acceptance: &Item, now: Timestamp) -> Result<bool, TableError> {
    let accepted: Timestamp = required_text(acceptance, "acceptedAt")?
        .parse()
        .map_err(|_| TableError::Corrupt("acceptedAt"))?;
    let until = accepted.saturating_add(MAX_QUEUED);
    Ok(now > until.unwrap_or(Timestamp::MAX))
}

/// The attempts without what they say of copies.
fn without_copies(attempts: &str) -> Result<String, TableError> {
    let wrong = || TableError::Corrupt("attempts");
    let mut attempts: Vec<Value> = serde_json::from_str(attempts).map_err(|_| wrong())?;
    for attempt in &mut attempts {
        attempt
            .as_object_mut()
            .ok_or_else(wrong)?
            .remove("refusedCopies");
    }
    serde_json::to_string(&attempts).map_err(|_| wrong())
}
