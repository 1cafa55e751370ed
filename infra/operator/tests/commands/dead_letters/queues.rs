//! The queues of a local AWS, with messages on them.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName},
};
use comms_core::SystemClock;
use comms_operator::dead_letters::{DeadLetterQueue, Filter, Plan, SourceQueues, Work};
use comms_testkit::aws::LocalAws;
use serde_json::{Value, json};

/// Queues with dead letters.
pub(crate) struct Queues {
    pub(crate) aws: LocalAws,
    pub(super) sqs: Client,
}

impl Queues {
    pub(crate) async fn new() -> Self {
        let aws = LocalAws::start().await;
        let sqs = Client::new(&aws.sdk_config());
        Self { aws, sqs }
    }

    pub(super) fn sources(&self) -> SourceQueues {
        SourceQueues {
            normal: self.aws.resources().queue_url.clone(),
            urgent: self.aws.resources().urgent_queue_url.clone(),
        }
    }

    /// Puts a message on a queue and returns its id.
    pub(super) async fn send(
        &self,
        url: &str,
        body: &Value,
        attributes: &[(&str, &str)],
    ) -> String {
        let mut request = self
            .sqs
            .send_message()
            .queue_url(url)
            .message_body(body.to_string())
            .message_group_id("group-1");
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(*value)
                .build();
            request = request.message_attributes(*name, value.unwrap());
        }
        request.send().await.unwrap().message_id.unwrap()
    }

    /// A dead letter as the worker makes one, of a message of the queue of what is urgent.
    pub(crate) async fn dead_letter(&self, body: &Value, reason: &str, source_id: &str) -> String {
        let attributes = [
            ("reason", reason),
            ("fields", "/channels"),
            ("sourceQueue", "clinic-comms-urgent"),
            ("sourceMessageId", source_id),
            ("deadAt", "2026-12-01T10:00:00Z"),
            ("acceptedAs", "0123456789abcdef0123456789abcdef"),
            ("payloadHash", "123456789abcdef0123456789abcdef0"),
            ("acceptanceMac", "23456789abcdef0123456789abcdef01"),
        ];
        self.send(&self.aws.resources().dlq_url, body, &attributes)
            .await
    }

    /// A dead letter that SQS moves from the queue of what is not urgent; its sender gave it an attribute.
    pub(super) async fn exhaust(&self, body: &Value) -> String {
        let resources = self.aws.resources();
        let policy = json!({
            "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:clinic-comms-dlq", "maxReceiveCount": 1});
        self.sqs
            .set_queue_attributes()
            .queue_url(&resources.queue_url)
            .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
            .send()
            .await
            .unwrap();
        let id = self
            .send(&resources.queue_url, body, &[("reason", "the-senders-own")])
            .await;
        for message in self.receive(&resources.queue_url).await {
            self.give_back(&resources.queue_url, &message).await;
        }
        assert!(self.receive(&resources.queue_url).await.is_empty());
        id
    }

    pub(super) async fn receive(&self, url: &str) -> Vec<Message> {
        let received = self
            .sqs
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await;
        received.unwrap().messages.unwrap_or_default()
    }

    async fn give_back(&self, url: &str, message: &Message) {
        self.sqs
            .change_message_visibility()
            .queue_url(url)
            .set_receipt_handle(message.receipt_handle.clone())
            .visibility_timeout(0)
            .send()
            .await
            .unwrap();
    }

    /// How many dead letters can be received, and how many somebody has.
    pub(crate) async fn dead(&self) -> (u64, u64) {
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(&self.aws.resources().dlq_url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        let number = |name| answer.attributes().unwrap()[&name].parse().unwrap();
        (
            number(QueueAttributeName::ApproximateNumberOfMessages),
            number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    pub(super) fn plan(&self, work: Work) -> Plan {
        let (sdk, url) = (self.aws.sdk_config(), &self.aws.resources().dlq_url);
        Plan {
            queue: DeadLetterQueue::new(&sdk, url, Duration::ZERO),
            filter: Filter::default(),
            work,
            limit: 1_000,
            rate: 1_000,
            clock: Arc::new(SystemClock),
        }
    }

    pub(super) fn redrive(&self) -> Plan {
        self.plan(Work::Redrive(self.sources()))
    }
}
