//! The one list of providers. A new one is a folder and a line here.
//!
//! It is written out twice: what settings need, and what sending needs. A function that never sends thus has no
//! adapter in its program.

use std::sync::Arc;

use comms_core::{Channel, Mailbox, ProviderKind};

use crate::{
    adapter::{AdapterType, BuildError, Parts},
    config::{ConfigType, ProviderConfig},
    provider::Provider,
};

macro_rules! providers {
    ($($folder:ident: $config:ident, $adapter:ident;)*) => {
        /// How each provider is configured, in the order of the documentation.
        pub static CONFIGS: &[ConfigType] = &[$(ConfigType::of::<crate::$folder::$config>()),*];

        /// How each provider is sent through.
        pub static ADAPTERS: &[AdapterType] = &[$(AdapterType::of::<crate::$folder::$adapter>()),*];
    };
}

providers! {
    smtp: SmtpConfig, SmtpProvider;
    ses: SesConfig, SesProvider;
    sendgrid: SendgridConfig, SendgridProvider;
    postmark: PostmarkConfig, PostmarkProvider;
    zeptomail: ZeptomailConfig, ZeptomailProvider;
    meta: MetaConfig, MetaProvider;
    twilio: TwilioConfig, TwilioProvider;
}

/// More bytes than any configuration has as JSON without escapes.
pub const MAX_CONFIG_BYTES: usize = {
    let mut max = 0;
    let mut index = 0;
    while index < CONFIGS.len() {
        if CONFIGS[index].json_bytes > max {
            max = CONFIGS[index].json_bytes;
        }
        index += 1;
    }
    max
};

/// The provider that settings name so.
pub fn find(name: &str) -> Option<&'static ConfigType> {
    CONFIGS
        .iter()
        .find(|config| config.kind.as_str() == name || config.aliases.contains(&name))
}

/// Every provider, in the order of the documentation.
pub fn kinds() -> impl Iterator<Item = ProviderKind> + Clone {
    CONFIGS.iter().map(|config| config.kind)
}

/// The providers of a channel.
pub fn of_channel(channel: Channel) -> impl Iterator<Item = ProviderKind> + Clone {
    let serving = CONFIGS
        .iter()
        .filter(move |config| config.channels.contains(&channel));
    serving.map(|config| config.kind)
}

/// Builds the adapter of a configuration; nothing is connected to yet. `sender` is who e-mail is from.
pub fn build(
    config: &dyn ProviderConfig,
    sender: Option<Mailbox>,
    parts: &Parts,
) -> Result<Arc<dyn Provider>, BuildError> {
    let kind = config.kind();
    let adapter = ADAPTERS.iter().find(|adapter| adapter.kind == kind);
    (adapter.ok_or(BuildError::Unknown)?.build)(config, sender, parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_provider_has_one_name_and_a_channel() {
        let names = CONFIGS.iter().flat_map(|config| {
            [config.kind.as_str()]
                .into_iter()
                .chain(config.aliases.iter().copied())
        });
        let distinct: BTreeSet<_> = names.clone().collect();
        assert_eq!(distinct.len(), names.count());
        for config in CONFIGS {
            assert!(!config.channels.is_empty(), "{}", config.kind);
            assert_eq!(find(config.kind.as_str()).unwrap().kind, config.kind);
        }
        assert_eq!(find("ses").unwrap().kind.as_str(), "aws_ses");
        assert!(find("pigeon").is_none());
    }
}
