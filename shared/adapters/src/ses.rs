//! Amazon Simple Email Service, API v2: `SendEmail`.
//!
//! Idempotency: none, so the SDK's own retries are off; the tag `delivery_id` carries the delivery's id.
//!
//! Documentation: <https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html>

use std::fmt;

use async_trait::async_trait;
use aws_config::SdkConfig;
use comms_core::{
    Mailbox, ProviderError, ProviderKind, Receipt, Secret,
    account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
};

use crate::{
    deadline::Deadline,
    message::Message,
    provider::{Capabilities, Provider, StageReport},
};

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    receivers: 50,
    reply_to: true,
    internationalised_addresses: false,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: Some(40_000_000),
};

/// What is needed to send through SES.
#[derive(Clone)]
pub struct SesSettings {
    /// The region whose SES is used.
    pub region: AwsRegion,
    /// Whose SES it is.
    pub account: SesAccount,
    /// Who the mail is from: a verified identity, or an address of one.
    pub sender: Mailbox,
    /// The configuration set that the mail goes through.
    pub configuration_set: Option<SesName>,
}

/// Whose SES is used.
#[derive(Clone)]
pub enum SesAccount {
    /// The clinic's own account, by an access key.
    Keys {
        /// The key's id.
        access_key_id: AwsAccessKeyId,
        /// The key.
        secret_access_key: Secret,
    },
    /// The clinic's own account, by a role that this account may assume.
    Role {
        /// The role.
        role_arn: RoleArn,
        /// What the role's trust policy asks for (`sts:ExternalId`).
        external_id: ExternalId,
    },
    /// The platform's account, as one of its SES tenants.
    Platform {
        /// The tenant.
        tenant_name: SesName,
    },
}

/// SES as one account and sender.
pub struct SesProvider {
    settings: SesSettings,
    sdk: SdkConfig,
}

impl SesProvider {
    /// Makes the provider; nothing is connected to yet.
    pub fn new(settings: SesSettings, sdk: &SdkConfig) -> Self {
        Self {
            settings,
            sdk: sdk.clone(),
        }
    }
}

impl fmt::Debug for SesProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesProvider(…)")
    }
}

impl fmt::Debug for SesAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesAccount(…)")
    }
}

impl fmt::Debug for SesSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesSettings(…)")
    }
}

#[async_trait]
impl Provider for SesProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::AwsSes
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(
        &self,
        _message: &Message,
        _deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        Err(ProviderError::new(
            comms_core::Disposition::ProviderDown,
            comms_core::ErrorKind::Unavailable,
            "not yet",
        ))
    }

    async fn verify(&self, _deadline: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}
