//! Whose SES, where, and as whom.

use std::{fmt, num::NonZeroU32};

use comms_core::{
    BaseUrl, Channel, ProviderKind, Secret, Tenant,
    account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
    json::{Object, read},
};
use serde_json::{Value, json};

use crate::{
    config::{
        OwnSender, ProviderConfig, ReadConfig,
        read::{
            MAX_SECRET, Reading, StoredSecret, drop_unset, read_secret, read_sender, require_ascii,
            sender_json,
        },
    },
    net::egress::EgressAllow,
    rate::{AccountLimit, RateLimits},
    verify::{Peer, VerifyPlan, VerifyStage},
};

/// Messages in a second where SES has not said how many the account may send: what an account has when it
/// leaves the sandbox (SES, "Service quotas", "Sending quotas").
pub(super) const UNKNOWN_MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(13);
/// Bytes of a built provider, rounded up from what 400 of them added to the resident memory of a process: 14 kB.
const PROVIDER_BYTES: usize = 20_000;

/// One SES account in one region.
#[derive(Clone)]
pub struct SesConfig {
    /// The region whose SES is used.
    pub region: AwsRegion,
    /// Whose SES it is.
    pub account: SesAccount,
    /// Who the mail is from: a verified identity, or an address of one.
    pub from: OwnSender,
    /// The configuration set that the mail goes through.
    pub configuration_set: Option<SesName>,
}

/// Whose SES is used. What stands here is bound to the clinic by the rules of its reader.
#[derive(Clone)]
pub enum SesAccount {
    /// The clinic's own account, by an access key.
    Keys {
        /// The key's id.
        access_key_id: AwsAccessKeyId,
        /// The key.
        secret_access_key: Secret,
    },
    /// The clinic's own account, by a role that the platform's account may assume.
    Role {
        /// The role.
        role_arn: RoleArn,
        /// What the role's trust policy asks for (`sts:ExternalId`): the clinic's id, or something that begins with it.
        external_id: ExternalId,
    },
    /// The platform's account, as one of its SES tenants.
    Platform {
        /// The tenant: the clinic's id.
        tenant_name: SesName,
    },
}

impl fmt::Debug for SesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesConfig(…)")
    }
}

impl fmt::Debug for SesAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesAccount(…)")
    }
}

impl ReadConfig for SesConfig {
    const KIND: ProviderKind = ProviderKind::new("aws_ses");
    /// Platforms that moved over know SES by this name.
    const ALIASES: &[&str] = &["ses"];
    const CHANNELS: &[Channel] = &[Channel::Email];
    const JSON_BYTES: usize = MAX_SECRET + 8_192;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let region = object.required("region", read::parsed(AwsRegion::parse));
        let from = read_sender(object, reading.rules);
        require_ascii(object, &from, "SES");
        let configuration_set = object.optional("configurationSet", read::parsed(SesName::parse));
        let stored = stored.map(|stored| &stored.account);
        let account = read_account(object, reading.tenant, stored);
        Some(Self {
            region: region?,
            account: account?,
            from,
            configuration_set,
        })
    }
}

/// The fields that say whose SES it is, of which an entry has those of one way only.
const ACCOUNT_FIELDS: [&str; 5] = [
    "accessKeyId",
    "secretAccessKey",
    "roleArn",
    "externalId",
    "tenantName",
];

fn read_account(
    object: &mut Object<'_>,
    tenant: &Tenant,
    stored: Option<&SesAccount>,
) -> Option<SesAccount> {
    drop_unset(object, &ACCOUNT_FIELDS);
    let by_keys = !object.is_missing("accessKeyId") || !object.is_missing("secretAccessKey");
    let by_role = !object.is_missing("roleArn") || !object.is_missing("externalId");
    let by_tenant = !object.is_missing("tenantName");
    match (by_keys, by_role, by_tenant) {
        (true, false, false) => read_keys(object, stored),
        (false, true, false) => read_role(object, tenant),
        (false, false, true) => read_tenant(object, tenant),
        (_, _, _) => {
            for name in ACCOUNT_FIELDS {
                object.take(name);
            }
            object.problem_here(
                "must have exactly one of: accessKeyId with secretAccessKey; roleArn with externalId; tenantName",
            );
            None
        }
    }
}

fn read_keys(object: &mut Object<'_>, stored: Option<&SesAccount>) -> Option<SesAccount> {
    let id = object.required("accessKeyId", read::parsed(AwsAccessKeyId::parse));
    let stored = stored.and_then(|stored| match stored {
        SesAccount::Keys {
            access_key_id,
            secret_access_key,
        } => Some(StoredSecret {
            secret: secret_access_key,
            same_place: id.as_ref() == Some(access_key_id),
        }),
        SesAccount::Role { .. } | SesAccount::Platform { .. } => None,
    });
    let secret = read_secret(object, "secretAccessKey", stored, "accessKeyId");
    Some(SesAccount::Keys {
        access_key_id: id?,
        secret_access_key: secret?,
    })
}

fn read_role(object: &mut Object<'_>, tenant: &Tenant) -> Option<SesAccount> {
    let role_arn = object.required("roleArn", read::parsed(RoleArn::parse));
    let external_id = object.required("externalId", |value| {
        let id = read::parsed(ExternalId::parse)(value)?;
        // The role's trust policy knows clinics by this id alone. Were it free, one clinic
        // could have this account assume another clinic's role.
        let rest = id.as_str().strip_prefix(tenant.as_str());
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
            Ok(id)
        } else {
            Err(format!(
                "must be {tenant} or begin with {tenant}: (with the colon), so that no other clinic can use the role; put it into the role's trust policy as sts:ExternalId"
            ))
        }
    });
    Some(SesAccount::Role {
        role_arn: role_arn?,
        external_id: external_id?,
    })
}

fn read_tenant(object: &mut Object<'_>, tenant: &Tenant) -> Option<SesAccount> {
    let tenant_name = object.required("tenantName", |value| {
        let name = read::parsed(SesName::parse)(value)?;
        // In the platform's account the tenant is what keeps clinics apart.
        match tenant {
            Tenant::Clinic(clinic) if clinic.as_str() != name.as_str() => {
                Err(format!("must be {clinic}, this clinic's own SES tenant"))
            }
            Tenant::Clinic(_) | Tenant::Global => Ok(name),
        }
    });
    Some(SesAccount::Platform {
        tenant_name: tenant_name?,
    })
}

impl ProviderConfig for SesConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = json!({
            "region": self.region,
            "configurationSet": self.configuration_set,
        });
        sender_json(&mut json, &self.from);
        match &self.account {
            SesAccount::Keys {
                access_key_id,
                secret_access_key,
            } => {
                json["accessKeyId"] = json!(access_key_id);
                json["secretAccessKey"] = secret(secret_access_key);
            }
            SesAccount::Role {
                role_arn,
                external_id,
            } => {
                json["roleArn"] = json!(role_arn);
                json["externalId"] = json!(external_id);
            }
            SesAccount::Platform { tenant_name } => json["tenantName"] = json!(tenant_name),
        }
        json
    }

    fn own_sender(&self) -> Option<&OwnSender> {
        Some(&self.from)
    }

    fn account_key(&self) -> String {
        let account = match &self.account {
            // Which account a key is of, nobody says; two keys of one account are rare.
            SesAccount::Keys { access_key_id, .. } => format!("key\n{access_key_id}"),
            SesAccount::Role { role_arn, .. } => format!("account\n{}", role_arn.account()),
            SesAccount::Platform { .. } => "platform".to_owned(),
        };
        format!("{}\n{account}\n{}", Self::KIND, self.region)
    }

    fn rate_limits(&self) -> RateLimits {
        RateLimits {
            per_second: AccountLimit::Asked {
                until_known: UNKNOWN_MESSAGES_PER_SECOND,
            },
            per_recipient: None,
        }
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        None
    }

    fn verify_plan(&self) -> VerifyPlan {
        use VerifyStage::{Authenticate, Quota, Sender};
        VerifyPlan {
            peer: Peer::Aws,
            stages: match &self.account {
                SesAccount::Keys { .. } | SesAccount::Role { .. } => {
                    vec![Authenticate, Sender, Quota]
                }
                SesAccount::Platform { .. } => vec![Authenticate],
            },
        }
    }

    fn provider_bytes(&self) -> usize {
        PROVIDER_BYTES
    }

    /// AWS's own endpoints.
    fn egress_refusal(&self, _: &EgressAllow) -> Option<(&'static str, &'static str)> {
        None
    }

    fn platform_account_refusal(&self, platform: &str) -> Option<(&'static str, &'static str)> {
        match &self.account {
            SesAccount::Role { role_arn, .. } if role_arn.account() == platform => Some((
                "roleArn",
                "must be a role in the clinic's own AWS account, not in the platform's; for the platform's \
                 account set tenantName",
            )),
            SesAccount::Role { .. } | SesAccount::Keys { .. } | SesAccount::Platform { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(account: SesAccount, region: &str) -> SesConfig {
        SesConfig {
            region: AwsRegion::parse(region).unwrap(),
            account,
            from: OwnSender::default(),
            configuration_set: None,
        }
    }

    fn role(account: &str, name: &str) -> SesAccount {
        SesAccount::Role {
            role_arn: RoleArn::parse(&format!("arn:aws:iam::{account}:role/{name}")).unwrap(),
            external_id: ExternalId::parse("clinic-1").unwrap(),
        }
    }

    fn platform(tenant: &str) -> SesAccount {
        SesAccount::Platform {
            tenant_name: SesName::parse(tenant).unwrap(),
        }
    }

    fn key(id: &str) -> SesAccount {
        SesAccount::Keys {
            access_key_id: AwsAccessKeyId::parse(id).unwrap(),
            secret_access_key: Secret::new("planted-secret".to_owned()),
        }
    }

    #[test]
    fn what_ses_limits_together_has_one_key_and_what_it_limits_apart_has_two() {
        let (here, there) = ("eu-central-1", "us-east-1");
        for (one, other, is_same) in [
            (
                (platform("clinic-1"), here),
                (platform("clinic-2"), here),
                true,
            ),
            (
                (platform("clinic-1"), here),
                (platform("clinic-1"), there),
                false,
            ),
            (
                (role("123456789012", "a"), here),
                (role("123456789012", "path/b"), here),
                true,
            ),
            (
                (role("123456789012", "a"), here),
                (role("210987654321", "a"), here),
                false,
            ),
            (
                (key("AKIACLINIC0000000000"), here),
                (key("AKIACLINIC0000000001"), here),
                false,
            ),
        ] {
            let [one, other] =
                [one, other].map(|(account, region)| config(account, region).account_key());
            assert_eq!(one == other, is_same, "{one}");
        }
    }
}
