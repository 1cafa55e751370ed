//! DynamoDB transactions of writes: all of them, or none.

use aws_sdk_dynamodb::{
    Client,
    error::BuildError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{CancellationReason, TransactWriteItem},
};
use futures_util::FutureExt as _;

use crate::table_error::TableError;

/// The operation's name.
pub const OPERATION: &str = "TransactWriteItems";

/// The result of a transaction.
#[derive(Debug)]
pub enum Transaction {
    /// Everything was written.
    Done,
    /// Nothing was written. The reasons are in the order of the items (API reference, `TransactWriteItems`).
    Cancelled(Vec<CancellationReason>),
}

/// Writes all items or none.
pub async fn transact(
    client: &Client,
    items: impl IntoIterator<Item = Result<TransactWriteItem, BuildError>>,
) -> Result<Transaction, TableError> {
    let items = items.into_iter().collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|_| TableError::not_built(OPERATION))?;
    let written = client
        .transact_write_items()
        .set_transact_items(Some(items))
        .send()
        .boxed()
        .await;
    match written {
        Ok(_) => Ok(Transaction::Done),
        Err(error) => match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => Ok(
                Transaction::Cancelled(cancelled.cancellation_reasons().to_vec()),
            ),
            _ => Err(TableError::new(OPERATION, &error)),
        },
    }
}
