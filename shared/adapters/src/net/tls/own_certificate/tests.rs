use std::time::Duration;

use comms_testkit::tls::OwnCertificate;
use rustls_pki_types::pem::PemObject;

use super::{super::CertificateFault, *};

const NAME: &str = "mail.clinic.example";
/// Version 1, for the name above, valid until 2126: made by `openssl x509 -req -signkey` without extensions.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBJTCBzAIBATAKBggqhkjOPQQDAjAeMRwwGgYDVQQDDBNtYWlsLmNsaW5pYy5l
eGFtcGxlMCAXDTI2MTEyODE1MTA1NVoYDzIxMjYxMTA0MTUxMDU1WjAeMRwwGgYD
VQQDDBNtYWlsLmNsaW5pYy5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAED745n61Y5yKVd9G7lZSglamwGh1034UHcRQqSjVYqRx8XpigLb1rV+cUJa4y
bsnG8iIXgZCYlii0nswVjDpGszAKBggqhkjOPQQDAgNIADBFAiEAkYOl7Rku4Tts
4mLbL8VYQ1tqKTRk/K5ltX/fpZ7txK4CIADUA2J0pYiFrqFNEJdWrbXExcC3hQV6
zVkTQrgMIQVW
-----END CERTIFICATE-----
";

/// What is said of `shown` by who was given `given`, in 2027.
fn verify(
    given: &[&CertificateDer<'static>],
    shown: &CertificateDer<'static>,
    name: &str,
) -> Result<(), CertificateFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in given {
        roots.add((*certificate).clone()).unwrap();
    }
    // As in a real configuration, where the public roots are beside.
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let given = given.iter().map(|&given| given.clone()).collect();
    let verifier = OwnCertificates::new(roots, given, provider).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_hours(500_000));
    verifier
        .verify_server_cert(shown, &[], &name, &[], now)
        .map(|_| ())
        .map_err(|error| CertificateFault::from(&error))
}

/// Self-signed as OpenSSL does it (CA:TRUE), self-signed without that, and signed by an authority of its own.
fn kinds() -> [OwnCertificate; 3] {
    [
        OwnCertificate::authority(&[NAME]),
        OwnCertificate::self_signed(&[NAME]),
        OwnCertificate::signed_by_nobody_known(&[NAME]),
    ]
}

#[test]
fn the_certificate_that_was_given_is_trusted_for_its_name() {
    for own in kinds() {
        assert_eq!(verify(&[&own.der()], &own.der(), NAME), Ok(()));
    }
}

#[test]
fn the_certificate_that_was_given_is_for_no_other_name() {
    for own in kinds() {
        for name in ["other.example", "clinic.example", "127.0.0.1"] {
            assert_eq!(
                verify(&[&own.der()], &own.der(), name),
                Err(CertificateFault::OtherName),
                "{name}"
            );
        }
    }
}

#[test]
fn a_certificate_that_has_expired_is_not_trusted_though_it_was_given() {
    for own in kinds() {
        let expired = own.expired();
        assert_eq!(
            verify(&[&expired.der()], &expired.der(), NAME),
            Err(CertificateFault::Expired)
        );
        let early = own.not_valid_yet();
        assert_eq!(
            verify(&[&early.der()], &early.der(), NAME),
            Err(CertificateFault::NotYetValid)
        );
    }
}

#[test]
fn another_certificate_of_the_same_name_is_not_trusted() {
    for (given, shown) in kinds().into_iter().zip(kinds()) {
        assert!(verify(&[&given.der()], &shown.der(), NAME).is_err());
    }
}

#[test]
fn without_its_being_given_none_of_them_is_trusted() {
    for own in kinds() {
        assert_eq!(
            verify(&[], &own.der(), NAME),
            Err(CertificateFault::UnknownRoot)
        );
    }
}

#[test]
fn a_certificate_of_version_1_is_refused_for_that() {
    let own = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    assert_eq!(
        verify(&[&own], &own, NAME),
        Err(CertificateFault::OldVersion)
    );
}

/// Who presents a certificate that was given has to have its key.
#[tokio::test]
async fn a_server_without_the_key_of_the_certificate_is_refused() {
    let own = OwnCertificate::authority(&[NAME]);
    let other = OwnCertificate::authority(&[NAME]);
    let configs = super::super::TlsConfigs::new(None).unwrap();
    let client = configs.client(Some(&own.pem())).unwrap();
    // A version of TLS each has a signature of its own to verify.
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (key, works) in [(&own, true), (&other, false)] {
            let server = own.server_config_with_key_of(key, &[version]);
            let (near, far) = tokio::io::duplex(16 * 1024);
            let name = ServerName::try_from(NAME).unwrap();
            let connector = tokio_rustls::TlsConnector::from(client.clone());
            let acceptor = tokio_rustls::TlsAcceptor::from(server);
            let (connected, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
            assert_eq!(connected.is_ok(), works, "{version:?}");
        }
    }
}
