//! The bodies that most tests begin with: communications, and settings of one e-mail provider.

use serde_json::{Value, json};

use crate::world::CLINIC;

/// An smtp entry of a settings document.
pub fn entry(port: u16, user: &str, password: &str) -> Value {
    json!({"provider": "smtp", "enabled": true, "credentials": {
        "host": "127.0.0.1", "port": port.to_string(), "secure": "false", "user": user, "password": password}})
}

/// A settings document with a primary for e-mail. Nothing is tried again, so that no test waits.
pub fn email(primary: &Value, from: &str) -> Value {
    json!({"email": {
        "primary": primary, "fallback": [], "defaultFrom": from, "defaultFromName": "Example Clinic",
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}, "onAmbiguous": "failover"}})
}

/// A queued communication of the clinic to one patient by e-mail.
pub fn communication() -> Value {
    json!({
        "category": "appointment", "priority": "high", "strategy": "queued",
        "title": "Appointment confirmed", "body": "See you on Monday at 10:00.",
        "recipients": [{"email": "patient@example.com", "name": "Pat Example"}],
        "channels": ["email"], "metadata": {"clinicId": CLINIC, "appointmentId": "appt-456"}})
}

/// The same, sent while the caller waits.
pub fn immediate() -> Value {
    let mut communication = communication();
    communication["strategy"] = json!("immediate");
    communication
}
