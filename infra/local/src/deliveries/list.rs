//! The deliveries that are shown, as the ledger's items have them (`shared/delivery/src/ledger.rs` writes those).
//!
//! Of more than [`MAX_DELIVERIES`] those stay that changed last, so that of a campaign that is larger everything is
//! there that is going on. Whatever cannot be read in an item is left out rather than the item: somebody looks at
//! this page because something is wrong.

use std::collections::{BTreeMap, HashMap};

use comms_core::{DeliveryStatus, FailureReason};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::events;
use super::rates::{Happening, Rates};
use super::row::Row;
use crate::console::Event;

/// Deliveries kept at most.
pub(super) const MAX_DELIVERIES: usize = 10_000;

/// How the sort key of a delivery's item begins.
pub(super) const DELIVERY: &str = "delivery#";

/// The sort key of a request's item.
pub(super) const REQUEST: &str = "request";

/// A request's id and a delivery's.
type Key = (String, String);

/// The deliveries on the page.
#[derive(Debug, Default)]
pub(super) struct DeliveryList {
    rows: HashMap<Key, Row>,
    by_change: BTreeMap<u64, Key>,
    last_change: u64,
    generation: u64,
    /// When requests were accepted.
    accepted: HashMap<String, Timestamp>,
    rates: Rates,
    queues: Value,
    health: BTreeMap<String, Value>,
    health_version: u64,
}

impl DeliveryList {
    /// The generation of the list, which changes when a delivery is removed.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The deliveries that changed after `change`, in the order of their changes.
    pub(super) fn since(&self, change: u64) -> impl Iterator<Item = &Row> {
        let changed = self.by_change.range(change + 1..);
        changed.filter_map(|(_, key)| self.rows.get(key))
    }

    /// A delivery.
    pub(super) fn row(&self, request: &str, delivery: &str) -> Option<&Row> {
        self.rows.get(&(request.to_owned(), delivery.to_owned()))
    }

    /// The deliveries of a request that has ended; `None` while one of them has not.
    pub(super) fn ended(&self, request: &str) -> Option<Vec<&Row>> {
        let of_request = |row: &&Row| row.request_id == request;
        let rows: Vec<&Row> = self.rows.values().filter(of_request).collect();
        let has_ended = !rows.is_empty() && rows.iter().all(|row| row.has_ended());
        has_ended.then_some(rows)
    }

    /// Whether it is known when a request was accepted.
    pub(super) fn knows(&self, request: &str) -> bool {
        self.accepted.contains_key(request)
    }

    /// Adds the items of a table in the order of their changes.
    pub(super) fn replay(&mut self, mut items: Vec<Value>) {
        items.sort_by_cached_key(|item| time(item, "updatedAt").or(time(item, "acceptedAt")));
        for item in &items {
            if text(item, "sk") == Some(REQUEST) {
                self.accept(item);
            } else {
                self.update(item);
            }
        }
    }

    /// Learns from a request's item when it was accepted.
    pub(super) fn learn(&mut self, item: &Value) {
        if let (Some(request), Some(at)) = (text(item, "pk"), time(item, "acceptedAt")) {
            self.accepted.insert(request.to_owned(), at);
        }
    }

    /// Takes in the item of a request that was accepted.
    pub(super) fn accept(&mut self, item: &Value) {
        let Some(request) = text(item, "pk") else {
            return;
        };
        self.learn(item);
        let accepted_at = self.accepted.get(request).copied();
        for planned in item["deliveries"]["L"].as_array().into_iter().flatten() {
            let planned = &planned["M"];
            let Some(delivery) = text(planned, "id") else {
                continue;
            };
            if self.row(request, delivery).is_some() {
                continue;
            }
            self.put(Row {
                request_id: request.to_owned(),
                delivery_id: delivery.to_owned(),
                change: 0,
                clinic_id: owned(item, "clinicId"),
                channel: owned(planned, "channel"),
                recipient: owned(planned, "recipient"),
                status: DeliveryStatus::Queued.as_str().to_owned(),
                reason: None,
                provider: None,
                position: None,
                accepted_at,
                updated_at: accepted_at,
                waiting: None,
                not_before: None,
                lease_until: None,
                deferrals: 0,
                possible_duplicate: false,
                attempts: 0,
                took_ms: None,
            });
        }
    }

    /// Takes in the item of a delivery. What happened, if the console is to tell of it.
    pub(super) fn update(&mut self, item: &Value) -> Option<Event> {
        let request = text(item, "pk")?;
        let delivery = text(item, "sk")?.strip_prefix(DELIVERY)?;
        let accepted_at = self.accepted.get(request).copied();
        let attempts = attempts(item);
        let accepted_attempt = attempts
            .iter()
            .rfind(|attempt| attempt["outcome"] == "accepted");
        let mut row = Row {
            request_id: request.to_owned(),
            delivery_id: delivery.to_owned(),
            change: 0,
            clinic_id: owned(item, "clinicId"),
            channel: owned(item, "channel"),
            recipient: owned(item, "recipient"),
            status: owned(item, "status"),
            reason: text(item, "reason").map(str::to_owned),
            provider: text(item, "provider").map(str::to_owned),
            position: accepted_attempt
                .and_then(|attempt| attempt["position"].as_str())
                .map(str::to_owned),
            accepted_at: accepted_at.or_else(|| time(item, "createdAt")),
            updated_at: time(item, "updatedAt"),
            waiting: waiting(item),
            not_before: milliseconds(item, "notBefore"),
            lease_until: milliseconds(item, "leaseUntil"),
            deferrals: number(item, "deferrals").unwrap_or(0),
            possible_duplicate: item["possibleDuplicate"]["BOOL"] == true,
            attempts: attempts.len(),
            took_ms: None,
        };
        let took = match (row.accepted_at, row.updated_at) {
            (Some(begin), Some(end)) if row.has_ended() => Some(end.duration_since(begin)),
            _ => None,
        };
        row.took_ms = took.map(|took| took.as_millis());

        let before = self.row(request, delivery);
        let ends = row.has_ended() && !before.is_some_and(Row::has_ended);
        // For an unknown delivery: by its present state.
        let deferred_before = before.map_or_else(
            || row.deferrals - u64::from(row.not_before.is_some() && row.deferrals > 0),
            |before| before.deferrals,
        );
        let event = events::of(before, &row, &attempts);
        if let Some(at) = row.updated_at {
            if ends {
                let is_sent = row.status == DeliveryStatus::Sent.as_str();
                let happening = match took {
                    Some(took) if is_sent => Happening::Sent(took),
                    Some(_) | None => Happening::Failed,
                };
                self.rates.count(at, happening);
            }
            for _ in deferred_before..row.deferrals {
                self.rates.count(at, Happening::Deferred);
            }
        }
        self.put(row);
        event
    }

    fn put(&mut self, mut row: Row) {
        self.last_change += 1;
        row.change = self.last_change;
        let key = (row.request_id.clone(), row.delivery_id.clone());
        self.by_change.insert(row.change, key.clone());
        if let Some(before) = self.rows.insert(key, row) {
            self.by_change.remove(&before.change);
        }
        if self.rows.len() > MAX_DELIVERIES
            && let Some((_, oldest)) = self.by_change.pop_first()
        {
            self.rows.remove(&oldest);
        }
        if self.accepted.len() > 2 * MAX_DELIVERIES {
            let kept: std::collections::HashSet<&String> =
                self.rows.keys().map(|(request, _)| request).collect();
            self.accepted.retain(|request, _| kept.contains(request));
        }
    }

    /// Forgets a delivery that is no longer in the table.
    pub(super) fn remove(&mut self, request: &str, delivery: &str) {
        let key = (request.to_owned(), delivery.to_owned());
        if let Some(row) = self.rows.remove(&key) {
            self.by_change.remove(&row.change);
            self.generation += 1;
        }
    }

    /// Rates, latencies and depths at `now`.
    pub(super) fn rates(&self, now: Timestamp) -> Value {
        let mut rates = self.rates.json(now);
        rates["queues"] = self.queues.clone();
        rates
    }

    /// Shows these depths of the queues.
    pub(super) fn show_queues(&mut self, queues: Value) {
        self.queues = queues;
    }

    /// Counts the changes of the providers' health.
    pub(super) fn health_version(&self) -> u64 {
        self.health_version
    }

    /// How the providers of every clinic work.
    pub(super) fn health(&self) -> Vec<&Value> {
        self.health.values().collect()
    }

    /// Shows this as the health of a tenant's providers; `None` where it has no settings any more.
    pub(super) fn show_health(&mut self, tenant: &str, health: Option<Value>) {
        match health {
            Some(health) => self.health.insert(tenant.to_owned(), health),
            None => self.health.remove(tenant),
        };
        self.health_version += 1;
    }
}

/// All that is shown of one delivery, from its item, if it has one yet.
pub(super) fn details(row: &Row, item: Option<&Value>) -> Value {
    let mut details = json!(row);
    let attempts = item.map(attempts).unwrap_or_default();
    if let Some(reason) = row.reason.as_deref().and_then(FailureReason::parse) {
        details["reasonDetail"] = json!(reason.detail());
    }
    details["messageId"] = json!(item.and_then(|item| text(item, "messageId")));
    details["attempts"] = json!(attempts);
    details
}

fn text<'a>(item: &'a Value, name: &str) -> Option<&'a str> {
    item[name]["S"].as_str()
}

fn owned(item: &Value, name: &str) -> String {
    text(item, name).unwrap_or_default().to_owned()
}

fn number<T: std::str::FromStr>(item: &Value, name: &str) -> Option<T> {
    item[name]["N"].as_str()?.parse().ok()
}

fn waiting(item: &Value) -> Option<Value> {
    let is_queued = text(item, "status") == Some(DeliveryStatus::Queued.as_str());
    let waiting = text(item, "waiting").filter(|_| is_queued)?;
    serde_json::from_str(waiting).ok()
}

fn time(item: &Value, name: &str) -> Option<Timestamp> {
    text(item, name)?.parse().ok()
}

fn milliseconds(item: &Value, name: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(number(item, name)?).ok()
}

fn attempts(item: &Value) -> Vec<Value> {
    text(item, "attempts")
        .and_then(|attempts| serde_json::from_str(attempts).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Value {
        let planned = |id| {
            json!({"M": {
                "id": {"S": id}, "channel": {"S": "email"}, "recipient": {"S": "a***@example.com"},
            }})
        };
        json!({
            "pk": {"S": id}, "sk": {"S": "request"}, "clinicId": {"S": "clinic-1"},
            "acceptedAt": {"S": "2026-01-01T10:00:00Z"},
            "deliveries": {"L": [planned("a"), planned("b")]},
        })
    }

    fn delivery(request: &str, id: &str, status: &str) -> Value {
        json!({
            "pk": {"S": request}, "sk": {"S": format!("delivery#{id}")}, "clinicId": {"S": "clinic-1"},
            "channel": {"S": "email"}, "recipient": {"S": "a***@example.com"}, "status": {"S": status},
            "createdAt": {"S": "2026-01-01T10:00:01Z"}, "updatedAt": {"S": "2026-01-01T10:00:02.5Z"},
        })
    }

    fn seconds(list: &DeliveryList) -> Value {
        list.rates("2026-01-01T10:00:10Z".parse().unwrap())["seconds"].clone()
    }

    fn row(list: &DeliveryList, id: &str) -> Value {
        json!(list.row("r", id))
    }

    #[test]
    fn a_delivery_is_queued_from_its_requests_acceptance_and_then_as_its_item_says() {
        let mut list = DeliveryList::default();
        list.accept(&request("r"));
        assert_eq!(row(&list, "a")["status"], "queued");
        assert_eq!(seconds(&list), json!([]));

        let mut sent = delivery("r", "a", "sent");
        sent["provider"] = json!({"S": "smtp"});
        sent["messageId"] = json!({"S": "<1@clinic.example>"});
        let attempts = json!([
            {"outcome": "failed", "position": "primary"},
            {"outcome": "accepted", "position": "fallback[0]"},
        ]);
        sent["attempts"] = json!({"S": attempts.to_string()});
        list.update(&sent);
        // An acceptance that is read late undoes nothing.
        list.accept(&request("r"));
        let shown = row(&list, "a");
        assert_eq!(shown["status"], "sent");
        assert_eq!(shown["provider"], "smtp");
        assert_eq!(shown["position"], "fallback[0]");
        assert_eq!(shown["attempts"], 2);
        assert_eq!(shown["acceptedAt"], "2026-01-01T10:00:00Z");
        assert_eq!(shown["tookMs"], 2_500);
        assert_eq!(row(&list, "b")["status"], "queued");

        let details = details(list.row("r", "a").unwrap(), Some(&sent));
        assert_eq!(details["attempts"], attempts);
        assert_eq!(details["messageId"], "<1@clinic.example>");
    }

    #[test]
    fn every_end_and_every_deferral_is_counted_once() {
        let mut list = DeliveryList::default();
        list.accept(&request("r"));
        let mut deferred = delivery("r", "a", "queued");
        deferred["notBefore"] = json!({"N": "1767261700000"});
        deferred["deferrals"] = json!({"N": "1"});
        list.update(&deferred);
        list.update(&deferred);
        assert_eq!(row(&list, "a")["notBefore"], "2026-01-01T10:01:40Z");
        let mut sending = delivery("r", "a", "sending");
        sending["deferrals"] = json!({"N": "1"});
        list.update(&sending);
        let mut sent = delivery("r", "a", "sent");
        sent["deferrals"] = json!({"N": "1"});
        list.update(&sent);
        list.update(&sent);
        for status in ["failed", "unknown", "expired"] {
            list.update(&delivery("s", status, status));
        }
        let second = "2026-01-01T10:00:02Z".parse::<Timestamp>().unwrap();
        assert_eq!(seconds(&list), json!([[second.as_second(), 1, 3, 1]]));
    }

    #[test]
    fn of_too_many_those_stay_that_changed_last() {
        let mut list = DeliveryList::default();
        for number in 0..MAX_DELIVERIES {
            list.update(&delivery("r", &number.to_string(), "queued"));
        }
        list.update(&delivery("r", "0", "sending"));
        list.update(&delivery("r", "one more", "queued"));
        assert_eq!(list.rows.len(), MAX_DELIVERIES);
        assert_eq!(list.by_change.len(), MAX_DELIVERIES);
        assert!(list.row("r", "0").is_some());
        assert!(list.row("r", "1").is_none());
        let changed: Vec<_> = list
            .since(list.last_change - 2)
            .map(|row| &row.delivery_id)
            .collect();
        assert_eq!(changed, ["0", "one more"]);
    }

    #[test]
    fn what_happened_before_a_start_is_shown_in_its_order() {
        let mut list = DeliveryList::default();
        let mut later = delivery("r", "b", "failed");
        later["updatedAt"] = json!({"S": "2026-01-01T10:00:04Z"});
        let health = json!({"pk": {"S": "health#clinic-1"}, "sk": {"S": "1"}});
        list.replay(vec![
            later,
            delivery("r", "a", "sent"),
            health,
            request("r"),
        ]);
        let order: Vec<_> = list.since(0).map(|row| row.delivery_id.as_str()).collect();
        assert_eq!(order, ["a", "b"]);
        assert_eq!(row(&list, "b")["tookMs"], 4_000);
        assert_eq!(seconds(&list).as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut list = DeliveryList::default();
        let mut item = delivery("r", "a", "<b>odd</b>");
        item["attempts"] = json!({"S": "no JSON"});
        item["updatedAt"] = json!({"N": "12"});
        item["notBefore"] = json!({"N": "1e99"});
        list.update(&item);
        list.update(&json!({"pk": {"S": "r"}}));
        list.accept(&json!({"sk": {"S": "request"}}));
        assert_eq!(list.rows.len(), 1);
        let shown = row(&list, "a");
        assert_eq!(shown["status"], "<b>odd</b>");
        assert_eq!(shown["attempts"], 0);
        assert_eq!(shown["updatedAt"], Value::Null);
    }
}
