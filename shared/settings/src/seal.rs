//! What makes a stored version authentic as a whole.
//!
//! A [`Content`] is everything of a version that means something, in one canonical text. Settings have a seal over it
//! under the version's own data key (an AES-256-GCM tag of no plaintext), and each sealed entry names the content's
//! hash in its own authenticated data. A deletion has nothing to open and so no data key; its seal is a MAC by the
//! deployment's hash key, so that readers of a deleted tenant ask KMS for nothing.
//!
//! The present item and the version's own item hold the same content and the same seal. `expiresAt` is not part of it:
//! a purge moves that.

use aws_lc_rs::digest;
use comms_core::{HashKey, Tenant};

use crate::version::{Change, Version};

/// The first part of every content: what it is, and its format.
const LABEL: &[u8] = b"clinic-comms settings 2";
/// What the MAC of a deletion is for.
const DELETION: &str = "settings-deletion";

/// SHA-256 of a [`Content`].
pub type ContentHash = [u8; digest::SHA256_OUTPUT_LEN];

/// Everything of a version that means something, each part after its length (8 bytes, big-endian).
pub(crate) struct Content(Vec<u8>);

impl Content {
    /// The content of a version: its audit fields, its document, and the names of its sealed entries.
    pub(crate) fn new<'n>(
        tenant: &Tenant,
        version: &Version,
        document: &str,
        entries: impl IntoIterator<Item = &'n String>,
    ) -> Self {
        let mut content = Self(Vec::with_capacity(1_024 + document.len()));
        content.add(LABEL);
        content.add(tenant.as_str().as_bytes());
        content.add(&version.number.to_be_bytes());
        content.add(version.saved_at.to_string().as_bytes());
        content.add(version.saved_by.as_bytes());
        content.list(version.source_address.iter());
        content.add(version.change.as_str().as_bytes());
        match version.change {
            Change::Saved | Change::Deleted => {}
            Change::Restored { from } => content.add(&from.to_be_bytes()),
            Change::Purged { at } => content.add(&at.as_second().to_be_bytes()),
        }
        content.list(version.changed.iter());
        content.add(document.as_bytes());
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort();
        content.list(entries.into_iter());
        content
    }

    fn list<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t String>) {
        self.add(&(texts.len() as u64).to_be_bytes());
        for text in texts {
            self.add(text.as_bytes());
        }
    }

    fn add(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn hash(&self) -> ContentHash {
        let mut hash = ContentHash::default();
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        hash
    }

    /// The seal of a deletion.
    pub(crate) fn deletion_seal(&self, key: &HashKey) -> Vec<u8> {
        key.digest(DELETION, &[&self.0]).hex128().into_bytes()
    }

    /// Whether `seal` is the seal of this deletion.
    pub(crate) fn is_deletion_seal(&self, key: &HashKey, seal: &[u8]) -> bool {
        std::str::from_utf8(seal).is_ok_and(|seal| key.digest(DELETION, &[&self.0]).is_hex128(seal))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn version() -> Version {
        Version {
            number: 7,
            saved_at: Timestamp::from_second(1_700_000_000).unwrap(),
            saved_by: "admin".into(),
            source_address: Some("192.0.2.1".into()),
            change: Change::Restored { from: 3 },
            changed: vec!["/email".into(), "/whatsapp".into()],
        }
    }

    fn hash(tenant: &str, version: &Version, document: &str, entries: &[&str]) -> ContentHash {
        let tenant = Tenant::parse(tenant).unwrap();
        let entries: Vec<_> = entries.iter().map(|name| (*name).to_owned()).collect();
        Content::new(&tenant, version, document, &entries).hash()
    }

    #[test]
    fn every_field_of_a_version_changes_its_content() {
        let with = |change: &dyn Fn(&mut Version)| {
            let mut version = version();
            change(&mut version);
            hash("clinic-1", &version, "{}", &["email/primary"])
        };
        let hashes = [
            with(&|_| {}),
            with(&|version| version.number = 8),
            with(&|version| version.saved_at = Timestamp::UNIX_EPOCH),
            with(&|version| version.saved_by = "another".into()),
            with(&|version| version.source_address = None),
            with(&|version| version.change = Change::Saved),
            with(&|version| version.change = Change::Restored { from: 4 }),
            with(&|version| version.change = Change::Deleted),
            with(&|version| {
                version.change = Change::Purged {
                    at: Timestamp::UNIX_EPOCH,
                }
            }),
            with(&|version| version.changed = vec!["/email".into()]),
            with(&|version| version.changed = vec!["/email/whatsapp".into()]),
            hash("clinic-2", &version(), "{}", &["email/primary"]),
            hash("clinic-1", &version(), "{ }", &["email/primary"]),
            hash("clinic-1", &version(), "{}", &["whatsapp/primary"]),
            hash("clinic-1", &version(), "{}", &[]),
        ];
        for (n, one) in hashes.iter().enumerate() {
            assert!(!hashes[..n].contains(one), "{n}");
        }
    }

    #[test]
    fn the_order_of_entries_does_not_matter() {
        let both = ["email/primary", "email/second"];
        let reversed = ["email/second", "email/primary"];
        assert_eq!(
            hash("clinic-1", &version(), "{}", &both),
            hash("clinic-1", &version(), "{}", &reversed)
        );
    }

    #[test]
    fn a_deletion_opens_with_its_own_key_and_content() {
        let (one, two) = (HashKey::from_bytes(&[1; 32]), HashKey::from_bytes(&[2; 32]));
        let tenant = Tenant::parse("clinic-1").unwrap();
        let content = Content::new(&tenant, &version(), "{}", &[]);
        let seal = content.deletion_seal(&one);
        assert!(content.is_deletion_seal(&one, &seal));
        assert!(!content.is_deletion_seal(&two, &seal));
        assert!(!content.is_deletion_seal(&one, &seal[1..]));
        let other = Content::new(&tenant, &version(), r#"{"a":1}"#, &[]);
        assert!(!other.is_deletion_seal(&one, &seal));
    }
}
