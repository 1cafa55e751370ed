//! What a clinic's settings say of one provider entry: one type for each provider, in its folder.
//!
//! [`ProviderConfig`] is what the rest of the system asks of such a type. Settings, cache, rate limits and tests of settings
//! know no provider by its name; which there are, and how each is read, is in [`crate::registry`].

pub mod read;
mod sender;

use std::{any::Any, fmt, sync::Arc};

use comms_core::{BaseUrl, Channel, HashKey, ProviderKind, Secret, json::Object};
use serde_json::Value;

use self::read::{Reading, api_url_refusal};
pub use self::sender::OwnSender;
use crate::{net::egress::EgressAllow, rate::RateLimits, verify::VerifyPlan};

/// The configuration of one provider entry, with its secrets.
///
/// Implementations print nothing of it: their `Debug` shows the name of the type alone.
pub trait ProviderConfig: Any + fmt::Debug + Send + Sync {
    /// The provider it is for.
    fn kind(&self) -> ProviderKind;

    /// The fields as JSON in the form that they are read from, with what `secret` makes of each secret in its place.
    /// Those that are not set may be `null`.
    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value;

    /// The sender that the entry has of its own; `None` for a provider that does not send e-mail.
    fn own_sender(&self) -> Option<&OwnSender> {
        None
    }

    /// What the provider limits: not who the clinic is, but which login, account or number is used. Its parts are
    /// separated by line feeds, which none of them has. It may have the id of a credential in it: to be hashed, not to be
    /// shown.
    fn account_key(&self) -> String;

    /// How fast the provider takes messages, as far as that is known.
    fn rate_limits(&self) -> RateLimits {
        RateLimits::UNKNOWN
    }

    /// The API's URL where the clinic has set one; `None` for a provider that has no API over HTTP.
    fn api_url(&self) -> Option<&BaseUrl>;

    /// The stages of a check that sends nothing.
    fn verify_plan(&self) -> VerifyPlan {
        VerifyPlan::of_api(self.api_url(), &[])
    }

    /// Bytes of a remembered configuration beyond what every entry is counted with, roughly.
    fn settings_bytes(&self) -> usize {
        0
    }

    /// Bytes of the built provider, roughly, open connections not counted.
    fn provider_bytes(&self) -> usize {
        API_BYTES
    }

    /// The field by whose text no connection can ever be made under what the operator allows, and what would be right.
    fn egress_refusal(&self, allow: &EgressAllow) -> Option<(&'static str, &'static str)> {
        api_url_refusal(allow, self.api_url())
    }

    /// The field with trust roots of the clinic's own, and those in PEM.
    fn trust_roots(&self) -> Option<(&'static str, &str)> {
        None
    }

    /// The field that names something of the AWS account `platform`, in which this service runs and in which no clinic may
    /// name anything, and what would be right.
    fn platform_account_refusal(&self, platform: &str) -> Option<(&'static str, &'static str)> {
        let _ = platform;
        None
    }
}

/// Rounded up from what 400 providers of an API over HTTP each added to the resident memory of a process: 0.2 kB.
const API_BYTES: usize = 1_000;

impl dyn ProviderConfig {
    /// The configuration as JSON, with what `secret` makes of each secret in its place. Fields that are not set are left
    /// out.
    pub fn to_json(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = self.fields(secret);
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        json
    }

    /// The configuration as the type of one provider; `None` where it is another's.
    pub fn get<C: ProviderConfig>(&self) -> Option<&C> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// The account key of an entry of which nothing but a key is known. The key is the account, as far as can be seen, and is
/// too long to be guessed from its hash.
pub(crate) fn account_of_key(kind: ProviderKind, key: &Secret) -> String {
    let key = key.expose();
    let key = key.as_ref().map_or("", |key| key.as_str());
    let hash = HashKey::from_bytes(&[0; HashKey::LENGTH]).digest("pace", &[key.as_bytes()]);
    format!("{kind}\n{}", hash.hex128())
}

/// How a type of configuration is read.
pub trait ReadConfig: ProviderConfig + Sized {
    /// The provider.
    const KIND: ProviderKind;
    /// Other names that settings may give the provider.
    const ALIASES: &[&str] = &[];
    /// The channels that it serves.
    const CHANNELS: &[Channel];
    /// More bytes than any configuration of it has as JSON without escapes.
    const JSON_BYTES: usize;

    /// Reads a configuration, and adds to `object` everything that is wrong with it. A secret that is not sent again is taken from
    /// `stored`, provided that it still goes to the same place: whoever may change settings but does not know a
    /// secret must not be able to have it sent to a server, or used with an account, of their own.
    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self>;
}

/// One provider's type of configuration: a row of the registry.
#[derive(Debug)]
pub struct ConfigType {
    /// The provider.
    pub kind: ProviderKind,
    /// Other names that settings may give it.
    pub aliases: &'static [&'static str],
    /// The channels that it serves.
    pub channels: &'static [Channel],
    /// More bytes than any configuration of it has as JSON without escapes.
    pub json_bytes: usize,
    read: ReadAny,
}

type ReadAny = fn(
    &mut Object<'_>,
    Reading<'_>,
    Option<&dyn ProviderConfig>,
) -> Option<Arc<dyn ProviderConfig>>;

impl ConfigType {
    /// The row of a type.
    pub(crate) const fn of<C: ReadConfig>() -> Self {
        Self {
            kind: C::KIND,
            aliases: C::ALIASES,
            channels: C::CHANNELS,
            json_bytes: C::JSON_BYTES,
            read: |object, reading, stored| {
                // What is stored of another provider has no secret of this one's.
                let stored = stored.and_then(|stored| stored.get::<C>());
                let config = C::read(object, reading, stored)?;
                Some(Arc::new(config))
            },
        }
    }

    /// Reads the configuration of an entry; secrets that are not sent again are taken from `stored`.
    pub fn read(
        &self,
        mut object: Object<'_>,
        reading: Reading<'_>,
        stored: Option<&dyn ProviderConfig>,
    ) -> Option<Arc<dyn ProviderConfig>> {
        let config = (self.read)(&mut object, reading, stored);
        object.finish();
        config
    }
}
