//! The types of clinic-comms: ids, addresses, the communication request, deliveries, what a
//! provider's refusal means, and secrets. No I/O.
//!
//! Everything that comes from outside becomes one of these types at the border and is not checked
//! again behind it. None of the types that hold a secret, an address or a message's content can be
//! printed: their `Debug` shows a mask, and they have no `Display`.

pub mod account;
pub mod address;
pub mod attachment;
pub mod audit;
pub mod backoff;
pub mod base_url;
mod calendar;
pub mod channel;
pub mod clock;
mod country;
pub mod dead_letter;
pub mod delivery;
pub mod failure;
pub mod hash;
pub mod health;
pub mod host;
pub mod id;
pub mod json;
pub mod media_type;
pub mod metric;
pub mod near;
mod phone;
pub mod process_credentials;
pub mod provider;
pub mod public_address;
pub mod public_url;
mod recent;
pub mod request;
pub mod secret;
pub mod structured_field;
pub mod subject;
pub mod variables;
pub mod via;
mod visible;
pub mod waiting;

pub use address::{AddressMask, EmailAddress, Mailbox};
pub use base_url::BaseUrl;
pub use channel::Channel;
pub use clock::{Clock, SystemClock};
pub use country::Country;
pub use dead_letter::{DeadLetter, DeadLetterReason};
pub use delivery::{
    Attempt, AttemptOutcome, Delivery, DeliveryStatus, FailureReason, SkippedEntry,
};
pub use failure::{AfterRetries, Disposition, ErrorKind, ProviderCode, ProviderError};
pub use hash::HashKey;
pub use health::{HealthRecord, HealthState};
pub use host::Host;
pub use id::{ClinicId, DeliveryId, EntryId, IdempotencyKey, RequestId, Tenant};
pub use json::{Problem, Problems};
pub use phone::PhoneNumber;
pub use provider::{CopyField, Position, ProviderKind, Receipt, RefusedCopy};
pub use public_url::{PublicUrl, PublicUrlError};
pub use recent::Recent;
pub use request::CommunicationRequest;
pub use secret::Secret;
pub use subject::SubjectHash;
pub use via::{GlobalCause, SentVia};
pub use waiting::{WaitReason, Waited, Waiting};
