//! Identifiers. Each is parsed once, at the border, and is safe to print: none of them is made from
//! a patient's data without a keyed hash.

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::hash::{Digest, HashKey};

/// Characters of a clinic's id.
pub const MAX_CLINIC_ID: usize = 64;
/// Characters of an idempotency key.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Characters of the id of a provider entry.
pub const MAX_ENTRY_ID: usize = 32;

/// Why a text is not the identifier that it should be. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not a clinic id.
    #[error(
        "must be 1 to {} characters: letters, digits, '-' and '_', starting with a letter or \
         digit",
        MAX_CLINIC_ID
    )]
    Clinic,
    /// Not a request id.
    #[error("must be 32 lower-case hexadecimal characters")]
    Request,
    /// Not a delivery id.
    #[error("must be 32 lower-case hexadecimal characters")]
    Delivery,
    /// Not an idempotency key.
    #[error(
        "must be 1 to {} visible ASCII characters without spaces",
        MAX_IDEMPOTENCY_KEY
    )]
    IdempotencyKey,
    /// Not the id of a provider entry.
    #[error(
        "must be 1 to {} characters: lower-case letters, digits and '-'",
        MAX_ENTRY_ID
    )]
    Entry,
}

/// The id of a clinic: 1 to 64 of `A-Z a-z 0-9 - _`, starting with a letter or a digit, so that
/// `_global` can never be one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClinicId(String);

impl ClinicId {
    /// Reads a clinic id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let mut bytes = text.bytes();
        let well_formed = text.len() <= MAX_CLINIC_ID
            && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Clinic)
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose settings, chain and quota: a clinic's, or the platform's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tenant {
    /// One clinic.
    Clinic(ClinicId),
    /// The platform's global account.
    Global,
}

impl Tenant {
    /// How the API and the tables address the global settings.
    pub const GLOBAL: &'static str = "_global";

    /// Reads a clinic id or `_global`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text == Self::GLOBAL {
            Ok(Self::Global)
        } else {
            ClinicId::parse(text).map(Self::Clinic)
        }
    }

    /// The clinic's id, or `_global`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Clinic(clinic) => clinic.as_str(),
            Self::Global => Self::GLOBAL,
        }
    }

    /// The clinic, where this is one.
    pub fn clinic(&self) -> Option<&ClinicId> {
        match self {
            Self::Clinic(clinic) => Some(clinic),
            Self::Global => None,
        }
    }
}

/// The caller's name for one communication: 1 to 255 visible ASCII characters. The same key from
/// the same clinic is the same communication, over whichever way it comes in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads an idempotency key.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let well_formed = (1..=MAX_IDEMPOTENCY_KEY).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::IdempotencyKey)
        }
    }

    /// A unique key, for a request without one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// A caller may build keys from what should not be in a log (a patient's address and a date, say).
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(…)")
    }
}

/// One communication as accepted: a keyed hash of the tenant and the idempotency key, so that a
/// repeated post finds the first one without a lookup by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// Characters of an id.
    pub const LENGTH: usize = Digest::HEX128_LENGTH;

    /// The id of the communication that `tenant` names `key`.
    pub fn derive(hash: &HashKey, tenant: &Tenant, key: &IdempotencyKey) -> Self {
        let digest = hash.digest(
            "request-id",
            &[tenant.as_str().as_bytes(), key.as_str().as_bytes()],
        );
        Self(digest.hex128())
    }

    /// Reads a request id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        is_hex128(text)
            .then(|| Self(text.to_owned()))
            .ok_or(IdError::Request)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One recipient on one channel of a request: a keyed hash of the request, the recipient's address and the channel. Without
/// the key it reveals nothing about the address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// The id of the delivery of `request` to `address` over `channel`. For a recipient without an address on that channel,
    /// `address` is another identifier of the recipient.
    pub fn derive(hash: &HashKey, request: &RequestId, channel: &str, address: &str) -> Self {
        let digest = hash.digest(
            "delivery-id",
            &[
                request.as_str().as_bytes(),
                channel.as_bytes(),
                address.as_bytes(),
            ],
        );
        Self(digest.hex128())
    }

    /// An id of a delivery that is in no ledger: a test message.
    pub fn of_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid.simple().to_string())
    }

    /// Reads a delivery id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        is_hex128(text)
            .then(|| Self(text.to_owned()))
            .ok_or(IdError::Delivery)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a provider entry inside one channel of one tenant's settings: `primary`, `fallback-1`,
/// or what the clinic calls it. It stays with the entry when the order changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(String);

impl EntryId {
    /// Reads an entry id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let well_formed = (1..=MAX_ENTRY_ID).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Entry)
        }
    }

    /// The id of a primary entry that was given none.
    pub fn primary() -> Self {
        Self("primary".to_owned())
    }

    /// The id of the `number`th fallback entry (from 1) that was given none.
    pub fn fallback(number: usize) -> Self {
        Self(format!("fallback-{number}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_id {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )*};
}
text_id!(ClinicId, Tenant, RequestId, DeliveryId, EntryId);

// No `Display`: the key may contain personal data. `Serialize` writes it to the queue.
impl Serialize for IdempotencyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn is_hex128(text: &str) -> bool {
    text.len() == Digest::HEX128_LENGTH
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> HashKey {
        HashKey::from_bytes(&[7; 32])
    }

    #[test]
    fn the_global_tenant_cannot_be_a_clinic() {
        assert_eq!(ClinicId::parse("_global"), Err(IdError::Clinic));
        assert_eq!(Tenant::parse("_global"), Ok(Tenant::Global));
    }

    #[test]
    fn clinic_ids_that_could_confuse_a_key_or_a_path_are_refused() {
        for text in [
            "",
            " ",
            "a b",
            "a#b",
            "a/b",
            "ä",
            "-a",
            "_a",
            "a\n",
            &"a".repeat(65),
        ] {
            assert_eq!(ClinicId::parse(text), Err(IdError::Clinic), "{text:?}");
        }
        for text in ["a", "clinic-123", "9_z", &"a".repeat(64)] {
            assert!(ClinicId::parse(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn an_idempotency_key_does_not_print() {
        let key = IdempotencyKey::parse("patient@example.com-2026-12-01").unwrap();
        assert!(!format!("{key:?}").contains("patient"));
    }

    #[test]
    fn the_same_key_of_two_clinics_is_two_requests() {
        let name = IdempotencyKey::parse("k").unwrap();
        let a = RequestId::derive(&key(), &Tenant::parse("a").unwrap(), &name);
        let b = RequestId::derive(&key(), &Tenant::parse("b").unwrap(), &name);
        assert_ne!(a, b);
        assert_eq!(RequestId::parse(a.as_str()), Ok(a));
    }

    proptest! {
        #[test]
        fn request_ids_do_not_depend_on_where_tenant_ends_and_key_begins(
            tenant in "[a-z]{2,8}", key_text in "[a-z]{1,8}"
        ) {
            let (head, tail) = tenant.split_at(1);
            let whole = RequestId::derive(
                &key(), &Tenant::parse(&tenant).unwrap(), &IdempotencyKey::parse(&key_text).unwrap());
            let moved = RequestId::derive(
                &key(), &Tenant::parse(head).unwrap(),
                &IdempotencyKey::parse(&format!("{tail}{key_text}")).unwrap());
            prop_assert_ne!(whole, moved);
        }

        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in ".*") {
            if let Ok(id) = ClinicId::parse(&text) { prop_assert_eq!(id.as_str(), text.as_str()); }
            if let Ok(id) = IdempotencyKey::parse(&text) { prop_assert_eq!(id.as_str(), text.as_str()); }
            if let Ok(id) = EntryId::parse(&text) { prop_assert_eq!(id.as_str(), text.as_str()); }
            if let Ok(id) = RequestId::parse(&text) { prop_assert_eq!(id.as_str(), text.as_str()); }
        }
    }
}
