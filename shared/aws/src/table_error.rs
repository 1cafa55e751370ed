//! Why a DynamoDB table did not do what it was asked.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use thiserror::Error;

use crate::error::{NOT_BUILT, error_code, had_no_effect, is_throttling};

/// Why a table could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// DynamoDB throttled the request, or others kept winning the race for the item. The request had no effect.
    #[error("DynamoDB {operation} failed ({code})")]
    Throttled {
        /// The operation.
        operation: &'static str,
        /// DynamoDB's error code, or `Contention`.
        code: String,
    },
    /// DynamoDB refused the request: a missing permission, a missing table, a wrong request. The request had no effect.
    #[error("DynamoDB {operation} failed ({code})")]
    Refused {
        /// The operation.
        operation: &'static str,
        /// DynamoDB's error code, or `RequestNotBuilt`.
        code: String,
    },
    /// DynamoDB did not answer, or with a server error. The request may have had its effect.
    #[error("DynamoDB {operation} failed ({code})")]
    Unreachable {
        /// The operation.
        operation: &'static str,
        /// DynamoDB's error code, or what kept the request from being answered.
        code: String,
    },
    /// A stored item is not as this service writes it.
    #[error("a stored item cannot be read: attribute {0}")]
    Corrupt(&'static str),
}

impl TableError {
    /// The error of an operation.
    pub fn new<E: ProvideErrorMetadata>(
        operation: &'static str,
        error: &SdkError<E, HttpResponse>,
    ) -> Self {
        let code = error_code(error);
        if is_throttling(&code) {
            Self::Throttled { operation, code }
        } else if had_no_effect(error) {
            Self::Refused { operation, code }
        } else {
            Self::Unreachable { operation, code }
        }
    }

    /// A conditional write that lost to others as often as it was tried.
    pub fn contention(operation: &'static str, code: &str) -> Self {
        Self::Throttled {
            operation,
            code: code.to_owned(),
        }
    }

    /// A condition that the caller expected to hold did not.
    pub fn condition_failed(operation: &'static str) -> Self {
        Self::Refused {
            operation,
            code: "ConditionalCheckFailedException".to_owned(),
        }
    }

    /// A request that the SDK could not build.
    pub fn not_built(operation: &'static str) -> Self {
        Self::Refused {
            operation,
            code: NOT_BUILT.to_owned(),
        }
    }

    /// DynamoDB's error code, or what kept the request from being answered; `None` for a corrupt item.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Throttled { code, .. }
            | Self::Refused { code, .. }
            | Self::Unreachable { code, .. } => Some(code),
            Self::Corrupt(_) => None,
        }
    }

    /// Whether the same request may succeed later without a change of the item. True of refusals too: permissions are
    /// mended, and a role that was made anew is unknown for a while.
    pub const fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Refused { .. } | Self::Unreachable { .. } => true,
            Self::Corrupt(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{error::ErrorMetadata, operation::update_item::UpdateItemError};
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn table_error(code: &str, status: u16) -> TableError {
        let metadata = ErrorMetadata::builder().code(code).build();
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        let error = SdkError::service_error(UpdateItemError::generic(metadata), response);
        TableError::new("UpdateItem", &error)
    }

    #[test]
    fn table_error_says_whether_the_request_had_an_effect() {
        for code in [
            "ThrottlingException",
            "RequestLimitExceeded",
            "ProvisionedThroughputExceededException",
        ] {
            let error = table_error(code, 400);
            assert!(matches!(error, TableError::Throttled { .. }), "{error:?}");
        }
        let denied = table_error("AccessDeniedException", 400);
        assert!(matches!(denied, TableError::Refused { .. }), "{denied:?}");
        let failed = table_error("InternalServerError", 500);
        assert!(
            matches!(failed, TableError::Unreachable { .. }),
            "{failed:?}"
        );
        let lost = SdkError::<UpdateItemError, HttpResponse>::timeout_error("planted");
        let lost = TableError::new("UpdateItem", &lost);
        assert_eq!(
            lost.to_string(),
            "DynamoDB UpdateItem failed (Timeout)",
            "{lost:?}"
        );
        assert!(matches!(lost, TableError::Unreachable { .. }), "{lost:?}");
    }

    #[test]
    fn only_a_corrupt_item_stays_as_it_is() {
        assert!(!TableError::Corrupt("due").is_worth_a_retry());
        assert!(table_error("AccessDeniedException", 400).is_worth_a_retry());
        assert_eq!(
            table_error("InternalServerError", 500).code(),
            Some("InternalServerError")
        );
    }
}
