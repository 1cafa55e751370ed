//! Ceilings: what the platform allows one clinic, at most. They stand in the clinic's settings document beside its
//! channels, and only the platform's administrators change them. The ceilings in the `_global` document are the
//! defaults: they hold for every clinic, field by field, where its own document says nothing.

use std::num::NonZeroU32;

use comms_core::{
    Channel, Problems,
    json::{Object, read},
};
use serde_json::{Map, Value, json};

use crate::rate_limit::{MAX_RATE, RateLimit};

/// The member of the settings document that holds them.
pub const CEILINGS: &str = "ceilings";
/// The largest `immediateInFlight`.
pub const MAX_IMMEDIATE_IN_FLIGHT: u32 = 100;

/// What a clinic may do, at most. `None` where nothing is set: then the default of `_global` counts, and without
/// one there is no ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ceilings {
    /// Whether the platform's account may send for the clinic.
    pub use_global: Option<bool>,
    /// Whether the clinic's own users may mark a communication `critical`.
    pub critical: Option<bool>,
    /// Immediate requests at the same time.
    pub immediate_in_flight: Option<NonZeroU32>,
    /// Urgent (`high` and `critical`) deliveries in an hour.
    pub urgent_per_hour: Option<NonZeroU32>,
    /// Envelope recipients by e-mail.
    pub email: Option<RateLimit>,
    /// Recipients on WhatsApp.
    pub whatsapp: Option<RateLimit>,
}

impl Ceilings {
    /// Those of the document of a deletion, which has nothing else.
    pub(crate) fn read_kept(document: Value) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let ceilings = Object::new(document, "", &mut problems).map(|mut object| {
            let ceilings = object.object(CEILINGS, |object| Some(Self::read(object)));
            object.finish();
            ceilings.unwrap_or_default()
        });
        problems.or(ceilings)
    }

    /// The document of a deletion that keeps them.
    pub fn to_document(self) -> Value {
        if self.is_empty() {
            json!({})
        } else {
            json!({CEILINGS: self.to_json()})
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits of one channel.
    pub const fn channel(&self, channel: Channel) -> Option<RateLimit> {
        match channel {
            Channel::Email => self.email,
            Channel::Whatsapp => self.whatsapp,
        }
    }

    /// These ceilings, with `defaults` for every field that is not set. Each period of a rate limit is a field.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            use_global: self.use_global.or(defaults.use_global),
            critical: self.critical.or(defaults.critical),
            immediate_in_flight: self.immediate_in_flight.or(defaults.immediate_in_flight),
            urgent_per_hour: self.urgent_per_hour.or(defaults.urgent_per_hour),
            email: RateLimit::or(self.email, defaults.email),
            whatsapp: RateLimit::or(self.whatsapp, defaults.whatsapp),
        }
    }

    /// Reads the `ceilings` of a document.
    pub(crate) fn read(mut object: Object<'_>) -> Self {
        let number = |object: &mut Object<'_>, name, max| {
            let number = object.optional(name, read::number(1, max));
            number.and_then(NonZeroU32::new)
        };
        let ceilings = Self {
            use_global: object.optional("useGlobal", read::flag),
            critical: object.optional("critical", read::flag),
            immediate_in_flight: number(&mut object, "immediateInFlight", MAX_IMMEDIATE_IN_FLIGHT),
            urgent_per_hour: number(&mut object, "urgentPerHour", MAX_RATE),
            email: object.object(Channel::Email.as_str(), RateLimit::read),
            whatsapp: object.object(Channel::Whatsapp.as_str(), RateLimit::read),
        };
        object.finish();
        ceilings
    }

    /// As they stand in a document: only what is set.
    pub fn to_json(self) -> Value {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        set("useGlobal", self.use_global.map(Value::from));
        set("critical", self.critical.map(Value::from));
        set(
            "immediateInFlight",
            self.immediate_in_flight.map(|number| json!(number)),
        );
        set(
            "urgentPerHour",
            self.urgent_per_hour.map(|number| json!(number)),
        );
        for channel in Channel::ALL {
            set(
                channel.as_str(),
                self.channel(channel).map(RateLimit::to_json),
            );
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::Period;

    fn read(value: Value) -> Result<Ceilings, Problems> {
        let mut problems = Problems::default();
        let ceilings = Object::new(value, "/c", &mut problems).map(Ceilings::read);
        problems.or(ceilings)
    }

    fn all() -> Value {
        json!({
            "useGlobal": false, "critical": true, "immediateInFlight": 100, "urgentPerHour": 50,
            "email": {"maxPerMinute": 10, "maxPerDay": 1_000}, "whatsapp": {"maxPerDay": 5},
        })
    }

    #[test]
    fn ceilings_are_written_as_they_are_read() {
        let ceilings = read(all()).unwrap();
        assert_eq!(ceilings.to_json(), all());
        assert_eq!(ceilings.use_global, Some(false));
        assert!(!ceilings.is_empty());
        let nothing = read(json!({"useGlobal": null})).unwrap();
        assert!(nothing.is_empty());
        assert_eq!(nothing.to_json(), json!({}));
    }

    #[test]
    fn kept_ceilings_that_cannot_be_read_are_not_none() {
        let kept = read(all()).unwrap();
        assert_eq!(Ceilings::read_kept(kept.to_document()), Ok(kept));
        let none = Ceilings::default();
        assert_eq!(Ceilings::read_kept(none.to_document()), Ok(none));
        for (document, pointer) in [
            (
                json!({"ceilings": {"email": {"maxPerDay": 0}}}),
                "/ceilings/email/maxPerDay",
            ),
            (json!({"ceilings": {"sms": {}}}), "/ceilings/sms"),
            (json!({"ceilings": 1}), "/ceilings"),
            (json!({"email": {}}), "/email"),
            (json!([]), ""),
        ] {
            let problems = Ceilings::read_kept(document).unwrap_err();
            assert_eq!(problems.as_slice()[0].pointer, pointer);
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let wrong = json!({
            "useGlobal": "never", "critical": 1, "immediateInFlight": 101, "urgentPerHour": 0,
            "email": {}, "whatsapp": {"maxPerWeek": 1}, "sms": {},
        });
        let problems = read(wrong).unwrap_err();
        let mut found: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|problem| problem.pointer.as_str())
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "/c/critical",
                "/c/email",
                "/c/immediateInFlight",
                "/c/sms",
                "/c/urgentPerHour",
                "/c/useGlobal",
                "/c/whatsapp",
                "/c/whatsapp/maxPerWeek",
            ]
        );
    }

    #[test]
    fn defaults_hold_field_by_field_and_period_by_period() {
        let own = read(json!({"critical": false, "email": {"maxPerDay": 7}})).unwrap();
        let effective = own.or(read(all()).unwrap());
        assert_eq!(
            effective.to_json(),
            json!({
                "useGlobal": false, "critical": false, "immediateInFlight": 100, "urgentPerHour": 50,
                "email": {"maxPerMinute": 10, "maxPerDay": 7}, "whatsapp": {"maxPerDay": 5},
            })
        );
        assert_eq!(own.or(Ceilings::default()), own);
        let email: Vec<_> = effective
            .channel(Channel::Email)
            .unwrap()
            .limits()
            .collect();
        assert_eq!(email, [(Period::Minute, 10), (Period::Day, 7)]);
    }
}
