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

/// What a queue message claims about the acceptance of its communication.
#[derive(Debug, Clone, Copy)]
pub struct QueueClaim<'a> {
    /// [`ACCEPTED_AS`].
    pub id: &'a str,
    /// [`PAYLOAD_HASH`].
    pub payload_hash: &'a str,
    /// [`ACCEPTANCE_MAC`]; messages of earlier releases have none.
    pub mac: Option<&'a str>,
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

/// The MAC of a message with this body, as 32 hexadecimal characters.
pub(crate) fn mac(
    key: &HashKey,
    id: &str,
    payload_hash: &str,
    tenant: &Tenant,
    body: &[u8],
) -> comms_core::hash::Digest {
    let parts = [
        id.as_bytes(),
        payload_hash.as_bytes(),
        tenant.as_str().as_bytes(),
        body,
    ];
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
        let expected = mac(key, id.as_str(), self.payload_hash, tenant, body);
        if self.id == id.as_str() && expected.is_hex128(given) {
            Proof::Authentic
        } else {
            Proof::Wrong
        }
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
        let mac = mac(&key, id.as_str(), "hash", &tenant, b"body").hex128();
        let claim = QueueClaim {
            id: id.as_str(),
            payload_hash: "hash",
            mac: Some(&mac),
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
        let mac = None;
        assert_eq!(
            check(QueueClaim { mac, ..claim }, &id, &tenant, b"body"),
            Proof::Missing
        );
        let other_key = HashKey::from_bytes(&[2; 32]);
        assert_eq!(claim.check(&other_key, &id, &tenant, b"body"), Proof::Wrong);
    }
}
