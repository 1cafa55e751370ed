//! TLS towards providers: rustls with aws-lc-rs, the public roots built in, certificates always
//! verified. There is no way to ask for less.

mod fault;
mod own_certificate;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::CertificateDer};
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

pub use self::fault::CertificateFault;
use self::own_certificate::OwnCertificates;
use crate::net::metered::BudgetExceeded;

/// Servers whose TLS sessions a process remembers, so that a further connection resumes one. A session keeps the server's
/// certificates, which a hostile server makes as large as a handshake message may be (64 KB): 32 MB for all of them.
const MAX_RESUMED_SERVERS: usize = 64;
/// Sessions that rustls keeps of each server, in its count of what is remembered (`ClientSessionMemoryCache::new`).
const SESSIONS_PER_SERVER: usize = 8;

/// Why a set of trust roots cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TlsError {
    /// The PEM text holds no certificate, or one that cannot be a trust root.
    #[error("the PEM text holds no certificate that can be a trust root")]
    Roots,
    /// The crypto provider lacks what TLS needs.
    #[error("TLS could not be set up")]
    Setup,
}

/// Makes TLS configurations. All clinics without trust roots of their own share one.
#[derive(Debug, Clone)]
pub struct TlsConfigs {
    extra: Vec<CertificateDer<'static>>,
    shared: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsConfigs {
    /// Trusts the public roots and, where given, those in the operator's PEM text.
    pub fn new(extra_roots_pem: Option<&str>) -> Result<Self, TlsError> {
        let extra = extra_roots_pem
            .map(parse_roots)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            extra,
            shared: Arc::default(),
        })
    }

    /// The configuration for a server of a clinic with trust roots of its own, or without. A root of its own is trusted as
    /// the server's own certificate too ([`own_certificate`]).
    ///
    /// Sessions are resumed among all connections of one configuration: of all servers without roots of their own, by their
    /// names, and of one server with them.
    pub fn client(&self, ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(pem) = ca_pem {
            self.build(parse_roots(pem)?)
        } else {
            if let Some(config) = self.shared.get() {
                return Ok(config.clone());
            }
            let config = self.build(Vec::new())?;
            Ok(self.shared.get_or_init(|| config).clone())
        }
    }

    fn build(&self, own: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for certificate in self.extra.iter().chain(&own) {
            roots
                .add(certificate.clone())
                .map_err(|_| TlsError::Roots)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsError::Setup)?;
        let servers = if own.is_empty() {
            MAX_RESUMED_SERVERS
        } else {
            1
        };
        let builder = if own.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            // Rustls calls any verifier dangerous that is not its own; this one asks its own first.
            let verifier = OwnCertificates::new(roots, own, provider)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(servers * SESSIONS_PER_SERVER);
        Ok(Arc::new(config))
    }
}

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// The server's certificate does not verify.
    Certificate(CertificateFault),
    /// The two could not agree, or did not speak TLS.
    Refused,
    /// The connection ended.
    Closed,
}

impl From<&io::Error> for HandshakeFailure {
    fn from(error: &io::Error) -> Self {
        if BudgetExceeded::is_in(error) {
            return Self::Refused;
        }
        let rustls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        rustls.map_or(Self::Closed, Self::from)
    }
}

impl From<&rustls::Error> for HandshakeFailure {
    fn from(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented = error
        {
            Self::Certificate(error.into())
        } else {
            Self::Refused
        }
    }
}

fn parse_roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Roots)?;
    if certificates.is_empty() {
        Err(TlsError::Roots)
    } else {
        Ok(certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clinics_without_roots_of_their_own_share_one_configuration() {
        let configs = TlsConfigs::new(None).unwrap();
        assert!(Arc::ptr_eq(
            &configs.client(None).unwrap(),
            &configs.client(None).unwrap()
        ));
    }

    #[test]
    fn text_without_a_certificate_is_refused() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----", broken] {
            let configs = TlsConfigs::new(None).unwrap();
            assert_eq!(
                configs.client(Some(pem)).err(),
                Some(TlsError::Roots),
                "{pem:?}"
            );
        }
    }
}
