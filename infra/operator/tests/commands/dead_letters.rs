//! What lies in the dead-letter queue is told without its content, goes back to where it came from, and is never lost.

mod listing;
mod queues;
mod redrive;

use aws_sdk_sqs::{Client, types::MessageAttributeValue};
use comms_core::Tenant;
use comms_operator::{
    dead_letters::{FoundLetter, Outcome, Plan, Report, run},
    stop::Stop,
};
use serde_json::{Value, json};

pub(crate) use self::queues::Queues;

/// What no output may have in it.
pub(crate) const CONTENT: &str = "planted-content";

/// A communication, whose text no output may have in it.
pub(crate) fn communication(clinic: &str) -> Value {
    json!({
        "title": CONTENT, "body": CONTENT, "channels": ["email"],
        "recipients": [{"email": "planted-patient@example.com", "name": "planted-name"}],
        "metadata": {"clinicId": clinic}})
}

/// Something that is none.
pub(crate) fn poison(clinic: &str) -> Value {
    let mut body = communication(clinic);
    body["planted-field"] = json!(CONTENT);
    body["channels"] = json!("email");
    body
}

/// Puts a dead letter on the queue at `url` as the worker does, and returns its id.
pub(crate) async fn put_dead_letter(
    sdk: &aws_config::SdkConfig,
    url: &str,
    body: &Value,
    reason: &str,
) -> String {
    let reason = MessageAttributeValue::builder()
        .data_type("String")
        .string_value(reason)
        .build();
    let sent = Client::new(sdk)
        .send_message()
        .queue_url(url)
        .message_body(body.to_string())
        .message_attributes("reason", reason.unwrap())
        .send();
    sent.await.unwrap().message_id.unwrap()
}

async fn carry_out(plan: &Plan) -> Report {
    let mut report = Report::default();
    run(plan, &mut report, &Stop::default(), &mut |_, _| {})
        .await
        .unwrap();
    report
}

fn outcomes(report: &Report) -> Vec<&Outcome> {
    report
        .letters
        .iter()
        .map(|letter| &letter.outcome)
        .collect()
}

fn of<'a>(report: &'a Report, id: &str) -> &'a FoundLetter {
    let mut letters = report.letters.iter();
    letters.find(|letter| letter.message_id == id).unwrap()
}

fn tenant(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}
