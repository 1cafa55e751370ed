//! Where the page's data comes from: the tables, the API, the queues.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::QueueAttributeName;
use comms_adapters::health::first_probe;
use comms_core::{ErrorKind, HealthRecord, HealthState, Tenant};
use comms_testkit::aws::{LocalAwsError, Moment, PassingCall};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Deliveries;
use super::list::{DELIVERY, REQUEST};
use crate::AnyError;
use crate::api_client::ApiClient;
use crate::console::{say, warn};

/// Writes of so long are read together: a delivery is written twice within milliseconds.
const COALESCE: Duration = Duration::from_millis(100);

/// Deliveries of so many are told one by one: a campaign would hide everything else.
const MAX_LINES: usize = 20;

/// How often the queues are asked while somebody looks.
const DEPTHS_INTERVAL: Duration = Duration::from_secs(1);

/// The sort key of the present settings (`shared/settings/src/item.rs`).
const SETTINGS: &str = "settings";

/// How the partition key of a tenant's health begins (`shared/delivery/src/health.rs`).
const HEALTH: &str = "health#";

/// What was written and has not been read again.
#[derive(Default)]
pub(super) struct Changes {
    /// Items of the deliveries table, by their keys.
    items: Changed<(String, String)>,
    /// Whose settings or providers' health.
    tenants: Changed<String>,
}

/// A set that somebody waits for.
struct Changed<T> {
    set: Mutex<BTreeSet<T>>,
    notify: Notify,
}

impl<T> Default for Changed<T> {
    fn default() -> Self {
        Self {
            set: Mutex::default(),
            notify: Notify::new(),
        }
    }
}

impl<T: Ord> Changed<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<T>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: T) {
        self.lock().insert(what);
        self.notify.notify_one();
    }

    /// What has changed since the last time, when there is something.
    async fn next(&self) -> BTreeSet<T> {
        loop {
            let changed = std::mem::take(&mut *self.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.notify.notified().await;
        }
    }
}

impl Changes {
    /// Notes what a call has written.
    fn note(&self, passing: &PassingCall, deliveries_table: &str) {
        if passing.moment != Moment::Answered(StatusCode::OK) || passing.call.service != "dynamodb"
        {
            return;
        }
        for (table, key) in written(&passing.call.operation, &passing.request) {
            let is_delivery = table == deliveries_table;
            self.note_tenant(is_delivery, key);
            if let (Some(pk), Some(sk)) = keys(key)
                && is_delivery
                && is_shown(sk)
            {
                self.items.note((pk.to_owned(), sk.to_owned()));
            }
        }
    }

    /// Notes whose settings or providers' health an item is, if it is that.
    fn note_tenant(&self, is_delivery: bool, key: &Value) {
        let tenant = match keys(key) {
            (Some(pk), _) if is_delivery => pk.strip_prefix(HEALTH),
            (Some(pk), Some(SETTINGS)) => Some(pk),
            (Some(_) | None, _) => None,
        };
        if let Some(tenant) = tenant {
            self.tenants.note(tenant.to_owned());
        }
    }
}

fn keys(item: &Value) -> (Option<&str>, Option<&str>) {
    (item["pk"]["S"].as_str(), item["sk"]["S"].as_str())
}

/// Whether items with this sort key are of requests and deliveries: the table has others too.
fn is_shown(sk: &str) -> bool {
    sk == REQUEST || sk.starts_with(DELIVERY)
}

/// Table and key (or a whole item) of each write of a DynamoDB call.
fn written<'a>(operation: &str, request: &'a Value) -> Vec<(&'a Value, &'a Value)> {
    match operation {
        "PutItem" => vec![(&request["TableName"], &request["Item"])],
        "UpdateItem" | "DeleteItem" => vec![(&request["TableName"], &request["Key"])],
        "TransactWriteItems" => {
            let items = request["TransactItems"].as_array().into_iter().flatten();
            let members = items.flat_map(|item| item.as_object().into_iter().flatten());
            members
                .map(|(name, write)| {
                    let key = if name == "Put" { "Item" } else { "Key" };
                    (&write["TableName"], &write[key])
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

impl Deliveries {
    /// Begins to follow what happens, and reads what has happened before.
    pub(crate) async fn follow(&self) -> Result<(), LocalAwsError> {
        let aws = &self.inner.aws;
        let resources = aws.resources();
        let (following, table) = (self.clone(), resources.deliveries_table.clone());
        // Only notes it, so that no call waits for this page. The stack has no other watcher.
        aws.watch(move |passing| {
            following.inner.changes.note(&passing, &table);
            Box::pin(std::future::ready(None))
        });
        let items = aws.items(&resources.deliveries_table).await?;
        for item in &items {
            self.inner.changes.note_tenant(true, item);
        }
        self.list().replay(items);
        for item in aws.items(&resources.settings_table).await? {
            self.inner.changes.note_tenant(false, &item);
        }
        tokio::spawn(self.clone().read_items());
        tokio::spawn(self.clone().ask_health());
        tokio::spawn(self.clone().ask_queues());
        Ok(())
    }

    async fn read_items(self) {
        loop {
            let mut told = 0;
            let changed = self.inner.changes.items.next().await;
            let (requests, deliveries): (Vec<_>, Vec<_>) =
                changed.into_iter().partition(|(_, sk)| sk == REQUEST);
            for (pk, sk) in &requests {
                if let Some(item) = self.read_item(pk, sk).await {
                    self.list().accept(&item);
                }
            }
            for (pk, sk) in &deliveries {
                // One of a larger campaign, which was forgotten meanwhile.
                let is_known = self.list().knows(pk);
                if !is_known && let Some(item) = self.read_item(pk, REQUEST).await {
                    self.list().learn(&item);
                }
                match (self.read_item(pk, sk).await, sk.strip_prefix(DELIVERY)) {
                    (Some(item), _) => {
                        // Whoever finds the change here finds it on the console as well.
                        let mut list = self.list();
                        if let Some(event) = list.update(&item) {
                            told += 1;
                            if told <= MAX_LINES {
                                say(event);
                            }
                        }
                    }
                    (None, Some(delivery)) => self.list().remove(pk, delivery),
                    (None, None) => {}
                }
            }
            if told > MAX_LINES {
                say(format_args!(
                    "           and {} more: see the page of the deliveries",
                    told - MAX_LINES
                ));
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    async fn read_item(&self, pk: &str, sk: &str) -> Option<Value> {
        let aws = &self.inner.aws;
        let item = aws.item(&aws.resources().deliveries_table, pk, sk).await;
        item.unwrap_or_else(|error| {
            warn(format_args!("[deliveries] not read: {error}"));
            None
        })
    }

    async fn ask_health(self) {
        loop {
            for tenant in self.inner.changes.tenants.next().await {
                let health = match health(&self.inner.api, &tenant).await {
                    Ok(health) => health,
                    Err(error) => Some(json!({"clinicId": tenant, "problem": error.to_string()})),
                };
                self.list().show_health(&tenant, health);
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    async fn ask_queues(self) {
        let aws = &self.inner.aws;
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let resources = aws.resources();
        let queues = [
            ("normal", &resources.queue_url),
            ("urgent", &resources.urgent_queue_url),
            ("dead letters", &resources.dlq_url),
        ];
        loop {
            if self.is_watched() {
                let mut depths = Vec::new();
                for (name, url) in queues {
                    depths.push(depth(&sqs, name, url).await);
                }
                self.list().show_queues(Value::Array(depths));
            }
            tokio::time::sleep(DEPTHS_INTERVAL).await;
        }
    }
}

/// What the API says of the health of a tenant's providers, and when one that is down gets its first probe; `None`
/// where there are no settings.
async fn health(api: &ApiClient, tenant: &str) -> Result<Option<Value>, AnyError> {
    if Tenant::parse(tenant).is_err() {
        return Ok(None);
    }
    let path = ["clinics", tenant, "communication", "health"];
    let (status, body) = api.get(&path).await?;
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let mut body: Value = serde_json::from_str(&body)?;
    if !status.is_success() {
        let detail = body["detail"].as_str().or(body["title"].as_str());
        let problem = detail.map_or_else(|| status.to_string(), str::to_owned);
        return Err(problem.into());
    }
    for provider in body["providers"].as_array_mut().into_iter().flatten() {
        if let Some(at) = record(provider).as_ref().and_then(first_probe) {
            provider["probeFrom"] = json!(at);
        }
    }
    Ok(Some(body))
}

/// What the answer has of an entry's record.
fn record(provider: &Value) -> Option<HealthRecord> {
    Some(HealthRecord {
        state: HealthState::parse(provider["health"].as_str()?)?,
        since: provider["since"].as_str()?.parse().ok()?,
        last_error: provider["lastError"]["kind"]
            .as_str()
            .and_then(ErrorKind::parse),
    })
}

/// How many messages a queue has, as SQS tells.
async fn depth(sqs: &aws_sdk_sqs::Client, name: &str, url: &str) -> Value {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let answer = sqs
        .get_queue_attributes()
        .queue_url(url)
        .set_attribute_names(Some(names.to_vec()))
        .send()
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let error = DisplayErrorContext(error);
            warn(format_args!("[deliveries] {name} does not answer: {error}"));
            return json!({"name": name});
        }
    };
    let [waiting, in_flight] =
        names.map(|name| answer.attributes()?.get(&name)?.parse::<u64>().ok());
    json!({"name": name, "waiting": waiting, "inFlight": in_flight})
}

#[cfg(test)]
mod tests {
    use comms_testkit::aws::AwsCall;

    use super::*;

    fn note(changes: &Changes, operation: &str, status: u16, request: Value) {
        let passing = PassingCall {
            call: AwsCall {
                service: "dynamodb".to_owned(),
                operation: operation.to_owned(),
            },
            access_key_id: String::new(),
            request: request.into(),
            moment: Moment::Answered(StatusCode::from_u16(status).unwrap()),
        };
        changes.note(&passing, "deliveries");
    }

    fn key(pk: &str, sk: &str) -> Value {
        json!({"pk": {"S": pk}, "sk": {"S": sk}})
    }

    #[tokio::test]
    async fn what_was_written_is_read_again_and_nothing_else() {
        let changes = Changes::default();
        let put = |table: &str, pk, sk| json!({"TableName": table, "Item": key(pk, sk)});
        let update = |pk, sk| json!({"TableName": "deliveries", "Key": key(pk, sk)});
        note(&changes, "PutItem", 200, put("deliveries", "r", "request"));
        note(&changes, "UpdateItem", 200, update("r", "delivery#1"));
        note(&changes, "UpdateItem", 200, update("r", "delivery#1"));
        note(&changes, "UpdateItem", 400, update("r", "delivery#2"));
        note(&changes, "UpdateItem", 200, update("quota#a", "email"));
        note(&changes, "UpdateItem", 200, update("health#clinic-1", "3"));
        note(&changes, "GetItem", 200, update("r", "delivery#3"));
        let transaction = json!({"TransactItems": [
            {"Put": put("settings", "clinic-2", "settings")},
            {"Put": put("settings", "clinic-2", "version#0000000001")},
            {"Update": update("r", "delivery#4")},
        ]});
        note(&changes, "TransactWriteItems", 200, transaction);
        let items: Vec<_> = changes.items.next().await.into_iter().collect();
        let expected = ["delivery#1", "delivery#4", "request"];
        assert_eq!(items, expected.map(|sk| ("r".to_owned(), sk.to_owned())));
        let tenants: Vec<_> = changes.tenants.next().await.into_iter().collect();
        assert_eq!(tenants, ["clinic-1", "clinic-2"]);
        assert!(changes.items.lock().is_empty());
    }

    #[test]
    fn a_record_is_what_the_api_says_of_an_entry() {
        let provider = json!({
            "health": "down", "since": "2026-01-01T10:00:00Z",
            "lastError": {"kind": "unauthenticated", "detail": "…"},
        });
        let read = record(&provider).unwrap();
        assert_eq!(read.state, HealthState::Down);
        assert_eq!(read.last_error, Some(ErrorKind::Unauthenticated));
        assert_eq!(record(&json!({"health": "healthy"})), None);
    }
}
