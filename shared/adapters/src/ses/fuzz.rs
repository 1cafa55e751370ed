//! Fuzz targets of SES's answers.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

use super::{
    failure::{ErrorReply, SesFailure},
    reply::classify,
};
use crate::fuzz::check::{check_error, parts};

/// An answer that is an error: what the SDK takes out of it, and what its header and status say.
pub(crate) fn answers(input: &[u8]) {
    let (status, headers, body) = parts(input);
    let Ok(status) = status.try_into() else {
        return;
    };
    let mut raw = HttpResponse::new(status, SdkBody::from(body));
    for (name, value) in headers {
        raw.headers_mut().append(name, value);
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let code = text("__type").or_else(|| text("code"));
    let answer = ErrorReply::read(&raw, code, text("message"));
    let failure = SesFailure::Answered(answer);
    check_error(classify(SesFailure::NoRole(Box::new(failure.clone()))));
    check_error(classify(failure));
}
