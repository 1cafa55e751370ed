//! The pipeline: an accepted communication becomes deliveries, each claimed in the ledger, sent
//! through its tenant's chain, and recorded.

use std::{pin::Pin, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use comms_adapters::{
    Chain, ChainEnd, Deadline, EgressGuard, Message, ProviderFactory, SocketStatistics,
    chain::AmbiguityPolicy,
    egress::{EgressAllow, SystemResolver},
    tls::TlsConfigs,
};
use comms_core::{
    Attempt, AttemptOutcome, Channel, Clock, Delivery, DeliveryId, DeliveryStatus, Disposition,
    FailureReason, IdempotencyKey, RequestId, SystemClock, Tenant,
    metric::METRICS,
    request::{CommunicationRequest, PlannedDelivery, Target},
};
use comms_settings::{HashKeys, SettingsCache, SettingsStore, StoreError, StoredSettings};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use thiserror::Error;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use crate::{
    chain_spec::chain_spec,
    health::SharedHealth,
    ledger::{
        Acceptance, Claim, Ledger, LedgerError, Outcome, Owner, RecordedRequest, RequestRecord,
    },
};

/// Deliveries of one request that are worked on at once.
const CONCURRENT_DELIVERIES: usize = 10;
/// What is kept of the deadline for recording the outcome.
const RECORDING_TIME: Duration = Duration::from_millis(1_500);
/// What must be left of the deadline for a delivery to be started.
const STARTING_TIME: Duration = Duration::from_secs(4);
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
}

/// A communication that is known to the ledger.
#[derive(Debug, Clone)]
pub struct Accepted {
    record: RequestRecord,
    planned: Vec<PlannedDelivery>,
}

impl Accepted {
    /// Its id.
    pub fn id(&self) -> &RequestId {
        &self.record.id
    }

    /// Its deliveries, as they are before anything has happened.
    pub fn queued(&self) -> Vec<Delivery> {
        self.planned
            .iter()
            .map(|planned| Delivery::queued(planned.id.clone(), planned.channel, planned.masked()))
            .collect()
    }
}

/// The attribute of a queue message whose communication the ledger knows already, with its id.
pub const ACCEPTED_AS: &str = "acceptedAs";

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult {
    /// It ended, now or before, and the ledger says how.
    Recorded(Box<Delivery>),
    /// It did not end; whoever brought it must bring it again.
    HandBack(DeliveryId, HandBack),
}

/// Why a delivery is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandBack {
    /// Another invocation has it.
    Busy,
    /// There was not enough time left.
    OutOfTime,
    /// Settings, keys or ledger could not be reached.
    Unreachable,
    /// It may have been sent, and that could not be recorded; its lease will run out.
    NotRecorded,
    /// The same key stands for another body.
    KeyConflict,
    /// No provider could take it now, and one may later.
    TryLater,
}

/// What is done when no provider can take a message now and one may later: a mail server that is
/// restarted, a mailbox that is greylisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Hand it back: who brought it will bring it again, in minutes.
    HandBack,
    /// It has failed.
    GiveUp,
}

impl HandBack {
    /// The name in logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::OutOfTime => "out_of_time",
            Self::Unreachable => "unreachable",
            Self::NotRecorded => "not_recorded",
            Self::KeyConflict => "key_conflict",
            Self::TryLater => "try_later",
        }
    }
}

/// Everything between an accepted communication and its recorded outcome.
pub struct Pipeline {
    settings: Arc<SettingsCache>,
    hash_keys: HashKeys,
    factory: ProviderFactory,
    ledger: Ledger,
    health: SharedHealth,
    clock: Arc<dyn Clock>,
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
    /// Where connections may go beyond the public internet.
    pub egress_allow: EgressAllow,
    /// Trust roots beside the public ones.
    pub tls: TlsConfigs,
}

/// Tenants whose settings and providers a process remembers. A chain of SMTP providers without open
/// connections is a few KB.
const REMEMBERED_TENANTS: usize = 500;

impl Pipeline {
    /// The pipeline of a process. Nothing is connected to or read yet.
    pub fn assemble(sdk: &SdkConfig, config: PipelineConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = SettingsStore::new(sdk, config.settings_table, config.kms_key_id);
        let egress = EgressGuard::new(config.egress_allow, Arc::new(SystemResolver));
        Self::new(
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
            Ledger::new(sdk, config.deliveries_table),
            clock,
        )
    }

    /// Puts the parts together.
    pub fn new(
        settings: Arc<SettingsCache>,
        hash_keys: HashKeys,
        factory: ProviderFactory,
        health: SharedHealth,
        ledger: Ledger,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            settings,
            hash_keys,
            factory,
            ledger,
            health,
            clock,
        }
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
        let planned = request.deliveries(hash, &id);
        Ok(Accepted {
            record: RequestRecord {
                id,
                tenant,
                payload_hash,
            },
            planned,
        })
    }

    /// Names a communication and records that it was accepted, so that it can be read back from now
    /// on and its key stands for nothing else. A repeated one is accepted again.
    pub async fn accept(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
    ) -> Result<Accepted, PipelineError> {
        let accepted = self.identify(request, key).await?;
        let now = self.clock.now();
        match self
            .ledger
            .accept(&accepted.record, &accepted.planned, now)
            .await?
        {
            Acceptance::New | Acceptance::Repeated => Ok(accepted),
            Acceptance::OtherPayload => Err(PipelineError::KeyConflict),
        }
    }

    /// Like [`Pipeline::accept`], without the write where the message says that it was accepted under
    /// the id that it really has.
    pub async fn accept_queued(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        accepted_as: Option<&str>,
    ) -> Result<Accepted, PipelineError> {
        let identified = self.identify(request, key).await?;
        if accepted_as == Some(identified.id().as_str()) {
            Ok(identified)
        } else {
            self.accept(request, key).await
        }
    }

    /// A request with its deliveries, or `None` where there is none of that id.
    pub async fn status(&self, id: &RequestId) -> Result<Option<RecordedRequest>, PipelineError> {
        Ok(self.ledger.read(id, self.clock.now()).await?)
    }

    /// Tells as metrics what became of the connections to providers since this was told last; nothing
    /// where nothing happened and nothing is open.
    pub fn tell_connections(&self) {
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

    /// Makes all deliveries of a communication. Each ends recorded or is given back; none is
    /// started that the deadline leaves no time for. `patience` says what becomes of one that no
    /// provider could take now.
    pub async fn deliver(
        &self,
        request: &CommunicationRequest,
        accepted: &Accepted,
        deadline: Deadline,
        patience: Patience,
    ) -> Vec<DeliveryResult> {
        let content = Arc::new(request.content.clone());
        let mut work = Vec::with_capacity(accepted.planned.len());
        for planned in &accepted.planned {
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
            let limits = Limits {
                expires_at: request.expires_at,
                deadline,
                patience,
            };
            let one = self.deliver_one(&accepted.record, planned, message, limits);
            let result = async move {
                // Everything inside has limits of its own; this one is for what they add up to.
                let ended = deadline.bound(Duration::MAX, one).await;
                match ended.unwrap_or(Err(HandBack::NotRecorded)) {
                    Ok(delivery) => DeliveryResult::Recorded(Box::new(delivery)),
                    Err(reason) => {
                        warn!(reason = reason.as_str(), "delivery handed back");
                        DeliveryResult::HandBack(planned.id.clone(), reason)
                    }
                }
            };
            let place = work.len();
            let result = Box::pin(result.instrument(span));
            work.push(async move { (place, result.await) });
        }
        // As they end, so that a slow one does not hold up those behind it; then in their order again.
        let mut results: Vec<_> = stream::iter(work)
            .buffer_unordered(CONCURRENT_DELIVERIES)
            .collect()
            .await;
        results.sort_unstable_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }

    async fn deliver_one(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        message: Option<Message>,
        limits: Limits,
    ) -> Result<Delivery, HandBack> {
        if limits.deadline.remaining() < STARTING_TIME {
            return Err(HandBack::OutOfTime);
        }
        // Before the claim: where the settings can not be read, nothing has been touched.
        let chain = self
            .chain(&record.tenant, planned.channel, limits.deadline)
            .await
            .map_err(unreachable)?;
        let owner = self.owner(limits.deadline);
        let hash = self.hash_keys.get().await.map_err(unreachable)?;
        let address = planned.target.as_ref().map_or("", Target::address);
        let address_hash = hash.digest("address", &[address.as_bytes()]).hex128();
        let claim = self
            .ledger
            .claim(record, planned, &address_hash, &owner, self.clock.now())
            .await
            .map_err(unreachable)?;
        let (earlier, possible_duplicate) = match claim {
            Claim::Owned {
                attempts,
                possible_duplicate,
            } => (attempts, possible_duplicate),
            Claim::Ended(delivery) => return Ok(*delivery),
            Claim::Busy => return Err(HandBack::Busy),
            Claim::OtherPayload => return Err(HandBack::KeyConflict),
            Claim::Abandoned { owner: from } => {
                let taken = self
                    .ledger
                    .take_over(record, &planned.id, &from, &owner, self.clock.now())
                    .await
                    .map_err(unreachable)?;
                match taken {
                    Claim::Owned {
                        attempts,
                        possible_duplicate,
                    } => {
                        warn!("took over a delivery whose owner did not record its outcome");
                        (attempts, possible_duplicate)
                    }
                    Claim::Ended(delivery) => return Ok(*delivery),
                    Claim::Busy | Claim::Abandoned { .. } => return Err(HandBack::Busy),
                    Claim::OtherPayload => return Err(HandBack::KeyConflict),
                }
            }
        };
        // Reading settings and claiming may have taken long: then it is given back untouched.
        if limits.deadline.remaining() < STARTING_TIME {
            let untouched = Outcome {
                status: DeliveryStatus::Queued,
                receipt: None,
                reason: None,
                possible_duplicate,
                attempts: earlier,
            };
            return self.record(record, planned, &owner, untouched).await;
        }
        let outcome = self
            .outcome(record, &chain, message, limits, earlier, possible_duplicate)
            .await;
        let recorded = self.record(record, planned, &owner, outcome).await;
        // Afterwards: the message does not wait for it.
        for part in chain.parts(&record.tenant) {
            let (tenant, version, own) = part;
            self.health
                .tell(tenant, version, planned.channel, own, limits.deadline)
                .await;
        }
        recorded
    }

    async fn outcome(
        &self,
        record: &RequestRecord,
        chain: &ResolvedChain,
        message: Option<Message>,
        limits: Limits,
        mut attempts: Vec<Attempt>,
        possible_duplicate: bool,
    ) -> Outcome {
        let ended = |status, reason| Outcome {
            status,
            receipt: None,
            reason: Some(reason),
            // Nothing was sent here: what may have been sent before is one copy.
            possible_duplicate: false,
            attempts: Vec::new(),
        };
        let Some(message) = message else {
            return ended(DeliveryStatus::Failed, FailureReason::NoAddress);
        };
        // An earlier owner may have sent it: the tenant's policy says whether that is risked again.
        if possible_duplicate && chain.chain.on_ambiguous == AmbiguityPolicy::Hold {
            return Outcome {
                attempts,
                ..ended(DeliveryStatus::Unknown, FailureReason::OutcomeUnknown)
            };
        }
        if limits
            .expires_at
            .is_some_and(|expires_at| expires_at <= self.clock.now())
        {
            // What may have been sent before it expired has not simply expired.
            let (status, reason) = if possible_duplicate {
                (DeliveryStatus::Unknown, FailureReason::OutcomeUnknown)
            } else {
                (DeliveryStatus::Expired, FailureReason::Expired)
            };
            return Outcome {
                attempts,
                ..ended(status, reason)
            };
        }
        let renew = |global| -> Pin<Box<dyn Future<Output = Option<Arc<Chain>>> + Send + '_>> {
            let channel = message.target.channel();
            Box::pin(self.newer_chain(&record.tenant, channel, chain, global, limits.deadline))
        };
        let report = chain
            .chain
            .send(&message, limits.deadline.less(RECORDING_TIME), &renew)
            .await;
        let may_pass = report
            .attempts
            .iter()
            .any(|attempt| match &attempt.outcome {
                AttemptOutcome::Failed { disposition, .. } => {
                    *disposition == Disposition::Transient
                }
                AttemptOutcome::Accepted { .. } => false,
            });
        Attempt::remember(&mut attempts, report.attempts);
        // An earlier owner that did not record its outcome counts as one attempt of unknown outcome.
        let unknown_outcomes = report.unknown_outcomes + usize::from(possible_duplicate);
        let mut outcome = Outcome {
            status: DeliveryStatus::Failed,
            receipt: None,
            reason: None,
            possible_duplicate: unknown_outcomes > 1,
            attempts,
        };
        match report.end {
            ChainEnd::Sent { provider, receipt } => {
                outcome.status = DeliveryStatus::Sent;
                outcome.receipt = Some((provider, receipt.message_id));
                outcome.possible_duplicate = unknown_outcomes > 0;
            }
            // Given back; whoever claims it next has to know what may have happened.
            ChainEnd::OutOfTime if limits.patience == Patience::HandBack => {
                outcome.status = DeliveryStatus::Queued;
                outcome.possible_duplicate = unknown_outcomes > 0;
            }
            ChainEnd::Held => {
                outcome.status = DeliveryStatus::Unknown;
                outcome.reason = Some(FailureReason::OutcomeUnknown);
            }
            // "Failed" would invite sending it again, and it may be there already.
            ChainEnd::Rejected
            | ChainEnd::AllFailed
            | ChainEnd::NoProvider
            | ChainEnd::OutOfTime
                if unknown_outcomes > 0 =>
            {
                outcome.status = DeliveryStatus::Unknown;
                outcome.reason = Some(FailureReason::OutcomeUnknown);
            }
            ChainEnd::Rejected => outcome.reason = Some(FailureReason::Rejected),
            ChainEnd::AllFailed if may_pass && limits.patience == Patience::HandBack => {
                outcome.status = DeliveryStatus::Queued;
            }
            // Out of time on the last try: those that were reached failed, and no more will be.
            ChainEnd::AllFailed | ChainEnd::OutOfTime => {
                outcome.reason = Some(FailureReason::AllProvidersFailed);
            }
            ChainEnd::NoProvider => outcome.reason = Some(FailureReason::NoProvider),
        }
        outcome
    }

    async fn record(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        owner: &Owner,
        outcome: Outcome,
    ) -> Result<Delivery, HandBack> {
        let now = self.clock.now();
        let finished = self
            .ledger
            .finish(&record.id, &planned.id, owner, &outcome, now)
            .await;
        if let Err(error) = finished {
            // The claim stands until its lease ends; then it is taken over as possibly sent.
            error!(%error, status = outcome.status.as_str(), "the outcome of a delivery was not recorded");
            return Err(HandBack::NotRecorded);
        }
        info!(
            status = outcome.status.as_str(),
            reason = outcome.reason.map(FailureReason::as_str),
            attempts = outcome.attempts.len(),
            possible_duplicate = outcome.possible_duplicate,
            "delivery recorded"
        );
        if outcome.status == DeliveryStatus::Queued {
            return Err(HandBack::TryLater);
        }
        let (provider, message_id) = outcome.receipt.unzip();
        Ok(Delivery {
            id: planned.id.clone(),
            channel: planned.channel,
            recipient: planned.masked(),
            status: outcome.status,
            provider,
            message_id,
            reason: outcome.reason,
            possible_duplicate: outcome.possible_duplicate,
            attempts: outcome.attempts,
        })
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

    /// The chain of a tenant: its own entries, then the global account's unless it opted out. Without
    /// settings for the channel, the global account's alone.
    async fn chain(
        &self,
        tenant: &Tenant,
        channel: Channel,
        deadline: Deadline,
    ) -> Result<ResolvedChain, StoreError> {
        let settings = match tenant {
            Tenant::Clinic(_) => self.settings.get(tenant).await?,
            Tenant::Global => None,
        };
        let version = settings.as_ref().map(|own| own.version.number);
        let own = match &settings {
            Some(stored) => self.built(tenant, channel, stored, deadline).await,
            None => None,
        };
        let opted_out = settings
            .as_ref()
            .and_then(|stored| stored.settings.channel(channel))
            .is_some_and(|settings| !settings.use_global);
        let global = if opted_out {
            None
        } else {
            match self.settings.get(&Tenant::Global).await? {
                Some(stored) => {
                    self.built(&Tenant::Global, channel, &stored, deadline)
                        .await
                }
                None => None,
            }
        };
        let whole = match (&own, &global) {
            (Some(own), Some(global)) => Arc::new(own.chain.then_global(&global.chain)),
            (Some(own), None) => own.chain.clone(),
            (None, Some(global)) => Arc::new(global.chain.as_global()),
            (None, None) => Arc::new(Chain::empty()),
        };
        Ok(ResolvedChain {
            chain: whole,
            version,
            own,
            global,
        })
    }

    /// A tenant's own entries for a channel, with what other processes know of their health; `None`
    /// without settings for the channel.
    async fn built(
        &self,
        tenant: &Tenant,
        channel: Channel,
        stored: &StoredSettings,
        deadline: Deadline,
    ) -> Option<BuiltChain> {
        let settings = stored.settings.channel(channel)?;
        let version = stored.version.number;
        let chain = self
            .factory
            .own_chain(tenant, channel, version, || chain_spec(settings));
        self.health
            .hear(tenant, version, channel, &chain, deadline)
            .await;
        Some(BuiltChain { chain, version })
    }

    /// The chain from settings newer than those of `seen`, where there are such: the global account's
    /// where it was its login that was refused, else the tenant's.
    async fn newer_chain(
        &self,
        tenant: &Tenant,
        channel: Channel,
        seen: &ResolvedChain,
        global: bool,
        deadline: Deadline,
    ) -> Option<Arc<Chain>> {
        let (whose, version) = if global {
            (&Tenant::Global, seen.global.as_ref()?.version)
        } else {
            (tenant, seen.version?)
        };
        let newer = match self.settings.newer_than(whose, version).await {
            Ok(newer) => newer.filter(|newer| newer.version.number > version)?,
            Err(error) => {
                warn!(%error, "the settings could not be read again after a login was refused");
                return None;
            }
        };
        info!(
            version = newer.version.number,
            global, "a login was refused and the settings are newer"
        );
        // What was just read is remembered, and found there.
        self.chain(tenant, channel, deadline)
            .await
            .ok()
            .map(|resolved| resolved.chain)
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline(…)")
    }
}

/// What bounds the work on a delivery.
#[derive(Debug, Clone, Copy)]
struct Limits {
    expires_at: Option<Timestamp>,
    deadline: Deadline,
    patience: Patience,
}

/// A chain, and what it was put together from.
struct ResolvedChain {
    chain: Arc<Chain>,
    /// The version of the tenant's own settings, if it has any.
    version: Option<u64>,
    own: Option<BuiltChain>,
    global: Option<BuiltChain>,
}

/// One tenant's own entries, built from one version of its settings.
struct BuiltChain {
    chain: Arc<Chain>,
    version: u64,
}

impl ResolvedChain {
    /// Whose entries are in it, and from which version of their settings.
    fn parts<'a>(
        &'a self,
        tenant: &'a Tenant,
    ) -> impl Iterator<Item = (&'a Tenant, u64, &'a Chain)> {
        let own = self.own.iter().map(move |own| (tenant, own));
        let global = self.global.iter().map(|global| (&Tenant::Global, global));
        own.chain(global)
            .map(|(whose, built)| (whose, built.version, &*built.chain))
    }
}

fn unreachable(error: impl std::fmt::Display) -> HandBack {
    warn!(%error, "a delivery can not be worked on");
    HandBack::Unreachable
}
