//! A write with a condition, whose failure is an answer and no error.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::SdkError,
    operation::update_item::{UpdateItemError, UpdateItemOutput},
};

use crate::{item::Item, table_error::TableError};

/// The result of a conditional write.
#[derive(Debug)]
pub enum ConditionalWrite {
    /// It was made; the attributes that it asked for.
    Done(Item),
    /// Its condition does not hold for this item: empty if there is none, or if the write did not ask for it.
    ConditionFailed(Item),
}

impl ConditionalWrite {
    /// The result of an `UpdateItem`.
    pub fn of_update(
        written: Result<UpdateItemOutput, SdkError<UpdateItemError, HttpResponse>>,
    ) -> Result<Self, TableError> {
        match written {
            Ok(output) => Ok(Self::Done(output.attributes.unwrap_or_default())),
            Err(error) => match condition_failure(&error) {
                Some(item) => Ok(Self::ConditionFailed(item)),
                None => Err(TableError::new("UpdateItem", &error)),
            },
        }
    }

    /// Whether the condition held.
    pub const fn is_done(&self) -> bool {
        match self {
            Self::Done(_) => true,
            Self::ConditionFailed(_) => false,
        }
    }
}

/// The item that made an update's condition fail, empty if there is none; `None` for other errors.
fn condition_failure<R>(error: &SdkError<UpdateItemError, R>) -> Option<Item> {
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            Some(failed.item().cloned().unwrap_or_default())
        }
        _ => None,
    }
}
