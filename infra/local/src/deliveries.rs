//! The deliveries page: the state of every message, the providers' health, and rates.
//!
//! It reads the stored state: the local AWS tells [`follow`] which items were written, and [`follow`] reads them, asks the API
//! for the health of a clinic's providers, and asks the queues for their depths. [`list`] holds the deliveries that changed
//! last, and [`rates`] the counts of the last minutes. An open page gets the changes five times a second at most.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /deliveries` | the page |
//! | `GET /api/deliveries/{requestId}/{deliveryId}` | one delivery as the ledger has it, with its attempts |
//! | `GET /api/communications/{requestId}` | the API's own answer, asked for with a token of the stack's own |
//! | `GET /api/deliveries/events` | server-sent events: `reset`, `deliveries`, `health`, `rates` |

mod events;
mod follow;
mod list;
mod rates;
mod row;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use comms_core::DeliveryStatus;
use comms_testkit::aws::LocalAws;
use futures_util::{Stream, stream};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};

use self::follow::Changes;
use self::list::{DeliveryList, MAX_DELIVERIES};
use self::row::Row;
use crate::api_client::ApiClient;
use crate::web::{self, not_found};

/// The page.
pub(crate) const PAGE: &str = include_str!("deliveries.html");

/// How often an open page is told of what has changed, at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// Rates, latencies and depths are told of with every fifth of these.
const TICKS_PER_RATES: u64 = 5;

/// Deliveries in one event: a page that has just been opened shows the first ones while it reads on.
const ROWS_PER_EVENT: usize = 1_000;

/// What the page shows. Clones share it.
#[derive(Clone)]
pub(crate) struct Deliveries {
    inner: Arc<Inner>,
}

struct Inner {
    aws: LocalAws,
    api: ApiClient,
    list: Mutex<DeliveryList>,
    changes: Changes,
    /// One clone for every page that is open.
    viewers: Arc<()>,
}

impl Deliveries {
    /// Shows what `aws` has, and what the API says.
    pub(crate) fn new(aws: LocalAws, api: ApiClient) -> Self {
        Self {
            inner: Arc::new(Inner {
                aws,
                api,
                list: Mutex::default(),
                changes: Changes::default(),
                viewers: Arc::default(),
            }),
        }
    }

    /// The web side, to be [`web::guarded`].
    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/deliveries", get(page))
            .route("/api/deliveries/{request}/{delivery}", get(one))
            .route("/api/deliveries/events", get(events))
            .route("/api/communications/{request}", get(communication))
            .with_state(self.clone())
    }

    /// How a request's deliveries ended, once they have and the console has told so.
    pub(crate) fn ended(&self, request: &str) -> Option<Ended> {
        let list = self.list();
        let rows = list.ended(request)?;
        let is_sent = |row: &&Row| row.status == DeliveryStatus::Sent.as_str();
        Some(if rows.iter().any(is_sent) {
            Ended::Sent
        } else {
            Ended::NotSent
        })
    }

    fn list(&self) -> MutexGuard<'_, DeliveryList> {
        let list = self.inner.list.lock();
        list.unwrap_or_else(PoisonError::into_inner)
    }

    fn is_watched(&self) -> bool {
        Arc::strong_count(&self.inner.viewers) > 1
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// One of its deliveries at least was sent.
    Sent,
    /// None was.
    NotSent,
}

async fn page() -> Response {
    web::page(PAGE)
}

async fn one(
    State(deliveries): State<Deliveries>,
    Path((request, delivery)): Path<(String, String)>,
) -> Response {
    let Some(row) = deliveries.list().row(&request, &delivery).cloned() else {
        return not_found();
    };
    let aws = &deliveries.inner.aws;
    let table = &aws.resources().deliveries_table;
    let sk = format!("{}{delivery}", list::DELIVERY);
    match aws.item(table, &request, &sk).await {
        Ok(item) => axum::Json(list::details(&row, item.as_ref())).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn communication(
    State(deliveries): State<Deliveries>,
    Path(request): Path<String>,
) -> Response {
    deliveries
        .inner
        .api
        .forward(&["communications", &request])
        .await
}

async fn events(
    State(deliveries): State<Deliveries>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let feed = Feed::new(deliveries);
    let events = stream::unfold(feed, |mut feed| async {
        let event = feed.next().await;
        Some((Ok(event), feed))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

/// What one open page has been told.
struct Feed {
    deliveries: Deliveries,
    ticks: Interval,
    tick: u64,
    /// Which generation of the deliveries, and how far in it.
    generation: Option<u64>,
    seen: u64,
    health: Option<u64>,
    rates: Value,
    waiting: VecDeque<Event>,
    _viewer: Arc<()>,
}

impl Feed {
    fn new(deliveries: Deliveries) -> Self {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let viewer = Arc::clone(&deliveries.inner.viewers);
        Self {
            deliveries,
            ticks,
            tick: 0,
            generation: None,
            seen: 0,
            health: None,
            rates: Value::Null,
            waiting: VecDeque::new(),
            _viewer: viewer,
        }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            self.ticks.tick().await;
            for (name, data) in self.look(Timestamp::now()) {
                let event = Event::default().event(name).data(data.to_string());
                self.waiting.push_back(event);
            }
            self.tick += 1;
        }
    }

    /// What has changed since the last look.
    fn look(&mut self, now: Timestamp) -> Vec<(&'static str, Value)> {
        let deliveries = self.deliveries.clone();
        let list = deliveries.list();
        let mut news = Vec::new();
        if self.generation != Some(list.generation()) {
            self.generation = Some(list.generation());
            self.seen = 0;
            let api = deliveries.inner.api.url();
            news.push(("reset", json!({"max": MAX_DELIVERIES, "api": api})));
        }
        let changed: Vec<&Row> = list.since(self.seen).collect();
        if let Some(last) = changed.last() {
            self.seen = last.change();
        }
        // The newest first, as a page shows them.
        for rows in changed.rchunks(ROWS_PER_EVENT) {
            let rows: Vec<&&Row> = rows.iter().rev().collect();
            news.push(("deliveries", json!(rows)));
        }
        if self.health != Some(list.health_version()) {
            self.health = Some(list.health_version());
            news.push(("health", json!(list.health())));
        }
        if self.tick.is_multiple_of(TICKS_PER_RATES) {
            let rates = list.rates(now);
            // The chart moves for as long as there is something in it.
            let is_still = rates["seconds"].as_array().is_none_or(Vec::is_empty);
            let mut without_time = rates.clone();
            without_time["now"] = Value::Null;
            if !is_still || without_time != self.rates {
                self.rates = without_time;
                news.push(("rates", rates));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::token::DeveloperKey;

    async fn shown() -> Deliveries {
        let aws = LocalAws::start().await;
        let home = tempfile::tempdir().unwrap();
        let key = DeveloperKey::in_directory(home.path()).unwrap();
        let api = ApiClient::new("http://127.0.0.1:9".to_owned(), key).unwrap();
        Deliveries::new(aws, api)
    }

    fn accepted(number: usize) -> Value {
        json!({
            "pk": {"S": format!("request-{number}")}, "sk": {"S": "request"}, "clinicId": {"S": "clinic-1"},
            "acceptedAt": {"S": "2026-01-01T10:00:00Z"},
            "deliveries": {"L": [{"M": {
                "id": {"S": "d"}, "channel": {"S": "email"}, "recipient": {"S": "a***@example.com"},
            }}]},
        })
    }

    #[tokio::test]
    async fn a_page_is_told_of_everything_once_and_then_of_what_changed() {
        let deliveries = shown().await;
        let now = Timestamp::UNIX_EPOCH;
        for number in 0..=ROWS_PER_EVENT {
            deliveries.list().accept(&accepted(number));
        }
        let mut feed = Feed::new(deliveries.clone());
        let news = feed.look(now);
        let names: Vec<_> = news.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["reset", "deliveries", "deliveries", "health", "rates"]
        );
        assert_eq!(news[1].1.as_array().unwrap().len(), ROWS_PER_EVENT);
        assert_eq!(
            news[1].1[0]["requestId"],
            format!("request-{ROWS_PER_EVENT}")
        );
        assert_eq!(news[2].1[0]["requestId"], "request-0");
        assert_eq!(feed.look(now), []);

        deliveries.list().accept(&accepted(5_000));
        let news = feed.look(now);
        assert_eq!(news.len(), 1, "{news:?}");
        assert_eq!(news[0].1[0]["requestId"], "request-5000");

        deliveries.list().remove("request-5000", "d");
        let news = feed.look(now);
        assert_eq!(news[0].0, "reset", "what is gone can only be left out");
        assert_eq!(news[1].1.as_array().unwrap().len(), ROWS_PER_EVENT);
    }

    #[tokio::test]
    async fn queues_are_asked_only_while_somebody_looks() {
        let deliveries = shown().await;
        assert!(!deliveries.is_watched());
        let feed = Feed::new(deliveries.clone());
        assert!(deliveries.is_watched());
        drop(feed);
        assert!(!deliveries.is_watched());
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found_and_an_api_that_is_away_is_said_to_be() {
        let deliveries = shown().await;
        for (path, status) in [
            ("/api/deliveries/a/b", StatusCode::NOT_FOUND),
            ("/api/communications/a", StatusCode::BAD_GATEWAY),
        ] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let response = deliveries.routes().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!body.is_empty());
        }
    }
}
