//! Tests of data keys, and of what KMS's refusals mean.

use jiff::Timestamp;

use super::*;
use crate::version::{Change, Version};

/// What is stored opens only with these words, and key policies may name them.
#[test]
fn the_purposes_in_the_encryption_context_do_not_change() {
    assert_eq!(Purpose::Settings.as_str(), "settings");
    assert_eq!(Purpose::HashKey.as_str(), "hash-key");
}

#[test]
fn a_data_key_has_exactly_256_bits_and_they_are_its_own() {
    let plaintext: Vec<u8> = (1..=32).collect();
    let key = DataKey::new(Blob::new(plaintext.clone())).unwrap();
    assert_eq!(key.bytes().as_slice(), plaintext);
    for length in [0, 16, 31, 33, 64] {
        let refused = DataKey::new(Blob::new(vec![1; length])).err();
        assert_eq!(refused, Some(EnvelopeError::Sealing), "{length} bytes");
    }
}

/// A key that belongs elsewhere is tampering, which no retry mends; anything else may be over in a moment.
#[test]
fn only_a_key_that_belongs_elsewhere_is_a_wrong_one() {
    for (code, is_wrong) in [
        ("InvalidCiphertextException", true),
        ("IncorrectKeyException", true),
        ("AccessDeniedException", false),
        ("ThrottlingException", false),
        ("KMSInvalidStateException", false),
        ("TimeoutError", false),
    ] {
        let code = code.to_owned();
        let expected = if is_wrong {
            EnvelopeError::WrongDataKey { code: code.clone() }
        } else {
            let operation = "Decrypt";
            EnvelopeError::Kms {
                operation,
                code: code.clone(),
            }
        };
        assert_eq!(not_opened("Decrypt", code), expected);
    }
}

#[test]
fn a_contents_seal_is_of_that_content_and_key_alone() {
    let key = |byte: u8| DataKey::new(Blob::new(vec![byte; 32])).unwrap();
    let version = Version {
        number: 7,
        saved_at: Timestamp::UNIX_EPOCH,
        saved_by: "admin".to_owned(),
        source_address: None,
        change: Change::Saved,
        changed: Vec::new(),
    };
    let tenant = Tenant::parse("clinic-a").unwrap();
    let content = |document: &str| Content::new(&tenant, &version, document, []);
    let seal = key(1).seal_content(&content("one")).unwrap();
    assert!(key(1).is_content_seal(&content("one"), &seal));
    assert!(!key(1).is_content_seal(&content("two"), &seal));
    assert!(!key(2).is_content_seal(&content("one"), &seal));
    // A sealed entry with the same authenticated data is no seal, because it has something in it.
    let one = content("one");
    let sealed = |format, text: &[u8]| key(1).seal_for(format, one.as_bytes(), text).unwrap();
    let entry = sealed(FORMAT_CONTENT, b"secret");
    assert!(!key(1).is_content_seal(&content("one"), &entry));
    let other_format = sealed(FORMAT_ENTRY, b"");
    assert!(!key(1).is_content_seal(&content("one"), &other_format));
}

/// Settings that were saved once have to open in every later release.
#[test]
fn a_sealed_entry_says_its_stored_format_in_the_first_byte() {
    let (tenant, entry) = (Tenant::parse("clinic-a").unwrap(), EntryId::primary());
    let key = DataKey::new(Blob::new(vec![1; 32])).unwrap();
    for (content, format) in [(None, 1), (Some(&[7; 32]), 2)] {
        let place = EntryContext {
            tenant: &tenant,
            channel: Channel::Email,
            entry: &entry,
            provider: ProviderKind::new("smtp"),
            version: 1,
            content,
        };
        let sealed = key.seal(&place, b"secret").unwrap();
        assert_eq!(sealed.first(), Some(&format));
    }
}
