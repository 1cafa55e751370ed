//! DynamoDB's operations on the table engine, without a listener of its own: the engine's HTTP server answers requests
//! of every web page (`Access-Control-Allow-Origin: *`).

use bytes::Bytes;
use dynoxide::{Database, DynoxideError};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Answers an operation, which has a name such as `GetItem`, by DynamoDB's JSON protocol.
pub(super) fn answer(tables: &Database, operation: &str, body: &[u8]) -> Response<Full<Bytes>> {
    let (status, json) = match run(tables, operation, body) {
        Ok(json) => (StatusCode::OK, json),
        Err(error) => {
            let status = StatusCode::from_u16(error.status_code());
            (status.unwrap_or(StatusCode::BAD_REQUEST), error.to_json())
        }
    };
    let mut response = Response::new(Full::new(json.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/x-amz-json-1.0");
    headers.insert(CONTENT_TYPE, json);
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    response
}

fn run(tables: &Database, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
    match operation {
        "GetItem" => with(body, |request| tables.get_item(request)),
        "PutItem" => with(body, |request| tables.put_item(request)),
        "UpdateItem" => with(body, |request| tables.update_item(request)),
        "DeleteItem" => with(body, |request| tables.delete_item(request)),
        "Query" => with(body, |request| tables.query(request)),
        "Scan" => with(body, |request| tables.scan(request)),
        "BatchGetItem" => with(body, |request| tables.batch_get_item(request)),
        "BatchWriteItem" => with(body, |request| tables.batch_write_item(request)),
        "TransactGetItems" => with(body, |request| tables.transact_get_items(request)),
        "TransactWriteItems" => with(body, |request| tables.transact_write_items(request)),
        "CreateTable" => with(body, |request| tables.create_table(request)),
        "DeleteTable" => with(body, |request| tables.delete_table(request)),
        "DescribeTable" => with(body, |request| tables.describe_table(request)),
        "ListTables" => with(body, |request| tables.list_tables(request)),
        "DescribeTimeToLive" => with(body, |request| tables.describe_time_to_live(request)),
        "UpdateTimeToLive" => with(body, |request| tables.update_time_to_live(request)),
        other => Err(DynoxideError::ValidationException(format!(
            "{other} is not emulated"
        ))),
    }
}

fn with<I: DeserializeOwned, O: Serialize>(
    body: &[u8],
    operation: impl FnOnce(I) -> Result<O, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_slice(body)
        .map_err(|error| DynoxideError::SerializationException(error.to_string()))?;
    let answer = operation(request)?;
    serde_json::to_string(&answer)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}
