//! The settings document in a request: its place in the body, and the checks before it is saved.

use comms_adapters::tls::TlsConfigs;
use comms_core::{Channel, Problems, Tenant, json::Object};
use comms_settings::{
    CommunicationSettings,
    document::{POINTER, take_document},
};
use serde_json::Value;

use crate::{
    Deps,
    destinations::{self, credentials_pointer},
};

/// The document, or the patch of one, in a request's body.
pub(crate) fn read_body(body: Value, tenant: &Tenant) -> Result<Value, Problems> {
    let mut problems = Problems::default();
    let document = Object::new(body, "", &mut problems).and_then(|mut whole| {
        // What GET shows beside the settings may come back with them.
        for read_only in ["version", "savedAt", "savedBy", "effectiveCeilings"] {
            whole.take(read_only);
        }
        whole.optional("clinicId", |value| match value.as_str() {
            Some(id) if id == tenant.as_str() => Ok(()),
            Some(_) | None => Err("must be the clinic of the path".to_owned()),
        });
        let document = take_document(&mut whole);
        whole.finish();
        document
    });
    problems.or(document)
}

/// Reads settings that are to be saved. Secrets that they leave out are taken from `stored`.
pub(crate) fn read_settings(
    deps: &Deps,
    document: Value,
    tenant: &Tenant,
    stored: Option<&CommunicationSettings>,
    problems: &mut Problems,
) -> Option<CommunicationSettings> {
    let settings = CommunicationSettings::read(document, POINTER, tenant, stored, problems)?;
    check_trust_roots(&settings, problems);
    destinations::check(&deps.egress_allow, &settings, problems);
    deps.own_account.check_roles(&settings, POINTER, problems);
    Some(settings)
}

/// Trust roots that cannot be used would fail every send; they are found here, before saving.
fn check_trust_roots(settings: &CommunicationSettings, problems: &mut Problems) {
    let Ok(configs) = TlsConfigs::new(None) else {
        return;
    };
    for channel in Channel::ALL {
        let Some(channel_settings) = settings.channel(channel) else {
            continue;
        };
        for (position, entry) in channel_settings.entries() {
            let Some((field, pem)) = entry.config.trust_roots() else {
                continue;
            };
            if let Err(error) = configs.client(Some(pem)) {
                let credentials = credentials_pointer(channel, position);
                problems.add(format!("{credentials}/{field}"), error.to_string());
            }
        }
    }
}
