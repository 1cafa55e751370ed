//! Acceptance: a communication gets its ids and its record in the ledger.

use std::sync::Arc;

use comms_aws::TableError;
use comms_core::{
    Delivery, HashKey, IdempotencyKey, RequestId, SubjectHash,
    metric::METRICS,
    request::{CommunicationRequest, PlannedDelivery},
};
use comms_settings::{Moment, StoreError};
use jiff::Timestamp;
use thiserror::Error;
use tracing::{info, warn};

use super::Pipeline;
use crate::{
    ledger::{Acceptance, LedgerError, Origin, RequestDetails, RequestRecord, Via},
    queue_claim::{self, EndedDeliveries, Proof, QueueClaim},
    quota::TakenQuota,
    slow_workers::WorkQueue,
};

/// Why a communication could not be accepted or looked up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PipelineError {
    /// The settings table or KMS.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Another communication was accepted under this idempotency key.
    #[error("the idempotency key was used for another communication")]
    KeyConflict,
    /// The communication names no clinic, and `REQUIRE_CLINIC` is set.
    #[error("the communication names no clinic")]
    ClinicRequired,
}

impl From<TableError> for PipelineError {
    fn from(error: TableError) -> Self {
        Self::Ledger(error.into())
    }
}

/// A communication that the ledger knows.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub(super) record: RequestRecord,
    pub(super) planned: Vec<PlannedDelivery>,
    pub(super) quota: QuotaSource,
    pub(super) hash_key: HashKey,
    /// The queue that it came from.
    pub(super) queue: Option<WorkQueue>,
    /// Communications in the batch of its invocation.
    pub(super) batch: usize,
    /// Whether it was accepted by HTTP, which took its urgent quota.
    pub(super) was_counted: bool,
    /// Whether the ledger knew it already.
    pub(super) is_repeated: bool,
    /// Deliveries that ended before; their outcomes are on the queue.
    pub(super) ended: EndedDeliveries,
}

/// Where the deliveries of a communication get their quota.
#[derive(Debug, Clone)]
pub(super) enum QuotaSource {
    /// Each takes its own, or returns to the queue.
    Deliveries {
        /// SQS's `ApproximateReceiveCount` of the message.
        receives: u32,
        /// When the message was put on the queue.
        queued_at: Option<Timestamp>,
    },
    /// It was taken for all of them together.
    Taken(Arc<TakenQuota>),
}

impl QuotaSource {
    /// When the settings that granted the quota were read; `None` if no quota was taken.
    pub(super) fn settings_asked(&self) -> Option<Moment> {
        match self {
            Self::Deliveries { .. } => None,
            Self::Taken(taken) => taken.settings_asked(),
        }
    }
}

impl Accepted {
    /// The request's id.
    pub fn id(&self) -> &RequestId {
        &self.record.id
    }

    /// Sets the SQS receive count and enqueue time, which bound how long it may wait.
    #[must_use]
    pub fn with_receive_count(self, receives: u32, queued_at: Option<Timestamp>) -> Self {
        Self {
            quota: QuotaSource::Deliveries {
                receives,
                queued_at,
            },
            ..self
        }
    }

    /// Whether the ledger knew it already.
    pub const fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Sets the queue that it came from, where slow deliveries of a clinic may hold only some workers.
    #[must_use]
    pub fn from_queue(self, queue: WorkQueue) -> Self {
        Self {
            queue: Some(queue),
            ..self
        }
    }

    /// Sets the size of its batch.
    #[must_use]
    pub fn in_batch_of(self, messages: usize) -> Self {
        Self {
            batch: messages,
            ..self
        }
    }

    /// Sets the quota that was taken for its deliveries.
    #[must_use]
    pub fn with_quota(self, quota: TakenQuota) -> Self {
        Self {
            quota: QuotaSource::Taken(Arc::new(quota)),
            ..self
        }
    }

    /// Its clinic, which is the `MessageGroupId` on fair queues.
    pub fn group(&self) -> &str {
        self.record.tenant.as_str()
    }

    /// The keyed hash of its content. The ledger compares it to detect another communication under the same key.
    pub fn payload_hash(&self) -> &str {
        &self.record.payload_hash
    }

    /// The MAC that proves to the worker that a message with this body is of this communication
    /// ([`queue_claim::ACCEPTANCE_MAC`]). `ended` is its [`queue_claim::ENDED_DELIVERIES`].
    pub fn mac(&self, body: &str, ended: Option<&str>) -> String {
        let RequestRecord {
            id,
            tenant,
            payload_hash,
            details: _,
        } = &self.record;
        let body = body.as_bytes();
        let (key, id) = (&self.hash_key, id.as_str());
        queue_claim::mac(key, id, payload_hash, tenant, body, ended).hex128()
    }

    /// Its deliveries, all `queued`.
    pub fn queued(&self) -> Vec<Delivery> {
        self.planned
            .iter()
            .map(|planned| {
                let recipient = planned.masked().to_owned();
                Delivery::queued(planned.id.clone(), planned.channel, recipient)
            })
            .collect()
    }
}

/// A communication received from the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueuedMessage<'a> {
    /// The parsed body.
    pub request: &'a CommunicationRequest,
    /// The key in the body, or the message's id.
    pub key: &'a IdempotencyKey,
    /// The raw body.
    pub body: &'a [u8],
    /// The claim in its message attributes.
    pub claim: Option<QueueClaim<'a>>,
    /// SQS's `SenderId`: the principal that put it on the queue.
    pub sender: Option<&'a str>,
}

impl Pipeline {
    /// Names a communication and its deliveries; writes nothing.
    pub async fn identify(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
    ) -> Result<Accepted, PipelineError> {
        let hash = self.hash_keys.get().await?;
        let tenant = request.tenant();
        let id = RequestId::derive(hash, &tenant, key);
        let payload_hash = request
            .payload_hash(hash)
            .map_err(|_| TableError::Corrupt("payloadHash"))?;
        let planned = request.deliveries(hash, &id, self.mask);
        Ok(Accepted {
            record: RequestRecord {
                id,
                tenant,
                payload_hash,
                details: RequestDetails::of(request),
            },
            planned,
            quota: QuotaSource::Deliveries {
                receives: 1,
                queued_at: None,
            },
            hash_key: hash.clone(),
            queue: None,
            batch: 1,
            was_counted: false,
            is_repeated: false,
            ended: EndedDeliveries::default(),
        })
    }

    /// Records the acceptance of a communication from `caller`. Its key then stands for this communication only; a
    /// repeated request is accepted again.
    pub async fn accept(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        caller: &str,
    ) -> Result<Accepted, PipelineError> {
        let accepted = self.identify(request, key).await?;
        let origin = Origin {
            via: Via::Api,
            by: SubjectHash::of(&accepted.hash_key, caller),
        };
        self.record_acceptance(accepted, &origin, None).await
    }

    /// [`Pipeline::accept`] for a message from the queue. A message that `send` authenticated needs no write, and may be a
    /// part of the accepted communication. Any other comes from a producer, and is compared with the ledger.
    pub async fn accept_queued(
        &self,
        message: QueuedMessage<'_>,
    ) -> Result<Accepted, PipelineError> {
        let mut identified = self.identify(message.request, message.key).await?;
        let RequestRecord { id, tenant, .. } = &identified.record;
        let mut part_of = None;
        if let Some(claim) = message.claim {
            let key = &identified.hash_key;
            let proof = claim.check(key, id, tenant, message.body);
            match proof {
                Proof::Authentic => {
                    claim
                        .payload_hash
                        .clone_into(&mut identified.record.payload_hash);
                    identified.was_counted = true;
                    identified.ended = claim.ended();
                    return Ok(identified);
                }
                Proof::Missing => part_of = Some(claim.payload_hash),
                Proof::Wrong => {}
            }
            let proof = proof.as_str();
            warn!(clinic_id = %tenant, request_id = %id, proof, "queue message is not authenticated");
            info!(target: METRICS, queue_claims_refused = 1_u64);
        }
        self.check_clinic_of_queued(message.request, &identified.record.id)
            .await?;
        let origin = Origin {
            via: Via::Queue,
            by: message
                .sender
                .and_then(|sender| SubjectHash::of_sender(&identified.hash_key, sender)),
        };
        self.record_acceptance(identified, &origin, part_of).await
    }

    async fn record_acceptance(
        &self,
        mut identified: Accepted,
        origin: &Origin,
        part_of: Option<&str>,
    ) -> Result<Accepted, PipelineError> {
        let (record, planned) = (&identified.record, &identified.planned);
        let (ledger, now) = (&self.ledger, self.clock.now());
        match ledger.accept(record, planned, origin, part_of, now).await? {
            Acceptance::New => Ok(identified),
            Acceptance::Repeated => {
                // SQS may deliver a message twice, which is no repeated request.
                if origin.via == Via::Api
                    && let Err(error) = ledger.count_replay(&record.id).await
                {
                    warn!(request_id = %record.id, %error, "a repeated request was not counted");
                }
                Ok(Accepted {
                    is_repeated: true,
                    ..identified
                })
            }
            Acceptance::Part { payload_hash } => {
                identified.record.payload_hash = payload_hash;
                identified.was_counted = true;
                Ok(identified)
            }
            Acceptance::OtherPayload => Err(PipelineError::KeyConflict),
        }
    }
}
