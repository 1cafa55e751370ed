//! The queues as producers, Lambda and the operator see them.

use std::time::Duration;

use aws_sdk_sqs::types::MessageSystemAttributeName;
use serde_json::{Value, json};

use super::World;
use crate::{documents::communication, events::record, invoke::handle_records};

/// What the worker was given and what it gave back.
#[derive(Debug)]
pub struct Batch {
    /// The records of the event.
    pub records: Vec<Value>,
    /// The ids in `batchItemFailures`.
    pub failed: Vec<String>,
}

impl World {
    /// Puts a body on the queue, as a producer does that does not come by HTTP.
    pub async fn enqueue(&self, body: &str) {
        self.queue
            .send_message()
            .queue_url(&self.aws.resources().queue_url)
            .message_body(body)
            .send()
            .await
            .unwrap();
    }

    /// Up to ten messages of a queue.
    async fn receive(&self, url: &str) -> Vec<aws_sdk_sqs::types::Message> {
        let received = self
            .queue
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .unwrap();
        received.messages.unwrap_or_default()
    }

    /// Up to ten messages of the urgent queue, else of the other, as they are received and as Lambda hands them on; and
    /// the URL of the queue.
    pub async fn take_batch(&self) -> (&str, Vec<aws_sdk_sqs::types::Message>, Vec<Value>) {
        let resources = self.aws.resources();
        let mut url = &resources.urgent_queue_url;
        let mut received = self.receive(url).await;
        if received.is_empty() {
            url = &resources.queue_url;
            received = self.receive(url).await;
        }
        let name = url.rsplit('/').next().unwrap();
        let arn = format!("arn:aws:sqs:us-east-1:123456789012:{name}");
        let records = received.iter().map(|message| {
            let attributes: serde_json::Map<_, _> = message
                .attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str().to_owned(), json!(value)))
                .collect();
            let own: serde_json::Map<_, _> = message
                .message_attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    let json =
                        json!({"stringValue": value.string_value(), "dataType": value.data_type()});
                    (name.clone(), json)
                })
                .collect();
            let mut record = record(message.message_id().unwrap(), message.body().unwrap());
            record["eventSourceARN"] = json!(arn);
            record["receiptHandle"] = json!(message.receipt_handle());
            record["attributes"] = attributes.into();
            record["messageAttributes"] = own.into();
            record
        });
        let records = records.collect();
        (url, received, records)
    }

    /// Lets the worker handle what is on the queues, the urgent one first, as Lambda does: the messages that it does not
    /// give back are deleted. Those that it gives back can be received again at once.
    pub async fn run_worker(&self) -> Batch {
        self.run_worker_with(&self.worker, Duration::from_secs(30))
            .await
    }

    /// The same by another worker, in an invocation that may last `time`.
    pub async fn run_worker_with(&self, worker: &comms_worker::Deps, time: Duration) -> Batch {
        let (url, received, records) = self.take_batch().await;
        let failed = handle_records(worker, &records, time).await;
        for message in &received {
            let handle = message.receipt_handle().unwrap();
            if failed
                .iter()
                .any(|id| Some(id.as_str()) == message.message_id())
            {
                self.queue
                    .change_message_visibility()
                    .queue_url(url)
                    .receipt_handle(handle)
                    .visibility_timeout(0)
                    .send()
                    .await
                    .unwrap();
            } else {
                self.queue
                    .delete_message()
                    .queue_url(url)
                    .receipt_handle(handle)
                    .send()
                    .await
                    .unwrap();
            }
        }
        Batch { records, failed }
    }

    /// Queues the communication with this number as its key, and lets `worker` handle it.
    pub async fn deliver(&self, worker: &comms_worker::Deps, number: u32) -> Batch {
        let mut numbered = communication();
        numbered["idempotencyKey"] = json!(format!("key-{number}"));
        self.enqueue(&numbered.to_string()).await;
        self.run_worker_with(worker, Duration::from_secs(30)).await
    }

    /// What lies in the dead-letter queue: body, attributes, group and trace of each message.
    pub async fn dead_letters(&self) -> Vec<Value> {
        let mut letters = Vec::new();
        loop {
            let messages = self.receive(&self.aws.resources().dlq_url).await;
            if messages.is_empty() {
                return letters;
            }
            for message in messages {
                let attributes: serde_json::Map<_, _> = message
                    .message_attributes()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), json!(value.string_value())))
                    .collect();
                let types: serde_json::Map<_, _> = message
                    .message_attributes()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), json!(value.data_type())))
                    .collect();
                let group = message
                    .attributes()
                    .and_then(|all| all.get(&MessageSystemAttributeName::MessageGroupId));
                let trace = message
                    .attributes()
                    .and_then(|all| all.get(&MessageSystemAttributeName::AwsTraceHeader));
                letters.push(json!({
                    "body": message.body(), "attributes": attributes, "types": types, "group": group,
                    "trace": trace,
                }));
            }
        }
    }

    /// Gives records to the worker and returns the ids in `batchItemFailures`.
    pub async fn work_on(&self, records: &[Value]) -> Vec<String> {
        handle_records(&self.worker, records, Duration::from_secs(30)).await
    }
}
