//! Clinics with one mail server or API each, and their messages on the queue.

use comms_core::{Problems, SystemClock, Tenant};
use comms_settings::{Author, CommunicationSettings, SettingsStore};
use serde_json::{Value, json};

/// A mail server on loopback as a provider's entry.
pub(crate) fn smtp(port: u16) -> Value {
    json!({"provider": "smtp", "credentials": {
        "host": "127.0.0.1", "port": port, "secure": false, "user": "user", "password": "password"}})
}

/// Saves settings with one provider and no fallback.
pub(crate) async fn save(store: &SettingsStore, clinic: &str, primary: &Value) {
    let tenant = Tenant::parse(clinic).unwrap();
    let document = json!({"email": {"primary": primary, "defaultFrom": "desk@clinic.example"}});
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
    let author = Author {
        subject: "bench".into(),
        source_address: None,
    };
    let settings = problems.or(settings).unwrap();
    let saved = store.save(&tenant, &settings, None, &author, &SystemClock);
    saved.await.unwrap();
}

/// A record of an SQS event.
pub(crate) fn record(number: usize, clinic: &str, body: &Value) -> Value {
    json!({
        "messageId": format!("message-{number}"), "receiptHandle": "handle", "body": body.to_string(), "md5OfBody": "",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": clinic}, "messageAttributes": {},
        "eventSource": "aws:sqs", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms"})
}
