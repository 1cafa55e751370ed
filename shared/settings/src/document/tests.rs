//! The settings document as callers write and read it.

mod changes;
mod provider_entries;
mod reading;
mod secrets;

use comms_adapters::smtp::{Security, SmtpConfig};
use comms_core::{Host, Problems, Tenant};
use serde_json::json;

use super::*;
use crate::{ceilings::CEILINGS, rate_limit::Period};

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
