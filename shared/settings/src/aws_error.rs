//! The code of an AWS error: all of it that is kept. Messages may quote what was sent.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

/// The service's own code, or what kept the request from being answered.
pub fn error_code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    let code = if let Some(error) = error.as_service_error() {
        error.code().unwrap_or("Unknown")
    } else if matches!(error, SdkError::TimeoutError(_)) {
        "Timeout"
    } else if matches!(error, SdkError::DispatchFailure(_)) {
        "DispatchFailure"
    } else if matches!(error, SdkError::ResponseError(_)) {
        "ResponseError"
    } else {
        "RequestNotBuilt"
    };
    code.to_owned()
}
