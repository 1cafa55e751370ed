//! The `status` function: reports the result of a communication, and that the service is up. It is a separate function so
//! that sends in progress do not delay it.
//!
//! [`Deps::ROUTES`](HttpFunction::ROUTES) has its routes; `infra/openapi.yaml` says what each answers.

mod lookup;

use comms_core::{Delivery, HashKey, RequestId, delivery::MAX_ATTEMPTS};
use comms_delivery::{Ledger, RecordedRequest, TableError};
use comms_runtime::{
    AuditSubjects, Environment, Function, HttpProblem, Trail,
    auth::{Action, ClaimNames, Principal},
    aws,
    http::{
        HttpFunction, json_response, json_text_response,
        routes::{Endpoint, HandlerResult},
    },
};
use comms_settings::{HashKeys, SettingsStore};
use jiff::Timestamp;
use lambda_http::{Body, Request, Response, http::StatusCode};
use serde_json::json;
use tracing::error;

pub use comms_runtime::http::handle;

/// Bytes of an answer. Lambda accepts 6 MB (AWS Lambda quotas, 6,291,456 bytes). The answer is a JSON string in it, in which
/// its quotation marks, an eighth of it, take two bytes.
const MAX_ANSWER_BYTES: usize = 5_000_000;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// Where deliveries are recorded.
    pub ledger: Ledger,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// The key of the callers' hashes.
    pub hash_keys: HashKeys,
    /// How logs name callers.
    pub audit_subjects: AuditSubjects,
}

/// The declaration of this function.
pub const FUNCTION: Function = Function::http::<Deps>("status", 15);

impl HttpFunction for Deps {
    const ROUTES: &'static [Endpoint<Self>] = &[
        Endpoint::get("/api/v1/communications/{requestId}", |deps, call| {
            let id = call.variable("requestId");
            Box::pin(get(deps, call.request, Wanted::ById(id)))
        }),
        Endpoint::get("/api/v1/communications", |deps, call| {
            Box::pin(get(deps, call.request, Wanted::ByKey))
        }),
        Endpoint::get("/api/v1/health", |_, _| Box::pin(async { Ok(health()) }))
            .without_authorizer(),
    ];

    fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let deliveries_table = environment.required("DELIVERIES_TABLE");
        let settings_table = environment.required("SETTINGS_TABLE");
        let key = environment.required("KMS_KEY_ID");
        let claims = ClaimNames::from_environment(environment);
        let audit_subjects = environment.parsed("AUDIT_SUBJECTS");
        environment.finish()?;
        Ok(Self {
            ledger: Ledger::new(&sdk, deliveries_table),
            claims,
            hash_keys: HashKeys::new(SettingsStore::new(&sdk, settings_table, key)),
            audit_subjects,
        })
    }

    fn audit_subjects(&self) -> AuditSubjects {
        self.audit_subjects
    }

    async fn log_key(&self) -> Option<&HashKey> {
        self.hash_keys.for_logs().await
    }
}

fn health() -> Response<Body> {
    json_response(
        StatusCode::OK,
        &json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}),
    )
}

/// How a caller names a communication.
#[derive(Clone, Copy)]
enum Wanted<'r> {
    /// Its id, in the path.
    ById(&'r str),
    /// Its idempotency key, in the query.
    ByKey,
}

/// Authorizes before it reads. The answer for another clinic's communication is that for an unknown one, so that a caller
/// cannot find out whether it exists.
async fn get(deps: &Deps, request: &Request, wanted: Wanted<'_>) -> HandlerResult {
    let principal = Principal::of(request, &deps.claims)?;
    let scope = principal.scope(Action::ViewCommunication)?;
    let ids = match wanted {
        Wanted::ById(id) => vec![RequestId::parse(id).map_err(|_| unknown_communication())?],
        Wanted::ByKey => lookup::ids_of_key(deps, request, &scope).await?,
    };
    let mut found = None;
    for id in ids {
        Trail::of(request).note_request_id(&id);
        let read = deps.ledger.read(&id, Timestamp::now()).await;
        let read = read.map_err(|error| ledger_problem(&error))?;
        let of_scope = read.filter(|found| scope.includes(&found.tenant));
        found = of_scope.map(|request| (id, request));
        if found.is_some() {
            break;
        }
    }
    let (id, found) = found.ok_or_else(unknown_communication)?;
    let ended_at = found.ended_at();
    let RecordedRequest {
        tenant,
        details,
        accepted_at,
        replays,
        deliveries,
    } = found;
    let mut whole = json!({"requestId": id, "clinicId": tenant.clinic(), "replayed": replays});
    // Fields that an earlier release did not record are left out.
    for (name, value) in [
        ("acceptedAt", accepted_at.map(|at| json!(at))),
        ("endedAt", ended_at.map(|at| json!(at))),
        ("category", details.category.map(|category| json!(category))),
        ("priority", details.priority.map(|priority| json!(priority))),
    ] {
        if let Some(value) = value {
            whole[name] = value;
        }
    }
    let body = answer_that_fits(deliveries, MAX_ANSWER_BYTES, |deliveries| {
        let mut whole = whole.clone();
        whole["deliveries"] = json!(deliveries);
        whole.to_string()
    });
    Ok(json_text_response(StatusCode::OK, body))
}

fn unknown_communication() -> HttpProblem {
    HttpProblem::not_found("There is no such communication, or no longer.")
}

fn ledger_problem(error: &TableError) -> HttpProblem {
    error!(%error, "the ledger cannot be used");
    HttpProblem::unavailable()
}

/// The answer with all attempts; or, where that has more than `most` bytes, with as many of the newest of each delivery
/// as fit, and one at least. With one each, the most deliveries that a communication can have fit.
fn answer_that_fits(
    mut deliveries: Vec<Delivery>,
    most: usize,
    write: impl Fn(&[Delivery]) -> String,
) -> String {
    let mut body = write(&deliveries);
    let mut attempts = MAX_ATTEMPTS;
    while body.len() > most && attempts > 1 {
        attempts /= 2;
        for delivery in &mut deliveries {
            let oldest = delivery.attempts.len().saturating_sub(attempts);
            delivery.attempts.drain(..oldest);
        }
        body = write(&deliveries);
    }
    body
}

#[cfg(test)]
mod tests {
    use comms_core::{Attempt, Channel, DeliveryId, request};

    use super::*;

    #[test]
    fn an_answer_that_is_too_large_has_fewer_attempts_the_newest_of_each_delivery() {
        let attempt = |number: usize| {
            let json = json!({"provider": "smtp", "entry": "primary", "position": "primary", "outcome": "accepted",
                "durationMs": number});
            Attempt::from_json(&json).unwrap()
        };
        let delivery = |attempts: usize| {
            let id = DeliveryId::parse(&"ab".repeat(16)).unwrap();
            let mut delivery = Delivery::queued(id, Channel::Email, "p***@example.com".to_owned());
            delivery.attempts = (0..attempts).map(attempt).collect();
            delivery
        };
        let deliveries = || vec![delivery(MAX_ATTEMPTS), delivery(3)];
        let write = |deliveries: &[Delivery]| json!(deliveries).to_string();
        let whole = write(&deliveries());
        assert_eq!(answer_that_fits(deliveries(), whole.len(), write), whole);

        let body = answer_that_fits(deliveries(), whole.len() - 1, write);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let attempts = body[0]["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), MAX_ATTEMPTS / 2);
        assert_eq!(attempts.last().unwrap()["durationMs"], MAX_ATTEMPTS - 1);
        assert_eq!(body[1]["attempts"].as_array().unwrap().len(), 3);

        let least = answer_that_fits(deliveries(), 0, write);
        assert_eq!(
            least,
            write(&[
                Delivery {
                    attempts: vec![attempt(MAX_ATTEMPTS - 1)],
                    ..delivery(0)
                },
                Delivery {
                    attempts: vec![attempt(2)],
                    ..delivery(0)
                },
            ])
        );
    }

    /// Every delivery with one attempt, and every text of both as long as it may be.
    #[test]
    fn the_most_deliveries_fit_into_an_answer_with_an_attempt_each() {
        const MAX_DELIVERY_BYTES: usize = 2_000;
        assert!(
            request::MAX_RECIPIENTS * Channel::ALL.len() * MAX_DELIVERY_BYTES <= MAX_ANSWER_BYTES
        );
    }
}
