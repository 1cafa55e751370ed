//! The conditional write of a reservation, and why it fails.

use std::{sync::atomic::Ordering, time::Duration};

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::SdkError,
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use comms_core::backoff::jitter;
use comms_settings::error_code;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tracing::warn;

use super::{
    Item, Quotas,
    reservation::{Change, WindowCondition},
    windows::{CLOCKS_DIFFER, end_of, used_attribute, window_attribute},
};
use crate::ledger::LedgerError;

/// The wait before another try after DynamoDB could not take one, doubled each time.
const RETRY_WAIT: Duration = Duration::from_millis(25);
pub(super) const SORT_KEY: &str = "windows";
const EXPIRES_AT: &str = "expiresAt";

/// Why a write failed, or may have failed.
pub(super) enum WriteFailure {
    /// Its condition did not hold for this item.
    Refused(Item),
    /// DynamoDB throttled it. It had no effect.
    Throttled(String),
    /// It may have had an effect.
    Unknown(String),
    /// It had no effect. Retrying is useless.
    Final(String),
}

impl WriteFailure {
    pub(super) fn of(error: &SdkError<UpdateItemError, HttpResponse>) -> Self {
        let code = error_code(error);
        let SdkError::ServiceError(answer) = error else {
            return Self::Unknown(code);
        };
        if let UpdateItemError::ConditionalCheckFailedException(failed) = answer.err() {
            return Self::Refused(failed.item().cloned().unwrap_or_default());
        }
        if is_throttling(&code) {
            Self::Throttled(code)
        } else if answer.raw().status().is_server_error() {
            Self::Unknown(code)
        } else {
            Self::Final(code)
        }
    }

    pub(super) fn record(&self) {
        let code = match self {
            // The window has ended, or the item was removed: there is nothing to give back to.
            Self::Refused(_) => return,
            Self::Throttled(code) | Self::Unknown(code) | Self::Final(code) => code,
        };
        warn!(code, "quota was not given back");
    }
}

/// DynamoDB, "Error handling": errors of throttled requests.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException" | "RequestLimitExceeded" | "ThrottlingException"
    )
}

pub(super) async fn wait_after(attempt: u32) {
    let longest = RETRY_WAIT.saturating_mul(2_u32.saturating_pow(attempt));
    tokio::time::sleep(longest.mul_f64(jitter())).await;
}

pub(super) fn database(code: String) -> LedgerError {
    LedgerError::Database {
        operation: "UpdateItem",
        code,
    }
}

impl Quotas {
    /// Makes one conditional write. Returns the item after it.
    pub(super) async fn write(
        &self,
        partition_key: &str,
        changes: &[Change],
        now: Timestamp,
    ) -> Result<Item, WriteFailure> {
        let (mut sets, mut conditions) = (vec!["#expiresAt = :expiresAt".to_owned()], Vec::new());
        // After the last window has ended by every clock, the item has no meaning.
        let ends = changes
            .iter()
            .map(|change| end_of(change.period, change.window));
        let expires_at = ends
            .max()
            .unwrap_or(now)
            .saturating_add(CLOCKS_DIFFER)
            .unwrap_or(Timestamp::MAX);
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(partition_key.to_owned()))
            .key("sk", AttributeValue::S(SORT_KEY.to_owned()))
            .expression_attribute_names("#expiresAt", EXPIRES_AT)
            .expression_attribute_values(":expiresAt", number(expires_at.as_second()));
        for change in changes {
            let period = change.period.as_str();
            let (window, used) = (format!("#{period}Window"), format!("#{period}Used"));
            request = request
                .expression_attribute_names(&window, window_attribute(change.period))
                .expression_attribute_names(&used, used_attribute(change.period))
                .expression_attribute_values(format!(":{period}Window"), number(change.window))
                .expression_attribute_values(format!(":{period}Count"), number(change.count));
            match change.to {
                WindowCondition::Running { most } => {
                    sets.push(format!("{used} = {used} + :{period}Count"));
                    conditions.push(format!("{window} = :{period}Window"));
                    if let Some(most) = most {
                        conditions.push(format!("{used} <= :{period}Most"));
                        request = request
                            .expression_attribute_values(format!(":{period}Most"), number(most));
                    }
                }
                WindowCondition::New { instead_of } => {
                    sets.push(format!(
                        "{window} = :{period}Window, {used} = :{period}Count"
                    ));
                    conditions.push(if let Some(nobodys) = instead_of {
                        request = request.expression_attribute_values(
                            format!(":{period}Nobodys"),
                            number(nobodys),
                        );
                        format!("{window} = :{period}Nobodys")
                    } else {
                        format!("(attribute_not_exists({window}) OR {window} < :{period}Window)")
                    });
                }
            }
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let written = request
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(conditions.join(" AND "))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .boxed()
            .await;
        match written {
            Ok(answer) => Ok(answer.attributes.unwrap_or_default()),
            Err(error) => Err(WriteFailure::of(&error)),
        }
    }
}

pub(super) fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
