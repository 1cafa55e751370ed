//! The entries of each provider, read through the whole document.

mod logins;
mod secrets;
mod senders;

use comms_adapters::{
    registry,
    twilio::{TwilioConfig, TwilioSender},
};
use comms_core::{Problems, Tenant};
use serde_json::json;

use crate::document::*;

const HEX: &str = "0123456789abcdef0123456789abcdef";

/// Credentials in every form that there is, with secrets that begin with `planted`.
fn forms() -> Vec<(&'static str, Value)> {
    let account = format!("AC{HEX}");
    vec![
        (
            "smtp",
            json!({"host": "smtp.example.com", "port": "587", "secure": "false", "user": "u",
                "password": "planted-password-smtp", "ehloName": "mail.clinic.example",
                "fromEmail": "front@clinic.example", "fromName": "Front desk"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
                "secretAccessKey": "planted-secret-access-key", "fromEmail": "ses@clinic.example",
                "fromName": "Clinic", "configurationSet": "clinic"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "roleArn": "arn:aws:iam::123456789012:role/mail",
                "externalId": "clinic-1:7f9c"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "tenantName": "clinic-1"}),
        ),
        (
            "sendgrid",
            json!({"apiKey": "planted-sendgrid-key", "apiUrl": "https://api.eu.sendgrid.com",
                "fromEmail": "hello@clinic.example", "sandbox": "true"}),
        ),
        (
            "meta_business",
            json!({"apiKey": "planted-meta-token", "phoneNumberId": "123456789",
                "businessAccountId": "987654321", "apiUrl": "https://graph.facebook.com/v23.0"}),
        ),
        (
            "twilio",
            json!({"accountSid": account, "authToken": "planted-auth-token",
                "fromNumber": "whatsapp:+14155238886", "apiUrl": "https://api.dublin.ie1.twilio.com",
                "statusCallback": "https://clinic.example/status",
                "templates": {"appointment_confirmed": format!("HX{HEX}")}}),
        ),
        (
            "twilio",
            json!({"accountSid": account, "apiKeySid": format!("SK{HEX}"),
                "apiKeySecret": "planted-api-key-secret", "messagingServiceSid": format!("MG{HEX}")}),
        ),
    ]
}

fn document(provider: &str, credentials: &Value) -> Value {
    let channel = registry::find(provider).unwrap().channels[0];
    let mut document = json!({});
    document[channel.as_str()] = json!({
        "primary": {"provider": provider, "credentials": credentials},
    });
    if channel == comms_core::Channel::Email {
        document["email"]["defaultFrom"] = json!("desk@clinic.example");
        document["email"]["defaultFromName"] = json!("Desk");
    }
    document
}

fn read_for(
    tenant: &str,
    provider: &str,
    credentials: &Value,
    stored: Option<&CommunicationSettings>,
) -> Result<CommunicationSettings, Problems> {
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(
        document(provider, credentials),
        "",
        &Tenant::parse(tenant).unwrap(),
        stored,
        &mut problems,
    );
    problems.or(settings)
}

fn read(provider: &str, credentials: &Value) -> Result<CommunicationSettings, Problems> {
    read_for("clinic-1", provider, credentials, None)
}

fn entry(settings: &CommunicationSettings) -> &ProviderEntry {
    settings.entries().next().unwrap().1
}

/// What is wrong, by field of the credentials.
fn problems(
    provider: &str,
    credentials: &Value,
    stored: Option<&CommunicationSettings>,
) -> Vec<String> {
    let problems = read_for("clinic-1", provider, credentials, stored).unwrap_err();
    let mut fields: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|problem| {
            let (_, field) = problem
                .pointer
                .split_once("/primary/credentials")
                .unwrap_or(("", &problem.pointer));
            field.trim_start_matches('/').to_owned()
        })
        .collect();
    fields.sort();
    fields
}

fn with(credentials: &Value, name: &str, value: Value) -> Value {
    let mut changed = credentials.clone();
    changed[name] = value;
    changed
}
