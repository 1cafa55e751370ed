//! Developer tokens, in place of the identity provider whose tokens API Gateway verifies in production.
//!
//! Tokens are HS256 under a random key in the user's cache directory (mode 0600), because the `token` subcommand and
//! the running gateway are different processes that must agree on it. A key that is published with the source would
//! do for a gateway that only loopback reaches, but any program of any user on the machine could then forge tokens;
//! a private file costs nothing. It is worth nothing elsewhere: production verifies RS256 tokens of its own issuer.

mod rules;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use comms_testkit::jwt;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

/// Who issues the tokens, in their `iss` claim.
const ISSUER: &str = "https://clinic-comms.local";

/// Whom they are for, in their `aud` claim.
const AUDIENCE: &str = "clinic-comms";

/// How they are signed. API Gateway accepts algorithms based on RSA alone.
const ALGORITHM: Algorithm = Algorithm::HS256;

/// The key's name, in their `kid` header.
const KEY_ID: &str = "developer";

/// The key's length in bytes, that of the hash.
const KEY_LENGTH: usize = 32;

/// Why there is no key or no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Neither variable says where the user's files are.
    #[error("no place for the developer key: set HOME or XDG_CACHE_HOME")]
    NoCacheDirectory,
    /// The key's file cannot be used.
    #[error("developer key {}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The token cannot be made.
    #[error("token: {0}")]
    Encode(#[from] jsonwebtoken::errors::Error),
    /// The life time reaches out of the calendar.
    #[error("the token's end is not a time")]
    Expiry,
}

/// What a token says.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    /// The clinic the bearer belongs to, if to one.
    pub(crate) clinic: Option<String>,
    /// The bearer's roles, such as `CLINIC_ADMIN`.
    pub(crate) roles: Vec<String>,
    /// The bearer's name, which is the author of saved settings.
    pub(crate) subject: String,
    /// How long the token is valid. A negative time gives an expired token.
    pub(crate) expires_in: SignedDuration,
}

/// The key that signs and verifies developer tokens.
#[derive(Clone)]
pub(crate) struct DeveloperKey([u8; KEY_LENGTH]);

impl DeveloperKey {
    /// Reads the user's key, or makes it.
    pub(crate) fn of_user() -> Result<Self, TokenError> {
        Self::in_directory(&cache_directory(|name| std::env::var_os(name))?)
    }

    /// Reads the key in `directory`, or makes it.
    pub(crate) fn in_directory(directory: &Path) -> Result<Self, TokenError> {
        let path = directory.join("developer-token.key");
        let error = |source| TokenError::Key {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(directory).map_err(error)?;
        if !path.exists() {
            let mut key = [0; KEY_LENGTH];
            aws_lc_rs::rand::fill(&mut key)
                .map_err(|_| error(io::Error::other("no random bytes")))?;
            // Written beside its place (with mode 0600) and then linked to it: of two processes that start at the
            // same moment, both go on with the key of the first.
            let mut file = tempfile::NamedTempFile::new_in(directory).map_err(error)?;
            file.write_all(&key).map_err(error)?;
            match file.persist_noclobber(&path) {
                Ok(_) => {}
                Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(error(e.error)),
            }
        }
        let key = fs::read(&path).map_err(error)?;
        let key = key.try_into().map_err(|_| {
            error(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a key; delete the file and start again",
            ))
        })?;
        Ok(Self(key))
    }

    /// Makes a token.
    pub(crate) fn token(&self, claims: &Claims) -> Result<String, TokenError> {
        let now = Timestamp::now();
        let end = now
            .checked_add(claims.expires_in)
            .map_err(|_| TokenError::Expiry)?;
        let mut body = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": claims.subject,
            "iat": now.as_second(),
            "exp": end.as_second(),
        });
        if let Some(clinic) = &claims.clinic {
            body[claim_name("JWT_CLINIC_CLAIM", "clinic_id")] = json!(clinic);
        }
        body[claim_name("JWT_ROLES_CLAIM", "roles")] = json!(claims.roles);
        let key = EncodingKey::from_secret(&self.0);
        Ok(jsonwebtoken::encode(
            &Header {
                kid: Some(KEY_ID.to_owned()),
                ..Header::new(ALGORITHM)
            },
            &body,
            &key,
        )?)
    }

    /// Verifies a token by API Gateway's rules and returns its claims as API Gateway hands them to a function: all of
    /// them text. `Err` says what is wrong with it.
    pub(crate) fn verify(&self, token: &str) -> Result<HashMap<String, String>, String> {
        // The rules of the claims are API Gateway's, which differ from this crate's.
        let mut signature_only = Validation::new(ALGORITHM);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let key = DecodingKey::from_secret(&self.0);
        let token = jsonwebtoken::decode::<Value>(token, &key, &signature_only)
            .map_err(|error| error.to_string())?;
        rules::check(&token.header, &token.claims, Timestamp::now())?;
        Ok(jwt::rendered_claims(&token.claims))
    }

    /// A password that stays the same from run to run, so that settings saved on disk go on working.
    pub(crate) fn password(&self, of: &str) -> Result<String, TokenError> {
        let key = EncodingKey::from_secret(&self.0);
        let digest = jsonwebtoken::crypto::sign(of.as_bytes(), &key, Algorithm::HS256)?;
        Ok(digest
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(20)
            .collect())
    }
}

/// The claims' names are the functions' own to configure, so tokens follow the same variables.
fn claim_name(variable: &str, default: &str) -> String {
    std::env::var(variable)
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// `$XDG_CACHE_HOME/clinic-comms`, or below `$HOME/.cache`.
fn cache_directory(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<PathBuf, TokenError> {
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("clinic-comms"))
        .ok_or(TokenError::NoCacheDirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn payload(token: &str) -> Value {
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    fn claims(expires_in: SignedDuration) -> Claims {
        Claims {
            clinic: Some("clinic-123".to_owned()),
            roles: vec!["CLINIC_ADMIN".to_owned(), "SERVICE".to_owned()],
            subject: "dev".to_owned(),
            expires_in,
        }
    }

    #[test]
    fn claims_reach_the_function_as_api_gateways_text() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeveloperKey::in_directory(dir.path()).unwrap();
        let token = key.token(&claims(SignedDuration::from_hours(1))).unwrap();
        assert_eq!(payload(&token)["roles"], json!(["CLINIC_ADMIN", "SERVICE"]));
        let seen = key.verify(&token).unwrap();
        assert_eq!(seen["roles"], "[CLINIC_ADMIN SERVICE]");
        assert_eq!(seen["clinic_id"], "clinic-123");
        assert_eq!(seen["sub"], "dev");
        assert!(seen["exp"].parse::<u64>().is_ok());
    }

    #[test]
    fn an_expired_a_forged_and_an_unsigned_token_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeveloperKey::in_directory(dir.path()).unwrap();
        let old = key.token(&claims(SignedDuration::from_secs(-1))).unwrap();
        assert!(key.verify(&old).is_err());

        let other = tempfile::tempdir().unwrap();
        let forged = DeveloperKey::in_directory(other.path())
            .unwrap()
            .token(&claims(SignedDuration::from_hours(1)))
            .unwrap();
        assert!(key.verify(&forged).is_err());

        let good = key.token(&claims(SignedDuration::from_hours(1))).unwrap();
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let unsigned = format!("{header}.{}.", good.split('.').nth(1).unwrap());
        assert!(key.verify(&unsigned).is_err());
        assert!(key.verify("").is_err());
    }

    #[test]
    fn the_key_is_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = DeveloperKey::in_directory(dir.path()).unwrap();
        let again = DeveloperKey::in_directory(dir.path()).unwrap();
        assert_eq!(first.0, again.0);
        assert_eq!(
            first.password("inbox").unwrap(),
            again.password("inbox").unwrap()
        );
        let file = fs::metadata(dir.path().join("developer-token.key")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_key_lies_in_the_users_cache() {
        let of = |xdg: Option<&str>, home: Option<&str>| {
            cache_directory(|name| match name {
                "XDG_CACHE_HOME" => xdg.map(Into::into),
                _ => home.map(Into::into),
            })
        };
        assert_eq!(
            of(None, Some("/home/a")).unwrap(),
            Path::new("/home/a/.cache/clinic-comms")
        );
        assert_eq!(
            of(Some("/c"), Some("/home/a")).unwrap(),
            Path::new("/c/clinic-comms")
        );
        assert!(of(None, None).is_err());
    }
}
