//! Why SQS did not do what it was asked.

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use thiserror::Error;

use crate::error::{NOT_BUILT, error_code};

/// SQS refused a request or one entry of it, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("SQS {operation} failed ({code})")]
pub struct QueueError {
    /// The operation.
    pub operation: &'static str,
    /// SQS's error code, or what kept the request from being answered.
    pub code: String,
}

impl QueueError {
    /// The error of an operation.
    pub fn new<E: ProvideErrorMetadata, R>(
        operation: &'static str,
        error: &SdkError<E, R>,
    ) -> Self {
        Self::with_code(operation, error_code(error))
    }

    /// An error with this code.
    pub fn with_code(operation: &'static str, code: impl Into<String>) -> Self {
        Self {
            operation,
            code: code.into(),
        }
    }

    /// A request that the SDK could not build.
    pub fn not_built(operation: &'static str) -> Self {
        Self::with_code(operation, NOT_BUILT)
    }

    /// Whether it is about one message, so that another may be accepted (SQS API reference, `SendMessage`, errors).
    pub fn is_of_the_message(&self) -> bool {
        ["InvalidMessageContents", "InvalidParameterValue", NOT_BUILT].contains(&self.code.as_str())
    }
}
