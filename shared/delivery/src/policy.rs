//! What settings and ceilings together allow a tenant on one channel.

use comms_core::{Channel, Tenant};
use comms_settings::{Ceilings, CommunicationSettings, RateLimit};

use crate::require_clinic::RequireClinic;

/// The ceilings that hold for a tenant: its own, then the defaults of `_global`. The platform itself has none.
pub(crate) fn ceilings(
    tenant: &Tenant,
    own: Option<&CommunicationSettings>,
    global: Option<&CommunicationSettings>,
) -> Ceilings {
    let of = |settings: Option<&CommunicationSettings>| {
        settings.map_or_else(Ceilings::default, |settings| settings.ceilings)
    };
    match tenant {
        Tenant::Clinic(_) => of(own).or(of(global)),
        Tenant::Global => Ceilings::default(),
    }
}

/// What a tenant may do on a channel, as its settings and those of `_global` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelPolicy {
    /// Envelope recipients of the tenant, whichever account sends: the lower of its own limit and its ceiling.
    pub(crate) rate_limit: Option<RateLimit>,
    /// Whether the platform's account may send for the tenant.
    pub(crate) may_use_global: bool,
    /// Whether the tenant has a provider of its own that is enabled.
    pub(crate) has_own: bool,
    /// Whether nothing but the platform's account can.
    pub(crate) is_global_only: bool,
    /// Envelope recipients of the platform's account, whoever it sends for. `None` for the platform itself: its
    /// [`rate_limit`](Self::rate_limit) is that limit.
    pub(crate) global_limit: Option<RateLimit>,
}

impl ChannelPolicy {
    pub(crate) fn new(
        tenant: &Tenant,
        channel: Channel,
        own: Option<&CommunicationSettings>,
        global: Option<&CommunicationSettings>,
    ) -> Self {
        let limit = |settings: Option<&CommunicationSettings>| {
            settings.and_then(|settings| settings.channel(channel)?.rate_limit)
        };
        if *tenant == Tenant::Global {
            return Self {
                rate_limit: limit(global),
                may_use_global: true,
                has_own: false,
                is_global_only: true,
                global_limit: None,
            };
        }
        let ceilings = ceilings(tenant, own, global);
        let channel_settings = own.and_then(|settings| settings.channel(channel));
        let opted_in = channel_settings.is_none_or(|settings| settings.use_global);
        let has_own = channel_settings.is_some_and(|settings| {
            let mut entries = settings.entries();
            entries.any(|(_, entry)| entry.enabled)
        });
        let may_use_global = opted_in && ceilings.use_global.unwrap_or(true);
        Self {
            rate_limit: RateLimit::lower(limit(own), ceilings.channel(channel)),
            may_use_global,
            has_own,
            is_global_only: may_use_global && !has_own,
            global_limit: limit(global),
        }
    }

    /// The same where the platform's account does not stand in for a clinic without providers.
    pub(crate) fn requiring_clinic(self, tenant: &Tenant, require: RequireClinic) -> Self {
        let is_refused = match (tenant, require) {
            (Tenant::Clinic(_), RequireClinic::Yes) => !self.has_own,
            (Tenant::Clinic(_), RequireClinic::No) | (Tenant::Global, _) => false,
        };
        Self {
            may_use_global: self.may_use_global && !is_refused,
            is_global_only: self.is_global_only && !is_refused,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use comms_core::Problems;
    use comms_settings::Period;
    use serde_json::{Value, json};

    use super::*;

    fn settings(
        tenant: &str,
        enabled: bool,
        rate_limit: Value,
        ceilings: Value,
    ) -> CommunicationSettings {
        let tenant = Tenant::parse(tenant).unwrap();
        let mut document = json!({"email": {
            "primary": {"provider": "smtp", "enabled": enabled, "credentials": {
                "host": "smtp.example.com", "port": 587, "secure": false, "user": "u", "password": "p"}},
            "defaultFrom": "desk@clinic.example"}});
        document["email"]["rateLimit"] = rate_limit;
        document["ceilings"] = ceilings;
        let mut problems = Problems::default();
        let settings = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
        problems.or(settings).unwrap()
    }

    fn policy(
        own: Option<&CommunicationSettings>,
        global: &CommunicationSettings,
    ) -> ChannelPolicy {
        let clinic = Tenant::parse("clinic-1").unwrap();
        ChannelPolicy::new(&clinic, Channel::Email, own, Some(global))
    }

    fn limits(limit: Option<RateLimit>) -> Vec<(Period, u32)> {
        limit
            .into_iter()
            .flat_map(|limit| limit.limits().collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn the_lower_of_limit_and_ceiling_holds() {
        let global = settings(
            "_global",
            true,
            json!({"maxPerDay": 1_000}),
            json!({"email": {"maxPerMinute": 10, "maxPerDay": 50}}),
        );
        let own = settings(
            "clinic-1",
            true,
            json!({"maxPerDay": 90, "maxPerHour": 20}),
            json!({}),
        );
        let found = policy(Some(&own), &global);
        assert_eq!(
            limits(found.rate_limit),
            [(Period::Minute, 10), (Period::Hour, 20), (Period::Day, 50)]
        );
        assert_eq!(limits(found.global_limit), [(Period::Day, 1_000)]);
        let raised = settings(
            "clinic-1",
            true,
            json!({"maxPerDay": 90}),
            json!({"email": {"maxPerDay": 80}}),
        );
        assert_eq!(
            limits(policy(Some(&raised), &global).rate_limit),
            [(Period::Minute, 10), (Period::Day, 80)]
        );
        assert_eq!(
            limits(policy(None, &global).rate_limit),
            [(Period::Minute, 10), (Period::Day, 50)]
        );
        // The defaults for clinics do not limit the platform itself.
        let own = ChannelPolicy::new(&Tenant::Global, Channel::Email, None, Some(&global));
        assert_eq!(
            (limits(own.rate_limit), own.global_limit),
            (vec![(Period::Day, 1_000)], None)
        );
    }

    #[test]
    fn a_ceiling_keeps_the_global_account_from_a_clinic() {
        let none = settings("_global", true, Value::Null, json!({}));
        let forbids = settings("_global", true, Value::Null, json!({"useGlobal": false}));
        let on = settings("clinic-1", true, Value::Null, json!({}));
        let off = settings("clinic-1", false, Value::Null, json!({}));
        let exempt = settings("clinic-1", false, Value::Null, json!({"useGlobal": true}));
        let seen = |own, global| {
            let policy = policy(own, global);
            (policy.may_use_global, policy.is_global_only)
        };
        assert_eq!(seen(Some(&on), &none), (true, false));
        assert_eq!(seen(Some(&off), &none), (true, true));
        assert_eq!(seen(None, &none), (true, true));
        for own in [Some(&on), Some(&off), None] {
            assert_eq!(seen(own, &forbids), (false, false));
        }
        assert_eq!(seen(Some(&exempt), &forbids), (true, true));
    }
}
