//! What a queue message claims about its acceptance, and how the claim is proved.
//!
//! `send` puts the id and the payload hash of an accepted request on each of its messages, so that the worker
//! neither reads nor writes the acceptance again. Whoever may send to the queue may copy both, so a MAC binds them to
//! the message's body. The deployment's [`HashKey`] is the MAC's key; producers do not have it.

use comms_core::{HashKey, RequestId, Tenant};

/// The message attribute with the id of the accepted request.
pub const ACCEPTED_AS: &str = "acceptedAs";

/// The message attribute with the payload hash of the whole request, of which the message may be a part.
pub const PAYLOAD_HASH: &str = "payloadHash";

/// The message attribute with the MAC over the other two, the tenant and the body.
pub const ACCEPTANCE_MAC: &str = "acceptanceMac";

/// The message attribute that names deliveries of the message which came to an end, and whose outcome another message carries:
/// nobody sends them. Only messages have it with what an immediate request left to be sent; the MAC is over it as well.
pub const ENDED_DELIVERIES: &str = "endedDeliveries";

/// Deliveries of a queue message that have ended, by their place among those of the message: hexadecimal, the first of them
/// in the lowest bit. A message has 50 at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndedDeliveries(u64);

impl EndedDeliveries {
    /// The deliveries at these places, from 0. One beyond the 63rd is not among them.
    pub fn at(places: impl IntoIterator<Item = usize>) -> Self {
        let bits = places.into_iter().filter_map(|place| {
            let place = u32::try_from(place).ok()?;
            1_u64.checked_shl(place)
        });
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// Reads [`ENDED_DELIVERIES`].
    fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    /// Whether the delivery at this place is among them.
    pub(crate) fn has(self, place: usize) -> bool {
        let Self(all) = Self::at([place]);
        self.0 & all != 0
    }

    /// [`ENDED_DELIVERIES`]; `None` where there are none.
    pub fn attribute(self) -> Option<String> {
        let Self(bits) = self;
        (bits != 0).then(|| format!("{bits:x}"))
    }
}

/// What a queue message claims about the acceptance of its communication.
#[derive(Debug, Clone, Copy)]
pub struct QueueClaim<'a> {
    /// [`ACCEPTED_AS`].
    pub id: &'a str,
    /// [`PAYLOAD_HASH`].
    pub payload_hash: &'a str,
    /// [`ACCEPTANCE_MAC`]; messages of earlier releases have none.
    pub mac: Option<&'a str>,
    /// [`ENDED_DELIVERIES`].
    pub ended: Option<&'a str>,
}

/// What a claim is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// `send` made it for this body.
    Authentic,
    /// There is no MAC.
    Missing,
    /// There is another MAC.
    Wrong,
}

impl Proof {
    /// The name in logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Authentic => "authentic",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }
}

/// The MAC of a message with this body and these deliveries that have ended, as 32 hexadecimal characters.
pub(crate) fn mac(
    key: &HashKey,
    id: &str,
    payload_hash: &str,
    tenant: &Tenant,
    body: &[u8],
    ended: Option<&str>,
) -> comms_core::hash::Digest {
    let mut parts = vec![
        id.as_bytes(),
        payload_hash.as_bytes(),
        tenant.as_str().as_bytes(),
        body,
    ];
    parts.extend(ended.map(str::as_bytes));
    key.digest("queue-message", &parts)
}

impl QueueClaim<'_> {
    /// Checks the claim against the id that the body's key has, and the body.
    pub(crate) fn check(
        &self,
        key: &HashKey,
        id: &RequestId,
        tenant: &Tenant,
        body: &[u8],
    ) -> Proof {
        let Some(given) = self.mac else {
            return Proof::Missing;
        };
        let expected = mac(
            key,
            id.as_str(),
            self.payload_hash,
            tenant,
            body,
            self.ended,
        );
        if self.id == id.as_str() && expected.is_hex128(given) {
            Proof::Authentic
        } else {
            Proof::Wrong
        }
    }

    /// The deliveries of an authentic message that have ended.
    pub(crate) fn ended(&self) -> EndedDeliveries {
        let ended = self.ended.and_then(EndedDeliveries::parse);
        ended.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use comms_core::IdempotencyKey;

    use super::*;

    #[test]
    fn a_claim_holds_for_its_own_body_request_and_tenant_alone() {
        let key = HashKey::from_bytes(&[1; 32]);
        let tenant = Tenant::parse("clinic-123").unwrap();
        let id_of = |text| RequestId::derive(&key, &tenant, &IdempotencyKey::parse(text).unwrap());
        let (id, other_id) = (id_of("one"), id_of("two"));
        let mac = mac(&key, id.as_str(), "hash", &tenant, b"body", None).hex128();
        let claim = QueueClaim {
            id: id.as_str(),
            payload_hash: "hash",
            mac: Some(&mac),
            ended: None,
        };
        let check = |claim: QueueClaim<'_>, id, tenant, body| claim.check(&key, id, tenant, body);
        assert_eq!(check(claim, &id, &tenant, b"body"), Proof::Authentic);

        assert_eq!(check(claim, &id, &tenant, b"other"), Proof::Wrong);
        assert_eq!(check(claim, &id, &Tenant::Global, b"body"), Proof::Wrong);
        assert_eq!(check(claim, &other_id, &tenant, b"body"), Proof::Wrong);
        let payload_hash = "other";
        let other_hash = QueueClaim {
            payload_hash,
            ..claim
        };
        assert_eq!(check(other_hash, &id, &tenant, b"body"), Proof::Wrong);
        let ended = Some("1");
        let with_ended = QueueClaim { ended, ..claim };
        assert_eq!(check(with_ended, &id, &tenant, b"body"), Proof::Wrong);
        let mac = None;
        assert_eq!(
            check(QueueClaim { mac, ..claim }, &id, &tenant, b"body"),
            Proof::Missing
        );
        let other_key = HashKey::from_bytes(&[2; 32]);
        assert_eq!(claim.check(&other_key, &id, &tenant, b"body"), Proof::Wrong);
    }

    #[test]
    fn ended_deliveries_read_back_from_the_attribute() {
        let ended = EndedDeliveries::at([0, 9, 49, 64]);
        let text = ended.attribute().unwrap();
        assert_eq!(text, "2000000000201");
        assert_eq!(EndedDeliveries::parse(&text), Some(ended));
        let places: Vec<_> = (0..70).filter(|place| ended.has(*place)).collect();
        assert_eq!(places, [0, 9, 49]);
        assert_eq!(EndedDeliveries::default().attribute(), None);
    }
}
