//! Whose SES, and as whom.

use std::{fmt, num::NonZeroU32};

use comms_core::{
    Mailbox, Secret,
    account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
};

/// Messages in a second where SES has not said how many the account may send: what an account has when it
/// leaves the sandbox (SES, "Service quotas", "Sending quotas").
pub(crate) const UNKNOWN_MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(13);

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
