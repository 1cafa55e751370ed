//! Reading a document: every field is checked, and all problems are reported together.

use std::collections::HashSet;

use comms_adapters::{
    chain::AmbiguityPolicy,
    config::read::{Reading, Rules, parse_sender},
    registry,
};
use comms_core::{
    Channel, Country, EntryId, Mailbox, Problems, Tenant,
    json::{Object, read},
};
use serde_json::Value;

use super::{
    ChannelSettings, CommunicationSettings, DEFAULT_COUNTRY, MAX_FALLBACKS, MAX_RETRY_ATTEMPTS,
    ProviderEntry,
};
use crate::{
    ceilings::{CEILINGS, Ceilings},
    rate_limit::{self, RateLimit},
};

impl CommunicationSettings {
    /// Reads `tenant`'s document, whose JSON pointer is `pointer`, by today's rules. A secret that is missing or replaced by
    /// the marker is taken from the entry of the same id and provider in `stored`, unless the entry's server, account or
    /// login has changed.
    pub fn read(
        mut value: Value,
        pointer: &str,
        tenant: &Tenant,
        stored: Option<&Self>,
        problems: &mut Problems,
    ) -> Option<Self> {
        // The country is newer than the convention of empty texts: an empty one is an error.
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

    /// Reads a stored document of `tenant`, by the rules of its day.
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

fn read_channel(
    mut object: Object<'_>,
    reading: Reading<'_>,
    channel: Channel,
    stored: Option<&ChannelSettings>,
) -> Option<ChannelSettings> {
    let stored_entry = |id: &EntryId| {
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
        read_entry(entry, id, reading, channel, &stored_entry, &mut ids)
    });
    let fallback_count = object.array_length("fallback");
    let fallback = object.objects("fallback", MAX_FALLBACKS, |index, entry| {
        let id = EntryId::fallback(index + 1);
        read_entry(entry, id, reading, channel, &stored_entry, &mut ids)
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

    // An entry that could not be read has added a problem, and the document is refused as a whole.
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
    stored_entry: &impl Fn(&EntryId) -> Option<&'s ProviderEntry>,
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
    let stored = stored_entry(&id).map(|entry| &*entry.config);
    let config = if let Some(provider) = provider {
        if object.is_missing("credentials") {
            object.problem("credentials", "is required");
        }
        object.object("credentials", |credentials| {
            provider.read(credentials, reading, stored)
        })
    } else {
        // The fields of the credentials depend on the provider.
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
