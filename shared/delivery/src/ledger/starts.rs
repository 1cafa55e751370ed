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

use super::{
    Ledger, LedgerError,
    attributes::{count, database, n, refused_item, s},
    writes::Purpose,
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
    ) -> Result<MessageStart, LedgerError> {
        let start = s(&Uuid::new_v4().to_string());
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :one, #start = :start, expiresAt = :ttl")
            .condition_expression("attribute_not_exists(starts) OR starts = :zero")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":start", start.clone())
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":zero", n(0))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = self.write(update, Purpose::Claim).await.result else {
            return Ok(MessageStart::Clear);
        };
        match refused_item(&error) {
            // Our own write, whose response was lost and which was repeated.
            Some(item) if item.get(START) == Some(&start) => Ok(MessageStart::Clear),
            Some(item) => Ok(MessageStart::Suspect {
                unfinished: count(&item, STARTS)?,
            }),
            None => Err(database("UpdateItem", &error)),
        }
    }

    /// Notes that a suspect message is begun once more, after `unfinished` starts without an end. Repeating it adds
    /// nothing. An error if another worker has begun or ended the message meanwhile.
    pub async fn begin_again(
        &self,
        message_id: &str,
        unfinished: u32,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :next, expiresAt = :ttl REMOVE #start")
            .condition_expression("starts = :unfinished OR starts = :next")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":unfinished", n(i64::from(unfinished)))
            .expression_attribute_values(":next", n(i64::from(unfinished) + 1));
        self.note(update).await
    }

    /// Takes the note of [`begin_again`](Self::begin_again) back, where it has had an effect although it failed.
    pub async fn withdraw_start(
        &self,
        message_id: &str,
        unfinished: u32,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :before, expiresAt = :ttl")
            .condition_expression("starts = :next")
            .expression_attribute_values(":before", n(i64::from(unfinished)))
            .expression_attribute_values(":next", n(i64::from(unfinished) + 1));
        match self.write(update, Purpose::Claim).await.result {
            Ok(_) => Ok(()),
            Err(error) if refused_item(&error).is_some() => Ok(()),
            Err(error) => Err(database("UpdateItem", &error)),
        }
    }

    /// Notes that the handling of a message came to an end, whatever became of it.
    pub async fn end_message(&self, message_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        let update = self
            .starts_of(message_id, now)
            .update_expression("SET starts = :zero, expiresAt = :ttl REMOVE #start")
            .expression_attribute_names("#start", START)
            .expression_attribute_values(":zero", n(0));
        self.note(update).await
    }

    fn starts_of(&self, message_id: &str, now: Timestamp) -> UpdateItemFluentBuilder {
        self.writer
            .update_item()
            .table_name(&self.table)
            .key("pk", s(&format!("started#{message_id}")))
            .key("sk", s("message"))
            .expression_attribute_values(":ttl", n(expires_at(now)))
    }

    async fn note(&self, update: UpdateItemFluentBuilder) -> Result<(), LedgerError> {
        let written = self.write(update, Purpose::Claim).await.result;
        written
            .map(drop)
            .map_err(|error| database("UpdateItem", &error))
    }
}

fn expires_at(now: Timestamp) -> i64 {
    now.as_second()
        .saturating_add_unsigned(START_RETENTION.as_secs())
}
