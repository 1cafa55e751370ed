//! The API's answers: what each means for the import.

use comms_core::Problems;
use reqwest::{Method, Response, header::ETAG};
use serde_json::Value;

use super::ApiError;

/// The message for a clinic whose settings somebody else saved in between.
pub(crate) const SAVED_MEANWHILE: &str =
    "somebody else saved at the same time; run the import again";
/// Bytes of an answer that are read: more than the largest settings of a clinic.
const MAX_ANSWER: usize = 1 << 20;
/// Characters of a text in an answer that are printed.
const MAX_TEXT: usize = 400;

/// The result of one request, after its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SettingsReply {
    /// 200 or 201.
    Done {
        /// The version of the settings.
        etag: Option<String>,
    },
    /// 404 to a GET.
    Absent,
    /// 412: the settings have another version.
    OtherVersion,
    /// 400, 413 or 422: the document is refused.
    Refused(Problems),
    /// Anything else, as a sentence without any value that was sent.
    Failed(String),
}

/// The meaning of an answer that another attempt would not change.
pub(super) async fn classify(
    method: &Method,
    response: Response,
) -> Result<SettingsReply, ApiError> {
    let status = response.status().as_u16();
    let etag = response.headers().get(ETAG);
    let etag = etag.and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let problem = problem_of(response).await;
    Ok(match status {
        200 | 201 => SettingsReply::Done { etag },
        401 | 403 => return Err(ApiError::Unauthorized(status)),
        // API Gateway's own 404, for a path without a route, has no problem details.
        404 if *method == Method::GET && problem.is_some() => SettingsReply::Absent,
        404 => return Err(ApiError::NoSuchRoute),
        409 => SettingsReply::Failed(SAVED_MEANWHILE.to_owned()),
        412 => SettingsReply::OtherVersion,
        400 | 413 | 422 => {
            SettingsReply::Refused(problems_of(status, &problem.unwrap_or_default()))
        }
        _ => {
            let code = problem
                .as_ref()
                .and_then(|problem| problem["code"].as_str());
            let code = code.map(|code| format!(" ({})", printable(code)));
            let code = code.unwrap_or_default();
            SettingsReply::Failed(format!("the API answered {status}{code}"))
        }
    })
}

/// The problem details (RFC 9457) of an answer of clinic-comms.
async fn problem_of(mut response: Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    let problem: Value = serde_json::from_slice(&body).ok()?;
    problem.get("code").is_some().then_some(problem)
}

/// The fields that the API names as wrong; without any, the problem as a whole.
fn problems_of(status: u16, problem: &Value) -> Problems {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(printable);
    let mut problems = Problems::default();
    for error in problem
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        problems.add(
            text(error, "pointer").unwrap_or_default(),
            text(error, "detail").unwrap_or_default(),
        );
    }
    if problems.is_empty() {
        let detail = text(problem, "detail");
        problems.add(
            "",
            detail.unwrap_or_else(|| format!("the API answered {status}")),
        );
    }
    problems
}

/// A text from outside, safe for a terminal: cut, and without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
