//! How an invocation fails.

use super::MAX_PAYLOAD;

/// Why an invocation has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvocationError {
    /// The function answered with an error.
    #[error("{error_type}: {message}")]
    Function {
        /// The error's kind, as the runtime names it.
        error_type: String,
        /// The error's text.
        message: String,
    },
    /// The function's process could not start.
    #[error("the function does not start: {error_type}: {message}")]
    InitFailed {
        /// The error's kind.
        error_type: String,
        /// The error's text, or how the process ended.
        message: String,
    },
    /// The process that had taken the invocation ended without an answer.
    #[error("process {process} ended without an answer: {reason}")]
    Exited {
        /// The process.
        process: String,
        /// How it ended.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer in time{}", .process.as_ref().map_or_else(|| " (no process took it)".to_owned(), |p| format!(" from process {p}")))]
    TimedOut {
        /// The process that had taken the invocation; Lambda would kill it now. `None` when no process took it.
        process: Option<String>,
    },
    /// The payload is larger than [`MAX_PAYLOAD`].
    #[error("the payload has {bytes} bytes, more than {MAX_PAYLOAD}")]
    TooLarge {
        /// The payload's size.
        bytes: usize,
    },
    /// The answer is larger than [`MAX_PAYLOAD`].
    #[error("the answer has more than {MAX_PAYLOAD} bytes")]
    ResponseTooLarge,
    /// The Runtime API is gone.
    #[error("the Runtime API has closed")]
    Closed,
}
