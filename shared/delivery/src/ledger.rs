//! The ledger: what became of every delivery, and who is working on it.
//!
//! `queued -> sending -> sent | failed | unknown | expired`. Every transition is one conditional
//! write that names the owner; a former owner cannot write. A delivery that is deferred
//! goes back to `queued`, with the time before which nobody may claim it. Items hold a masked address
//! and a keyed hash of it, never content.
//!
//! A request's items share the partition `pk` = request id: `sk` = `request` is the acceptance, one
//! `delivery#…` item per delivery. An accepted request costs one write, a delivery two: the claim and
//! the outcome. Both are tried until they are known to have happened, or the invocation ends ([`writes`]).

use std::{collections::HashMap, fmt, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    config::retry::RetryConfig,
    error::{ProvideErrorMetadata, SdkError},
    operation::{put_item::PutItemError, update_item::UpdateItemError},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use comms_adapters::Deadline;
use comms_core::{
    Attempt, Channel, Delivery, DeliveryId, DeliveryStatus, EntryId, FailureReason, ProviderKind,
    RequestId, SentVia, SkippedEntry, SubjectHash, Tenant, Waited, Waiting,
    request::PlannedDelivery,
};
use comms_settings::{error_code, retries};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

/// How long the ledger remembers: DynamoDB's time to live removes items after it.
pub const RETENTION: Duration = Duration::from_hours(720);

type Item = HashMap<String, AttributeValue>;

const REQUEST: &str = "request";
/// The attributes of a request's item that say who had it accepted. Items of earlier releases have neither.
const ACCEPTED_VIA: &str = "acceptedVia";
const ACCEPTED_BY: &str = "acceptedBy";
/// A random number by which the write of an acceptance knows its own item. Items of earlier releases have none.
const ACCEPTANCE: &str = "acceptance";

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// DynamoDB did not answer, or refused for now. Worth another try.
    #[error("DynamoDB {operation} failed ({code})")]
    Database {
        /// The operation.
        operation: &'static str,
        /// DynamoDB's error code, or what kept the request from being answered.
        code: String,
    },
    /// A stored item is not as it was written.
    #[error("a ledger item cannot be read: attribute {0}")]
    Corrupt(&'static str),
    /// DynamoDB did not say whether it did what it was asked.
    #[error("DynamoDB {operation} was not answered ({code})")]
    Uncertain {
        /// The operation.
        operation: &'static str,
        /// What kept the request from being answered.
        code: String,
    },
    /// The delivery belongs to somebody else now; the outcome was not written.
    #[error("the delivery's ownership was lost before its outcome could be recorded")]
    OwnershipLost,
}

// `smtp/primary`
impl fmt::Display for NextAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider.as_str(), self.entry.as_str())
    }
}

/// Who claims a delivery, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// A token that no other invocation has.
    pub token: String,
    /// The end of the lease: when the invocation has certainly ended.
    pub lease_until: Timestamp,
}

/// What a claim came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The delivery is ours.
    Owned(DeliveryHistory),
    /// It has ended.
    Ended(Box<Delivery>),
    /// Somebody else has it, until then at most.
    Busy {
        /// The end of their lease.
        until: Timestamp,
    },
    /// It is deferred, and its time has not come.
    NotYet {
        /// When it has.
        until: Timestamp,
    },
    /// Somebody else had it and did not say how it ended.
    Abandoned {
        /// Their token.
        owner: String,
    },
    /// The same key stands for another body.
    OtherPayload,
}

/// What was done about a delivery before it was claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryHistory {
    /// The attempts that were made and ended.
    pub attempts: Vec<Attempt>,
    /// Whether it may have been accepted by a provider already.
    pub possible_duplicate: bool,
    /// How often it was deferred because no provider could take it.
    pub deferrals: u32,
    /// How often it was taken over from an owner that did not say how it ended.
    pub takeovers: u32,
    /// What it waited for.
    pub waiting: Option<Waiting>,
    /// When the last claim was made, and the entry that was first in its chain: of a takeover, those of the owner that
    /// did not say how it ended.
    pub last_attempt: Option<(Timestamp, String)>,
}

/// The way by which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The HTTP API.
    Api,
    /// A producer's own message on the queue.
    Queue,
}

impl Via {
    /// The name in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Queue => "queue",
        }
    }
}

/// Who had a request accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// By which way.
    pub via: Via,
    /// Who; `None` where the token or SQS names nobody.
    pub by: Option<SubjectHash>,
}

/// What an acceptance came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// The request is new.
    New,
    /// The same request was accepted before.
    Repeated,
    /// A release that did not authenticate its messages accepted the request of which this claims to be a part, for
    /// these recipients among others.
    Part {
        /// The hash of the whole request.
        payload_hash: String,
    },
    /// The same key stands for another body.
    OtherPayload,
}

/// How a delivery ended, or that it is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The state it goes to; `Queued` gives it back.
    pub status: DeliveryStatus,
    /// The provider that accepted it, with its message id.
    pub receipt: Option<(ProviderKind, String)>,
    /// Why it was not sent.
    pub reason: Option<FailureReason>,
    /// Whether the recipient may have got it twice.
    pub possible_duplicate: bool,
    /// All attempts, earlier ones included.
    pub attempts: Vec<Attempt>,
    /// Of a deferred delivery: the time before which nobody may claim it. It is counted, unless it waits for something.
    pub not_before: Option<Timestamp>,
    /// What it waits for, where it is given back for that.
    pub waiting: Option<Waiting>,
    /// What it waited for, where that is over.
    pub waited: Option<Waited>,
    /// Whose account it goes by, where that is known.
    pub via: Option<SentVia>,
    /// Entries that were left out because they were down; `None` where no entry was tried.
    pub skipped: Option<Vec<SkippedEntry>>,
    /// Whether the delivery is given back as it was claimed. Then its attempts, its flag and `via` stay as they are.
    pub is_untouched: bool,
}

/// By whom an outcome was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// By this call, as far as anybody can know.
    Now,
    /// By an earlier one: another process had it, or a copy of a message.
    Before,
}

/// What all deliveries of one request have in common in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// The request.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: Tenant,
    /// The keyed hash of its content.
    pub payload_hash: String,
    /// What else is kept of it.
    pub details: RequestDetails,
}

/// A request as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    /// Whose it is.
    pub tenant: Tenant,
    /// What else is kept of it.
    pub details: RequestDetails,
    /// When it was accepted.
    pub accepted_at: Option<Timestamp>,
    /// How often it was posted again under its key.
    pub replays: u32,
    /// Its deliveries.
    pub deliveries: Vec<Delivery>,
}

impl RecordedRequest {
    /// When the last of its deliveries ended; `None` while one has not, or of one it is not known.
    pub fn ended_at(&self) -> Option<Timestamp> {
        let mut ends = self.deliveries.iter().map(|delivery| delivery.ended_at);
        ends.try_fold(None, |last: Option<Timestamp>, end| {
            Some(last.max(Some(end?)))
        })?
    }
}

/// The deliveries table.
#[derive(Debug, Clone)]
pub struct Ledger {
    client: Client,
    /// The same without the SDK's retries: for what [`Ledger::write`] repeats.
    writer: Client,
    table: String,
    /// Until when a write is tried; `None` for [`writes::WRITE_TIMEOUT`].
    until: Option<Deadline>,
    /// What a claim writes ahead.
    next: Option<NextAttempt>,
}

/// The attempt that a claim is made for, which is in the ledger before the provider hears of it: of a delivery whose owner
/// did not say how it ended, it says who may have the message, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextAttempt {
    /// The entry that is first in the chain. Another one was tried where that one was down or failed.
    pub entry: EntryId,
    /// Its provider.
    pub provider: ProviderKind,
}

impl Ledger {
    /// Uses the table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>) -> Self {
        let client = retries::dynamodb_config(config, "ledger");
        let writer = client.clone().retry_config(RetryConfig::disabled());
        Self {
            client: Client::from_conf(client.build()),
            writer: Client::from_conf(writer.build()),
            table: table.into(),
            until: None,
            next: None,
        }
    }

    /// The same, whose claims write ahead which attempt they are for.
    #[must_use]
    pub fn before(self, next: Option<NextAttempt>) -> Self {
        Self { next, ..self }
    }

    /// The same, whose claims and outcomes are tried until `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Self {
        Self {
            until: Some(deadline),
            ..self.clone()
        }
    }

    /// Records that a request was accepted, with the deliveries that it will have. `part_of` is the payload hash that a
    /// message without a MAC claims to belong to.
    pub async fn accept(
        &self,
        request: &RequestRecord,
        planned: &[PlannedDelivery],
        origin: &Origin,
        part_of: Option<&str>,
        now: Timestamp,
    ) -> Result<Acceptance, LedgerError> {
        let deliveries = planned
            .iter()
            .map(|delivery| {
                AttributeValue::M(HashMap::from([
                    text("id", delivery.id.as_str()),
                    text("channel", delivery.channel.as_str()),
                    text("recipient", delivery.masked()),
                ]))
            })
            .collect();
        let acceptance = AttributeValue::N(Uuid::new_v4().as_u64_pair().1.to_string());
        let mut item = HashMap::from([
            text("pk", request.id.as_str()),
            text("sk", REQUEST),
            text("clinicId", request.tenant.as_str()),
            text("payloadHash", &request.payload_hash),
            text("acceptedAt", &now.to_string()),
            text(ACCEPTED_VIA, origin.via.as_str()),
            ("deliveries".to_owned(), AttributeValue::L(deliveries)),
            number("expiresAt", time_to_live(now)),
            (ACCEPTANCE.to_owned(), acceptance.clone()),
        ]);
        item.extend(request.details.attributes());
        item.extend(origin.by.as_ref().map(|by| text(ACCEPTED_BY, by.as_str())));
        let result = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        let Err(error) = result else {
            return Ok(Acceptance::New);
        };
        let found = if let Some(PutItemError::ConditionalCheckFailedException(failed)) =
            error.as_service_error()
        {
            Some(failed.item().cloned().unwrap_or_default())
        } else {
            None
        };
        match found {
            // Our own write, whose response was lost and which the SDK retried.
            Some(item) if item.get(ACCEPTANCE) == Some(&acceptance) => Ok(Acceptance::New),
            Some(item) if *required(&item, "payloadHash")? == request.payload_hash => {
                Ok(Acceptance::Repeated)
            }
            Some(item) => Ok(match part_of {
                Some(claimed) if is_unauthenticated_part(&item, claimed, planned) => {
                    Acceptance::Part {
                        payload_hash: claimed.to_owned(),
                    }
                }
                Some(_) | None => Acceptance::OtherPayload,
            }),
            None => Err(database("PutItem", &error)),
        }
    }

    /// Claims a delivery that nobody is working on.
    pub async fn claim(
        &self,
        request: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        owner: &Owner,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let mut set = String::from(
            "SET #status = :sending, #owner = :owner, leaseUntil = :lease, clinicId = :clinic, \
             #channel = :channel, recipient = :recipient, addressHash = :address, \
             payloadHash = :payload, createdAt = if_not_exists(createdAt, :now), \
             updatedAt = :now, expiresAt = :ttl",
        );
        let mut update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, &planned.id)))
            .condition_expression(
                "attribute_not_exists(pk) OR (#status = :queued AND payloadHash = :payload \
                 AND (attribute_not_exists(notBefore) OR notBefore <= :time))",
            )
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#channel", "channel")
            .expression_attribute_values(":sending", s(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":queued", s(DeliveryStatus::Queued.as_str()))
            .expression_attribute_values(":owner", s(&owner.token))
            .expression_attribute_values(":lease", n(owner.lease_until.as_millisecond()))
            .expression_attribute_values(":clinic", s(request.tenant.as_str()))
            .expression_attribute_values(":channel", s(planned.channel.as_str()))
            .expression_attribute_values(":recipient", s(planned.masked()))
            .expression_attribute_values(":address", s(address_hash))
            .expression_attribute_values(":payload", s(&request.payload_hash))
            .expression_attribute_values(":now", s(&now.to_string()))
            .expression_attribute_values(":time", n(now.as_millisecond()))
            .expression_attribute_values(":ttl", n(time_to_live(now)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(next) = &self.next {
            set.push_str(", attemptAt = :now, attemptBy = :next");
            update = update.expression_attribute_values(":next", s(&next.to_string()));
        }
        set.push_str(" REMOVE notBefore");
        let update = update.update_expression(set);
        let written = self.write(update, Purpose::Claim).await;
        claimed(written, request, owner, now)
    }

    /// Notes what a delivery waits for that nobody has claimed. One that was claimed before, or waits already, stays as it
    /// is.
    pub async fn note_waiting(
        &self,
        request: &RequestRecord,
        planned: &PlannedDelivery,
        address_hash: &str,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let result = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, &planned.id)))
            .update_expression(
                "SET #status = :queued, waiting = :waiting, clinicId = :clinic, \
                 #channel = :channel, recipient = :recipient, addressHash = :address, \
                 payloadHash = :payload, createdAt = :now, updatedAt = :now, expiresAt = :ttl",
            )
            .condition_expression("attribute_not_exists(pk)")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#channel", "channel")
            .expression_attribute_values(":queued", s(DeliveryStatus::Queued.as_str()))
            .expression_attribute_values(":waiting", waiting_value(waiting)?)
            .expression_attribute_values(":clinic", s(request.tenant.as_str()))
            .expression_attribute_values(":channel", s(planned.channel.as_str()))
            .expression_attribute_values(":recipient", s(planned.masked()))
            .expression_attribute_values(":address", s(address_hash))
            .expression_attribute_values(":payload", s(&request.payload_hash))
            .expression_attribute_values(":now", s(&now.to_string()))
            .expression_attribute_values(":ttl", n(time_to_live(now)))
            .send()
            .boxed()
            .await;
        match result {
            Ok(_) => Ok(()),
            Err(error) if refused_item(&error).is_some() => Ok(()),
            Err(error) => Err(database("UpdateItem", &error)),
        }
    }

    /// Takes over a delivery whose owner's lease ended without an outcome. Whether it was sent is not
    /// known; that is recorded with the takeover.
    pub async fn take_over(
        &self,
        request: &RequestRecord,
        delivery: &DeliveryId,
        from: &str,
        owner: &Owner,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let update = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&request.id, delivery)))
            .update_expression(
                "SET #owner = :owner, leaseUntil = :lease, updatedAt = :now, possibleDuplicate = :true \
                 ADD takeovers :one",
            )
            .condition_expression("#status = :sending AND #owner = :from")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":sending", s(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":from", s(from))
            .expression_attribute_values(":owner", s(&owner.token))
            .expression_attribute_values(":lease", n(owner.lease_until.as_millisecond()))
            .expression_attribute_values(":now", s(&now.to_string()))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":one", n(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let written = self.write(update, Purpose::Claim).await;
        claimed(written, request, owner, now)
    }

    /// Records how a delivery ended, or gives it back, if it is still the owner's.
    pub async fn finish(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.record(request, delivery, owner, outcome, now)
            .await
            .map(drop)
    }

    /// [`Ledger::finish`], and whether it is this call that recorded it: an outcome may be written from several places.
    pub(crate) async fn record(
        &self,
        request: &RequestId,
        delivery: &DeliveryId,
        owner: &Owner,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<Recorded, LedgerError> {
        let attempts =
            Attempt::to_stored(&outcome.attempts).map_err(|_| LedgerError::Corrupt("attempts"))?;
        let mut update = String::from("SET #status = :status, updatedAt = :now");
        let mut request_builder = self
            .writer
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(request, delivery)))
            .condition_expression("#status = :sending AND #owner = :owner")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":sending", s(DeliveryStatus::Sending.as_str()))
            .expression_attribute_values(":owner", s(&owner.token))
            .expression_attribute_values(":status", s(outcome.status.as_str()))
            .expression_attribute_values(":now", s(&now.to_string()));
        // Of a claim whose answer was lost, what the item says is not known.
        if !outcome.is_untouched {
            update.push_str(", attempts = :attempts, possibleDuplicate = :duplicate");
            let is_duplicate = AttributeValue::Bool(outcome.possible_duplicate);
            request_builder = request_builder
                .expression_attribute_values(":attempts", s(&attempts))
                .expression_attribute_values(":duplicate", is_duplicate);
        }
        if let Some((provider, message_id)) = &outcome.receipt {
            update.push_str(", provider = :provider, messageId = :message");
            request_builder = request_builder
                .expression_attribute_values(":provider", s(provider.as_str()))
                .expression_attribute_values(":message", s(message_id));
        }
        if let Some(reason) = outcome.reason {
            update.push_str(", reason = :reason");
            request_builder =
                request_builder.expression_attribute_values(":reason", s(reason.as_str()));
        }
        // What belongs to no clinic goes by the platform's account in any case.
        if let Some(cause) = outcome.via.and_then(SentVia::because) {
            update.push_str(", because = :because");
            request_builder =
                request_builder.expression_attribute_values(":because", s(cause.as_str()));
        }
        let skipped = outcome.skipped.as_ref();
        if let Some(skipped) = skipped.filter(|skipped| !skipped.is_empty()) {
            let skipped =
                serde_json::to_string(skipped).map_err(|_| LedgerError::Corrupt("skipped"))?;
            update.push_str(", skipped = :skipped");
            request_builder = request_builder.expression_attribute_values(":skipped", s(&skipped));
        }
        if let Some(not_before) = outcome.not_before {
            update.push_str(", notBefore = :before");
            request_builder = request_builder
                .expression_attribute_values(":before", n(not_before.as_millisecond()));
        }
        if let Some(waiting) = &outcome.waiting {
            update.push_str(", waiting = :waiting");
            request_builder =
                request_builder.expression_attribute_values(":waiting", waiting_value(waiting)?);
        }
        if let Some(waited) = &outcome.waited {
            update.push_str(", waited = :waited");
            request_builder = request_builder
                .expression_attribute_values(":waited", details::waited_value(waited)?);
        }
        update.push_str(" REMOVE leaseUntil");
        for (name, is_outdated) in details::outdated(outcome) {
            if is_outdated {
                update.push_str(", ");
                update.push_str(name);
            }
        }
        if outcome.not_before.is_some() && outcome.waiting.is_none() {
            update.push_str(" ADD deferrals :one");
            request_builder = request_builder.expression_attribute_values(":one", n(1));
        }
        let update = request_builder.update_expression(update);
        let written = self.write(update, Purpose::Outcome).await;
        match written.result {
            Ok(_) => Ok(Recorded::Now),
            Err(error) => match refused_item(&error) {
                // Our own write, whose answer was lost on the way and which was made again; or that of another place.
                Some(item)
                    if string(&item, "owner") == Some(&owner.token)
                        && string(&item, "status").map(String::as_str)
                            == Some(outcome.status.as_str()) =>
                {
                    Ok(if written.is_uncertain {
                        Recorded::Now
                    } else {
                        Recorded::Before
                    })
                }
                Some(_) => Err(LedgerError::OwnershipLost),
                None => Err(database("UpdateItem", &error)),
            },
        }
    }

    /// A request with all its deliveries; those without an item of their own are queued. One whose
    /// owner went away so long ago that nobody will take it over is of unknown outcome.
    pub async fn read(
        &self,
        id: &RequestId,
        now: Timestamp,
    ) -> Result<Option<RecordedRequest>, LedgerError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(id.as_str()))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut tenant = None;
        let (mut request, mut accepted_at, mut replays) = (RequestDetails::default(), None, 0);
        let mut planned = Vec::new();
        let mut recorded = HashMap::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| database("Query", &error))?;
            let clinic = string(&item, "clinicId").ok_or(LedgerError::Corrupt("clinicId"))?;
            tenant = Some(Tenant::parse(clinic).map_err(|_| LedgerError::Corrupt("clinicId"))?);
            if string(&item, "sk").map(String::as_str) == Some(REQUEST) {
                planned = planned_deliveries(&item)?;
                request = RequestDetails::of_item(&item)?;
                accepted_at = details::timestamp(&item, "acceptedAt")?;
                replays = details::replays(&item)?;
            } else {
                let mut delivery = delivery(&item)?;
                if delivery.status == DeliveryStatus::Sending && is_given_up(&item, now)? {
                    delivery.status = DeliveryStatus::Unknown;
                    delivery.reason = Some(FailureReason::OutcomeUnknown);
                    delivery.ended_at = Some(given_up_at(&item)?);
                }
                recorded.insert(delivery.id.clone(), delivery);
            }
        }
        let Some(tenant) = tenant else {
            return Ok(None);
        };
        // In the order of the request; a request that came by the queue has no such order.
        let mut deliveries: Vec<_> = planned
            .into_iter()
            .map(|queued| recorded.remove(&queued.id).unwrap_or(queued))
            .collect();
        let mut rest: Vec<_> = recorded.into_values().collect();
        rest.sort_by(|a, b| a.id.cmp(&b.id));
        deliveries.extend(rest);
        if let Some(cause) = request.cause_of_global(&tenant) {
            for delivery in &mut deliveries {
                let may = Delivery::may_be_of_global(delivery.status, &delivery.attempts);
                delivery.via = may.then_some(SentVia::Global(cause));
            }
        }
        Ok(Some(RecordedRequest {
            tenant,
            details: request,
            accepted_at,
            replays,
            deliveries,
        }))
    }
}

/// Whether a message without a MAC may be a part of an accepted request: a release that made no MACs accepted it (the
/// item does not say by which way it came), under the same payload hash, for the message's recipients among others.
/// That proves nothing of the content, and ends with the items of that release.
fn is_unauthenticated_part(item: &Item, claimed: &str, planned: &[PlannedDelivery]) -> bool {
    let accepted = planned_deliveries(item).unwrap_or_default();
    !item.contains_key(ACCEPTED_VIA)
        && string(item, "payloadHash").is_some_and(|hash| hash == claimed)
        && planned
            .iter()
            .all(|part| accepted.iter().any(|whole| whole.id == part.id))
}

/// What the write of a claim or takeover came to.
fn claimed(
    written: Written,
    request: &RequestRecord,
    owner: &Owner,
    now: Timestamp,
) -> Result<Claim, LedgerError> {
    match written.result {
        Ok(answer) => owned(&answer.attributes.unwrap_or_default()),
        Err(error) => match refused_item(&error) {
            Some(item) => claim_refused(&item, request, owner, now),
            None if written.is_uncertain => Err(LedgerError::Uncertain {
                operation: "UpdateItem",
                code: error_code(&error),
            }),
            None => Err(database("UpdateItem", &error)),
        },
    }
}

fn owned(item: &Item) -> Result<Claim, LedgerError> {
    Ok(Claim::Owned(DeliveryHistory {
        attempts: attempts(item)?,
        possible_duplicate: flag(item, "possibleDuplicate")?,
        deferrals: count(item, "deferrals")?,
        takeovers: count(item, "takeovers")?,
        waiting: waiting(item)?,
        last_attempt: details::timestamp(item, "attemptAt")?
            .zip(optional(item, "attemptBy")?.cloned()),
    }))
}

fn claim_refused(
    item: &Item,
    request: &RequestRecord,
    owner: &Owner,
    now: Timestamp,
) -> Result<Claim, LedgerError> {
    if *required(item, "payloadHash")? != request.payload_hash {
        return Ok(Claim::OtherPayload);
    }
    let delivery = delivery(item)?;
    match delivery.status {
        DeliveryStatus::Sent
        | DeliveryStatus::Failed
        | DeliveryStatus::Unknown
        | DeliveryStatus::Expired => {
            let may = Delivery::may_be_of_global(delivery.status, &delivery.attempts);
            let cause = request.details.cause_of_global(&request.tenant);
            let via = cause.filter(|_| may).map(SentVia::Global).or(delivery.via);
            Ok(Claim::Ended(Box::new(Delivery { via, ..delivery })))
        }
        // Or it was given back between our write and now, and may be claimed at once.
        DeliveryStatus::Queued => Ok(Claim::NotYet {
            until: time(item, "notBefore")?.unwrap_or(now),
        }),
        // Our own claim, whose answer was lost on the way and which was made again.
        DeliveryStatus::Sending if string(item, "owner") == Some(&owner.token) => owned(item),
        DeliveryStatus::Sending => {
            let until = lease_until(item)?;
            if now < until {
                return Ok(Claim::Busy { until });
            }
            let owner = string(item, "owner").ok_or(LedgerError::Corrupt("owner"))?;
            Ok(Claim::Abandoned {
                owner: owner.clone(),
            })
        }
    }
}

fn lease_until(item: &Item) -> Result<Timestamp, LedgerError> {
    time(item, "leaseUntil")?.ok_or(LedgerError::Corrupt("leaseUntil"))
}

/// A time in milliseconds, where there is one.
fn time(item: &Item, name: &'static str) -> Result<Option<Timestamp>, LedgerError> {
    let Some(value) = item.get(name) else {
        return Ok(None);
    };
    value
        .as_n()
        .ok()
        .and_then(|text| Timestamp::from_millisecond(text.parse().ok()?).ok())
        .map(Some)
        .ok_or(LedgerError::Corrupt(name))
}

/// A counter, which is not there before something was counted.
fn count(item: &Item, name: &'static str) -> Result<u32, LedgerError> {
    let Some(value) = item.get(name) else {
        return Ok(0);
    };
    let count = value.as_n().ok().and_then(|text| text.parse().ok());
    count.ok_or(LedgerError::Corrupt(name))
}

/// Whether a lease ended longer ago than the queue takes to deliver a message again.
fn is_given_up(item: &Item, now: Timestamp) -> Result<bool, LedgerError> {
    Ok(now > given_up_at(item)?)
}

/// The time after which nobody takes over a delivery whose lease has ended.
fn given_up_at(item: &Item) -> Result<Timestamp, LedgerError> {
    /// The queue's visibility timeout is a little more than three minutes; where the store could not be
    /// reached then, there are a few waits of up to a quarter of an hour more.
    const REDELIVERY: Duration = Duration::from_mins(30);
    let until = lease_until(item)?.saturating_add(REDELIVERY);
    Ok(until.unwrap_or(Timestamp::MAX))
}

fn planned_deliveries(item: &Item) -> Result<Vec<Delivery>, LedgerError> {
    let wrong = || LedgerError::Corrupt("deliveries");
    let Some(AttributeValue::L(entries)) = item.get("deliveries") else {
        return Err(wrong());
    };
    entries
        .iter()
        .map(|entry| {
            let entry = entry.as_m().map_err(|_| wrong())?;
            let field = |name| string(entry, name).ok_or_else(wrong);
            Ok(Delivery::queued(
                DeliveryId::parse(field("id")?).map_err(|_| wrong())?,
                Channel::parse(field("channel")?).ok_or_else(wrong)?,
                field("recipient")?.clone(),
            ))
        })
        .collect()
}

fn delivery(item: &Item) -> Result<Delivery, LedgerError> {
    let field = |name| required(item, name);
    let id = field("sk")?
        .strip_prefix(DELIVERY_PREFIX)
        .ok_or(LedgerError::Corrupt("sk"))?;
    let status = DeliveryStatus::parse(field("status")?).ok_or(LedgerError::Corrupt("status"))?;
    let mut delivery = Delivery {
        id: DeliveryId::parse(id).map_err(|_| LedgerError::Corrupt("sk"))?,
        channel: Channel::parse(field("channel")?).ok_or(LedgerError::Corrupt("channel"))?,
        recipient: field("recipient")?.clone(),
        status,
        provider: optional(item, "provider")?
            .map(|text| ProviderKind::parse(text).ok_or(LedgerError::Corrupt("provider")))
            .transpose()?,
        message_id: optional(item, "messageId")?.cloned(),
        reason: optional(item, "reason")?
            .map(|text| FailureReason::parse(text).ok_or(LedgerError::Corrupt("reason")))
            .transpose()?,
        // What is being sent, or has ended, does not wait.
        waiting: waiting(item)?.filter(|_| status == DeliveryStatus::Queued),
        waited: details::waited(item)?,
        possible_duplicate: flag(item, "possibleDuplicate")?,
        attempts: attempts(item)?,
        via: None,
        ended_at: None,
        skipped: details::skipped(item)?,
        is_recorded: true,
    };
    delivery.via = details::via(item, &delivery)?;
    delivery.ended_at = match delivery.status {
        DeliveryStatus::Queued | DeliveryStatus::Sending => None,
        DeliveryStatus::Sent
        | DeliveryStatus::Failed
        | DeliveryStatus::Unknown
        | DeliveryStatus::Expired => details::timestamp(item, "updatedAt")?,
    };
    Ok(delivery)
}

fn waiting(item: &Item) -> Result<Option<Waiting>, LedgerError> {
    let wrong = || LedgerError::Corrupt(WAITING);
    let Some(text) = optional(item, WAITING)? else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    Waiting::from_json(&value).map(Some).ok_or_else(wrong)
}

fn waiting_value(waiting: &Waiting) -> Result<AttributeValue, LedgerError> {
    let json = serde_json::to_string(waiting).map_err(|_| LedgerError::Corrupt(WAITING))?;
    Ok(s(&json))
}

fn attempts(item: &Item) -> Result<Vec<Attempt>, LedgerError> {
    let wrong = || LedgerError::Corrupt("attempts");
    let Some(text) = optional(item, "attempts")? else {
        return Ok(Vec::new());
    };
    let values: Vec<Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    values
        .iter()
        .map(|value| Attempt::from_json(value).ok_or_else(wrong))
        .collect()
}

const DELIVERY_PREFIX: &str = "delivery#";
/// The attribute of what a delivery waits for.
const WAITING: &str = "waiting";

fn key(request: &RequestId, delivery: &DeliveryId) -> Item {
    HashMap::from([
        text("pk", request.as_str()),
        text("sk", &format!("{DELIVERY_PREFIX}{delivery}")),
    ])
}

fn time_to_live(now: Timestamp) -> i64 {
    now.as_second().saturating_add_unsigned(RETENTION.as_secs())
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn text(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), s(value))
}

fn number(name: &str, value: i64) -> (String, AttributeValue) {
    (name.to_owned(), n(value))
}

fn string<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

fn required<'a>(item: &'a Item, name: &'static str) -> Result<&'a String, LedgerError> {
    string(item, name).ok_or(LedgerError::Corrupt(name))
}

/// A text that may be absent. What is there and no text cannot be read.
fn optional<'a>(item: &'a Item, name: &'static str) -> Result<Option<&'a String>, LedgerError> {
    item.contains_key(name)
        .then(|| required(item, name))
        .transpose()
}

/// A flag that is not set where it is absent.
fn flag(item: &Item, name: &'static str) -> Result<bool, LedgerError> {
    match item.get(name) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .copied()
            .map_err(|_| LedgerError::Corrupt(name)),
    }
}

/// The item that made a condition fail; `None` where something else went wrong.
fn refused_item<R>(error: &SdkError<UpdateItemError, R>) -> Option<Item> {
    if let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error()
    {
        Some(failed.item().cloned().unwrap_or_default())
    } else {
        None
    }
}

fn database<E: ProvideErrorMetadata, R>(
    operation: &'static str,
    error: &SdkError<E, R>,
) -> LedgerError {
    LedgerError::Database {
        operation,
        code: error_code(error),
    }
}

mod details;
#[cfg(test)]
pub(crate) mod fuzz;
pub mod records;
mod starts;
mod writes;

pub use details::RequestDetails;
pub use starts::MessageStart;
use writes::{Purpose, Written};
