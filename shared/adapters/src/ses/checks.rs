//! What is read of an account and its identities.

use std::num::NonZeroU32;

use aws_sdk_sesv2::operation::get_account::GetAccountOutput;
use comms_core::{Disposition, EmailAddress, ErrorKind, ProviderError};

/// Domains that are asked for: the sender's own and some above it.
const MAX_DOMAINS: usize = 4;

/// What may be verified so that `sender` may send: the address, its domain, and the domains above that.
pub(super) fn identities(sender: &EmailAddress) -> impl Iterator<Item = &str> {
    let domains = std::iter::successors(Some(sender.domain()), |domain| {
        domain.split_once('.').map(|(_, above)| above)
    });
    let domains = domains.filter(|domain| domain.contains('.'));
    // Further up there is nothing that a clinic could have verified.
    std::iter::once(sender.as_str()).chain(domains.take(MAX_DOMAINS))
}

/// Whether the identities that a refusal names as not verified are others than the sender's: those of recipients, which
/// have to be verified while the account is in the sandbox (SES developer guide, "Moving out of the sandbox").
pub(super) fn names_only_others(text: &str, sender: &EmailAddress) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((_, rest)) = text.split_once("failed the check in region ") else {
        return false;
    };
    let Some((_, named)) = rest.split_once(": ") else {
        return false;
    };
    let sender = EmailAddress::parse(&sender.as_str().to_ascii_lowercase());
    sender.is_ok_and(|sender| {
        named
            .split(',')
            .map(|named| named.trim().trim_end_matches('.'))
            .all(|named| {
                !named.contains(sender.as_str()) && identities(&sender).all(|own| own != named)
            })
    })
}

/// The rate as a whole number: rounded down, at least one; `None` for what is no rate.
pub(super) fn whole_rate(rate: f64) -> Option<NonZeroU32> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between one and a million"
    )]
    let whole = rate.clamp(1.0, 1e6) as u32;
    NonZeroU32::new(whole).filter(|_| rate > 0.0)
}

/// Whether the account sends at all. An account on probation does (SES, `GetAccount`, `EnforcementStatus`).
pub(super) fn check_state(account: &GetAccountOutput) -> Result<(), ProviderError> {
    let suspended = |detail| {
        let kind = ErrorKind::AccountSuspended;
        Err(ProviderError::new(Disposition::ProviderDown, kind, detail))
    };
    if account.enforcement_status() == Some("SHUTDOWN") {
        return suspended(
            "SES has shut the account down in this region; answer AWS's case about it.",
        );
    }
    if !account.sending_enabled() {
        return suspended(
            "Sending is paused for the account in this region; enable it again at SES.",
        );
    }
    Ok(())
}

/// Whether the account has something left of its quota. One in the sandbox fails: the admin's own verified
/// address would be reached, and no patient's (SES, "Request production access").
pub(super) fn check_quota(account: Option<&GetAccountOutput>) -> Result<(), ProviderError> {
    let error = |kind, detail| Err(ProviderError::new(Disposition::ProviderDown, kind, detail));
    let Some(account) = account else {
        return error(
            ErrorKind::Unauthenticated,
            "The credentials are accepted, but may not read the account's state; allow ses:GetAccount to have it \
             checked.",
        );
    };
    if !account.production_access_enabled() {
        return error(
            ErrorKind::QuotaExceeded,
            "The account is in the SES sandbox in this region, from where only verified addresses are reached; \
             request production access.",
        );
    }
    let used_up = account.send_quota().is_some_and(|quota| {
        // -1 is no limit (SES, `SendQuota`).
        quota.max24_hour_send() >= 0.0 && quota.sent_last24_hours() >= quota.max24_hour_send()
    });
    if used_up {
        return error(
            ErrorKind::QuotaExceeded,
            "The account has sent all that it may in 24 hours; request a higher quota at SES.",
        );
    }
    Ok(())
}
