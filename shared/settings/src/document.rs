//! The settings document: for each channel a primary provider, fallbacks in order, the sender, and
//! what to do when it is not known whether a message went out.
//!
//! One reader serves the API, the store and imports. Secrets go in and do not come out:
//! [`CommunicationSettings::view`] shows `{"configured":true,"last4":"…"}` in their place, and a
//! document that comes back with that marker, or without the secret, keeps the stored one.
//!
//! What comes from outside has to follow today's rules. What is stored followed those of its day, and
//! has to be readable: a rule that came later must not keep a clinic from sending.
//!
//! Forms, and the system that this one follows, write an empty text for a value that is not set: it
//! is the same as `null`, and as nothing.

use std::{cell::Cell, collections::HashSet, num::NonZeroU32, sync::Arc};

use comms_adapters::{
    ProviderConfig,
    chain::AmbiguityPolicy,
    config::read::{Reading, Rules, parse_sender},
    registry::{self, MAX_CONFIG_BYTES},
};
use comms_core::{
    Channel, Country, EmailAddress, EntryId, HashKey, Mailbox, Position, Problems, Secret, Tenant,
    json::{Object, read},
};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    ceilings::{CEILINGS, Ceilings},
    rate_limit::{self, Period, RateLimit},
};

/// Bytes of a request with a document in it. What can be stored has less than half of that
/// ([`StoreError::TooLarge`](crate::StoreError::TooLarge)).
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Fallbacks of one channel.
pub const MAX_FALLBACKS: usize = 5;
/// Retries of one provider before the next is tried.
pub const MAX_RETRY_ATTEMPTS: u32 = 5;

const DEFAULT_COUNTRY: &str = "defaultCountry";

/// Where a document stands in the body of a request.
pub const POINTER: &str = "/settings/communicationSettings";

/// Takes the document out of a request's body, in which it stands at [`POINTER`]. That it is missing is
/// a problem.
pub fn take_document(body: &mut Object<'_>) -> Option<Value> {
    if body.is_missing("settings") {
        body.problem("settings", "is required");
    }
    body.object("settings", |mut settings| {
        let document = settings.take("communicationSettings");
        if document.is_none() {
            settings.problem("communicationSettings", "is required");
        }
        settings.finish();
        document
    })
}

/// Everything a tenant has set.
#[derive(Debug, Clone)]
pub struct CommunicationSettings {
    /// The e-mail channel.
    pub email: Option<ChannelSettings>,
    /// The WhatsApp channel.
    pub whatsapp: Option<ChannelSettings>,
    /// The country of phone numbers that are written without a country code.
    pub default_country: Option<Country>,
    /// What the platform allows the clinic. Empty without any.
    pub ceilings: Ceilings,
}

/// One channel of a tenant.
#[derive(Debug, Clone)]
pub struct ChannelSettings {
    /// The provider that is tried first.
    pub primary: ProviderEntry,
    /// Those after it, in order.
    pub fallback: Vec<ProviderEntry>,
    /// The sender where the provider has none of its own.
    pub default_from: Option<EmailAddress>,
    /// The sender's name.
    pub default_from_name: Option<String>,
    /// Whether the global account may send when all of these fail.
    pub use_global: bool,
    /// Retries of one provider, after its first attempt, before the next is tried.
    pub retry_attempts: u8,
    /// What to do when it is not known whether a message went out.
    pub on_ambiguous: AmbiguityPolicy,
    /// How many messages may be sent in a time, whichever providers send them.
    pub rate_limit: Option<RateLimit>,
}

/// A provider with the credentials that are its own.
#[derive(Debug, Clone)]
pub struct ProviderEntry {
    /// Its id in this channel.
    pub id: EntryId,
    /// Whether it is used.
    pub enabled: bool,
    /// Messages in a second, in place of what its provider takes by default.
    pub max_per_second: Option<NonZeroU32>,
    /// How to reach it, and as whom: what stands under `credentials`.
    pub config: Arc<dyn ProviderConfig>,
}

impl CommunicationSettings {
    /// Reads `tenant`'s document, which stands at `pointer`, by today's rules. A secret that is missing or
    /// replaced by the marker is taken from the entry of the same id and provider in `stored`,
    /// provided that the entry still goes to the same place.
    pub fn read(
        mut value: Value,
        pointer: &str,
        tenant: &Tenant,
        stored: Option<&Self>,
        problems: &mut Problems,
    ) -> Option<Self> {
        // Of the country there is no earlier form that would write it empty.
        let country = value.get_mut(DEFAULT_COUNTRY).map(Value::take);
        unset_empty_texts(&mut value);
        if let Some(country) = country {
            value[DEFAULT_COUNTRY] = country;
        }
        let reading = Reading {
            tenant,
            rules: Rules::Current,
        };
        Self::read_by(reading, value, pointer, stored, problems)
    }

    /// Reads a document of `tenant` that was right when it was stored.
    pub(crate) fn read_stored(value: Value, tenant: &Tenant) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let reading = Reading {
            tenant,
            rules: Rules::Readable,
        };
        let settings = Self::read_by(reading, value, "", None, &mut problems);
        problems.or(settings)
    }

    fn read_by(
        reading: Reading<'_>,
        value: Value,
        pointer: &str,
        stored: Option<&Self>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut object = Object::new(value, pointer, problems)?;
        let channel = |object: &mut Object<'_>, channel: Channel| {
            let stored = stored.and_then(|settings| settings.channel(channel));
            object.object(channel.as_str(), |object| {
                read_channel(object, reading, channel, stored)
            })
        };
        let email = channel(&mut object, Channel::Email);
        let whatsapp = channel(&mut object, Channel::Whatsapp);
        let default_country = object.optional(DEFAULT_COUNTRY, read::parsed(Country::parse));
        let ceilings = object
            .object(CEILINGS, |object| Some(Ceilings::read(object)))
            .unwrap_or_default();
        object.finish();
        Some(Self {
            email,
            whatsapp,
            default_country,
            ceilings,
        })
    }

    /// A document with nothing but ceilings.
    pub(crate) const fn with_ceilings(ceilings: Ceilings) -> Self {
        Self {
            email: None,
            whatsapp: None,
            default_country: None,
            ceilings,
        }
    }

    /// The settings of one channel.
    pub fn channel(&self, channel: Channel) -> Option<&ChannelSettings> {
        match channel {
            Channel::Email => self.email.as_ref(),
            Channel::Whatsapp => self.whatsapp.as_ref(),
        }
    }

    /// All provider entries, with where they are.
    pub fn entries(&self) -> impl Iterator<Item = (Channel, &ProviderEntry)> {
        Channel::ALL.into_iter().flat_map(|channel| {
            self.channel(channel)
                .into_iter()
                .flat_map(ChannelSettings::entries)
                .map(move |(_, entry)| (channel, entry))
        })
    }

    /// The document as it may be shown: markers in place of secrets.
    pub fn view(&self) -> Value {
        self.to_json(|entry| Some(entry.config.to_json(&secret_marker)))
    }

    /// The document as it is kept in the clear: without any credentials.
    pub(crate) fn outline(&self) -> Value {
        self.to_json(|_| None)
    }

    /// The fields in which `self` differs from `earlier`, as JSON pointers, sorted. A changed
    /// secret is one of them.
    pub fn changed_fields(&self, earlier: Option<&Self>) -> Vec<String> {
        // Hashes of secrets that live as long as this comparison.
        let key = HashKey::from_bytes(&[0; HashKey::LENGTH]);
        let hashed = |secret: &Secret| {
            secret.expose().map_or(Value::Null, |text| {
                Value::String(key.digest("comparison", &[text.as_bytes()]).hex128())
            })
        };
        let with_secrets =
            |settings: &Self| settings.to_json(|entry| Some(entry.config.to_json(&hashed)));
        let before = earlier.map_or(Value::Null, with_secrets);
        let mut changed = Vec::new();
        differences("", Some(&before), Some(&with_secrets(self)), &mut changed);
        changed.sort();
        changed.dedup();
        changed
    }

    fn to_json(&self, credentials: impl Fn(&ProviderEntry) -> Option<Value>) -> Value {
        let mut document = Map::new();
        for channel in Channel::ALL {
            if let Some(settings) = self.channel(channel) {
                document.insert(channel.as_str().to_owned(), settings.to_json(&credentials));
            }
        }
        if let Some(country) = self.default_country {
            document.insert(DEFAULT_COUNTRY.to_owned(), json!(country));
        }
        if !self.ceilings.is_empty() {
            document.insert(CEILINGS.to_owned(), self.ceilings.to_json());
        }
        Value::Object(document)
    }
}

impl ChannelSettings {
    /// The entries in the order in which they are tried, with their places.
    pub fn entries(&self) -> impl Iterator<Item = (Position, &ProviderEntry)> {
        let fallbacks = self
            .fallback
            .iter()
            .zip(0_u8..)
            .map(|(entry, n)| (Position::Fallback(n), entry));
        std::iter::once((Position::Primary, &self.primary)).chain(fallbacks)
    }

    /// Whom `entry` sends as: its own sender, else the channel's. A name of either stands for both.
    /// `None` where no address is set, or the provider does not send e-mail.
    pub fn sender(&self, entry: &ProviderEntry) -> Option<Mailbox> {
        let own = entry.config.own_sender()?;
        let address = own.email.as_ref().or(self.default_from.as_ref())?.clone();
        let name = own.name.as_deref().or(self.default_from_name.as_deref());
        Some(Mailbox {
            address,
            name: name.map(str::to_owned),
        })
    }

    /// Where answers go when the global account sends: to the clinic's address.
    pub fn reply_to(&self) -> Option<EmailAddress> {
        let own = || {
            self.entries()
                .find_map(|(_, entry)| entry.config.own_sender()?.email.as_ref())
        };
        self.default_from.as_ref().or_else(own).cloned()
    }

    fn to_json(&self, credentials: &impl Fn(&ProviderEntry) -> Option<Value>) -> Value {
        let entry = |entry: &ProviderEntry| {
            let mut json = json!({
                "id": entry.id, "provider": entry.config.kind(), "enabled": entry.enabled,
            });
            if let Some(credentials) = credentials(entry) {
                json["credentials"] = credentials;
            }
            if let Some(rate) = entry.max_per_second {
                json["rateLimit"] = json!({Period::Second.field(): rate});
            }
            json
        };
        let mut json = json!({
            "primary": entry(&self.primary),
            "fallback": self.fallback.iter().map(entry).collect::<Vec<_>>(),
            "fallbackStrategy": {"useGlobal": self.use_global, "retryAttempts": self.retry_attempts},
            "onAmbiguous": self.on_ambiguous.as_str(),
        });
        if let Some(from) = &self.default_from {
            json["defaultFrom"] = json!(from);
        }
        if let Some(name) = &self.default_from_name {
            json["defaultFromName"] = json!(name);
        }
        if let Some(limit) = self.rate_limit {
            json["rateLimit"] = limit.to_json();
        }
        json
    }
}

impl ProviderEntry {
    /// The credentials with their secrets, to be sealed. The bytes are wiped after use.
    /// `None` where a secret cannot be opened: an entry without it must not be saved.
    pub(crate) fn plaintext(&self) -> Option<Zeroizing<Vec<u8>>> {
        let complete = Cell::new(true);
        let clear = |secret: &Secret| {
            let text = secret.expose().ok();
            complete.set(complete.get() && text.is_some());
            text.map_or(Value::Null, |text| Value::String(text.to_string()))
        };
        // Room for everything, escaped at its longest, so that no smaller buffer is left behind
        // unwiped while it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(6 * MAX_CONFIG_BYTES));
        let mut json = self.config.to_json(&clear);
        let written = serde_json::to_writer(&mut *bytes, &json);
        wipe(&mut json);
        (written.is_ok() && complete.get()).then_some(bytes)
    }
}

/// Turns every empty text in `value` into `null`.
fn unset_empty_texts(value: &mut Value) {
    match value {
        Value::String(text) if text.is_empty() => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(unset_empty_texts),
        Value::Object(fields) => fields.values_mut().for_each(unset_empty_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Overwrites every text in `value`.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn secret_marker(secret: &Secret) -> Value {
    match secret.last4() {
        Some(last4) => json!({"configured": true, "last4": last4}),
        None => json!({"configured": true}),
    }
}

/// Adds to `changed` the pointer of every leaf in which the two differ.
fn differences(
    pointer: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    changed: &mut Vec<String>,
) {
    if before == after {
        return;
    }
    let no_fields = Map::new();
    let fields = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    match (fields(before), fields(after)) {
        (None, None) => changed.push(pointer.to_owned()),
        (before, after) => {
            let before = before.unwrap_or_else(|| no_fields.clone());
            let after = after.unwrap_or(no_fields);
            for name in before.keys().chain(after.keys()) {
                // RFC 6901 section 3: a template's name is the clinic's own.
                let escaped = name.replace('~', "~0").replace('/', "~1");
                differences(
                    &format!("{pointer}/{escaped}"),
                    before.get(name),
                    after.get(name),
                    changed,
                );
            }
        }
    }
}

fn read_channel(
    mut object: Object<'_>,
    reading: Reading<'_>,
    channel: Channel,
    stored: Option<&ChannelSettings>,
) -> Option<ChannelSettings> {
    let kept = |id: &EntryId| {
        stored?
            .entries()
            .map(|(_, entry)| entry)
            .find(|entry| entry.id == *id)
    };
    let mut ids = HashSet::new();

    if object.is_missing("primary") {
        object.problem("primary", "is required");
    }
    let primary = object.object("primary", |entry| {
        let id = EntryId::primary();
        read_entry(entry, id, reading, channel, &kept, &mut ids)
    });
    let fallback_count = object.array_length("fallback");
    let fallback = object.objects("fallback", MAX_FALLBACKS, |index, entry| {
        let id = EntryId::fallback(index + 1);
        read_entry(entry, id, reading, channel, &kept, &mut ids)
    });
    let default_from = object.optional("defaultFrom", read::parsed(parse_sender(reading.rules)));
    let default_from_name = object.optional("defaultFromName", read::parsed(Mailbox::parse_name));
    let on_ambiguous = object.optional(
        "onAmbiguous",
        read::one_of(&[
            (
                AmbiguityPolicy::Failover.as_str(),
                AmbiguityPolicy::Failover,
            ),
            (AmbiguityPolicy::Hold.as_str(), AmbiguityPolicy::Hold),
        ]),
    );
    let (use_global, retry_attempts) = object
        .object("fallbackStrategy", |mut strategy| {
            let use_global = strategy.optional("useGlobal", read::flag);
            let retries = strategy.optional("retryAttempts", read::number(0, MAX_RETRY_ATTEMPTS));
            strategy.finish();
            Some((use_global, retries))
        })
        .unwrap_or_default();
    let rate_limit = object.object("rateLimit", RateLimit::read);

    let needs_sender = primary.iter().chain(&fallback).find(|entry| {
        let own = entry.config.own_sender();
        own.is_some_and(|own| own.email.is_none())
    });
    if let (Some(entry), None) = (needs_sender, &default_from) {
        let provider = entry.config.kind();
        object.missing(
            "defaultFrom",
            format!("is required: the address that {provider} sends from"),
        );
    }
    object.finish();

    // An entry that could not be read has said why; the document is refused as a whole.
    if fallback.len() != fallback_count {
        return None;
    }
    Some(ChannelSettings {
        primary: primary?,
        fallback,
        default_from,
        default_from_name: default_from_name.filter(|name| !name.is_empty()),
        use_global: use_global.unwrap_or(true),
        retry_attempts: retry_attempts
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(2),
        on_ambiguous: on_ambiguous.unwrap_or(AmbiguityPolicy::Failover),
        rate_limit,
    })
}

fn read_entry<'s>(
    mut object: Object<'_>,
    default_id: EntryId,
    reading: Reading<'_>,
    channel: Channel,
    kept: &impl Fn(&EntryId) -> Option<&'s ProviderEntry>,
    ids: &mut HashSet<EntryId>,
) -> Option<ProviderEntry> {
    let id = object
        .optional("id", read::parsed(EntryId::parse))
        .unwrap_or(default_id);
    if !ids.insert(id.clone()) {
        object.problem(
            "id",
            "is the id of an earlier entry of this channel; give each its own",
        );
    }
    let provider = object.required("provider", |value| {
        let text = read::string(value)?;
        let provider = registry::find(&text).ok_or_else(|| {
            let names: Vec<_> = registry::of_channel(channel)
                .map(|kind| kind.to_string())
                .collect();
            format!("must be one of: {}", names.join(", "))
        })?;
        if provider.channels.contains(&channel) {
            Ok(provider)
        } else {
            let channels: Vec<_> = provider.channels.iter().map(|own| own.as_str()).collect();
            Err(format!(
                "serves the {} channel, not {channel}",
                channels.join(" and the ")
            ))
        }
    });
    let enabled = object.optional("enabled", read::flag).unwrap_or(true);
    let max_per_second = object.object("rateLimit", rate_limit::read_of_entry);
    let stored = kept(&id).map(|entry| &*entry.config);
    let config = if let Some(provider) = provider {
        if object.is_missing("credentials") {
            object.problem("credentials", "is required");
        }
        object.object("credentials", |credentials| {
            provider.read(credentials, reading, stored)
        })
    } else {
        // What may stand in it depends on the provider.
        object.take("credentials");
        None
    };
    object.finish();
    Some(ProviderEntry {
        id,
        enabled,
        max_per_second,
        config: config?,
    })
}

#[cfg(test)]
mod provider_entries;
#[cfg(test)]
mod tests {
    use comms_adapters::smtp::{Security, SmtpConfig};
    use comms_core::Host;

    use super::*;

    fn document() -> Value {
        json!({
            "email": {
                "primary": {"provider": "smtp", "enabled": true, "credentials": {
                    "host": "smtp.gmail.com", "port": "587", "secure": "false",
                    "user": "appointments@clinic.com", "password": "planted-app-password"}},
                "fallback": [{"provider": "smtp", "credentials": {
                    "host": "smtp.backup.example", "port": 465, "secure": true, "user": "u", "password": "planted-short"}}],
                "defaultFrom": "appointments@clinic.com", "defaultFromName": "Clinic Name",
                "fallbackStrategy": {"useGlobal": true, "retryAttempts": 2}, "onAmbiguous": "failover"
            }
        })
    }

    fn read(
        value: &Value,
        stored: Option<&CommunicationSettings>,
    ) -> Result<CommunicationSettings, Problems> {
        let mut problems = Problems::default();
        let settings =
            CommunicationSettings::read(value.clone(), "/s", &tenant(), stored, &mut problems);
        problems.or(settings)
    }

    fn tenant() -> Tenant {
        Tenant::parse("clinic-1").unwrap()
    }

    fn smtp(entry: &ProviderEntry) -> &SmtpConfig {
        entry.config.get().unwrap()
    }

    fn pointers(value: &Value, stored: Option<&CommunicationSettings>) -> Vec<String> {
        read(value, stored)
            .unwrap_err()
            .as_slice()
            .iter()
            .map(|p| p.pointer.clone())
            .collect()
    }

    fn password(settings: &CommunicationSettings) -> String {
        let email = settings.email.as_ref().unwrap();
        smtp(&email.primary).password.expose().unwrap().to_string()
    }

    #[test]
    fn values_may_come_as_strings_and_each_fallback_has_its_own_credentials() {
        let settings = read(&document(), None).unwrap();
        let email = settings.email.as_ref().unwrap();
        let primary = smtp(&email.primary);
        let fallback = smtp(&email.fallback[0]);
        assert_eq!((primary.port, primary.security), (587, Security::StartTls));
        assert_eq!(
            (fallback.port, fallback.security),
            (465, Security::ImplicitTls)
        );
        assert_eq!(fallback.host, Host::Name("smtp.backup.example".into()));
        assert_ne!(
            *primary.password.expose().unwrap(),
            *fallback.password.expose().unwrap()
        );
    }

    #[test]
    fn nothing_that_is_shown_or_printed_has_a_secret_in_it() {
        let settings = read(&document(), None).unwrap();
        for text in [
            settings.view().to_string(),
            settings.outline().to_string(),
            format!("{settings:?}"),
            settings.changed_fields(None).join(" "),
        ] {
            assert!(!text.contains("planted"), "{text}");
        }
        assert_eq!(
            settings.view()["email"]["primary"]["credentials"]["password"],
            json!({"configured": true, "last4": "word"})
        );
        assert_eq!(
            settings.view()["email"]["fallback"][0]["credentials"]["password"],
            json!({"configured": true})
        );
        assert!(
            settings.outline()["email"]["primary"]
                .get("credentials")
                .is_none()
        );
    }

    #[test]
    fn what_is_shown_can_be_sent_back_and_keeps_the_secrets() {
        let settings = read(&document(), None).unwrap();
        let again = read(&settings.view(), Some(&settings)).unwrap();
        assert_eq!(password(&again), "planted-app-password");
        assert!(again.changed_fields(Some(&settings)).is_empty());
        let mut omitted = document();
        omitted["email"]["primary"]["credentials"]
            .as_object_mut()
            .unwrap()
            .remove("password");
        assert_eq!(
            password(&read(&omitted, Some(&settings)).unwrap()),
            "planted-app-password"
        );
    }

    #[test]
    fn a_stored_secret_does_not_follow_to_another_server_or_user() {
        let mut document = document();
        document["email"]["primary"]["credentials"]["host"] = json!("smtp.example.com");
        let settings = read(&document, None).unwrap();
        for (name, value) in [
            ("host", json!("evil.example")),
            ("port", json!(2525)),
            ("user", json!("other")),
            ("caPem", json!("-----BEGIN CERTIFICATE-----")),
        ] {
            let mut view = settings.view();
            view["email"]["primary"]["credentials"][name] = value;
            assert_eq!(
                pointers(&view, Some(&settings)),
                ["/s/email/primary/credentials/password"],
                "{name}"
            );
        }
    }

    #[test]
    fn a_secret_stays_with_its_entry_when_the_order_changes() {
        let settings = read(&document(), None).unwrap();
        let mut view = settings.view();
        let primary = view["email"]["primary"].clone();
        view["email"]["primary"] = view["email"]["fallback"][0].clone();
        view["email"]["fallback"][0] = primary;
        assert_eq!(
            password(&read(&view, Some(&settings)).unwrap()),
            "planted-short"
        );
    }

    #[test]
    fn everything_wrong_is_named_at_once_without_its_value() {
        let value = json!({
            "email": {
                "primary": {"provider": "smtp", "credentials": {
                    "host": "planted host", "port": 70_000, "secure": "maybe", "user": "", "password": {"planted": 1}, "colour": 1}},
                "fallback": [{"provider": "pigeon"}, {"provider": "twilio", "credentials": {}}, {"id": "primary", "provider": "smtp"}],
                "defaultFrom": "planted", "onAmbiguous": "guess",
                "fallbackStrategy": {"retryAttempts": 99, "x": 1}
            },
            "fax": {}
        });
        let problems = read(&value, None).unwrap_err();
        assert!(!problems.to_string().contains("planted "), "{problems}");
        let mut found: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|p| p.pointer.trim_start_matches("/s/"))
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "email/defaultFrom",
                "email/fallback/0/provider",
                "email/fallback/1/provider",
                "email/fallback/2/credentials",
                "email/fallback/2/id",
                "email/fallbackStrategy/retryAttempts",
                "email/fallbackStrategy/x",
                "email/onAmbiguous",
                "email/primary/credentials/colour",
                "email/primary/credentials/host",
                "email/primary/credentials/password",
                "email/primary/credentials/port",
                "email/primary/credentials/secure",
                "email/primary/credentials/user",
                "fax",
            ]
        );
    }

    #[test]
    fn a_rule_that_came_later_does_not_make_stored_settings_unreadable() {
        let mut value = document();
        value["email"]["primary"]["credentials"]["secure"] = json!(true);
        value["whatsapp"] = json!({"primary": {"provider": "meta_business", "credentials": {
            "apiUrl": "https://graph.facebook.com/v9.0", "apiKey": "planted-token", "phoneNumberId": "123456789"}}});
        assert_eq!(
            pointers(&value, None),
            [
                "/s/email/primary/credentials/secure",
                "/s/whatsapp/primary/credentials/apiUrl"
            ]
        );
        let settings = CommunicationSettings::read_stored(value, &tenant()).unwrap();
        assert_eq!(
            pointers(&settings.view(), Some(&settings)).len(),
            2,
            "they are to be mended by the next save"
        );
    }

    #[test]
    fn everything_is_told_at_once_a_port_at_odds_with_secure_too() {
        let mut value = document();
        let credentials = &mut value["email"]["primary"]["credentials"];
        credentials["secure"] = json!("true");
        credentials["user"] = json!(1);
        credentials["host"] = json!("planted host");
        assert_eq!(
            pointers(&value, None),
            ["host", "user", "secure"].map(|name| format!("/s/email/primary/credentials/{name}"))
        );
    }

    #[test]
    fn an_empty_text_is_a_value_that_is_not_set() {
        let mut value = document();
        value["email"]["defaultFromName"] = json!("");
        value["email"]["onAmbiguous"] = json!("");
        value["email"]["fallbackStrategy"]["retryAttempts"] = json!("");
        for name in ["caPem", "maxConnections", "ehloName"] {
            value["email"]["primary"]["credentials"][name] = json!("");
        }
        value["whatsapp"] = json!("");
        let settings = read(&value, None).unwrap();
        let email = settings.email.as_ref().unwrap();
        assert_eq!(email.default_from_name, None);
        assert_eq!(
            (email.retry_attempts, email.on_ambiguous),
            (2, AmbiguityPolicy::Failover)
        );
        assert_eq!(smtp(&email.primary).max_connections, 5);
        assert!(smtp(&email.primary).ca_pem.is_none() && settings.whatsapp.is_none());

        value["email"]["primary"]["credentials"]["password"] = json!("");
        let kept = read(&value, Some(&settings)).unwrap();
        assert_eq!(password(&kept), "planted-app-password");
        assert_eq!(
            pointers(&value, None),
            ["/s/email/primary/credentials/password"]
        );
        value["email"]["colour"] = json!("");
        assert_eq!(pointers(&value, Some(&settings)), ["/s/email/colour"]);
    }

    #[test]
    fn rate_limits_of_channels_and_entries_are_read_shown_stored_and_told_of_when_they_change() {
        let settings = read(&document(), None).unwrap();
        let mut value = document();
        value["email"]["rateLimit"] = json!({"maxPerMinute": "100", "maxPerDay": 5_000});
        value["email"]["primary"]["rateLimit"] = json!({"maxPerSecond": "20"});
        let limited = read(&value, Some(&settings)).unwrap();
        let email = limited.email.as_ref().unwrap();
        let limits: Vec<_> = email.rate_limit.unwrap().limits().collect();
        assert_eq!(limits, [(Period::Minute, 100), (Period::Day, 5_000)]);
        assert_eq!(email.primary.max_per_second, NonZeroU32::new(20));
        assert_eq!(email.fallback[0].max_per_second, None);
        for shown in [limited.view(), limited.outline()] {
            let email = &shown["email"];
            assert_eq!(
                email["rateLimit"],
                json!({"maxPerMinute": 100, "maxPerDay": 5_000})
            );
            assert_eq!(email["primary"]["rateLimit"], json!({"maxPerSecond": 20}));
            assert!(email["fallback"][0].get("rateLimit").is_none());
        }
        let changed = limited.changed_fields(Some(&settings));
        assert_eq!(
            changed,
            [
                "/email/primary/rateLimit/maxPerSecond",
                "/email/rateLimit/maxPerDay",
                "/email/rateLimit/maxPerMinute"
            ]
        );
        let mut unset = limited.view();
        unset["email"]["rateLimit"] = Value::Null;
        unset["email"]["primary"]["rateLimit"] = json!("");
        let unset = read(&unset, Some(&limited)).unwrap().email.unwrap();
        assert_eq!(
            (unset.rate_limit, unset.primary.max_per_second),
            (None, None)
        );
        value["email"]["rateLimit"] = json!({});
        value["email"]["primary"]["rateLimit"] = json!({"maxPerDay": 1});
        assert_eq!(
            pointers(&value, Some(&settings)),
            [
                "/s/email/primary/rateLimit/maxPerSecond",
                "/s/email/primary/rateLimit/maxPerDay",
                "/s/email/rateLimit"
            ]
        );
    }

    #[test]
    fn ceilings_are_read_shown_stored_and_named_when_they_change() {
        let without = read(&document(), None).unwrap();
        let mut value = document();
        value[CEILINGS] = json!({"useGlobal": false, "email": {"maxPerDay": 5}});
        let settings = read(&value, None).unwrap();
        assert_eq!(settings.ceilings.use_global, Some(false));
        for shown in [settings.view(), settings.outline()] {
            assert_eq!(shown[CEILINGS], value[CEILINGS]);
        }
        assert_eq!(without.view().get(CEILINGS), None);
        assert_eq!(
            settings.changed_fields(Some(&without)),
            ["/ceilings/email/maxPerDay", "/ceilings/useGlobal"]
        );
        value[CEILINGS]["immediateInFlight"] = json!(0);
        assert_eq!(pointers(&value, None), ["/s/ceilings/immediateInFlight"]);
    }

    #[test]
    fn changed_fields_are_named_secrets_among_them() {
        let settings = read(&document(), None).unwrap();
        let mut value = document();
        value["email"]["primary"]["credentials"]["password"] = json!("planted-new");
        value["email"]["defaultFromName"] = json!("New Name");
        value["email"]["fallback"] = json!([]);
        let changed = read(&value, Some(&settings))
            .unwrap()
            .changed_fields(Some(&settings));
        assert_eq!(
            changed,
            [
                "/email/defaultFromName",
                "/email/fallback",
                "/email/primary/credentials/password"
            ]
        );
    }
}
