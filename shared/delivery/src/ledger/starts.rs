//! Which redelivered messages were begun and did not come to an end: one of them may end its process each time.
//!
//! One item for each message of the queue whose first receive may have ended its process, `pk` = `started#` and SQS's id:
//! two writes for each further receive, none for the first nor for those that follow it soon.

use std::time::Duration;

use aws_sdk_dynamodb::{
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::ReturnValuesOnConditionCheckFailure,
};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Ledger, attributes::count, writes::Purpose};
use comms_aws::{
    ConditionalWrite, TableError,
    item::{number_value, text_value},
};

/// How long a start is remembered: as long as SQS may keep a message.
const START_RETENTION: Duration = Duration::from_hours(14 * 24);

const STARTS: &str = "starts";
/// A random id by which the first write of a start knows its own item.
const START: &str = "startToken";

/// What is known of a message that is about to be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageStart {
    /// Nothing speaks against it. Its start is noted.
    Clear,
    /// It was begun so often since it last came to an end. This start is not noted.
    Suspect {
        /// How often.
        unfinished: u32,
    },
}

impl Ledger {
    /// Notes that a message is begun, unless an earlier start of it has not ended.
    pub async fn begin_message(
        &self,
        message_id: &str,
        now: Timestamp,
    ) -> Result<MessageStart, TableError> {
        let start = text_value(&Uuid::new_v4().to_string());
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :one, #start = :start, expiresAt = :ttl")
            .condition_expression("attribute_not_exists(starts) OR starts = :zero")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":start", start.clone())
            .expression_attribute_values(":one", number_value(1))
            .expression_attribute_values(":zero", number_value(0))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.write(update, Purpose::Claim).await.result? {
            ConditionalWrite::Done(_) => Ok(MessageStart::Clear),
            // Our own write, whose response was lost and which was repeated.
            ConditionalWrite::ConditionFailed(item) if item.get(START) == Some(&start) => {
                Ok(MessageStart::Clear)
            }
            ConditionalWrite::ConditionFailed(item) => Ok(MessageStart::Suspect {
                unfinished: count(&item, STARTS)?,
            }),
        }
    }

    /// Notes that a suspect message is begun once more, after `unfinished` starts without an end. Repeating it adds
    /// nothing. An error if another worker has begun or ended the message meanwhile.
    pub async fn begin_again(
        &self,
        message_id: &str,
        unfinished: u32,
        now: Timestamp,
    ) -> Result<(), TableError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :next, expiresAt = :ttl REMOVE #start")
            .condition_expression("starts = :unfinished OR starts = :next")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":unfinished", number_value(i64::from(unfinished)))
            .expression_attribute_values(":next", number_value(i64::from(unfinished) + 1));
        self.note(update).await
    }

    /// Takes the note of [`begin_again`](Self::begin_again) back, where it has had an effect although it failed.
    pub async fn withdraw_start(
        &self,
        message_id: &str,
        unfinished: u32,
        now: Timestamp,
    ) -> Result<(), TableError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :before, expiresAt = :ttl")
            .condition_expression("starts = :next")
            .expression_attribute_values(":before", number_value(i64::from(unfinished)))
            .expression_attribute_values(":next", number_value(i64::from(unfinished) + 1));
        self.write(update, Purpose::Claim).await.result.map(drop)
    }

    /// Notes that the handling of a message came to an end, whatever became of it.
    pub async fn end_message(&self, message_id: &str, now: Timestamp) -> Result<(), TableError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :zero, expiresAt = :ttl REMOVE #start")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":zero", number_value(0));
        self.note(update).await
    }

    fn starts_of(&self, message_id: &str, now: Timestamp) -> UpdateItemFluentBuilder {
        self.writer
            .update_item()
            .table_name(&self.table)
            .key("pk", text_value(&format!("started#{message_id}")))
            .key("sk", text_value("message"))
            .expression_attribute_values(":ttl", number_value(expires_at(now)))
    }

    async fn note(&self, update: UpdateItemFluentBuilder) -> Result<(), TableError> {
        match self.write(update, Purpose::Claim).await.result? {
            ConditionalWrite::Done(_) => Ok(()),
            ConditionalWrite::ConditionFailed(_) => Err(TableError::condition_failed("UpdateItem")),
        }
    }
}

fn expires_at(now: Timestamp) -> i64 {
    now.as_second()
        .saturating_add_unsigned(START_RETENTION.as_secs())
}
