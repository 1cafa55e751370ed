//! Providers' identifiers of accounts and their resources, each in the form that the provider documents. They are not secret.
//! They become parts of URLs, headers and ARNs, so they may contain only the characters of that form.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// The text does not have the required form. The message states the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct AccountNameError(&'static str);

macro_rules! account_names {
    ($($(#[$doc:meta])* $name:ident: $form:literal, $fits:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(String);

        impl $name {
            /// Reads a name of this form.
            pub fn parse(text: &str) -> Result<Self, AccountNameError> {
                let fits: fn(&str) -> bool = $fits;
                if fits(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(AccountNameError($form))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

account_names! {
    /// An AWS region, such as `eu-central-1`. It becomes part of a host name.
    AwsRegion: "must be an AWS region such as eu-central-1, of at most 32 characters", is_region;
    /// The public half of an AWS access key (IAM, `AccessKey`: 16 to 128 word characters).
    AwsAccessKeyId: "must be an AWS access key id: 16 to 128 letters and digits, such as AKIA…",
        |text| (16..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    /// The ARN of an IAM role.
    RoleArn: "must be the ARN of a role, such as arn:aws:iam::123456789012:role/clinic-mail, with at most 512 characters after role/", is_role_arn;
    /// What STS is told beside a role's ARN (STS, `AssumeRole`, `ExternalId`: 2 to 1224 of
    /// `\w+=,.@:/-`), at most 256 here.
    ExternalId: "must be 2 to 256 letters, digits or _+=,.@:/-",
        |text| (2..=256).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b));
    /// A name within SES: of a configuration set or of a tenant (SES v2: 1 to 64 of `A-Za-z0-9_-`).
    SesName: "must be 1 to 64 letters, digits, '-' or '_'",
        |text| (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    /// The id of a node in Meta's Graph: a phone number or a business account.
    GraphId: "must be Meta's id: 5 to 20 digits",
        |text| (5..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    /// A Twilio account.
    TwilioAccountSid: "must be an account SID: AC and 32 hexadecimal digits", |text| is_sid(text, "AC");
    /// A Twilio API key.
    TwilioApiKeySid: "must be an API key SID: SK and 32 hexadecimal digits", |text| is_sid(text, "SK");
    /// A Twilio messaging service.
    MessagingServiceSid: "must be a messaging service SID: MG and 32 hexadecimal digits", |text| is_sid(text, "MG");
    /// A Twilio content template.
    ContentSid: "must be a content SID: HX and 32 hexadecimal digits", |text| is_sid(text, "HX");
}

/// Twilio, "String Identifier (SID)": two letters and 32 hexadecimal digits.
fn is_sid(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_region(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    match parts.split_last() {
        Some((number, words)) => {
            (2..=4).contains(&words.len())
                && words.iter().all(word)
                && (1..=2).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
                && text.len() <= 32
        }
        None => false,
    }
}

fn is_role_arn(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts.as_slice() else {
        return false;
    };
    let role = resource.strip_prefix("role/").unwrap_or_default();
    *arn == "arn"
        && matches!(*partition, "aws" | "aws-cn" | "aws-us-gov")
        && *service == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && (1..=512).contains(&role.len())
        // IAM has no such names; whatever compares paths must not see two of one role.
        && role.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && role
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@/-".contains(&b))
}

impl RoleArn {
    /// The account that the role is in: 12 digits.
    pub fn account(&self) -> &str {
        self.0.split(':').nth(4).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_providers_form_and_no_other() {
        let hex = "0123456789abcdef0123456789ABCDEF";
        for region in ["eu-central-1", "us-gov-west-1", "ap-southeast-4"] {
            assert!(AwsRegion::parse(region).is_ok(), "{region}");
        }
        for region in [
            "",
            "eu",
            "eu-central",
            "EU-central-1",
            "eu-central-1.evil.example",
            "eu-central-1/x",
            "eu--1",
            "-1",
        ] {
            assert!(AwsRegion::parse(region).is_err(), "{region}");
        }
        assert!(RoleArn::parse("arn:aws:iam::123456789012:role/path/clinic-mail").is_ok());
        for arn in [
            "arn:aws:iam::123456789012:user/x",
            "arn:aws:iam::12345678901:role/x",
            "arn:aws:sts::123456789012:role/x",
            "arn:aws:iam:eu:123456789012:role/x",
            "arn:aws:iam::123456789012:role/../x",
            "arn:aws:iam::123456789012:role//x",
            "role/x",
        ] {
            assert!(RoleArn::parse(arn).is_err(), "{arn}");
        }
        assert!(TwilioAccountSid::parse(&format!("AC{hex}")).is_ok());
        assert!(TwilioAccountSid::parse(&format!("SK{hex}")).is_err());
        assert!(TwilioAccountSid::parse(&format!("AC{hex}0")).is_err());
        assert!(ContentSid::parse("HX../../Accounts/xxxxxxxxxxxxxxxxx").is_err());
        assert!(GraphId::parse("123456789012345").is_ok());
        for id in ["1234", "12345x", "123456789012345678901", "me"] {
            assert!(GraphId::parse(id).is_err(), "{id}");
        }
        assert!(SesName::parse("clinic_1-x").is_ok() && SesName::parse("a b").is_err());
        assert!(ExternalId::parse("clinic-1:7f9c").is_ok() && ExternalId::parse("x").is_err());
        assert!(AwsAccessKeyId::parse("AKIAIOSFODNN7EXAMPLE").is_ok());
        assert!(AwsAccessKeyId::parse("AKIA IOSFODNN7EXAMPLE").is_err());
    }
}
