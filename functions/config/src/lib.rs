//! The `config` function: a clinic's settings, read and replaced.
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /api/v1/clinics/{clinicId}` | 200 with `ETag`, 404 |
//! | `PUT /api/v1/clinics/{clinicId}` | 200 or 201 with `ETag`; 409, 412, 422 |
//!
//! Secrets go in and do not come out.

use std::{sync::Arc, time::Instant};

use comms_adapters::tls::TlsConfigs;
use comms_core::{Channel, Clock, Position, Problems, SystemClock, Tenant, json::Object};
use comms_runtime::{
    Environment, HttpProblem,
    auth::{Action, ClaimNames, Principal},
    aws,
    http::{answer, json_body, json_response, path_segments, serve, source_address},
};
use comms_settings::{
    Author, CommunicationSettings, Credentials, SettingsStore, StoreError, StoredSettings, Version,
};
use lambda_http::{
    Body, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};
use serde_json::{Value, json};
use tracing::{error, warn};

/// Where the settings stand in a body.
const SETTINGS_POINTER: &str = "/settings/communicationSettings";

/// What the handler works with.
pub struct Deps {
    /// Where settings are kept.
    pub store: SettingsStore,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// The time of a save.
    pub clock: Arc<dyn Clock>,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let table = environment.required("SETTINGS_TABLE");
        let key = environment.required("KMS_KEY_ID");
        let claims = ClaimNames::from_environment(environment);
        environment.finish()?;
        Ok(Self {
            store: SettingsStore::new(&sdk, table, key),
            claims,
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
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    const CLINIC: &str = "/api/v1/clinics/{clinicId}";
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (route, result) = match (&method, path_segments(&path).as_slice()) {
        (&Method::GET, ["api", "v1", "clinics", id]) => (CLINIC, get(deps, &request, id).await),
        (&Method::PUT, ["api", "v1", "clinics", id]) => (CLINIC, put(deps, &request, id).await),
        (_, ["api", "v1", "clinics", _]) => (CLINIC, Err(method_not_allowed())),
        _ => (
            "unknown",
            Err(HttpProblem::not_found("There is no such route.")),
        ),
    };
    answer(&method, route, started, result)
}

fn method_not_allowed() -> HttpProblem {
    HttpProblem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Not possible in this version",
        "Settings can be read by GET and replaced by PUT.",
    )
}

async fn get(deps: &Deps, request: &Request, id: &str) -> Result<Response<Body>, HttpProblem> {
    let principal = Principal::of(request, &deps.claims)?;
    let tenant = parse_tenant(id)?;
    principal.authorize(Action::ViewSettings, &tenant)?;
    let stored = deps.store.load(&tenant).await.map_err(store_problem)?;
    let stored = stored.ok_or_else(|| HttpProblem::not_found("This clinic has no settings."))?;
    Ok(settings_response(
        StatusCode::OK,
        &tenant,
        &stored.version,
        &stored.settings,
    ))
}

async fn put(deps: &Deps, request: &Request, id: &str) -> Result<Response<Body>, HttpProblem> {
    let principal = Principal::of(request, &deps.claims)?;
    let tenant = parse_tenant(id)?;
    principal.authorize(Action::ManageSettings, &tenant)?;
    let body = json_body(request.body())?;
    let stored = deps.store.load(&tenant).await.map_err(store_problem)?;
    check_preconditions(request, stored.as_ref())?;
    let settings = read_settings(body, &tenant, stored.as_ref())?;
    if let Some(stored) = &stored
        && settings.changed_fields(Some(&stored.settings)).is_empty()
    {
        return Ok(settings_response(
            StatusCode::OK,
            &tenant,
            &stored.version,
            &settings,
        ));
    }
    let author = Author {
        subject: principal.subject,
        source_address: source_address(request),
    };
    let version = deps
        .store
        .save(&tenant, &settings, stored.as_ref(), &author, &*deps.clock)
        .await
        .map_err(store_problem)?;
    let status = if stored.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(settings_response(status, &tenant, &version, &settings))
}

fn parse_tenant(id: &str) -> Result<Tenant, HttpProblem> {
    Tenant::parse(id).map_err(|_| HttpProblem::not_found("There is no clinic with such an id."))
}

fn read_settings(
    body: Value,
    tenant: &Tenant,
    stored: Option<&StoredSettings>,
) -> Result<CommunicationSettings, HttpProblem> {
    let mut problems = Problems::default();
    let mut document = None;
    if let Some(mut whole) = Object::new(body, "", &mut problems) {
        // What GET shows beside the settings may come back with them.
        for read_only in ["version", "savedAt", "savedBy"] {
            whole.take(read_only);
        }
        whole.optional("clinicId", |value| match value.as_str() {
            Some(id) if id == tenant.as_str() => Ok(()),
            Some(_) | None => Err("must be the clinic of the path".to_owned()),
        });
        if whole.is_missing("settings") {
            whole.problem("settings", "is required");
        }
        whole.object("settings", |mut settings| {
            document = settings.take("communicationSettings");
            if document.is_none() {
                settings.problem("communicationSettings", "is required");
            }
            settings.finish();
            Some(())
        });
        whole.finish();
    }
    let stored = stored.map(|stored| &stored.settings);
    let settings = document.and_then(|document| {
        CommunicationSettings::read(document, SETTINGS_POINTER, tenant, stored, &mut problems)
    });
    if let Some(settings) = &settings {
        check_trust_roots(settings, &mut problems);
    }
    problems
        .or(settings)
        .map_err(|problems| HttpProblem::invalid(&problems))
}

/// Trust roots that can not be used would fail every send; they are found here, before saving.
fn check_trust_roots(settings: &CommunicationSettings, problems: &mut Problems) {
    let Ok(configs) = TlsConfigs::new(None) else {
        return;
    };
    for channel in Channel::ALL {
        let Some(channel_settings) = settings.channel(channel) else {
            continue;
        };
        for (position, entry) in channel_settings.entries() {
            let Credentials::Smtp(smtp) = &entry.credentials else {
                continue;
            };
            let Some(Err(error)) = smtp.ca_pem.as_deref().map(|pem| configs.client(Some(pem)))
            else {
                continue;
            };
            let place = match position {
                Position::Primary | Position::Global => "primary".to_owned(),
                Position::Fallback(n) | Position::GlobalFallback(n) => format!("fallback/{n}"),
            };
            let pointer = format!("{SETTINGS_POINTER}/{channel}/{place}/credentials/caPem");
            problems.add(pointer, error.to_string());
        }
    }
}

/// If-Match and If-None-Match (RFC 9110 section 13.1), as far as a document with versions needs.
fn check_preconditions(
    request: &Request,
    stored: Option<&StoredSettings>,
) -> Result<(), HttpProblem> {
    let failed = || {
        HttpProblem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "The settings are at another version",
            "Somebody saved in between: read the settings again, and make the change to what they are now.",
        )
    };
    let present = stored.map(|stored| etag(&stored.version));
    let names_present = |name: header::HeaderName| {
        request.headers().get(name).map(|value| {
            let value = value.to_str().unwrap_or_default();
            value.split(',').map(str::trim).any(|tag| match &present {
                Some(present) => tag == "*" || tag == present,
                None => false,
            })
        })
    };
    if names_present(header::IF_MATCH) == Some(false)
        || names_present(header::IF_NONE_MATCH) == Some(true)
    {
        return Err(failed());
    }
    Ok(())
}

fn etag(version: &Version) -> String {
    format!("\"{}\"", version.number)
}

fn settings_response(
    status: StatusCode,
    tenant: &Tenant,
    version: &Version,
    settings: &CommunicationSettings,
) -> Response<Body> {
    let body = json!({
        "clinicId": tenant,
        "version": version.number,
        "savedAt": version.saved_at,
        "savedBy": version.saved_by,
        "settings": {"communicationSettings": settings.view()},
    });
    let mut response = json_response(status, &body);
    if let Ok(etag) = HeaderValue::try_from(etag(version)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

#[allow(clippy::needless_pass_by_value, reason = "used as a map_err function")]
fn store_problem(error: StoreError) -> HttpProblem {
    match error {
        StoreError::Conflict => HttpProblem::new(
            StatusCode::CONFLICT,
            "conflict",
            "Somebody else saved at the same time",
            "Nothing of this change was saved. Read the settings again, and make the change to what they are now.",
        ),
        StoreError::TooLarge => HttpProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The settings are too large",
            "A clinic's settings may have 400 KB in all; shorten caPem or leave out fallbacks.",
        ),
        StoreError::Database { .. } | StoreError::Envelope(_) if error.is_worth_a_retry() => {
            warn!(%error, "the settings store can not be reached");
            HttpProblem::unavailable()
        }
        StoreError::Database { .. }
        | StoreError::Envelope(_)
        | StoreError::Corrupt(_)
        | StoreError::Invalid(_) => {
            error!(%error, "the settings can not be used");
            HttpProblem::internal()
        }
    }
}
