//! Tables, keys and queues as the template declares them.

use std::{
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use dynoxide::actions::{
    create_table::CreateTableRequest,
    update_time_to_live::{TimeToLiveSpecification, UpdateTimeToLiveRequest},
};
use http::{HeaderMap, header::HeaderValue};
use serde_json::{Value, json};
use winterbaume_core::{MockRequest, MockService, StatefulService as _};
use winterbaume_kms::{KmsService, views::KmsStateView};
use winterbaume_sqs::SqsService;

use super::{
    ACCOUNT, DLQ, KEY_ALIAS, KEYS_FILE, LocalAwsError, QUEUE, REGION, TTL_ATTRIBUTE, URGENT_QUEUE,
};

pub(super) fn tables_error(error: impl fmt::Display) -> LocalAwsError {
    LocalAwsError::Tables(error.to_string())
}

/// Works on the tables where that holds nobody up.
pub(super) async fn read_tables<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalAwsError> + Send + 'static,
) -> Result<T, LocalAwsError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(tables_error)?
}

pub(super) fn create_table(tables: &dynoxide::Database, name: &str) -> Result<(), LocalAwsError> {
    if tables
        .get_table_metadata(name)
        .map_err(tables_error)?
        .is_some()
    {
        return Ok(());
    }
    let request: CreateTableRequest = serde_json::from_value(json!({
        "TableName": name,
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        "BillingMode": "PAY_PER_REQUEST",
    }))
    .map_err(tables_error)?;
    tables.create_table(request).map_err(tables_error)?;
    Ok(())
}

pub(super) fn enable_time_to_live(
    tables: &dynoxide::Database,
    name: &str,
) -> Result<(), LocalAwsError> {
    let enabled = tables
        .get_table_metadata(name)
        .map_err(tables_error)?
        .is_some_and(|table| table.ttl_attribute.is_some());
    if enabled {
        return Ok(());
    }
    tables
        .update_time_to_live(UpdateTimeToLiveRequest {
            table_name: name.to_owned(),
            time_to_live_specification: TimeToLiveSpecification {
                attribute_name: TTL_ATTRIBUTE.to_owned(),
                enabled: true,
            },
        })
        .map_err(tables_error)?;
    Ok(())
}

/// Calls one of the emulated services directly, for the resources that exist before the endpoint opens.
pub(super) async fn call(
    service: &impl MockService,
    target: &'static str,
    operation: &'static str,
    body: Value,
) -> Result<Value, LocalAwsError> {
    let setup = |detail: String| LocalAwsError::Setup { operation, detail };
    let mut headers = HeaderMap::new();
    let target = HeaderValue::from_str(&format!("{target}.{operation}"))
        .map_err(|e| setup(e.to_string()))?;
    headers.insert("x-amz-target", target);
    let response = service
        .handle(MockRequest {
            method: "POST".to_owned(),
            uri: service_uri(service.service_name(), REGION, "/"),
            headers,
            body: body.to_string().into(),
        })
        .await;
    if response.status != 200 {
        return Err(setup(String::from_utf8_lossy(&response.body).into_owned()));
    }
    if response.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&response.body).map_err(|e| setup(e.to_string()))
}

/// The emulated services read the region from the host name, as of the real endpoints.
pub(super) fn service_uri(service: &str, region: &str, path_and_query: &str) -> String {
    format!("https://{service}.{region}.amazonaws.com{path_and_query}")
}

/// Finds or makes the key, and keeps the keys' file in step with the service from then on.
pub(super) async fn ensure_key(
    kms: &KmsService,
    data: Option<&Path>,
) -> Result<String, LocalAwsError> {
    if let Some(dir) = data {
        let path = dir.join(KEYS_FILE);
        let keys_error = |path: &Path, detail: String| LocalAwsError::Keys {
            path: path.to_owned(),
            detail,
        };
        match std::fs::read(&path) {
            Ok(saved) => {
                let view: KmsStateView =
                    serde_json::from_slice(&saved).map_err(|e| keys_error(&path, e.to_string()))?;
                kms.restore(ACCOUNT, REGION, view)
                    .await
                    .map_err(|e| keys_error(&path, e.to_string()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(keys_error(&path, error.to_string())),
        }
    }

    let view = kms.snapshot(ACCOUNT, REGION).await;
    let saved = view
        .aliases
        .get(KEY_ALIAS)
        .and_then(|alias| view.keys.get(&alias.target_key_id))
        .map(|key| key.arn.clone());
    let arn = if let Some(arn) = saved {
        arn
    } else {
        let created = call(
            kms,
            "TrentService",
            "CreateKey",
            json!({"Description": "clinic-comms settings"}),
        )
        .await?;
        let metadata = |name: &str| {
            created["KeyMetadata"][name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| LocalAwsError::Setup {
                    operation: "CreateKey",
                    detail: created.to_string(),
                })
        };
        call(
            kms,
            "TrentService",
            "CreateAlias",
            json!({"AliasName": KEY_ALIAS, "TargetKeyId": metadata("KeyId")?}),
        )
        .await?;
        metadata("Arn")?
    };

    if let Some(dir) = data {
        let path = dir.join(KEYS_FILE);
        let view = kms.snapshot(ACCOUNT, REGION).await;
        save_keys(&path, &view)?;
        // The service reports a change after every successful call, reads included; only real ones are written.
        let written = Mutex::new(serde_json::to_value(&view).unwrap_or_default());
        kms.notifier().subscribe(move |_, region, view| {
            let Ok(now) = serde_json::to_value(view) else {
                return;
            };
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if region == REGION && *written != now && save_keys(&path, view).is_ok() {
                *written = now;
            }
        });
    }
    Ok(arn)
}

/// Writes the keys beside their file and renames: a stop halfway must not cost the key.
fn save_keys(path: &Path, view: &KmsStateView) -> Result<(), LocalAwsError> {
    let io = |source| LocalAwsError::Io {
        what: format!("write {}", path.display()),
        source,
    };
    let text = serde_json::to_vec_pretty(view).map_err(|e| LocalAwsError::Keys {
        path: path.to_owned(),
        detail: e.to_string(),
    })?;
    let dir = path.parent().unwrap_or(Path::new("."));
    // Temporary files are made with mode 0600, which stays.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    std::io::Write::write_all(&mut file, &text).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

pub(super) async fn create_queues(sqs: &SqsService) -> Result<(), LocalAwsError> {
    let create = |body| call(sqs, "AmazonSQS", "CreateQueue", body);
    create(json!({
        "QueueName": DLQ,
        "Attributes": {"MessageRetentionPeriod": "1209600"},
    }))
    .await?;
    let redrive = json!({
        "deadLetterTargetArn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{DLQ}"),
        "maxReceiveCount": 100,
    });
    for queue in [QUEUE, URGENT_QUEUE] {
        create(json!({
            "QueueName": queue,
            "Attributes": {"VisibilityTimeout": "180", "RedrivePolicy": redrive.to_string()},
        }))
        .await?;
    }
    Ok(())
}
