//! The pipeline: an accepted communication becomes deliveries, each claimed in the ledger, sent
//! through its tenant's chain, and recorded.

mod address_hash;
mod attempts;
mod chains;
mod claim;
mod connection;
mod delivering;
mod freshness;
mod immediate;
mod message_starts;
mod next_receive;
mod outcome_message;
mod probes;
mod queued_outcomes;
mod quota_wait;
mod recording;
mod tenant_settings;
mod time_limits;
mod unrecorded;
mod urgent;
mod via;
mod waiting;
mod worker_share;

use std::{
    collections::HashSet,
    num::{NonZeroUsize, ParseIntError},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use comms_adapters::{
    Deadline, EgressGuard, Message, ProviderFactory, SocketStatistics,
    egress::{EgressAllow, SystemResolver},
    tls::TlsConfigs,
};
use comms_core::{
    AddressMask, Channel, Clock, Delivery, DeliveryId, DeliveryStatus, HashKey, IdempotencyKey,
    RequestId, SubjectHash, SystemClock, Tenant,
    metric::METRICS,
    request::{CommunicationRequest, PlannedDelivery, Priority, Recipient},
};
use comms_settings::{
    Ceilings, HashKeys, Moment, Period, SettingsCache, SettingsStore, StoreError,
};
use futures_util::{
    StreamExt,
    future::{join, join3},
    stream,
};
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

use crate::{
    deferral,
    health::SharedHealth,
    ledger::{Acceptance, Ledger, LedgerError, Origin, Owner, RequestDetails, RequestRecord, Via},
    pacing::SharedPacing,
    queue_claim::{self, EndedDeliveries, Proof, QueueClaim},
    quota::{Exhausted, Paid, Payer, Quota, Quotas},
    reply_to::ReplyTos,
    shares::{ShareLimits, Shares},
    slots::Slots,
    slow_workers::WorkQueue,
    usage::Usage,
};

pub use crate::require_clinic::RequireClinic;
pub use immediate::{Immediate, ImmediateError};
pub use message_starts::has_time_to_begin;
pub use next_receive::next_receive;
pub use outcome_message::{OUTCOMES_MAC, OutcomeMessage};
pub use queued_outcomes::{OutcomesOf, PendingOutcomes, RecordedOutcomes};
use tenant_settings::TenantSettings;
use unrecorded::Unrecorded;
pub use urgent::{UrgentError, UrgentQuota};
pub use via::{ClinicMissing, ExpectedVia};

/// Deliveries of one request that are worked on at once.
const CONCURRENT_DELIVERIES: usize = 10;
/// Deliveries that a process works on at once, for each invocation that it may have at once.
const SLOTS: usize = 32;
/// The most, however many invocations there may be: what that many take of memory is measured
/// (`infra/docs/PERFORMANCE.md`).
const MAX_SLOTS: usize = 1_024;
/// Of those, how many quarters may be one tenant's.
const SHARE: usize = 3;
/// How often a delivery is taken over from owners that did not say how it ended. Whatever ends them may
/// well be the delivery.
const MAX_TAKEOVERS: u32 = 3;
/// What is kept of the deadline for recording the outcome.
const RECORDING_MARGIN: Duration = Duration::from_millis(1_500);
/// What must be left of the deadline for a delivery to be started.
const MIN_START_DURATION: Duration = Duration::from_secs(4);
/// How long after the invocation's deadline a lease still holds: clocks differ, and a late write
/// must meet its own lease.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Why a communication could not be accepted or looked up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PipelineError {
    /// The settings table or KMS.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The idempotency key stands for another communication.
    #[error("the idempotency key was used for another communication")]
    KeyConflict,
    /// The communication names no clinic, and has to.
    #[error("the communication names no clinic")]
    ClinicRequired,
}

/// Why there is no quota for a communication that is to be sent at once.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// The settings table or KMS.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The deliveries table.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A limit of the clinic's is used up.
    #[error("the limit of {} {channel} recipients in a {} is used up", exhausted.limit, exhausted.period)]
    Exhausted {
        /// Whose limit.
        payer: Payer,
        /// On which channel.
        channel: Channel,
        /// Which limit.
        exhausted: Exhausted,
        /// The time until it is there again.
        after: Duration,
    },
    /// The communication has more recipients than a limit lets through at once.
    #[error("{count} {channel} recipients are more than the {limit} that a {period} has")]
    TooMany {
        /// Whose limit.
        payer: Payer,
        /// On which channel.
        channel: Channel,
        /// How many it has there.
        count: u32,
        /// The limit's period.
        period: Period,
        /// The limit.
        limit: u32,
    },
}

/// A communication that is known to the ledger.
#[derive(Debug, Clone)]
pub struct Accepted {
    record: RequestRecord,
    planned: Vec<PlannedDelivery>,
    quota: QuotaSource,
    hash_key: HashKey,
    /// The queue that it came from.
    queue: Option<WorkQueue>,
    /// Communications that its invocation has.
    batch: usize,
    /// Whether it was accepted by HTTP, and its urgent quota was taken then.
    was_counted: bool,
    /// Whether the ledger knew it already.
    is_repeated: bool,
    /// Deliveries that nobody sends: their outcomes are on the queue.
    ended: EndedDeliveries,
}

/// Where the deliveries of a communication have their quota from.
#[derive(Debug, Clone)]
enum QuotaSource {
    /// Each takes its own, or waits on the queue.
    Deliveries {
        /// How often the queue has brought the communication.
        receives: u32,
        /// Since when it is on the queue.
        queued_at: Option<Timestamp>,
    },
    /// It was taken for all.
    Paid(Arc<Paid>),
}

impl QuotaSource {
    /// When the settings were asked for by which quota was taken, where it was.
    fn settings_asked(&self) -> Option<Moment> {
        match self {
            Self::Deliveries { .. } => None,
            Self::Paid(paid) => paid.settings_asked(),
        }
    }
}

impl Accepted {
    /// Its id.
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

    /// The same, received from a queue of which a clinic's slow deliveries may hold some workers only.
    #[must_use]
    pub fn from_queue(self, queue: WorkQueue) -> Self {
        Self {
            queue: Some(queue),
            ..self
        }
    }

    /// The same, one of so many of its invocation.
    #[must_use]
    pub fn in_batch_of(self, messages: usize) -> Self {
        Self {
            batch: messages,
            ..self
        }
    }

    /// The same with the quota for its deliveries.
    #[must_use]
    pub fn with_quota(self, quota: Paid) -> Self {
        Self {
            quota: QuotaSource::Paid(Arc::new(quota)),
            ..self
        }
    }

    /// The name of its clinic, by which queues are fair.
    pub fn group(&self) -> &str {
        self.record.tenant.as_str()
    }

    /// The keyed hash of its content, by which the ledger tells it from another under the same key.
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

    /// Its deliveries, as they are before anything has happened.
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

/// A communication as it came from the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueuedMessage<'a> {
    /// What the body says.
    pub request: &'a CommunicationRequest,
    /// The key in the body, or the message's id.
    pub key: &'a IdempotencyKey,
    /// The body, byte by byte.
    pub body: &'a [u8],
    /// What its attributes claim.
    pub claim: Option<QueueClaim<'a>>,
    /// SQS's `SenderId`: the principal that put it on the queue.
    pub sender: Option<&'a str>,
}

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult {
    /// It ended, now or before, and the ledger says how.
    Recorded(Box<Delivery>),
    /// A provider accepted it, and the ledger does not know that: its claim stands until its lease ends, and is then
    /// taken over as possibly sent.
    Unrecorded {
        /// The delivery, `sent`.
        delivery: Box<Delivery>,
        /// The time until the lease ends.
        after: Duration,
    },
    /// It has not ended and returns to the queue.
    Requeued(DeliveryId, Requeue),
}

/// Why a delivery returns to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Another invocation has it.
    Busy {
        /// The time until its lease ends.
        after: Duration,
    },
    /// There was not enough time left.
    OutOfTime,
    /// Settings, keys or ledger could not be reached.
    Unreachable,
    /// It may have been sent, and that could not be recorded.
    NotRecorded {
        /// The time until our lease ends.
        after: Duration,
    },
    /// The same key stands for another body.
    KeyConflict,
    /// It cannot be sent now, and may be later.
    Deferred {
        /// The time before which there is no use in trying.
        after: Duration,
    },
    /// A limit of the clinic's is used up. Nothing was claimed.
    OverQuota {
        /// The time before which there is no use in trying.
        after: Duration,
    },
    /// The clinic's slow deliveries hold its share of the workers. Nothing was written.
    ShareTaken {
        /// The time before which there is no use in trying.
        after: Duration,
    },
    /// Every provider refuses the clinic for a reason that people can mend.
    WaitingForProvider {
        /// The time before which there is no use in trying.
        after: Duration,
    },
    /// The provider whose turn it is takes no more for now, as far as is known here.
    Paced {
        /// The time before which there is no use in trying.
        after: Duration,
    },
    /// All connections of the provider's login are in use.
    NoConnection {
        /// The time before which there is no use in trying.
        after: Duration,
    },
}

/// What happens to a delivery that no provider accepts now and one may accept later, such as a greylisted
/// mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// Return it to the queue, which redelivers it. After [`deferral::MAX_DEFERRALS`] it has failed.
    Requeue,
    /// Record it as failed.
    Fail,
}

impl Requeue {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::OutOfTime => "out_of_time",
            Self::Unreachable => "unreachable",
            Self::NotRecorded { .. } => "not_recorded",
            Self::KeyConflict => "key_conflict",
            Self::Deferred { .. } => "deferred",
            Self::OverQuota { .. } => "over_quota",
            Self::ShareTaken { .. } => "share_taken",
            Self::WaitingForProvider { .. } => "waiting_for_provider",
            Self::Paced { .. } => "paced",
            Self::NoConnection { .. } => "no_connection",
        }
    }

    /// How long the message stays invisible after `receives` receives.
    pub fn wait(self, receives: u32) -> Duration {
        /// Clocks differ.
        const AFTER_A_LEASE: Duration = Duration::from_secs(1);
        /// Its owner may have put the outcome on the queue at the end of its time: that is recorded first.
        const FOR_AN_OUTCOME: Duration = Duration::from_secs(30);
        let wait = match self {
            Self::Busy { after } => after + FOR_AN_OUTCOME,
            Self::NotRecorded { after } => after + AFTER_A_LEASE,
            Self::OutOfTime => Duration::ZERO,
            Self::Unreachable | Self::KeyConflict => deferral::backoff(receives.saturating_sub(1)),
            Self::Deferred { after }
            | Self::OverQuota { after }
            | Self::ShareTaken { after }
            | Self::WaitingForProvider { after }
            | Self::Paced { after }
            | Self::NoConnection { after } => after,
        };
        wait.min(deferral::MAX_DEFERRAL_DURATION)
    }
}

/// Everything between an accepted communication and its recorded outcome.
pub struct Pipeline {
    settings: Arc<SettingsCache>,
    reply_tos: ReplyTos,
    hash_keys: HashKeys,
    factory: ProviderFactory,
    ledger: Ledger,
    health: SharedHealth,
    quotas: Quotas,
    pacing: SharedPacing,
    usage: Usage,
    shares: Shares,
    deferred: Deferred,
    unrecorded: Unrecorded,
    slots: Slots,
    mask: AddressMask,
    require_clinic: RequireClinic,
    clock: Arc<dyn Clock>,
}

/// Deliveries that returned to the queue since the last metrics, by reason.
#[derive(Default)]
struct Deferred {
    quota: AtomicU64,
    pacing: AtomicU64,
    provider: AtomicU64,
    worker_share: AtomicU64,
    connections: AtomicU64,
    /// Whether deliveries came from a queue, where nobody waits for an answer.
    serves_queue: AtomicBool,
}

/// Where the pipeline's parts are.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The settings table.
    pub settings_table: String,
    /// The deliveries table.
    pub deliveries_table: String,
    /// The KMS key of the settings.
    pub kms_key_id: String,
    /// Whether settings are read that have no seal ([`SettingsStore::accepting_unsealed`]).
    pub accept_unsealed_settings: bool,
    /// Where connections may go beyond the public internet.
    pub egress_allow: EgressAllow,
    /// How much of an address the ledger and answers show.
    pub address_mask: AddressMask,
    /// Whether a communication has to name a clinic that has providers.
    pub require_clinic: RequireClinic,
    /// How many invocations the process may have at once.
    pub concurrency: Concurrency,
    /// What one clinic may take of what all share.
    pub shares: ShareLimits,
    /// Trust roots beside the public ones.
    pub tls: TlsConfigs,
}

/// How many invocations a process may have at once: one, unless it runs on a Lambda managed instance, which says how many in
/// `AWS_LAMBDA_MAX_CONCURRENCY` (AWS Lambda Developer Guide, "Lambda Managed Instances").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency(NonZeroUsize);

impl Default for Concurrency {
    fn default() -> Self {
        Self(NonZeroUsize::MIN)
    }
}

impl FromStr for Concurrency {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Concurrency {
    fn slots(self) -> Slots {
        let slots = SLOTS.saturating_mul(self.0.get()).min(MAX_SLOTS);
        Slots::new(slots, slots * SHARE / 4)
    }
}

/// Tenants whose settings and providers a process remembers: all that there are, where they are hundreds. A chain of SMTP
/// providers without open connections is a few KB, and settings have a limit in bytes as well
/// ([`comms_settings::cache::MAX_BYTES`]).
const REMEMBERED_TENANTS: usize = 2_000;

impl Pipeline {
    /// The pipeline of a process. Nothing is connected to or read yet.
    pub fn assemble(sdk: &SdkConfig, config: PipelineConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let slots = config.concurrency.slots();
        let store = SettingsStore::new(sdk, config.settings_table, config.kms_key_id)
            .accepting_unsealed(config.accept_unsealed_settings);
        let egress = EgressGuard::new(config.egress_allow, Arc::new(SystemResolver));
        let pipeline = Self::new(
            Arc::new(SettingsCache::new(
                store.clone(),
                clock.clone(),
                REMEMBERED_TENANTS,
            )),
            HashKeys::new(store),
            // A tenant has two channels, and each a chain.
            ProviderFactory::new(
                config.tls,
                egress,
                sdk.clone(),
                clock.clone(),
                2 * REMEMBERED_TENANTS,
            ),
            SharedHealth::new(sdk, config.deliveries_table.clone(), clock.clone()),
            Quotas::new(sdk, config.deliveries_table.clone(), clock.clone()),
            SharedPacing::new(sdk, config.deliveries_table.clone(), clock.clone()),
            Usage::new(sdk, config.deliveries_table.clone()),
            Shares::new(sdk, &config.deliveries_table, clock.clone(), config.shares),
            Ledger::new(sdk, config.deliveries_table),
            clock,
        );
        Self {
            slots,
            mask: config.address_mask,
            require_clinic: config.require_clinic,
            ..pipeline
        }
    }

    /// Sets from here on whether a clinic is required; what is remembered stays.
    pub const fn set_require_clinic(&mut self, require_clinic: RequireClinic) {
        self.require_clinic = require_clinic;
    }

    /// Puts the parts together, for one invocation at a time.
    #[allow(
        clippy::too_many_arguments,
        reason = "each part once, and nobody calls this but assemble and tests"
    )]
    pub fn new(
        settings: Arc<SettingsCache>,
        hash_keys: HashKeys,
        factory: ProviderFactory,
        health: SharedHealth,
        quotas: Quotas,
        pacing: SharedPacing,
        usage: Usage,
        shares: Shares,
        ledger: Ledger,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            reply_tos: ReplyTos::new(settings.store().clone(), clock.clone()),
            settings,
            hash_keys,
            factory,
            ledger,
            health,
            quotas,
            pacing,
            usage,
            shares,
            deferred: Deferred::default(),
            unrecorded: Unrecorded::default(),
            slots: Concurrency::default().slots(),
            mask: AddressMask::default(),
            require_clinic: RequireClinic::default(),
            clock,
        }
    }

    /// The key by which logs name callers ([`HashKeys::for_logs`]).
    pub async fn key_for_logs(&self) -> Option<&HashKey> {
        self.hash_keys.for_logs().await
    }

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
            .map_err(|_| LedgerError::Corrupt("payloadHash"))?;
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

    /// Records that a communication of `caller` was accepted, so that it can be read back and its key stands for
    /// nothing else. A repeated one is accepted again.
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

    /// Like [`Pipeline::accept`] for a message from the queue. One that `send` authenticated needs no write; it may be
    /// a part of what was accepted. Any other is a producer's own communication, and is compared with what the
    /// ledger has under its key.
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
                // A queue delivers a message again without anybody having sent it again.
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

    /// Takes quota for all deliveries of a communication that is to be sent at once: for all of them or for
    /// none. Where only the platform's account can send, its quota as well.
    ///
    /// Where there is none, and the communication was sent before and has ended, it needs none: then this costs
    /// one read, and gives nothing.
    async fn take_quota(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        settings: &TenantSettings,
        asked: Moment,
    ) -> Result<Paid, QuotaError> {
        let tenant = request.tenant();
        let paid = Paid::by_settings_of(asked);
        for channel in &request.channels {
            let policy = settings.policy(&tenant, *channel);
            let has_address = |recipient: &&Recipient| match channel {
                Channel::Email => recipient.email.is_some(),
                Channel::Whatsapp => recipient.phone_number.is_some(),
            };
            let messages = request.recipients.iter().filter(has_address).count();
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            let count = messages.saturating_mul(request.content.envelope_recipients(*channel));
            let platform_limit = policy.global_limit.filter(|_| policy.is_global_only);
            let limits = [
                (Payer::Clinic, &tenant, policy.rate_limit),
                (Payer::Platform, &Tenant::Global, platform_limit),
            ];
            for (payer, whose, limits) in limits {
                let Some(limits) = limits.filter(|_| count > 0) else {
                    continue;
                };
                let counted = (*channel).into();
                let refused = match self.quotas.take(whose, counted, &limits, count).await? {
                    Quota::Granted(grant) => {
                        paid.add(payer, counted, grant, count);
                        continue;
                    }
                    Quota::Exhausted(exhausted) => QuotaError::Exhausted {
                        payer,
                        channel: *channel,
                        exhausted,
                        after: self.time_until(exhausted.until),
                    },
                    Quota::TooMany { period, limit } => QuotaError::TooMany {
                        payer,
                        channel: *channel,
                        count,
                        period,
                        limit,
                    },
                };
                return if self.has_ended(request, key).await? {
                    Ok(Paid::default())
                } else {
                    Err(refused)
                };
            }
        }
        Ok(paid)
    }

    /// The ceilings that hold for a tenant.
    pub async fn ceilings(&self, tenant: &Tenant) -> Result<Ceilings, StoreError> {
        let (asked, known) = (
            self.settings.moment(),
            self.remembered_settings(tenant).await?,
        );
        let settings = self.confirmed_settings(tenant, &known, true, asked).await?;
        Ok(settings.ceilings(tenant))
    }

    /// Whether the time is past after which a communication is not to be sent.
    pub fn has_expired(&self, request: &CommunicationRequest) -> bool {
        request.expires_at.is_some_and(|at| at <= self.clock.now())
    }

    /// Whether all deliveries of a communication have ended.
    async fn has_ended(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
    ) -> Result<bool, QuotaError> {
        let hash = self.hash_keys.get().await?;
        let id = RequestId::derive(hash, &request.tenant(), key);
        let recorded = self.ledger.read(&id, self.clock.now()).await?;
        let recorded = recorded.map_or_else(Vec::new, |recorded| recorded.deliveries);
        let ended: HashSet<_> = recorded
            .iter()
            .filter(|delivery| match delivery.status {
                DeliveryStatus::Queued | DeliveryStatus::Sending => false,
                DeliveryStatus::Sent
                | DeliveryStatus::Failed
                | DeliveryStatus::Unknown
                | DeliveryStatus::Expired => true,
            })
            .map(|delivery| &delivery.id)
            .collect();
        let planned = request.deliveries(hash, &id, self.mask);
        Ok(planned.iter().all(|planned| ended.contains(&planned.id)))
    }

    /// What is to be done when an invocation ends: closes idle connections, gives back quota that was taken ahead and not needed, writes
    /// what became of deliveries to their tenants' usage, and tells as metrics what quotas and pacing did since this
    /// was done last.
    pub async fn settle(&self, deadline: Deadline) {
        let releases = join3(
            self.shares.in_flight.release(deadline),
            self.shares.slow.release(deadline),
            self.end_connections(deadline),
        );
        let writes = join(self.quotas.give_back(deadline), self.usage.write(deadline));
        join(writes, releases).await;
        self.record_connections();
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let (quota_writes, pacing_writes) = (self.quotas.take_writes(), self.pacing.take_writes());
        let (by_quota, by_pacing) = (take(&self.deferred.quota), take(&self.deferred.pacing));
        let by_worker_share = take(&self.deferred.worker_share);
        let by_provider = take(&self.deferred.provider);
        let by_connections = take(&self.deferred.connections);
        let connection_writes = self.shares.connections.take_writes();
        let waiting = by_quota + by_pacing + by_provider + by_worker_share + by_connections;
        if quota_writes + pacing_writes + connection_writes + waiting > 0 {
            info!(
                target: METRICS,
                quota_writes,
                pacing_writes,
                deferred_by_quota = by_quota,
                deferred_by_pacing = by_pacing,
                waiting_for_provider = by_provider,
                connection_writes,
                deferred_by_worker_share = by_worker_share,
                deferred_by_connections = by_connections,
            );
        }
    }

    /// Tells as metrics what became of the connections to providers since this was told last; nothing
    /// where nothing happened and nothing is open.
    fn record_connections(&self) {
        let seen = self.factory.sockets().take_statistics();
        if seen == SocketStatistics::default() {
            return;
        }
        info!(
            target: METRICS,
            sockets_held = seen.held,
            smtp_connections_open = seen.open,
            smtp_connections_idle = seen.idle,
            smtp_connections_opened = seen.opened,
            smtp_connections_reused = seen.reused,
            smtp_connections_stale = seen.stale_retried,
            smtp_connections_refused = seen.one_too_many,
            smtp_connections_closed_by_server = seen.retired.server_closed,
            smtp_connections_closed_at_ceiling = seen.retired.ceiling,
            smtp_connections_retired = seen.retired.total(),
            connection_waits = seen.waited,
            connection_waits_timed_out = seen.timed_out,
            connection_wait_ms = seen.waited_milliseconds,
        );
    }

    /// Sends all deliveries of a communication that have not ended. Each is recorded or returns to the queue. A delivery
    /// starts only if the deadline leaves at least [`MIN_START_DURATION`]. `on_exhausted` decides what happens when no
    /// provider accepts it now.
    pub async fn deliver(
        &self,
        request: &CommunicationRequest,
        accepted: &Accepted,
        deadline: Deadline,
        on_exhausted: OnExhausted,
    ) -> Vec<DeliveryResult> {
        let was_given_back = AtomicBool::new(false);
        let is_queued = on_exhausted == OnExhausted::Requeue;
        self.deferred
            .serves_queue
            .store(is_queued, Ordering::Relaxed);
        let limits = Limits {
            expires_at: request.expires_at,
            priority: request.priority,
            deadline,
            on_exhausted,
            quota: &accepted.quota,
            queue: accepted.queue,
            is_alone: accepted.batch == 1 && accepted.planned.len() == 1,
            counts_as_urgent: accepted.queue == Some(WorkQueue::Urgent) && !accepted.was_counted,
            was_given_back: &was_given_back,
        };
        self.record_late(deadline).await;
        let all = accepted.planned.iter().enumerate();
        let all = all.filter(|(place, _)| !accepted.ended.has(*place));
        let all = all.collect();
        let mut results = self.deliver_these(request, accepted, all, limits).await;
        results.sort_unstable_by_key(|(place, _)| *place);
        // Deliveries that had ended before returned their quota, which others lacked: in a redelivered
        // message, the first deliveries have ended.
        while was_given_back.swap(false, Ordering::Relaxed) {
            let refused = results.iter().filter(|(_, result)| {
                matches!(
                    result,
                    DeliveryResult::Requeued(_, Requeue::OverQuota { .. })
                )
            });
            let refused = refused
                .filter_map(|(place, _)| Some((*place, accepted.planned.get(*place)?)))
                .collect();
            for (place, result) in self.deliver_these(request, accepted, refused, limits).await {
                let before = results.iter_mut().find(|(other, _)| *other == place);
                if let Some((_, before)) = before {
                    *before = result;
                }
            }
        }
        let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
        for result in &results {
            match result {
                DeliveryResult::Requeued(id, reason) => {
                    self.record_requeue(&accepted.record, id, *reason);
                }
                DeliveryResult::Unrecorded { delivery, after } => {
                    let reason = Requeue::NotRecorded { after: *after };
                    self.record_requeue(&accepted.record, &delivery.id, reason);
                }
                DeliveryResult::Recorded(_) => {}
            }
        }
        results
    }

    fn record_requeue(&self, record: &RequestRecord, id: &DeliveryId, reason: Requeue) {
        let deferred = match reason {
            Requeue::OverQuota { .. } => Some(&self.deferred.quota),
            Requeue::Paced { .. } => Some(&self.deferred.pacing),
            Requeue::WaitingForProvider { .. } => Some(&self.deferred.provider),
            Requeue::ShareTaken { .. } => Some(&self.deferred.worker_share),
            Requeue::NoConnection { .. } => Some(&self.deferred.connections),
            Requeue::Busy { .. }
            | Requeue::OutOfTime
            | Requeue::Unreachable
            | Requeue::NotRecorded { .. }
            | Requeue::KeyConflict
            | Requeue::Deferred { .. } => None,
        };
        let (tenant, request, reason) = (&record.tenant, &record.id, reason.as_str());
        // A campaign over its quota is nothing to be warned of.
        if let Some(deferred) = deferred {
            deferred.fetch_add(1, Ordering::Relaxed);
            info!(clinic_id = %tenant, request_id = %request, delivery_id = %id, reason, "delivery handed back");
        } else {
            warn!(clinic_id = %tenant, request_id = %request, delivery_id = %id, reason, "delivery handed back");
        }
    }

    /// Makes some deliveries of a communication, each with its place in it, in the order in which they end.
    async fn deliver_these(
        &self,
        request: &CommunicationRequest,
        accepted: &Accepted,
        these: Vec<(usize, &PlannedDelivery)>,
        limits: Limits<'_>,
    ) -> Vec<(usize, DeliveryResult)> {
        let deadline = limits.deadline;
        let content = Arc::new(request.content.clone());
        let mut work = Vec::with_capacity(these.len());
        for (place, planned) in these {
            let message = planned.target.clone().map(|target| Message {
                delivery: planned.id.clone(),
                target,
                content: content.clone(),
                reply_to: request.reply_to.clone(),
            });
            let span = info_span!(
                "delivery",
                clinic_id = %accepted.record.tenant,
                request_id = %accepted.record.id,
                delivery_id = %planned.id,
                channel = %planned.channel,
            );
            let result = async move {
                // Nobody sends what his own process knows the end of.
                let (record, id) = (&accepted.record, &planned.id);
                if let Some(kept) = self.result_of_kept(record, id, deadline).await {
                    return kept;
                }
                let start_by = deadline.less(MIN_START_DURATION);
                let ended = match self.slots.take(&accepted.record.tenant, start_by).await {
                    Some(_slot) => {
                        let mut urgent = UrgentQuota::default();
                        let one = self.deliver_one(record, planned, message, limits, &mut urgent);
                        // Everything inside has limits of its own; this one is for what they add up to.
                        let ended = deadline.bound(Duration::MAX, one).await;
                        // One that waits for quota itself would be asked again without end.
                        let waits = matches!(ended, Ok(Err(Requeue::OverQuota { .. })));
                        if urgent.is_held() && !waits {
                            limits.was_given_back.store(true, Ordering::Relaxed);
                        }
                        match ended {
                            Ok(ended) => ended,
                            Err(_) => return self.result_of_cut(record, id),
                        }
                    }
                    None => Err(Requeue::OutOfTime),
                };
                match ended {
                    Ok(delivery) if !delivery.is_recorded => DeliveryResult::Unrecorded {
                        delivery: Box::new(delivery),
                        after: deadline.remaining() + LEASE_MARGIN,
                    },
                    Ok(delivery) => DeliveryResult::Recorded(Box::new(delivery)),
                    Err(reason) => DeliveryResult::Requeued(planned.id.clone(), reason),
                }
            };
            let result = Box::pin(result.instrument(span));
            work.push(async move { (place, result.await) });
        }
        // As they end, so that a slow one does not hold up those behind it.
        stream::iter(work)
            .buffer_unordered(CONCURRENT_DELIVERIES)
            .collect()
            .await
    }

    /// Nothing for what is past.
    fn time_until(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.clock.now())).unwrap_or_default()
    }

    fn owner(&self, deadline: Deadline) -> Owner {
        Owner {
            token: Uuid::new_v4().to_string(),
            lease_until: self
                .clock
                .now()
                .saturating_add(deadline.remaining() + LEASE_MARGIN)
                .unwrap_or(Timestamp::MAX),
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline(…)")
    }
}

/// What bounds the work on a delivery.
#[derive(Debug, Clone, Copy)]
struct Limits<'a> {
    expires_at: Option<Timestamp>,
    priority: Priority,
    deadline: Deadline,
    on_exhausted: OnExhausted,
    quota: &'a QuotaSource,
    queue: Option<WorkQueue>,
    /// Whether it is the only delivery of its invocation.
    is_alone: bool,
    /// Whether each delivery takes urgent quota of its own.
    counts_as_urgent: bool,
    /// Whether quota that was taken turned out not to be needed.
    was_given_back: &'a AtomicBool,
}

impl Limits<'_> {
    const fn receives(&self) -> u32 {
        match self.quota {
            QuotaSource::Deliveries { receives, .. } => *receives,
            QuotaSource::Paid(_) => 1,
        }
    }
}

/// A delivery that is worked on.
#[derive(Debug, Clone, Copy)]
struct Started<'a> {
    at: Instant,
    limits: Limits<'a>,
    /// Whether the last attempt was at another entry than the first of the chain.
    by_fallback: bool,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unreachable(error: impl std::fmt::Display) -> Requeue {
    warn!(%error, "a delivery can not be worked on");
    Requeue::Unreachable
}
