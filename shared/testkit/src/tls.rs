//! A certificate authority of a test's own: every certificate that a scripted server shows is issued here, and
//! a client that is given [`TestCa::pem`] trusts exactly those. Keys are made anew for every authority, so no
//! private key is ever stored in the repository.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test's authority that cannot be built is the test's failure"
)]

mod own_certificate;

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use own_certificate::OwnCertificate;

/// A certificate authority that exists for one test or one run of the local stack.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// When a certificate is to be good.
#[derive(Clone, Copy)]
enum Validity {
    Now,
    Over,
    ToCome,
}

impl Validity {
    fn apply(self, params: &mut CertificateParams) {
        match self {
            // The defaults reach from 1975 to 4096: no test depends on the day it runs on.
            Self::Now => {}
            Self::Over => {
                params.not_before = date_time_ymd(2019, 1, 1);
                params.not_after = date_time_ymd(2020, 1, 1);
            }
            Self::ToCome => {
                params.not_before = date_time_ymd(3000, 1, 1);
                params.not_after = date_time_ymd(3001, 1, 1);
            }
        }
    }
}

impl TestCa {
    /// Makes an authority with a key of its own.
    pub fn new() -> Self {
        let mut params =
            CertificateParams::new(Vec::new()).expect("no names, so none that could be invalid");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "clinic-comms test authority");
        let key = KeyPair::generate().expect("the operating system gives random bytes");
        let certificate = params
            .self_signed(&key)
            .expect("an authority's parameters are complete");
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// The authority's certificate, as a client's trust root (`caPem`, `EXTRA_CA_FILE`).
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The authority's certificate in DER.
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// A server's configuration with a valid certificate for `names`: host names or IP literals.
    pub fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.issue(names, Validity::Now)
    }

    /// Like [`Self::server_config`], but the certificate ran out years ago.
    pub fn expired_server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.issue(names, Validity::Over)
    }

    /// A client's configuration that trusts this authority and nothing else.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.der())
            .expect("the authority's own certificate parses");
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    fn issue(&self, names: &[&str], validity: Validity) -> Arc<ServerConfig> {
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("names of a server are ASCII");
        params
            .distinguished_name
            .push(DnType::CommonName, "clinic-comms test");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity.apply(&mut params);
        let key = KeyPair::generate().expect("the operating system gives random bytes");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a server's parameters are complete");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key is the certificate's own");
        Arc::new(config)
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

/// Named here, never the process's default: which provider that is depends on the features of every other crate.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    async fn handshake(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
        name: &str,
    ) -> Result<(), String> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let (client, _server) = tokio::join!(
            TlsConnector::from(client).connect(name, near),
            TlsAcceptor::from(server).accept(far),
        );
        client.map(|_| ()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_client_of_the_authority_accepts_every_name_of_the_certificate() {
        let ca = TestCa::new();
        for name in ["localhost", "mail.clinic.example", "127.0.0.1", "::1"] {
            let server =
                ca.server_config(&["localhost", "mail.clinic.example", "127.0.0.1", "::1"]);
            assert_eq!(
                handshake(ca.client_config(), server, name).await,
                Ok(()),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_the_certificate_lacks_is_refused() {
        let ca = TestCa::new();
        let refused = handshake(
            ca.client_config(),
            ca.server_config(&["localhost"]),
            "127.0.0.1",
        )
        .await;
        assert!(refused.unwrap_err().contains("not valid for name"));
    }

    #[tokio::test]
    async fn an_expired_certificate_is_refused() {
        let ca = TestCa::new();
        let refused = handshake(
            ca.client_config(),
            ca.expired_server_config(&["localhost"]),
            "localhost",
        )
        .await;
        assert!(refused.unwrap_err().contains("expired"));
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_is_refused() {
        let refused = handshake(
            TestCa::new().client_config(),
            TestCa::new().server_config(&["localhost"]),
            "localhost",
        )
        .await;
        assert!(refused.is_err());
    }

    #[test]
    fn the_authority_is_given_out_as_pem() {
        assert!(
            TestCa::new()
                .pem()
                .starts_with("-----BEGIN CERTIFICATE-----")
        );
    }
}
