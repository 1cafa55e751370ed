//! Which redelivered messages were begun and did not come to an end: one of them may end its process each time.
//!
//! One item for each message of the queue whose first receive may have ended its process, `pk` = `started#` and SQS's id:
//! two writes for each further receive, none for the first nor for those that follow it soon.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use futures_util::FutureExt as _;
use jiff::Timestamp;

use super::{Ledger, LedgerError, count, database, n, refused_item, s};

/// How long a start is remembered: as long as SQS may keep a message.
const START_RETENTION: Duration = Duration::from_hours(14 * 24);

const STARTS: &str = "starts";

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
        let begun = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", s(&format!("started#{message_id}")))
            .key("sk", s("message"))
            .update_expression("SET starts = :one, expiresAt = :ttl")
            .condition_expression("attribute_not_exists(starts) OR starts = :zero")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":ttl", n(expires_at(now)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        match begun {
            Ok(_) => Ok(MessageStart::Clear),
            Err(error) => match refused_item(&error) {
                Some(item) => Ok(MessageStart::Suspect {
                    unfinished: count(&item, STARTS)?,
                }),
                None => Err(database("UpdateItem", &error)),
            },
        }
    }

    /// Notes that a suspect message is begun once more.
    pub async fn begin_again(&self, message_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.note_starts(
            message_id,
            "SET expiresAt = :ttl ADD starts :starts",
            1,
            now,
        )
        .await
    }

    /// Notes that the handling of a message came to an end, whatever became of it.
    pub async fn end_message(&self, message_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.note_starts(message_id, "SET expiresAt = :ttl, starts = :starts", 0, now)
            .await
    }

    async fn note_starts(
        &self,
        message_id: &str,
        update: &str,
        starts: i64,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("pk", s(&format!("started#{message_id}")))
            .key("sk", s("message"))
            .update_expression(update)
            .expression_attribute_values(":starts", n(starts))
            .expression_attribute_values(":ttl", n(expires_at(now)))
            .send()
            .boxed()
            .await
            .map(drop)
            .map_err(|error| database("UpdateItem", &error))
    }
}

fn expires_at(now: Timestamp) -> i64 {
    now.as_second()
        .saturating_add_unsigned(START_RETENTION.as_secs())
}
