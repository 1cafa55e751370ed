//! Secrets that cannot be printed and do not lie about in memory.
//!
//! A [`Secret`] keeps its text sealed with AES-256-GCM under a key that this process made for
//! itself and never writes anywhere. The text exists in clear only between [`Secret::expose`] and
//! the drop of what it returned, which wipes it. A cache of settings or of built providers thus
//! holds no password in clear, and neither does a core dump's string table.

use std::{fmt, sync::OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The secret could not be opened: the process has no working random generator or cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a secret could not be opened in memory")]
pub struct SecretUnavailable;

/// A text that is never printed, never serialised, and in clear only while it is being used.
#[derive(Clone)]
pub struct Secret {
    /// `None` where sealing failed; [`Secret::expose`] then fails rather than anything being kept
    /// in clear.
    sealed: Option<Sealed>,
}

#[derive(Clone)]
struct Sealed {
    nonce: [u8; 12],
    ciphertext: Box<[u8]>,
}

impl Secret {
    /// Seals `text` and wipes it.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Self {
        let mut text = text.into();
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(text.as_bytes());
        text.zeroize();
        let sealed = process_key().and_then(|key| {
            let nonce = key
                .seal_in_place_append_tag(Aad::empty(), &mut *bytes)
                .ok()?;
            Some(Sealed {
                nonce: *nonce.as_ref(),
                ciphertext: bytes.as_slice().into(),
            })
        });
        Self { sealed }
    }

    /// The text in clear, wiped when the returned value is dropped.
    pub fn expose(&self) -> Result<Zeroizing<String>, SecretUnavailable> {
        let sealed = self.sealed.as_ref().ok_or(SecretUnavailable)?;
        let key = process_key().ok_or(SecretUnavailable)?;
        let mut bytes = Zeroizing::new(sealed.ciphertext.to_vec());
        let clear = key
            .open_in_place(Nonce::from(&sealed.nonce), Aad::empty(), &mut bytes)
            .map_err(|_| SecretUnavailable)?;
        let text = std::str::from_utf8(clear).map_err(|_| SecretUnavailable)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// The last four characters, so that an admin can tell which secret is stored. Only of a secret
    /// of 16 characters or more: four characters of a short password are too much of it.
    pub fn last4(&self) -> Option<String> {
        const LONG_ENOUGH: usize = 16;
        let clear = self.expose().ok()?;
        let length = clear.chars().count();
        (length >= LONG_ENOUGH).then(|| clear.chars().skip(length - 4).collect())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn process_key() -> Option<&'static RandomizedNonceKey> {
    static KEY: OnceLock<Option<RandomizedNonceKey>> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).ok()
    })
    .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_to_its_text_and_prints_nothing() {
        let secret = Secret::new("app-password".to_owned());
        assert_eq!(secret.expose().unwrap().as_str(), "app-password");
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(…) Secret(…)");
    }

    #[test]
    fn what_is_kept_in_memory_does_not_contain_the_text() {
        let secret = Secret::new("planted-password-0123456789".to_owned());
        let kept = secret.sealed.as_ref().unwrap();
        for window in kept.ciphertext.windows(8) {
            assert!(
                !b"planted-password-0123456789"
                    .windows(8)
                    .any(|w| w == window)
            );
        }
        // A copy of the same text is not recognisable as such either.
        let again = Secret::new("planted-password-0123456789".to_owned());
        assert_ne!(kept.ciphertext, again.sealed.unwrap().ciphertext);
    }

    #[test]
    fn only_long_secrets_show_their_last_four_characters() {
        assert_eq!(Secret::new("short-password".to_owned()).last4(), None);
        assert_eq!(
            Secret::new("SG.0123456789abcdef".to_owned())
                .last4()
                .unwrap(),
            "cdef"
        );
    }
}
