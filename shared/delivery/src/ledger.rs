//! The ledger: the state and outcome of every delivery, and which worker owns it.
//!
//! `queued -> sending -> sent | failed | unknown | expired`. Every transition is one conditional
//! write that names the owner; a former owner cannot write. A delivery that is deferred
//! goes back to `queued`, with the time before which nobody may claim it. Items hold a masked address
//! and a keyed hash of it, never content.
//!
//! A request's items share the partition `pk` = request id: `sk` = `request` is the acceptance, one
//! `delivery#…` item per delivery. An accepted request costs one write, a delivery two: the claim and
//! the outcome. Both are tried until they are known to have happened, or the invocation ends ([`writes`]).

mod accept;
mod attributes;
mod claim;
mod details;
mod finish;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod items;
mod late;
mod read;
pub mod records;
mod starts;
#[cfg(test)]
mod stored;
mod trace;
mod writes;

use std::{fmt, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use comms_adapters::Deadline;
use comms_aws::{TableError, clients};
use comms_core::{
    Attempt, Delivery, DeliveryStatus, EntryId, FailureReason, ProviderKind, RequestId, SentVia,
    SkippedEntry, SubjectHash, Tenant, Waited, Waiting,
};
use jiff::Timestamp;
use thiserror::Error;

pub use details::RequestDetails;
pub use starts::MessageStart;
pub use trace::{DeliveryMarks, RequestTrace};

/// How long the ledger remembers: DynamoDB's time to live removes items after it.
pub const RETENTION: Duration = Duration::from_hours(720);
/// How long nobody takes a delivery over after its lease: its owner may have put the outcome on the queue at its deadline,
/// or may keep it, and that is recorded first.
pub(crate) const OUTCOME_GRACE: Duration = Duration::from_secs(30);

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The table did not answer, or an item in it is corrupt.
    #[error(transparent)]
    Table(#[from] TableError),
    /// DynamoDB did not say whether the write had its effect; the last error of its tries.
    #[error("it is not known whether a write had its effect: {0}")]
    Uncertain(TableError),
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

    /// Reads what [`Via::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Api, Self::Queue]
            .into_iter()
            .find(|via| via.as_str() == text)
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

impl Outcome {
    /// An outcome of which nothing but the state is known.
    pub const fn new(status: DeliveryStatus) -> Self {
        Self {
            status,
            receipt: None,
            reason: None,
            possible_duplicate: false,
            attempts: Vec::new(),
            not_before: None,
            waiting: None,
            waited: None,
            via: None,
            skipped: None,
            is_untouched: false,
        }
    }
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
        Self {
            client: clients::dynamodb(config, "ledger"),
            writer: clients::dynamodb_without_retries(config),
            table: table.into(),
            until: None,
            next: None,
        }
    }

    /// Sets the attempt that claims write ahead.
    #[must_use]
    pub fn before(self, next: Option<NextAttempt>) -> Self {
        Self { next, ..self }
    }

    /// Sets the deadline until which claims and outcomes are retried.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Self {
        Self {
            until: Some(deadline),
            ..self.clone()
        }
    }
}
