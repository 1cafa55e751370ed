//! Values of command-line options.

use clap::builder::RangedU64ValueParser;
use comms_core::Tenant;

/// 1 to 1,000 a second.
pub(crate) fn rate() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=1_000)
}

/// A clinic's id, or `_global`.
pub(crate) fn tenant(text: &str) -> Result<Tenant, String> {
    Tenant::parse(text).map_err(|error| error.to_string())
}

/// A key's ARN, as the items name it. An alias may name another key tomorrow, and a key's id another key in each account; to
/// resolve either takes a permission of its own.
pub(crate) fn key_arn(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, "kms", _, _, key] if key.starts_with("key/") => Ok(text.to_owned()),
        _ => Err(
            "must be the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID; \
                  `aws kms describe-key --key-id ALIAS --query KeyMetadata.Arn` says it"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_arn_and_nothing_else() {
        let arn = "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd";
        assert_eq!(key_arn(arn).as_deref(), Ok(arn));
        for other in [
            "",
            "alias/clinic-comms",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-central-1:123456789012:alias/clinic-comms",
            "arn:aws:s3:::key/1",
        ] {
            assert!(
                key_arn(other).unwrap_err().contains("describe-key"),
                "{other}"
            );
        }
    }
}
