//! AWS configuration straight from the environment that Lambda gives: region, credentials and, in
//! the local stack, endpoints. No profile files, no instance metadata.

use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use std::time::Duration;

use crate::environment::Environment;

/// The longest that one try of one AWS request may take. DynamoDB, KMS and SQS answer in
/// milliseconds; what takes longer is tried again.
const ATTEMPT_TIME: Duration = Duration::from_secs(3);
/// The longest that an AWS request may take with its tries.
const OPERATION_TIME: Duration = Duration::from_secs(8);

/// The configuration that all AWS clients of the process share, and with it one HTTP client.
pub fn sdk_config(environment: &Environment<'_>) -> SdkConfig {
    let region = environment.required("AWS_REGION");
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials(environment)))
        .http_client(
            Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .build_https(),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIME)
                .operation_timeout(OPERATION_TIME)
                .build(),
        )
        .service_config(ServiceVariables);
    if let Some(endpoint) = environment
        .optional("AWS_ENDPOINT_URL")
        .filter(|url| !url.is_empty())
    {
        config = config.endpoint_url(endpoint);
    }
    config.build()
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
