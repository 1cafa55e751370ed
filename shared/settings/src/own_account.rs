//! Roles of the stack's own AWS account, which a clinic must not name as its own.

use std::str::FromStr;

use comms_core::{Channel, Position, Problems};
use thiserror::Error;

use crate::document::{ChannelSettings, CommunicationSettings};

/// The AWS account that the stack runs in: `STACK_ACCOUNT_ID`. Unknown where the variable is absent.
///
/// A clinic's `roleArn` names a role in the clinic's account. One in the stack's account would have the functions act
/// by rights that somebody set up for the platform, and the external id does not protect a role whose trust policy
/// does not ask for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAccount(Option<String>);

/// The text is not an AWS account id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be an AWS account id of 12 digits")]
pub struct OwnAccountError;

impl FromStr for OwnAccount {
    type Err = OwnAccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self(None)),
            id if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self(Some(id.to_owned())))
            }
            _ => Err(OwnAccountError),
        }
    }
}

impl OwnAccount {
    /// Adds a problem for each entry of `settings` whose role is in this account. The document stands at `pointer`.
    pub fn check_roles(
        &self,
        settings: &CommunicationSettings,
        pointer: &str,
        problems: &mut Problems,
    ) {
        let Some(own) = &self.0 else {
            return;
        };
        for channel in Channel::ALL {
            let entries = settings.channel(channel).into_iter();
            for (position, entry) in entries.flat_map(ChannelSettings::entries) {
                let Some((field, detail)) = entry.config.platform_account_refusal(own) else {
                    continue;
                };
                let place = match position {
                    Position::Primary | Position::Global => "primary".to_owned(),
                    Position::Fallback(n) | Position::GlobalFallback(n) => {
                        format!("fallback/{n}")
                    }
                };
                problems.add(
                    format!("{pointer}/{channel}/{place}/credentials/{field}"),
                    detail,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use comms_core::Tenant;
    use serde_json::json;

    use super::*;

    fn settings(account: &str) -> CommunicationSettings {
        let entry = |id: &str, account: &str| {
            json!({"id": id, "provider": "aws_ses", "credentials": {
                "region": "eu-central-1", "externalId": "clinic-1", "fromEmail": "a@clinic.example",
                "roleArn": format!("arn:aws:iam::{account}:role/clinic-mail")}})
        };
        let document = json!({"email": {
            "primary": entry("first", "210987654321"), "fallback": [entry("second", account)]}});
        let mut problems = Problems::default();
        let tenant = Tenant::parse("clinic-1").unwrap();
        let read = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
        problems.or(read).unwrap()
    }

    #[test]
    fn role_of_the_stacks_own_account_is_refused() {
        let own: OwnAccount = "123456789012".parse().unwrap();
        let mut problems = Problems::default();
        own.check_roles(&settings("123456789012"), "/s", &mut problems);
        let pointers: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|p| p.pointer.clone())
            .collect();
        assert_eq!(pointers, ["/s/email/fallback/0/credentials/roleArn"]);

        let mut problems = Problems::default();
        own.check_roles(&settings("210987654321"), "/s", &mut problems);
        OwnAccount::default().check_roles(&settings("123456789012"), "/s", &mut problems);
        assert!(problems.is_empty());
    }

    #[test]
    fn account_is_12_digits_or_unknown() {
        assert_eq!("".parse(), Ok(OwnAccount::default()));
        for text in ["1", "12345678901x", "1234567890123"] {
            assert_eq!(text.parse::<OwnAccount>(), Err(OwnAccountError), "{text}");
        }
    }
}
