//! AWS configuration straight from the environment that Lambda gives: region, credentials and, in
//! the local stack, endpoints. No profile files, no instance metadata, and none of the system's trust roots.

mod bounded;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::{
    Builder, HttpClientError,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use std::time::Duration;

use self::bounded::BoundedClient;
use crate::environment::Environment;

/// Who may vouch for AWS's endpoints: Amazon Trust Services alone, and not the 140 or so authorities that the
/// system trusts. Those also take milliseconds of every cold start to read. All five, as Amazon recommends for
/// trust stores of one's own (<https://www.amazontrust.com/repository/>).
const AMAZON_ROOTS: &str = include_str!("amazon-roots.pem");
/// The longest that one try of one AWS request may take. DynamoDB, KMS and SQS answer in
/// milliseconds; what takes longer is tried again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that an AWS request may take with its tries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);

/// The configuration that all AWS clients of the process share, and with it one HTTP client.
pub fn sdk_config(environment: &Environment<'_>) -> Result<SdkConfig, HttpClientError> {
    let region = environment.required("AWS_REGION");
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials(environment)))
        .http_client(http_client()?)
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        // It waits for 5 seconds and more, when the attempt has been over for long, and watches every request for it.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .service_config(ServiceVariables);
    // AWS SDKs reference guide, "FIPS endpoints".
    if environment.parsed::<bool>("AWS_USE_FIPS_ENDPOINT") {
        config = config.use_fips(true);
    }
    if let Some(endpoint) = environment
        .optional("AWS_ENDPOINT_URL")
        .filter(|url| !url.is_empty())
    {
        config = config.endpoint_url(endpoint);
    }
    Ok(config.build())
}

/// The HTTP client of all AWS clients.
fn http_client() -> Result<SharedHttpClient, HttpClientError> {
    let roots = TrustStore::empty().with_pem_certificate(AMAZON_ROOTS);
    let context = TlsContext::builder().with_trust_store(roots).build()?;
    let client = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https();
    Ok(SharedHttpClient::new(BoundedClient::new(client)))
}

/// The execution role's credentials. Lambda gives them as variables of the process, and they are good
/// for as long as it lives.
fn credentials(environment: &Environment<'_>) -> Credentials {
    let access_key_id = environment.required("AWS_ACCESS_KEY_ID");
    let secret_access_key = environment.required("AWS_SECRET_ACCESS_KEY");
    let session_token = environment
        .optional("AWS_SESSION_TOKEN")
        .filter(|token| !token.is_empty());
    Credentials::new(
        access_key_id,
        secret_access_key,
        session_token,
        None,
        "environment",
    )
}

/// `AWS_ENDPOINT_URL_<SERVICE>` and its like (AWS SDKs reference guide, service-specific endpoints).
#[derive(Debug)]
struct ServiceVariables;

impl LoadServiceConfig for ServiceVariables {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key
            .service_id()
            .to_ascii_uppercase()
            .replace([' ', '-'], "_");
        std::env::var(format!("{}_{service}", key.env())).ok()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use rustls::{RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};

    use super::*;

    /// A DER sequence of `content`: what a trust anchor leaves out of a key.
    fn sequence(content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let head: &[u8] = match (high, low) {
            (0, 0..=127) => &[0x30, low],
            (0, _) => &[0x30, 0x81, low],
            _ => &[0x30, 0x82, high, low],
        };
        [head, content].concat()
    }

    #[test]
    fn fips_endpoints_are_used_where_the_environment_asks_for_them() {
        for (value, expected) in [
            (None, None),
            (Some("false"), None),
            (Some("true"), Some(true)),
        ] {
            let environment = Environment::from_lookup(|name| match name {
                "AWS_USE_FIPS_ENDPOINT" => value.map(str::to_owned),
                name => Some(name.to_owned()),
            });
            let config = sdk_config(&environment).unwrap();
            assert_eq!(config.use_fips(), expected, "{value:?}");
        }
    }

    #[test]
    fn aws_is_vouched_for_by_the_five_amazon_roots_and_nobody_else() {
        // "SHA-256 Hash of Subject Public Key Information" at <https://www.amazontrust.com/repository/>
        let published = [
            "fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2",
            "7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461",
            "36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9",
            "f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5",
            "2b071c59a0a0ae76b0eadb2bad23bad4580b69c3601b630c2eaf0613afa83f92",
        ];
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(AMAZON_ROOTS.as_bytes()) {
            store.add(root.unwrap()).unwrap();
        }
        let keys: Vec<String> = store
            .roots
            .iter()
            .map(|root| {
                let digest = digest(&SHA256, &sequence(&root.subject_public_key_info));
                let hex = |text, byte| format!("{text}{byte:02x}");
                digest.as_ref().iter().fold(String::new(), hex)
            })
            .collect();
        assert_eq!(keys, published);
    }
}
