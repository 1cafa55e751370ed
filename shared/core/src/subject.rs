//! Who did something: the subject of a caller's token, or a queue producer, as a keyed hash.

use std::fmt;

use crate::hash::HashKey;

/// The keyed hash of a subject. The ledger and the logs hold it in place of the subject itself: two entries
/// with the same hash are of the same caller, and only the holder of the key can tell who that is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectHash(String);

impl SubjectHash {
    /// The hash of `subject`; `None` for an empty one.
    pub fn of(key: &HashKey, subject: &str) -> Option<Self> {
        let digest = || key.digest("subject", &[subject.as_bytes()]);
        (!subject.is_empty()).then(|| Self(digest().hex128()))
    }

    /// The hash of the producer that SQS names in a message's `SenderId`. A role's id is followed by the name of the
    /// session, which differs from instance to instance and is left out.
    pub fn of_sender(key: &HashKey, sender_id: &str) -> Option<Self> {
        let principal = sender_id.split(':').next().unwrap_or_default();
        Self::of(key, principal)
    }

    /// The hash as text: 32 hexadecimal characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_hash_and_nobody_has_none() {
        let key = HashKey::from_bytes(&[1; 32]);
        let of = |subject| SubjectHash::of(&key, subject);
        assert_eq!(of("user-1"), of("user-1"));
        assert_ne!(of("user-1"), of("user-2"));
        assert_eq!(of(""), None);
        assert!(!of("user-1").unwrap().as_str().contains("user"));
    }

    #[test]
    fn the_sessions_of_a_role_have_one_hash() {
        let key = HashKey::from_bytes(&[1; 32]);
        let of = |sender| SubjectHash::of_sender(&key, sender);
        assert_eq!(of("AROAEXAMPLE:one"), of("AROAEXAMPLE:two"));
        assert_eq!(of("AROAEXAMPLE"), SubjectHash::of(&key, "AROAEXAMPLE"));
        assert_ne!(of("AROAEXAMPLE:one"), of("AROAOTHER:one"));
    }
}
