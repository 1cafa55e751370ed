//! Why a server's certificate does not verify, as far as that changes what to do about it.

use rustls::{CertificateError, OtherError};

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// It, or one that vouches for it, has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is for another name, or names none in `subjectAltName` (RFC 9525 section 6.3 has no other place for it).
    OtherName,
    /// Nobody who is trusted vouches for it.
    UnknownRoot,
    /// It is of X.509 version 1 or 2, which have no place for a name (RFC 5280 section 4.1.2.1).
    OldVersion,
    /// Anything else: its form, its signature, its purpose.
    Other,
}

impl From<&rustls::Error> for CertificateFault {
    fn from(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(error) = error {
            Self::of(error)
        } else {
            Self::Other
        }
    }
}

impl CertificateFault {
    fn of(error: &CertificateError) -> Self {
        use CertificateError as Error;
        if matches!(error, Error::Expired | Error::ExpiredContext { .. }) {
            Self::Expired
        } else if matches!(error, Error::NotValidYet | Error::NotValidYetContext { .. }) {
            Self::NotYetValid
        } else if matches!(
            error,
            Error::NotValidForName | Error::NotValidForNameContext { .. }
        ) {
            Self::OtherName
        } else if matches!(error, Error::UnknownIssuer) {
            Self::UnknownRoot
        } else if let Error::Other(OtherError(error)) = error {
            match error.downcast_ref() {
                // A server's own certificate that may sign others is one that nobody vouches for.
                Some(webpki::Error::CaUsedAsEndEntity) => Self::UnknownRoot,
                Some(webpki::Error::UnsupportedCertVersion) => Self::OldVersion,
                Some(_) | None => Self::Other,
            }
        } else {
            Self::Other
        }
    }
}
