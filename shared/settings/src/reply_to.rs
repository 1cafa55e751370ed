//! Addresses that a clinic may name for replies when the platform's account sends for it: those that somebody who
//! reads their mail has confirmed by a signed link.
//!
//! The link's token names the tenant, the keyed hash of the address and the time until which it is good. Neither the
//! token nor the stored confirmation has the address in it. Both have a MAC under the deployment's hash key, so that
//! who can write to the table, or make up links, confirms nothing.

use std::collections::HashMap;

use comms_aws::{TableError, item::text};
use comms_core::{EmailAddress, HashKey, Tenant, hash::Digest};
use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};

use crate::{
    item::{Item, attribute},
    store::{SettingsStore, StoreError},
};

/// How long a link is good.
pub const LINK_LIFETIME: SignedDuration = SignedDuration::from_hours(48);
/// Characters that a token may have.
pub const MAX_TOKEN: usize = 256;

const SK_PREFIX: &str = "reply-to#";
const VERIFIED_AT: &str = "verifiedAt";
const MAC: &str = "mac";
const SEPARATOR: char = '.';

/// A tenant's address, known by its keyed hash only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplyToAddress {
    tenant: Tenant,
    hash: String,
}

impl ReplyToAddress {
    /// The address of a tenant. Addresses that differ in case only are one.
    pub fn new(key: &HashKey, tenant: &Tenant, address: &EmailAddress) -> Self {
        let folded = address.as_str().to_lowercase();
        let parts = [tenant.as_str().as_bytes(), folded.as_bytes()];
        Self {
            tenant: tenant.clone(),
            hash: key.digest("reply-to-address", &parts).hex128(),
        }
    }

    /// Whose address it is.
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The token of a link that is good until [`LINK_LIFETIME`] from now.
    pub fn token(&self, key: &HashKey, now: Timestamp) -> String {
        let until = now
            .saturating_add(LINK_LIFETIME)
            .unwrap_or(now)
            .as_second()
            .to_string();
        let mac = self.link_mac(key, &until).hex128();
        [self.tenant.as_str(), &self.hash, &until, &mac].join(&SEPARATOR.to_string())
    }

    /// The address of a token; `None` for one that is wrong, forged or too old.
    pub fn of_token(key: &HashKey, token: &str, now: Timestamp) -> Option<Self> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let parts: Vec<_> = token.split(SEPARATOR).collect();
        let [tenant, hash, until, mac] = parts.as_slice() else {
            return None;
        };
        let address = Self {
            tenant: Tenant::parse(tenant).ok()?,
            hash: (*hash).to_owned(),
        };
        let is_genuine = address.link_mac(key, until).is_hex128(mac);
        let is_good = until
            .parse::<i64>()
            .is_ok_and(|until| now.as_second() < until);
        (is_genuine && is_good).then_some(address)
    }

    fn link_mac(&self, key: &HashKey, until: &str) -> Digest {
        key.digest(
            "reply-to-link",
            &[
                self.tenant.as_str().as_bytes(),
                self.hash.as_bytes(),
                until.as_bytes(),
            ],
        )
    }

    fn item_mac(&self, key: &HashKey, verified_at: &str) -> Digest {
        let parts = [
            self.tenant.as_str().as_bytes(),
            self.hash.as_bytes(),
            verified_at.as_bytes(),
        ];
        key.digest("reply-to-verified", &parts)
    }

    fn sort_key(&self) -> String {
        format!("{SK_PREFIX}{}", self.hash)
    }

    fn to_item(&self, key: &HashKey, now: Timestamp) -> Item {
        let verified_at = now.to_string();
        HashMap::from([
            text(attribute::PK, self.tenant.as_str()),
            text(attribute::SK, &self.sort_key()),
            text(MAC, &self.item_mac(key, &verified_at).hex128()),
            text(VERIFIED_AT, &verified_at),
        ])
    }

    fn is_confirmed_by(&self, key: &HashKey, item: &Item) -> bool {
        let field = |name| item.get(name).and_then(|value| value.as_s().ok());
        let (Some(verified_at), Some(mac)) = (field(VERIFIED_AT), field(MAC)) else {
            return false;
        };
        self.item_mac(key, verified_at).is_hex128(mac)
    }
}

impl SettingsStore {
    /// Records that an address was confirmed. One write.
    pub async fn confirm_reply_to(
        &self,
        key: &HashKey,
        address: &ReplyToAddress,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let put = self
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(address.to_item(key, now)))
            .send()
            .boxed()
            .await;
        put.map_err(|error| TableError::new("PutItem", &error))?;
        Ok(())
    }

    /// Whether an address was confirmed. One read.
    pub async fn is_reply_to_confirmed(
        &self,
        key: &HashKey,
        address: &ReplyToAddress,
    ) -> Result<bool, StoreError> {
        let item = self.item(&address.tenant, &address.sort_key()).await?;
        Ok(item.is_some_and(|item| address.is_confirmed_by(key, &item)))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;

    fn key(byte: u8) -> HashKey {
        HashKey::from_bytes(&[byte; HashKey::LENGTH])
    }

    fn address(tenant: &str, address: &str) -> ReplyToAddress {
        let tenant = Tenant::parse(tenant).unwrap();
        ReplyToAddress::new(&key(1), &tenant, &EmailAddress::parse(address).unwrap())
    }

    const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

    #[test]
    fn a_token_is_good_for_its_time_and_has_no_address_in_it() {
        let desk = address("clinic-1", "desk@clinic.example");
        assert_eq!(desk, address("clinic-1", "Desk@Clinic.example"));
        let token = desk.token(&key(1), NOW);
        assert!(!token.contains("desk") && !token.contains('@'), "{token}");
        assert!(token.len() <= MAX_TOKEN);
        let read = |now| ReplyToAddress::of_token(&key(1), &token, now);
        assert_eq!(read(NOW), Some(desk.clone()));
        assert_eq!(read(NOW + SignedDuration::from_hours(47)), Some(desk));
        assert_eq!(read(NOW + LINK_LIFETIME), None);
    }

    #[test]
    fn no_other_token_is_taken() {
        let token = address("clinic-1", "desk@clinic.example").token(&key(1), NOW);
        let other = address("clinic-2", "desk@clinic.example").token(&key(1), NOW);
        let parts: Vec<_> = token.split('.').collect();
        let others: Vec<_> = other.split('.').collect();
        let mut forged = vec![
            String::new(),
            "....".to_owned(),
            format!("{token}.x"),
            "x".repeat(10_000),
        ];
        for part in 0..parts.len() {
            let mut mixed = parts.clone();
            mixed[part] = if part == 2 {
                "9999999999"
            } else {
                others[part]
            };
            forged.push(mixed.join("."));
        }
        for token in forged {
            assert_eq!(
                ReplyToAddress::of_token(&key(1), &token, NOW),
                None,
                "{token}"
            );
        }
        assert_eq!(ReplyToAddress::of_token(&key(2), &token, NOW), None);
    }

    #[test]
    fn a_confirmation_that_somebody_else_wrote_counts_for_nothing() {
        let desk = address("clinic-1", "desk@clinic.example");
        let item = desk.to_item(&key(1), NOW);
        assert!(desk.is_confirmed_by(&key(1), &item));
        assert!(!format!("{item:?}").contains("desk"), "{item:?}");
        assert!(!desk.is_confirmed_by(&key(2), &item));
        assert!(!address("clinic-1", "other@clinic.example").is_confirmed_by(&key(1), &item));
        assert!(!address("clinic-2", "desk@clinic.example").is_confirmed_by(&key(1), &item));
        for name in [VERIFIED_AT, MAC] {
            let mut changed = item.clone();
            changed.insert(
                name.to_owned(),
                AttributeValue::S("2026-01-02T00:00:00Z".to_owned()),
            );
            assert!(!desk.is_confirmed_by(&key(1), &changed));
            changed.remove(name);
            assert!(!desk.is_confirmed_by(&key(1), &changed));
        }
    }
}
