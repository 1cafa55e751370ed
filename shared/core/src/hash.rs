//! Keyed hashing of what may not be stored or logged as it is: addresses, idempotency keys,
//! payloads. HMAC-SHA-256 (RFC 2104, FIPS 198-1) over length-prefixed parts.
//!
//! The key matters: an unkeyed hash of a phone number or of a six-digit code is found again by
//! trying them all.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};

/// The key of all hashes of one deployment. It prints nothing.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl HashKey {
    /// Length of the key, in bytes.
    pub const LENGTH: usize = 32;

    /// Takes the key's bytes.
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Hashes `parts` for one `purpose`. Each part is preceded by its length, so that no two lists
    /// of parts are hashed as the same bytes.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.0);
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        Digest(context.sign())
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// The result of [`HashKey::digest`].
#[derive(Debug, Clone, Copy)]
pub struct Digest(hmac::Tag);

impl Digest {
    pub(crate) const HEX128_LENGTH: usize = 32;

    /// The first 128 bits, as 32 lower-case hexadecimal characters.
    pub fn hex128(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0.as_ref()[..Self::HEX128_LENGTH / 2]
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0x0f])
            .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
            .collect()
    }

    /// Whether `text` is [`Digest::hex128`], compared in constant time.
    pub fn is_hex128(&self, text: &str) -> bool {
        verify_slices_are_equal(self.hex128().as_bytes(), text.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_depend_on_the_key_the_purpose_and_the_split_of_the_parts() {
        let one = HashKey::from_bytes(&[1; 32]);
        let two = HashKey::from_bytes(&[2; 32]);
        let base = one.digest("p", &[b"ab", b"c"]).hex128();
        assert_eq!(base, one.digest("p", &[b"ab", b"c"]).hex128());
        assert_ne!(base, two.digest("p", &[b"ab", b"c"]).hex128());
        assert_ne!(base, one.digest("q", &[b"ab", b"c"]).hex128());
        assert_ne!(base, one.digest("p", &[b"a", b"bc"]).hex128());
        assert_ne!(base, one.digest("p", &[b"abc"]).hex128());
    }

    #[test]
    fn the_digest_is_hmac_sha_256_as_others_compute_it() {
        // python3: hmac.new(bytes([1]*32), (1).to_bytes(8,'big')+b"p"+(1).to_bytes(8,'big')+b"x", "sha256")
        let digest = HashKey::from_bytes(&[1; 32]).digest("p", &[b"x"]);
        assert_eq!(digest.hex128(), "3decbec969dcf09de4eaa3fae201aaa5");
        assert!(digest.is_hex128("3decbec969dcf09de4eaa3fae201aaa5"));
        for other in [
            "",
            "3decbec969dcf09de4eaa3fae201aaa",
            "3decbec969dcf09de4eaa3fae201aaa6",
        ] {
            assert!(!digest.is_hex128(other), "{other}");
        }
    }
}
