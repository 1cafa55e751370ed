//! Whose name requests are signed in.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, future},
};
use comms_core::{
    Secret,
    account::{AwsAccessKeyId, ExternalId, RoleArn},
};

use super::failure::{NoCredentials, SesFailure};

/// The name of the platform's sessions in the clinic's own log of API calls.
const SESSION_NAME: &str = "clinic-comms";
/// The longest that is waited for STS with the SDK's retries; what is left of a message's time is for SES.
const ASSUME_TIMEOUT: Duration = Duration::from_secs(5);

/// An access key, which is opened for as long as a request is being signed.
pub(super) struct SealedKey {
    id: AwsAccessKeyId,
    secret: Secret,
}

impl SealedKey {
    pub(super) fn new(id: AwsAccessKeyId, secret: Secret) -> Self {
        Self { id, secret }
    }

    fn open(&self) -> provider::Result {
        let secret = self
            .secret
            .expose()
            .map_err(|_| NoCredentials(SesFailure::Sealed))?;
        // The SDK wipes its copy when it drops it.
        Ok(Credentials::new(
            self.id.as_str(),
            secret.as_str(),
            None,
            None,
            "clinic",
        ))
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedKey(…)")
    }
}

impl ProvideCredentials for SealedKey {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.open())
    }
}

/// A role of the clinic's account, assumed when its credentials are asked for.
///
/// STS is called here, and not by `aws_config`'s `AssumeRoleProvider`, because that one's errors hide the codes
/// which tell a trust policy that is wrong from an STS that does not answer.
pub(super) struct AssumedRole {
    role: RoleArn,
    external_id: ExternalId,
    sdk: SdkConfig,
}

impl AssumedRole {
    /// `sdk` has the platform's credentials, and the region whose STS is asked.
    pub(super) fn new(role: RoleArn, external_id: ExternalId, sdk: SdkConfig) -> Self {
        Self {
            role,
            external_id,
            sdk,
        }
    }

    async fn assume(&self) -> provider::Result {
        let no_role = |failure| NoCredentials(SesFailure::NoRole(Box::new(failure)));
        let question = aws_sdk_sts::Client::new(&self.sdk)
            .assume_role()
            .role_arn(self.role.as_str())
            .external_id(self.external_id.as_str())
            .role_session_name(SESSION_NAME)
            .send();
        let assumed = tokio::time::timeout(ASSUME_TIMEOUT, question)
            .await
            .map_err(|_| no_role(SesFailure::NoAnswerInTime))?
            .map_err(|error| no_role(SesFailure::of(&error, false)))?;
        let given = assumed
            .credentials
            .ok_or_else(|| no_role(SesFailure::Unanswered))?;
        let until =
            SystemTime::try_from(given.expiration).map_err(|_| no_role(SesFailure::Unanswered))?;
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            Some(until),
            "role",
        ))
    }
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssumedRole(…)")
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
