//! Envelope encryption of provider credentials: KMS gives a data key per save, AES-256-GCM (aws-lc-rs)
//! seals each provider entry under it.
//!
//! What is sealed is bound to where it belongs. The data key opens only with the encryption context
//! of its tenant, which KMS enforces; an entry opens only with the additional authenticated data of
//! its format, tenant, channel, entry id, provider, version and the hash of that version's content, which GCM enforces.
//! Nothing moved to another clinic, channel, entry, version or document opens. The content itself has a seal under
//! the same data key ([`crate::seal`]).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_sdk_kms::{Client, primitives::Blob, types::DataKeySpec};
use comms_aws::error_code;
use comms_core::{Channel, EntryId, ProviderKind, Tenant, metric::METRICS};
use futures_util::FutureExt as _;
use thiserror::Error;
use tracing::info;
use zeroize::Zeroizing;

use crate::seal::{Content, ContentHash};

/// The format of entries that name no content; part of what is authenticated.
const FORMAT_ENTRY: u8 = 1;
/// The format of entries that belong to a content, and of the content's own seal.
const FORMAT_CONTENT: u8 = 2;

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// KMS did not answer, or refused for now. Worth another try.
    #[error("KMS {operation} failed ({code})")]
    Kms {
        /// The operation.
        operation: &'static str,
        /// KMS's error code, or what kept the request from being answered.
        code: String,
    },
    /// KMS says that the data key does not belong here: another clinic's, or tampered with.
    #[error("KMS does not open the stored data key for this tenant ({code})")]
    WrongDataKey {
        /// KMS's error code.
        code: String,
    },
    /// A sealed entry is not what was sealed for this place.
    #[error("a sealed entry does not belong to this place, or was tampered with")]
    WrongEntry,
    /// The cipher or random generator does not work.
    #[error("the entry could not be sealed")]
    Sealing,
}

/// What a data key is for; part of the KMS encryption context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Sealing a tenant's provider credentials.
    Settings,
    /// The key of the deployment's keyed hashes.
    HashKey,
}

impl Purpose {
    /// The value in the KMS encryption context, which key policies may name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::HashKey => "hash-key",
        }
    }
}

/// A data key as it is stored: encrypted by KMS, with the key that did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDataKey {
    /// What KMS returned as `CiphertextBlob`.
    pub ciphertext: Vec<u8>,
    /// The ARN of the KMS key. Decrypt names it, so that no other key's ciphertext is accepted.
    pub key_arn: String,
}

/// The KMS key that encrypts data keys.
#[derive(Debug, Clone)]
pub struct Kms {
    client: Client,
    key_id: String,
}

impl Kms {
    /// Uses the KMS key `key_id` (an id, ARN or alias) for new data keys.
    pub fn new(client: Client, key_id: impl Into<String>) -> Self {
        Self {
            client,
            key_id: key_id.into(),
        }
    }

    /// A new data key for `tenant`, in clear and encrypted.
    pub async fn generate(
        &self,
        tenant: &str,
        purpose: Purpose,
    ) -> Result<(DataKey, EncryptedDataKey), EnvelopeError> {
        let operation = "GenerateDataKey";
        let answer = self
            .client
            .generate_data_key()
            .key_id(&self.key_id)
            .key_spec(DataKeySpec::Aes256)
            .encryption_context("clinicId", tenant)
            .encryption_context("purpose", purpose.as_str())
            .send()
            .boxed()
            .await
            .map_err(|error| EnvelopeError::Kms {
                operation,
                code: error_code(&error),
            })?;
        info!(target: METRICS, kms_data_keys = 1_u64);
        let missing = || EnvelopeError::incomplete(operation);
        let key = DataKey::new(answer.plaintext.ok_or_else(missing)?)?;
        let encrypted = EncryptedDataKey {
            ciphertext: answer.ciphertext_blob.ok_or_else(missing)?.into_inner(),
            key_arn: answer.key_id.ok_or_else(missing)?,
        };
        Ok((key, encrypted))
    }

    /// Opens a stored data key of `tenant`.
    pub async fn decrypt(
        &self,
        encrypted: &EncryptedDataKey,
        tenant: &str,
        purpose: Purpose,
    ) -> Result<DataKey, EnvelopeError> {
        let operation = "Decrypt";
        let answer = self
            .client
            .decrypt()
            .ciphertext_blob(Blob::new(encrypted.ciphertext.clone()))
            .key_id(&encrypted.key_arn)
            .encryption_context("clinicId", tenant)
            .encryption_context("purpose", purpose.as_str())
            .send()
            .boxed()
            .await
            .map_err(|error| not_opened(operation, error_code(&error)))?;
        info!(target: METRICS, kms_decrypts = 1_u64);
        let missing = || EnvelopeError::incomplete(operation);
        DataKey::new(answer.plaintext.ok_or_else(missing)?)
    }

    /// The same data key of `tenant` under this KMS key. KMS opens it under the key that it names and
    /// encrypts it again; it never leaves KMS in clear
    /// (<https://docs.aws.amazon.com/kms/latest/APIReference/API_ReEncrypt.html>).
    pub async fn reencrypt(
        &self,
        encrypted: &EncryptedDataKey,
        tenant: &str,
        purpose: Purpose,
    ) -> Result<EncryptedDataKey, EnvelopeError> {
        let operation = "ReEncrypt";
        let answer = self
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(encrypted.ciphertext.clone()))
            .source_key_id(&encrypted.key_arn)
            .source_encryption_context("clinicId", tenant)
            .source_encryption_context("purpose", purpose.as_str())
            .destination_key_id(&self.key_id)
            .destination_encryption_context("clinicId", tenant)
            .destination_encryption_context("purpose", purpose.as_str())
            .send()
            .boxed()
            .await
            .map_err(|error| not_opened(operation, error_code(&error)))?;
        let missing = || EnvelopeError::incomplete(operation);
        Ok(EncryptedDataKey {
            ciphertext: answer.ciphertext_blob.ok_or_else(missing)?.into_inner(),
            key_arn: answer.key_id.ok_or_else(missing)?,
        })
    }
}

impl EnvelopeError {
    /// KMS answered without what was asked for.
    fn incomplete(operation: &'static str) -> Self {
        Self::Kms {
            operation,
            code: "IncompleteAnswer".to_owned(),
        }
    }
}

/// Why KMS did not open a data key. The first two codes say that it belongs to something else: to another
/// tenant or purpose, or to another key.
fn not_opened(operation: &'static str, code: String) -> EnvelopeError {
    match code.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => {
            EnvelopeError::WrongDataKey { code }
        }
        _ => EnvelopeError::Kms { operation, code },
    }
}

/// A data key in clear, for as long as it takes to seal or open a document.
pub struct DataKey {
    bytes: Zeroizing<[u8; 32]>,
    cipher: RandomizedNonceKey,
}

impl DataKey {
    fn new(plaintext: Blob) -> Result<Self, EnvelopeError> {
        let plaintext = Zeroizing::new(plaintext.into_inner());
        let mut bytes = Zeroizing::new([0; 32]);
        if plaintext.len() != bytes.len() {
            return Err(EnvelopeError::Sealing);
        }
        bytes.copy_from_slice(&plaintext);
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice())
            .map_err(|_| EnvelopeError::Sealing)?;
        Ok(Self { bytes, cipher })
    }

    /// The key's own bytes, for a key that is used as it is rather than to seal with.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Seals `plaintext` for `context`: format, nonce, ciphertext and tag.
    pub fn seal(
        &self,
        context: &EntryContext<'_>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, EnvelopeError> {
        self.seal_for(context.format(), &context.authenticated_data(), plaintext)
    }

    /// The seal of `content`: that of nothing, with the content as what is authenticated.
    pub(crate) fn seal_content(&self, content: &Content) -> Result<Vec<u8>, EnvelopeError> {
        self.seal_for(FORMAT_CONTENT, content.as_bytes(), &[])
    }

    /// Whether `seal` is a seal of `content`.
    pub(crate) fn is_content_seal(&self, content: &Content, seal: &[u8]) -> bool {
        self.open_for(FORMAT_CONTENT, content.as_bytes(), seal)
            .is_ok_and(|nothing| nothing.is_empty())
    }

    fn seal_for(
        &self,
        format: u8,
        authenticated: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, EnvelopeError> {
        let mut sealed =
            Zeroizing::new(Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(plaintext);
        let nonce = self
            .cipher
            .seal_in_place_append_tag(Aad::from(authenticated), &mut *sealed)
            .map_err(|_| EnvelopeError::Sealing)?;
        let mut whole = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        whole.push(format);
        whole.extend_from_slice(nonce.as_ref());
        whole.extend_from_slice(&sealed);
        Ok(whole)
    }

    /// Opens what was sealed for `context`.
    pub fn open(
        &self,
        context: &EntryContext<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        self.open_for(context.format(), &context.authenticated_data(), sealed)
    }

    fn open_for(
        &self,
        format: u8,
        authenticated: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        let rest = sealed
            .split_first()
            .filter(|(found, _)| **found == format)
            .map(|(_, rest)| rest)
            .ok_or(EnvelopeError::WrongEntry)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(EnvelopeError::WrongEntry)?;
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .cipher
            .open_in_place(Nonce::from(nonce), Aad::from(authenticated), &mut bytes)
            .map_err(|_| EnvelopeError::WrongEntry)?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// Where a sealed entry belongs.
#[derive(Debug, Clone, Copy)]
pub struct EntryContext<'a> {
    /// Whose it is.
    pub tenant: &'a Tenant,
    /// The channel.
    pub channel: Channel,
    /// The entry.
    pub entry: &'a EntryId,
    /// Its provider.
    pub provider: ProviderKind,
    /// The version of the settings.
    pub version: u64,
    /// The hash of that version's content; `None` for entries of versions without a seal, which earlier versions of this
    /// service wrote.
    pub content: Option<&'a ContentHash>,
}

impl EntryContext<'_> {
    const fn format(&self) -> u8 {
        match self.content {
            None => FORMAT_ENTRY,
            Some(_) => FORMAT_CONTENT,
        }
    }

    /// Each part after its length (4 bytes, big-endian), so that no two places give the same bytes.
    fn authenticated_data(&self) -> Vec<u8> {
        let version = self.version.to_be_bytes();
        let format = [self.format()];
        let parts: [&[u8]; 6] = [
            &format,
            self.tenant.as_str().as_bytes(),
            self.channel.as_str().as_bytes(),
            self.entry.as_str().as_bytes(),
            self.provider.as_str().as_bytes(),
            &version,
        ];
        let mut data = Vec::with_capacity(160);
        let content = self.content.map(<[u8; 32]>::as_slice);
        for part in parts.into_iter().chain(content) {
            // No part is longer than an id's 64 bytes.
            data.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend_from_slice(part);
        }
        data
    }
}

#[cfg(test)]
mod keys;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::new(Blob::new(vec![byte; 32])).unwrap()
    }

    fn tenant(id: &str) -> Tenant {
        Tenant::parse(id).unwrap()
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (clinic, entry) = (tenant("clinic-a"), EntryId::primary());
        let context = EntryContext {
            tenant: &clinic,
            channel: Channel::Email,
            entry: &entry,
            provider: ProviderKind::new("smtp"),
            version: 1,
            content: Some(&[7; 32]),
        };
        let sealed = key(1).seal(&context, b"planted").unwrap();
        assert_eq!(
            key(1).open(&context, &sealed).unwrap().as_slice(),
            b"planted"
        );
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                key(1).open(&context, &flipped),
                Err(EnvelopeError::WrongEntry),
                "bit {bit}"
            );
        }
        for length in 0..sealed.len() {
            assert_eq!(
                key(1).open(&context, &sealed[..length]),
                Err(EnvelopeError::WrongEntry)
            );
        }
    }

    #[test]
    fn what_is_sealed_twice_is_not_the_same_twice() {
        let (clinic, entry) = (tenant("clinic-a"), EntryId::primary());
        let context = EntryContext {
            tenant: &clinic,
            channel: Channel::Email,
            entry: &entry,
            provider: ProviderKind::new("smtp"),
            version: 1,
            content: None,
        };
        let key = key(1);
        assert_ne!(
            key.seal(&context, b"x").unwrap(),
            key.seal(&context, b"x").unwrap()
        );
    }

    proptest! {
        #[test]
        fn an_entry_opens_in_its_own_place_and_in_no_other(
            clinics in ("[a-z]{1,3}", "[a-z]{1,3}"), entries in ("[a-z]{1,3}", "[a-z]{1,3}"),
            versions in (0_u64..3, 0_u64..3), channels in (0_usize..2, 0_usize..2),
            providers in (0_usize..5, 0_usize..5), keys in (0_u8..2, 0_u8..2),
            contents in (0_u8..3, 0_u8..3),
            plaintext in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let tenants = (tenant(&clinics.0), tenant(&clinics.1));
            let ids = (EntryId::parse(&entries.0).unwrap(), EntryId::parse(&entries.1).unwrap());
            let kinds: Vec<_> = comms_adapters::registry::kinds().collect();
            let hashes = ([contents.0; 32], [contents.1; 32]);
            let here = EntryContext { tenant: &tenants.0, channel: Channel::ALL[channels.0], entry: &ids.0,
                               provider: kinds[providers.0], version: versions.0,
                               content: (contents.0 > 0).then_some(&hashes.0) };
            let there = EntryContext { tenant: &tenants.1, channel: Channel::ALL[channels.1], entry: &ids.1,
                                provider: kinds[providers.1], version: versions.1,
                                content: (contents.1 > 0).then_some(&hashes.1) };
            let same = clinics.0 == clinics.1 && entries.0 == entries.1 && versions.0 == versions.1
                && channels.0 == channels.1 && providers.0 == providers.1 && keys.0 == keys.1
                && contents.0 == contents.1;
            let sealed = key(keys.0).seal(&here, &plaintext).unwrap();
            let opened = key(keys.1).open(&there, &sealed);
            prop_assert_eq!(opened.is_ok(), same);
            if let Ok(bytes) = opened { prop_assert_eq!(&*bytes, &plaintext); }
        }

        #[test]
        fn opening_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (clinic, entry) = (tenant("a"), EntryId::primary());
            let context = EntryContext { tenant: &clinic, channel: Channel::Email, entry: &entry, provider: ProviderKind::new("smtp"), version: 1, content: None };
            prop_assert_eq!(key(1).open(&context, &bytes), Err(EnvelopeError::WrongEntry));
        }
    }
}
