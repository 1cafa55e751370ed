//! Clinics that send by one provider, and their messages.

use comms_core::{Problems, SystemClock, Tenant};
use comms_settings::{Author, CommunicationSettings, SettingsStore};
use comms_testkit::aws::LocalAws;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

/// Clinics that are saved at once.
const SAVED_AT_ONCE: usize = 16;

fn clinic(number: usize) -> String {
    format!("clinic-{number:05}")
}

/// A mail server on loopback as a provider's entry.
pub(crate) fn by_smtp(port: u16) -> Value {
    json!({"provider": "smtp", "credentials": {
        "host": "127.0.0.1", "port": port, "secure": false, "user": "user", "password": "password"}})
}

/// Saves clinics that all send by one provider, each for itself.
pub(crate) async fn save_clinics(aws: &LocalAws, clinics: usize, primary: &Value) {
    let (sdk, resources) = (aws.sdk_config(), aws.resources());
    let store = &SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
    stream::iter(0..clinics)
        .for_each_concurrent(SAVED_AT_ONCE, async |number| {
            let tenant = Tenant::parse(&clinic(number)).unwrap();
            let document =
                json!({"email": {"primary": primary, "defaultFrom": "desk@clinic.example"}});
            let mut problems = Problems::default();
            let settings = CommunicationSettings::read(document, "", &tenant, None, &mut problems);
            let author = Author {
                subject: "bench".into(),
                source_address: None,
            };
            let settings = problems.or(settings).unwrap();
            let saved = store.save(&tenant, &settings, None, &author, &SystemClock);
            saved.await.unwrap();
        })
        .await;
}

/// A message as SQS gives it: 2.5 KB with the HTML, as the benchmark of SMTP has it.
pub(crate) fn record(number: usize, clinics: usize) -> Value {
    let clinic = clinic(at_random(number) % clinics);
    let line = "Your appointment with Dr. Müller is on Monday, 7 December, at 10:00 in room 4. ";
    let body = json!({
        "title": "Appointment confirmed", "body": line.repeat(10),
        "html": format!("<html><body><p>{}</p></body></html>", line.repeat(12)),
        "channels": ["email"], "recipients": [{"email": format!("patient-{number}@example.com")}],
        "metadata": {"clinicId": clinic}});
    json!({
        "messageId": format!("message-{number}"), "receiptHandle": "handle", "body": body.to_string(), "md5OfBody": "",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": clinic}, "messageAttributes": {},
        "eventSource": "aws:sqs", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms"})
}

/// The same for the same number: the last step of `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
fn at_random(number: usize) -> usize {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
