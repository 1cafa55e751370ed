//! Clinics that send by one provider, and their messages.

use comms_settings::SettingsStore;
use comms_testkit::aws::LocalAws;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::clinic;

/// Clinics that are saved at once.
const SAVED_AT_ONCE: usize = 16;

fn clinic_id(number: usize) -> String {
    format!("clinic-{number:05}")
}

/// Saves clinics that all send by one provider, each for itself.
pub(crate) async fn save_clinics(aws: &LocalAws, clinics: usize, primary: &Value) {
    let (sdk, resources) = (aws.sdk_config(), aws.resources());
    let store = &SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
    stream::iter(0..clinics)
        .for_each_concurrent(SAVED_AT_ONCE, async |number| {
            clinic::save(store, &clinic_id(number), primary).await;
        })
        .await;
}

/// A record of an SQS event: 2.5 KB with the HTML, as in the benchmark of SMTP, and of a random clinic.
pub(crate) fn record(number: usize, clinics: usize) -> Value {
    let id = clinic_id(at_random(number) % clinics);
    let line = "Your appointment with Dr. Müller is on Monday, 7 December, at 10:00 in room 4. ";
    let body = json!({
        "title": "Appointment confirmed", "body": line.repeat(10),
        "html": format!("<html><body><p>{}</p></body></html>", line.repeat(12)),
        "channels": ["email"], "recipients": [{"email": format!("patient-{number}@example.com")}],
        "metadata": {"clinicId": id}});
    clinic::record(number, &id, &body)
}

/// A random number that depends on `number` alone: the last step of `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
fn at_random(number: usize) -> usize {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
