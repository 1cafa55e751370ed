//! A server whose own certificate was given as `caPem`, as many mail servers in clinics have one: self-signed, by default
//! of OpenSSL marked as an authority, or signed by an authority that nobody has.
//!
//! Such a certificate is trusted when it is, byte for byte, the one that was given. That it is valid today, that it is for
//! the server's name, and that the server has its key are checked as ever.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::TlsError;

/// Verifies as rustls does, and accepts certificates that were given for the server itself.
#[derive(Debug)]
pub(super) struct OwnCertificates {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl OwnCertificates {
    pub(super) fn new(
        roots: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| TlsError::Setup)?;
        Ok(Self { webpki, given })
    }

    /// What is found of a certificate that was given, where nothing else is wrong with it than that nobody vouches for it;
    /// `None` of any other.
    fn verify_given(
        &self,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Option<Result<ServerCertVerified, rustls::Error>> {
        if !self.given.iter().any(|given| given == end_entity) {
            return None;
        }
        // Without those that were sent along, so that what is found is about this certificate.
        let verified = self
            .webpki
            .verify_server_cert(end_entity, &[], name, ocsp, now);
        // Its time is looked at before both of these errors.
        if !verified.is_err_and(|error| is_about_trust(&error)) {
            return None;
        }
        let parsed = ParsedCertificate::try_from(end_entity);
        let named = parsed.and_then(|parsed| verify_server_name(&parsed, name));
        Some(named.map(|()| ServerCertVerified::assertion()))
    }
}

/// Whether an error says that nobody vouches for the certificate, or that it is an authority's, and no more than that.
fn is_about_trust(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(error) = error else {
        return false;
    };
    if let CertificateError::Other(OtherError(error)) = error {
        let error = error.downcast_ref();
        return matches!(error, Some(webpki::Error::CaUsedAsEndEntity));
    }
    matches!(error, CertificateError::UnknownIssuer)
}

impl ServerCertVerifier for OwnCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .webpki
            .verify_server_cert(end_entity, intermediates, name, ocsp, now);
        verified.or_else(|error| {
            self.verify_given(end_entity, name, ocsp, now)
                .unwrap_or(Err(error))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
