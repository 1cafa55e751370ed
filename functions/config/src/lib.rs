//! The `config` function: a clinic's settings, read, replaced, patched, deleted, and what they were.
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /api/v1/clinics/{clinicId}` | 200 with `ETag`, 304; 404 |
//! | `PUT /api/v1/clinics/{clinicId}` | 200 or 201 with `ETag`; 409, 412, 422 |
//! | `PATCH /api/v1/clinics/{clinicId}` | 200 with `ETag`; 404, 409, 412, 415, 422 |
//! | `DELETE /api/v1/clinics/{clinicId}` | 204; 404, 409, 412; with `purge=true` 200 |
//! | `GET /api/v1/clinics/{clinicId}/communication/health` | 200; 404 |
//! | `GET /api/v1/clinics/{clinicId}/communication/stats` | 200; 400 |
//! | `GET /api/v1/clinics/{clinicId}/communication/versions` | 200, the newest first |
//! | `POST /api/v1/clinics/{clinicId}/communication/versions/{version}/restore` | as PUT; 404 |
//! | `GET /api/v1/reply-to/{token}` | 200, a page; changes nothing; 404 |
//! | `POST /api/v1/reply-to/{token}` | 200, a page; confirms the address; 404 |
//!
//! Secrets go in and do not come out.

#![cfg_attr(all(test, fuzzing), no_main)]

mod answers;
mod ceilings;
mod destinations;
mod document;
#[cfg(test)]
mod fuzz;
mod health;
mod merge_patch;
mod preconditions;
mod purge;
mod read;
mod reply_to;
mod stats;
mod versions;
mod write;

use std::sync::Arc;

use comms_adapters::egress::EgressAllow;
use comms_core::{Clock, SystemClock, Tenant};
use comms_delivery::{SharedHealth, Usage};
use comms_runtime::{
    AuditSubjects, Environment, Exchange, HttpProblem,
    auth::{Action, ClaimNames, Principal},
    aws,
    http::{check_head, path_segments, serve, source_address},
};
use comms_settings::{
    Author, HashKeys, OwnAccount, PurgeDelay, SaveLimits, SettingsStore, VersionRetention,
};
use lambda_http::{
    Body, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

/// What the handler works with.
pub struct Deps {
    /// Where settings are kept.
    pub store: SettingsStore,
    /// How often they may be changed.
    pub save_limits: SaveLimits,
    /// How long a purge can be undone.
    pub purge_delay: PurgeDelay,
    /// What the sends have shown of providers.
    pub health: SharedHealth,
    /// What became of messages.
    pub usage: Usage,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// Whose roles no clinic may name.
    pub own_account: OwnAccount,
    /// Where connections may go beyond the public internet.
    pub egress_allow: EgressAllow,
    /// The key of the callers' hashes, which signs links as well.
    pub hash_keys: HashKeys,
    /// How logs name callers.
    pub audit_subjects: AuditSubjects,
    /// The time of a save.
    pub clock: Arc<dyn Clock>,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let table = environment.required("SETTINGS_TABLE");
        let key = environment.required("KMS_KEY_ID");
        let deliveries = environment.required("DELIVERIES_TABLE");
        let retention = environment.parsed::<VersionRetention>("SETTINGS_RETENTION_DAYS");
        let own_account = environment.parsed("STACK_ACCOUNT_ID");
        let egress_allow = environment.parsed("EGRESS_ALLOW");
        let purge_delay = environment.parsed::<PurgeDelay>("PURGE_AFTER_DAYS");
        let accepts_unsealed = environment.parsed("ACCEPT_UNSEALED_SETTINGS");
        let claims = ClaimNames::from_environment(environment);
        let audit_subjects = environment.parsed("AUDIT_SUBJECTS");
        environment.finish()?;
        let store = SettingsStore::new(&sdk, table, key)
            .keeping_versions_for(retention)
            .accepting_unsealed(accepts_unsealed);
        Ok(Self {
            hash_keys: HashKeys::new(store.clone()),
            save_limits: SaveLimits::new(store.clone(), Arc::new(SystemClock)),
            store,
            purge_delay,
            health: SharedHealth::new(&sdk, deliveries.clone(), Arc::new(SystemClock)),
            usage: Usage::new(&sdk, deliveries),
            claims,
            own_account,
            egress_allow,
            audit_subjects,
            clock: Arc::new(SystemClock),
        })
    }
}

/// Runs the function under the Lambda runtime until the environment ends.
pub async fn run() -> Result<(), lambda_http::Error> {
    serve(Deps::from_environment, |deps, request| {
        Box::pin(handle(deps, request))
    })
    .await
}

/// Answers one request.
pub async fn handle(deps: &Deps, mut request: Request) -> Response<Body> {
    let exchange = Exchange::begin(&mut request, deps.audit_subjects);
    let work = Box::pin(route(deps, &request));
    exchange.answer(work, deps.hash_keys.for_logs()).await
}

/// The route of a request, and its result.
async fn route(
    deps: &Deps,
    request: &Request,
) -> (&'static str, Result<Response<Body>, HttpProblem>) {
    const CLINIC: &str = "/api/v1/clinics/{clinicId}";
    const HEALTH: &str = "/api/v1/clinics/{clinicId}/communication/health";
    const STATS: &str = "/api/v1/clinics/{clinicId}/communication/stats";
    const VERSIONS: &str = "/api/v1/clinics/{clinicId}/communication/versions";
    const RESTORE: &str = "/api/v1/clinics/{clinicId}/communication/versions/{version}/restore";
    const REPLY_TO: &str = "/api/v1/reply-to/{token}";
    if let Err(problem) = check_head(request) {
        return ("unknown", Err(problem));
    }
    let method = request.method();
    match path_segments(request.uri().path()).as_slice() {
        ["api", "v1", "clinics", id] => {
            let result = match *method {
                Method::GET => read::get(deps, request, id).await,
                Method::PUT => write::put(deps, request, id).await,
                Method::PATCH => write::patch(deps, request, id).await,
                Method::DELETE => write::delete(deps, request, id).await,
                _ => Err(method_not_allowed("GET, PUT, PATCH, DELETE")),
            };
            (CLINIC, result)
        }
        ["api", "v1", "clinics", id, "communication", "health"] => {
            let result = match *method {
                Method::GET => health::get(deps, request, id).await,
                _ => Err(method_not_allowed("GET")),
            };
            (HEALTH, result)
        }
        ["api", "v1", "clinics", id, "communication", "stats"] => {
            let result = match *method {
                Method::GET => stats::get(deps, request, id).await,
                _ => Err(method_not_allowed("GET")),
            };
            (STATS, result)
        }
        ["api", "v1", "clinics", id, "communication", "versions"] => {
            let result = match *method {
                Method::GET => versions::list(deps, request, id).await,
                _ => Err(method_not_allowed("GET")),
            };
            (VERSIONS, result)
        }
        [
            "api",
            "v1",
            "clinics",
            id,
            "communication",
            "versions",
            version,
            "restore",
        ] => {
            let result = match *method {
                Method::POST => versions::restore(deps, request, id, version).await,
                _ => Err(method_not_allowed("POST")),
            };
            (RESTORE, result)
        }
        ["api", "v1", "reply-to", token] => {
            let result = match *method {
                Method::GET => reply_to::show(deps, token).await,
                Method::POST => reply_to::confirm(deps, token).await,
                _ => Err(method_not_allowed("GET, POST")),
            };
            (REPLY_TO, result)
        }
        _ => (
            "unknown",
            Err(HttpProblem::not_found("There is no such route.")),
        ),
    }
}

/// 405 with the methods that there are (RFC 9110 section 15.5.6).
fn method_not_allowed(allowed: &'static str) -> HttpProblem {
    HttpProblem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Not possible",
        format!("This route has the methods {allowed}."),
    )
    .with_header(header::ALLOW, HeaderValue::from_static(allowed))
}

/// Who asks, and about whom: known once the token allows it.
struct Access {
    principal: Principal,
    author: Author,
    tenant: Tenant,
}

impl Access {
    fn to(deps: &Deps, request: &Request, id: &str, action: Action) -> Result<Self, HttpProblem> {
        let principal = Principal::of(request, &deps.claims)?;
        let tenant = Tenant::parse(id)
            .map_err(|_| HttpProblem::not_found("There is no clinic with such an id."))?;
        principal.authorize(action, &tenant)?;
        let author = Author {
            subject: principal.subject.clone(),
            source_address: source_address(request),
        };
        Ok(Self {
            principal,
            author,
            tenant,
        })
    }
}
