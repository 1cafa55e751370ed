//! The `config` function: reads, replaces, patches, deletes and restores a clinic's settings, and lists their versions.
//!
//! [`Deps::ROUTES`](HttpFunction::ROUTES) has its routes; `infra/openapi.yaml` says what each answers.
//!
//! Secrets go in and do not come out.

mod answers;
mod ceilings;
mod destinations;
mod document;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod merge_patch;
mod preconditions;
mod purge;
mod read;
mod reply_to;
mod save_limit;
mod stats;
mod versions;
mod write;

use std::sync::Arc;

use comms_adapters::egress::EgressAllow;
use comms_core::{Clock, HashKey, SystemClock, Tenant};
use comms_delivery::{SharedHealth, Usage};
use comms_runtime::{
    AuditSubjects, Environment, Function, HttpProblem,
    auth::{Action, ClaimNames, Principal},
    aws,
    http::{HttpFunction, routes::Endpoint, source_address},
};
use comms_settings::{
    Author, HashKeys, OwnAccount, PurgeDelay, SaveLimits, SettingsStore, VersionRetention,
};
use lambda_http::Request;

pub use comms_runtime::http::handle;

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

/// The declaration of this function.
pub const FUNCTION: Function = Function::http::<Deps>("config", 15);

impl HttpFunction for Deps {
    const ROUTES: &'static [Endpoint<Self>] = &[
        Endpoint::get(CLINIC, |deps, call| {
            Box::pin(read::get(deps, call.request, call.variable("clinicId")))
        }),
        Endpoint::put(CLINIC, |deps, call| {
            Box::pin(write::put(deps, call.request, call.variable("clinicId")))
        }),
        Endpoint::patch(CLINIC, |deps, call| {
            Box::pin(write::patch(deps, call.request, call.variable("clinicId")))
        }),
        Endpoint::delete(CLINIC, |deps, call| {
            Box::pin(write::delete(deps, call.request, call.variable("clinicId")))
        }),
        Endpoint::get(
            "/api/v1/clinics/{clinicId}/communication/health",
            |deps, call| Box::pin(health::get(deps, call.request, call.variable("clinicId"))),
        ),
        Endpoint::get(
            "/api/v1/clinics/{clinicId}/communication/stats",
            |deps, call| Box::pin(stats::get(deps, call.request, call.variable("clinicId"))),
        ),
        Endpoint::get(
            "/api/v1/clinics/{clinicId}/communication/versions",
            |deps, call| {
                Box::pin(versions::list(
                    deps,
                    call.request,
                    call.variable("clinicId"),
                ))
            },
        ),
        Endpoint::post(
            "/api/v1/clinics/{clinicId}/communication/versions/{version}/restore",
            |deps, call| {
                Box::pin(versions::restore(
                    deps,
                    call.request,
                    call.variable("clinicId"),
                    call.variable("version"),
                ))
            },
        ),
        Endpoint::get("/api/v1/reply-to/{token}", |deps, call| {
            Box::pin(reply_to::show(deps, call.variable("token")))
        })
        .without_authorizer(),
        Endpoint::post("/api/v1/reply-to/{token}", |deps, call| {
            Box::pin(reply_to::confirm(deps, call.variable("token")))
        })
        .without_authorizer(),
    ];

    fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
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

    fn audit_subjects(&self) -> AuditSubjects {
        self.audit_subjects
    }

    async fn log_key(&self) -> Option<&HashKey> {
        self.hash_keys.for_logs().await
    }
}

const CLINIC: &str = "/api/v1/clinics/{clinicId}";

/// An authorized caller, and the tenant that the request is about.
struct Access {
    principal: Principal,
    author: Author,
    tenant: Tenant,
}

impl Access {
    fn to(deps: &Deps, request: &Request, id: &str, action: Action) -> Result<Self, HttpProblem> {
        let (principal, tenant) = Principal::authorized(request, &deps.claims, id, action)?;
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
