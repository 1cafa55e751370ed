//! What most tests begin with: a message to one patient, as the core's types and as the documents that callers send.

use comms_core::{
    DeliveryId, EmailAddress, Mailbox,
    request::{Content, Target},
};
use serde_json::{Value, json};

/// The id of the delivery with this number.
///
/// # Panics
/// Never: every number is an id.
#[allow(clippy::expect_used, reason = "32 hexadecimal digits are an id")]
pub fn delivery_id(number: u128) -> DeliveryId {
    DeliveryId::parse(&format!("{number:032x}")).expect("32 hexadecimal digits")
}

/// An address without a name.
///
/// # Panics
/// When it is no address.
#[allow(clippy::expect_used, reason = "it is the test's mistake")]
pub fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).expect("an e-mail address"),
        name: None,
    }
}

/// `patient@example.com`.
pub fn patient() -> Target {
    Target::Email(mailbox("patient@example.com"))
}

/// A title and a text.
pub fn appointment() -> Content {
    Content {
        title: Some("Appointment confirmed".into()),
        body: Some("See you on Monday.".into()),
        ..Content::default()
    }
}

/// A queued communication of `clinic` to one patient by e-mail.
pub fn communication(clinic: &str) -> Value {
    json!({
        "category": "appointment", "priority": "high", "strategy": "queued",
        "title": "Appointment confirmed", "body": "See you on Monday at 10:00.",
        "recipients": [{"email": "patient@example.com", "name": "Pat Example"}],
        "channels": ["email"], "metadata": {"clinicId": clinic, "appointmentId": "appt-456"}})
}

/// The entry of an SMTP server on 127.0.0.1 in a settings document.
pub fn smtp_entry(port: u16, user: &str, password: &str) -> Value {
    json!({"provider": "smtp", "enabled": true, "credentials": {
        "host": "127.0.0.1", "port": port.to_string(), "secure": "false", "user": user, "password": password}})
}

/// The `communicationSettings` of a clinic with a primary for e-mail. Nothing is retried, so that no test waits.
pub fn email_settings(primary: &Value, from: &str) -> Value {
    json!({"email": {
        "primary": primary, "fallback": [], "defaultFrom": from, "defaultFromName": "Example Clinic",
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}, "onAmbiguous": "failover"}})
}
