//! Batches of a queue that fail in part.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::Full;
use serde_json::{Value, json};

/// A batch of SQS of which some entries fail and the others are passed on.
pub(super) struct DividedBatch {
    request: Value,
    /// The ids of those that fail.
    failed: Vec<Value>,
}

/// Divides a batch; `None` where a call has no entries.
pub(super) fn some_entries(body: &[u8]) -> Option<DividedBatch> {
    let mut request: Value = serde_json::from_slice(body).ok()?;
    let entries = request["Entries"].as_array_mut()?;
    let mut failed = Vec::new();
    let mut fails = false;
    entries.retain(|entry| {
        fails = !fails;
        if fails {
            failed.push(entry["Id"].clone());
        }
        !fails
    });
    Some(DividedBatch { request, failed })
}

impl DividedBatch {
    /// The batch without those that fail.
    pub(super) fn passed_on(&self) -> Bytes {
        self.request.to_string().into()
    }

    /// The answer with those that fail (SQS API reference, `BatchResultErrorEntry`).
    pub(super) async fn add_failed(self, answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let nothing_passed_on = self.request["Entries"]
            .as_array()
            .is_some_and(Vec::is_empty);
        let (mut parts, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let mut document: Value = match body {
            // SQS refuses a batch without entries, and this one had some.
            Ok(_) if nothing_passed_on => {
                parts.status = StatusCode::OK;
                json!({"Successful": []})
            }
            Ok(body) if parts.status == StatusCode::OK => {
                serde_json::from_slice(&body).unwrap_or_default()
            }
            Ok(body) => return Response::from_parts(parts, Full::new(body)),
            Err(never) => match never {},
        };
        let failed = self.failed.into_iter().map(|id| {
            json!({"Id": id, "SenderFault": false, "Code": "InternalError",
                "Message": "We encountered an internal error. Please try again."})
        });
        let mut all = document["Failed"].take();
        match all.as_array_mut() {
            Some(known) => known.extend(failed),
            None => all = failed.collect(),
        }
        document["Failed"] = all;
        parts.headers.remove(http::header::CONTENT_LENGTH);
        Response::from_parts(parts, Full::new(document.to_string().into()))
    }
}
