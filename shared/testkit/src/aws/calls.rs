//! What was asked of the local AWS: calls, messages sent by SES, roles assumed.

use std::fmt;

use serde_json::Value;

/// One call that arrived, whether it was answered or failed by a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCall {
    /// The service's name in the credential scope: `dynamodb`, `kms`, `sqs`, `ses`, …
    pub service: String,
    /// The operation as AWS spells it, such as `GetItem`.
    pub operation: String,
}

impl fmt::Display for AwsCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.operation)
    }
}

/// A message that SES took over.
#[derive(Clone, PartialEq)]
pub struct SesMessage {
    /// The region whose SES took it.
    pub region: String,
    /// The id of the access key that signed the request.
    pub access_key_id: String,
    /// The session token that came with it, as temporary credentials have one.
    pub session_token: Option<String>,
    /// The id that SES answered with.
    pub message_id: String,
    /// The request's body (SES v2, `SendEmail`).
    pub request: Value,
}

impl fmt::Debug for SesMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SesMessage({}, …)", self.message_id)
    }
}

/// A role for which STS gave temporary credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumedRole {
    /// The region whose STS was asked.
    pub region: String,
    /// The role.
    pub role_arn: String,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// The name that the caller gave to the session.
    pub session_name: String,
    /// The id of the temporary access key.
    pub access_key_id: String,
}
