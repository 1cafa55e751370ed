//! Certificates of servers that no authority vouches for, as many mail servers of clinics have one.

use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::{TestCa, Validity, provider};

/// Who signed it, and what it may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Signed by its own key, and marked as an authority, as `openssl req -x509` does it.
    Authority,
    /// Signed by its own key.
    SelfSigned,
    /// Signed by an authority that is known to nobody.
    SignedByNobodyKnown,
}

/// A server's certificate with its key.
pub struct OwnCertificate {
    kind: Kind,
    names: Vec<String>,
    key: KeyPair,
    certificate: Certificate,
}

impl OwnCertificate {
    /// For `names`, signed by its own key and marked as an authority (`CA:TRUE`).
    pub fn authority(names: &[&str]) -> Self {
        Self::new(Kind::Authority, names, Validity::Now)
    }

    /// For `names`, signed by its own key.
    pub fn self_signed(names: &[&str]) -> Self {
        Self::new(Kind::SelfSigned, names, Validity::Now)
    }

    /// For `names`, signed by an authority whose certificate is nowhere.
    pub fn signed_by_nobody_known(names: &[&str]) -> Self {
        Self::new(Kind::SignedByNobodyKnown, names, Validity::Now)
    }

    /// Another of the same kind that ran out years ago.
    #[must_use]
    pub fn expired(&self) -> Self {
        self.another(Validity::Over)
    }

    /// Another of the same kind whose time is still to come.
    #[must_use]
    pub fn not_valid_yet(&self) -> Self {
        self.another(Validity::ToCome)
    }

    /// The certificate in PEM, as it is pasted into `caPem`.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate in DER.
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// The configuration of a server that shows it.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config_with_key_of(self, rustls::ALL_VERSIONS)
    }

    /// The configuration of a server that shows it, has another's key, and speaks these versions of TLS.
    pub fn server_config_with_key_of(
        &self,
        other: &Self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(other.key.serialize_der()));
        let key = provider()
            .key_provider
            .load_private_key(key)
            .expect("a key that was made here can be read");
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![self.der()], key));
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        Arc::new(config)
    }

    fn another(&self, validity: Validity) -> Self {
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        Self::new(self.kind, &names, validity)
    }

    fn new(kind: Kind, names: &[&str], validity: Validity) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params =
            CertificateParams::new(names.clone()).expect("names of a server are ASCII");
        params
            .distinguished_name
            .push(DnType::CommonName, "mail server of a clinic");
        if kind == Kind::Authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        validity.apply(&mut params);
        let key = KeyPair::generate().expect("the operating system gives random bytes");
        let certificate = match kind {
            Kind::Authority | Kind::SelfSigned => params.self_signed(&key),
            Kind::SignedByNobodyKnown => params.signed_by(&key, &TestCa::new().issuer),
        };
        Self {
            kind,
            names,
            key,
            certificate: certificate.expect("a server's parameters are complete"),
        }
    }
}
