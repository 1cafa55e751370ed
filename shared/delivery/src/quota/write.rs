//! The conditional write of a reservation.

use std::{sync::atomic::Ordering, time::Duration};

use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use comms_aws::{
    ConditionalWrite, TableError, count_failure,
    item::{key, number_value},
};
use comms_core::backoff::{Backoff, jitter};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tracing::warn;

use super::{
    Quotas,
    reservation::{Change, WindowCondition},
    windows::{CLOCKS_DIFFER, end_of, used_attribute, window_attribute},
};

/// The waits between tries of a write that failed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(25), Duration::from_secs(1));
pub(super) const SORT_KEY: &str = "windows";
const EXPIRES_AT: &str = "expiresAt";

/// Records that releasing quota failed. If the condition does not hold, the window has ended or the item was removed, and
/// there is nothing to return quota to.
pub(super) fn record_release(released: Result<ConditionalWrite, TableError>) {
    if let Err(error) = released {
        warn!(%error, "quota was not given back");
    }
}

pub(super) async fn wait_after(attempt: u32) {
    tokio::time::sleep(BACKOFF.with_full_jitter(attempt, jitter())).await;
}

impl Quotas {
    /// Makes one conditional write, which returns the item after it.
    pub(super) async fn write(
        &self,
        partition_key: &str,
        changes: &[Change],
        now: Timestamp,
    ) -> Result<ConditionalWrite, TableError> {
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
            .set_key(Some(key(partition_key, SORT_KEY)))
            .expression_attribute_names("#expiresAt", EXPIRES_AT)
            .expression_attribute_values(":expiresAt", number_value(expires_at.as_second()));
        for change in changes {
            let period = change.period.as_str();
            let (window, used) = (format!("#{period}Window"), format!("#{period}Used"));
            request = request
                .expression_attribute_names(&window, window_attribute(change.period))
                .expression_attribute_names(&used, used_attribute(change.period))
                .expression_attribute_values(
                    format!(":{period}Window"),
                    number_value(change.window),
                )
                .expression_attribute_values(format!(":{period}Count"), number_value(change.count));
            match change.to {
                WindowCondition::Running { most } => {
                    sets.push(format!("{used} = {used} + :{period}Count"));
                    conditions.push(format!("{window} = :{period}Window"));
                    if let Some(most) = most {
                        conditions.push(format!("{used} <= :{period}Most"));
                        request = request.expression_attribute_values(
                            format!(":{period}Most"),
                            number_value(most),
                        );
                    }
                }
                WindowCondition::New { instead_of } => {
                    sets.push(format!(
                        "{window} = :{period}Window, {used} = :{period}Count"
                    ));
                    conditions.push(if let Some(nobodys) = instead_of {
                        request = request.expression_attribute_values(
                            format!(":{period}Nobodys"),
                            number_value(nobodys),
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
        let written = ConditionalWrite::of_update(written);
        if let Some(code) = written.as_ref().err().and_then(TableError::code) {
            count_failure(code);
        }
        written
    }
}
