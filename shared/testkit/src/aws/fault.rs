//! Faults of AWS, as each service says them, and the watchers that ask for them.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use http_body_util::Full;
use serde_json::{Value, json};

use super::calls::AwsCall;

/// A scripted failure, in the shape in which the service itself reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Too many requests: `ProvisionedThroughputExceededException` (DynamoDB), `ThrottlingException` (KMS),
    /// `RequestThrottled` (SQS), `TooManyRequestsException` (SES), `Throttling` (STS). The SDK retries it.
    Throttle,
    /// The service is broken: a 500 with its own internal error. The SDK retries it.
    ServerError,
    /// The caller may not do this. Not retried.
    AccessDenied,
    /// The connection is closed without an answer. Whether the call had an effect is unknown to the caller; here it
    /// never has.
    Drop,
    /// The call has its effect, and the connection is closed in place of its answer.
    LoseAnswer,
    /// Of a batch of SQS every second entry, the first among them, fails with SQS's own internal error; the others
    /// have their effect. A call that has no entries fails as a whole ([`Fault::ServerError`]).
    SomeEntries,
}

/// When a call is shown to whom [`LocalAws::watch`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has arrived, and has had no effect yet.
    Arrived,
    /// It has had its effect, if it was to have one, and this is the status of the answer, which has not left yet.
    Answered(StatusCode),
}

/// A call as it passes. Its `Debug` does not show what it says.
#[derive(Clone)]
pub struct PassingCall {
    /// Which call.
    pub call: AwsCall,
    /// The id of the access key that signed it: who has one of its own is known by it.
    pub access_key_id: String,
    /// The body as JSON, [`Value::Null`] where it is none.
    pub request: Arc<Value>,
    /// Where it is on its way.
    pub moment: Moment,
}

impl fmt::Debug for PassingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.call, self.moment)
    }
}

/// What a watcher makes of a call, in its own time.
pub type Intervention = Pin<Box<dyn Future<Output = Option<Fault>> + Send>>;

pub(super) type Watcher = Arc<dyn Fn(PassingCall) -> Intervention + Send + Sync>;

#[derive(Debug)]
pub(super) struct ScriptedFault {
    pub(super) service: String,
    pub(super) operation: String,
    pub(super) remaining: usize,
    pub(super) fault: Fault,
}

/// A failure as the service words it. `Err` closes the connection.
pub(super) fn fault_answer(service: &str, fault: Fault) -> Result<Response<Full<Bytes>>, HangUp> {
    let (status, kind, message) = match (fault, service) {
        (Fault::Drop | Fault::LoseAnswer, _) => return Err(HangUp),
        (Fault::Throttle, "sts") => (400, "Throttling", "Rate exceeded"),
        (Fault::ServerError | Fault::SomeEntries, "sts") => {
            (500, "InternalFailure", "An internal error occurred.")
        }
        (Fault::AccessDenied, "sts") => (
            403,
            "AccessDenied",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform: sts:AssumeRole",
        ),
        (Fault::Throttle, "dynamodb") => (
            400,
            "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
             provisioning level with the UpdateTable API.",
        ),
        (Fault::Throttle, "kms") => (
            400,
            "ThrottlingException",
            "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
        ),
        (Fault::Throttle, "sqs") => (
            400,
            "com.amazonaws.sqs#RequestThrottled",
            "Request is throttled.",
        ),
        (Fault::Throttle, _) => (
            429,
            "TooManyRequestsException",
            "Maximum sending rate exceeded.",
        ),
        (Fault::ServerError | Fault::SomeEntries, "dynamodb") => (
            500,
            "com.amazonaws.dynamodb.v20120810#InternalServerError",
            "Internal server error",
        ),
        (Fault::ServerError | Fault::SomeEntries, "kms") => {
            (500, "KMSInternalException", "An internal error occurred.")
        }
        (Fault::ServerError | Fault::SomeEntries, "sqs") => (
            500,
            "com.amazonaws.sqs#InternalFailure",
            "We encountered an internal error. Please try again.",
        ),
        (Fault::ServerError | Fault::SomeEntries, _) => (
            500,
            "InternalServiceErrorException",
            "The request could not be processed.",
        ),
        (Fault::AccessDenied, "dynamodb" | "sqs") => (
            400,
            "com.amazon.coral.service#AccessDeniedException",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform this action",
        ),
        (Fault::AccessDenied, "kms") => (
            400,
            "AccessDeniedException",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform this action",
        ),
        (Fault::AccessDenied, _) => (
            403,
            "AccessDeniedException",
            "User is not authorized to perform this action",
        ),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if service == "sts" {
        return Ok(sts_error(status, kind, message));
    }
    let mut response = error_answer(status, kind, message);
    // SQS names the code of its old query protocol too, and the SDK prefers that one.
    let query_error = match (service, fault) {
        ("sqs", Fault::Throttle) => Some("RequestThrottled;Sender"),
        ("sqs", Fault::ServerError | Fault::SomeEntries) => Some("InternalFailure;Receiver"),
        ("sqs", Fault::AccessDenied) => Some("AccessDenied;Sender"),
        _ => None,
    };
    if let Some(query_error) = query_error {
        response
            .headers_mut()
            .insert("x-amzn-query-error", HeaderValue::from_static(query_error));
    }
    Ok(response)
}

pub(super) fn xml(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

/// An error in the shape of the query protocol. `message` is XML as it is.
pub(super) fn sts_error(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let side = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{side}</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        uuid::Uuid::new_v4(),
    );
    xml(status, body)
}

/// An error in the JSON shape that all services but STS share: the kind in `__type` and (for SES) in a header.
pub(super) fn error_answer(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"__type": kind, "message": message});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.0"),
    );
    let kind = kind.rsplit('#').next().unwrap_or(kind);
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(HeaderName::from_static("x-amzn-errortype"), kind);
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    if let Ok(request_id) = HeaderValue::from_str(&request_id) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), request_id);
    }
    response
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hang up")]
pub(super) struct HangUp;
