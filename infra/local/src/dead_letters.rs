//! The dead-letter queue, watched: the console and the inbox's page say what arrives there, and why. Nothing of what
//! the messages say is shown.

use std::collections::HashSet;
use std::time::Duration;

use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use comms_core::{DeadLetter, Tenant};
use comms_testkit::aws::LocalAws;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::console::{Event, Mark, say, warn};
use crate::inbox::Inbox;

/// How often the queue is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a look hides the messages at most, in seconds. It ends with their being made visible again.
const LOOK_SECONDS: i32 = 5;

/// Messages of one receive.
const BATCH: i32 = 10;

/// The dead-letter queue.
struct Watch {
    sqs: aws_sdk_sqs::Client,
    url: String,
    /// Where the AWS endpoint is, for the command that shows a letter.
    endpoint: String,
    /// The messages that have been told of.
    known: HashSet<String>,
}

/// Tells of messages that arrive in the dead-letter queue, until the task ends.
pub(crate) async fn watch(aws: LocalAws, inbox: Inbox) {
    let mut watch = Watch {
        sqs: aws_sdk_sqs::Client::new(&aws.sdk_config()),
        url: aws.resources().dlq_url.clone(),
        endpoint: aws.endpoint(),
        known: HashSet::new(),
    };
    let mut seen = (0, 0);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // Messages are looked at only when there may be others than before: a look hides them for a moment from whoever
        // works with the queue, and is one more receive of each.
        let sent = aws.count("sqs", "SendMessage");
        let looked = match watch.length().await {
            Ok(length) if (length, sent) == seen => continue,
            Ok(0) => Ok(Vec::new()),
            Ok(_) => watch.look().await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(letters) => {
                seen = (letters.len(), sent);
                watch.tell(&letters);
                inbox.show_dead_letters(letters);
            }
            Err(error) => warn(format_args!(
                "[dead letters] the queue does not answer: {error}"
            )),
        }
    }
}

impl Watch {
    /// How many messages there are, those included that somebody has received.
    async fn length(&self) -> Result<usize, String> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(&self.url)
            .set_attribute_names(Some(names.to_vec()))
            .send()
            .await
            .map_err(|error| DisplayErrorContext(error).to_string())?;
        let number = |name| answer.attributes()?.get(&name)?.parse::<usize>().ok();
        Ok(names.into_iter().filter_map(number).sum())
    }

    /// What is known of every message that can be received.
    async fn look(&self) -> Result<Vec<Value>, String> {
        let mut letters = Vec::new();
        let mut handles = Vec::new();
        let looked = loop {
            let received = self
                .sqs
                .receive_message()
                .queue_url(&self.url)
                .max_number_of_messages(BATCH)
                .visibility_timeout(LOOK_SECONDS)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .message_attribute_names("All")
                .send()
                .await;
            match received {
                Ok(received) if received.messages().is_empty() => break Ok(letters),
                Ok(received) => {
                    for message in received.messages() {
                        letters.push(shown(message));
                        handles.extend(message.receipt_handle.clone());
                    }
                }
                Err(error) => break Err(DisplayErrorContext(error).to_string()),
            }
        };
        for handle in handles {
            // A failure leaves it hidden for the rest of the five seconds.
            let _ = self
                .sqs
                .change_message_visibility()
                .queue_url(&self.url)
                .receipt_handle(handle)
                .visibility_timeout(0)
                .send()
                .await;
        }
        looked
    }

    /// Says on the console what is new.
    fn tell(&mut self, letters: &[Value]) {
        let text = |letter: &Value, name: &str| match &letter[name] {
            Value::String(text) => text.clone(),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => "not known".to_owned(),
        };
        for letter in letters {
            let id = text(letter, "messageId");
            if self.known.contains(&id) {
                continue;
            }
            let fields: Vec<&str> = letter["fields"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let reason = text(letter, "reason").replace('_', " ");
            let fields = fields.join(" ");
            let of = if fields.is_empty() {
                String::new()
            } else {
                format!(": {fields}")
            };
            say(Event {
                at: Timestamp::now(),
                mark: Mark::DeadLetter,
                subject: format!("{:<12}", text(letter, "clinicId")),
                text: format!(
                    "dead letter from {}, {reason}{of}",
                    text(letter, "sourceQueue")
                ),
            });
            say(format_args!(
                "           AWS_ENDPOINT_URL={} AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local \\\n             \
                 cargo run -q -p comms-operator -- dead-letters list --each --dead-letter-queue {} --message {id}",
                self.endpoint, self.url
            ));
        }
        self.known = letters
            .iter()
            .map(|letter| text(letter, "messageId"))
            .collect();
    }
}

/// What is shown of a dead letter.
fn shown(message: &Message) -> Value {
    let system = |name| Some(message.attributes()?.get(&name)?.as_str());
    let letter = DeadLetter::read(
        system(MessageSystemAttributeName::DeadLetterQueueSourceArn),
        |name| message.message_attributes()?.get(name)?.string_value(),
        message.body().unwrap_or_default().as_bytes(),
    );
    let sent = system(MessageSystemAttributeName::SentTimestamp)
        .and_then(|sent| sent.parse().ok())
        .and_then(|sent| Timestamp::from_millisecond(sent).ok());
    json!({
        "messageId": message.message_id(),
        "clinicId": letter.tenant.as_ref().map(Tenant::as_str),
        "reason": letter.reason,
        "fields": letter.fields,
        "sourceQueue": letter.source_queue,
        "sentAt": sent.map(|sent| sent.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_letter_is_shown_without_its_content_and_stays_where_it_is() {
        let aws = LocalAws::start().await;
        let watch = Watch {
            sqs: aws_sdk_sqs::Client::new(&aws.sdk_config()),
            url: aws.resources().dlq_url.clone(),
            endpoint: aws.endpoint(),
            known: HashSet::new(),
        };
        watch
            .sqs
            .send_message()
            .queue_url(&watch.url)
            .message_body(r#"{"metadata":{"clinicId":"clinic-1"},"titel":"planted","channels":7}"#)
            .send()
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(watch.length().await, Ok(1));
            let letters = watch.look().await.unwrap();
            let [letter] = &letters[..] else {
                panic!("{letters:?}");
            };
            assert_eq!(letter["clinicId"], "clinic-1");
            assert_eq!(letter["reason"], "not_a_communication");
            let fields = letter["fields"].as_array().unwrap();
            assert!(fields.contains(&json!("/channels")), "{letter}");
            let text = letter.to_string();
            assert!(
                !text.contains("planted") && !text.contains("titel"),
                "{text}"
            );
        }
    }
}
