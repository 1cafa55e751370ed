//! The `config-test` function: tests settings, saved or not, and reports each stage.
//!
//! [`Deps::ROUTES`](HttpFunction::ROUTES) has its routes; `infra/openapi.yaml` says what each answers.
//!
//! Every entry of the clinic's own chain is tested, disabled ones too: an admin tests an entry before enabling it. The
//! entries of the global account are the platform's, and are tested as `_global`.

mod entry;
mod health;
mod message;
mod problems;
mod reply_to;
mod report;
mod request;
mod run;

pub use entry::HOLD_STEP;

use std::{sync::Arc, time::Duration};

use comms_adapters::{
    EgressGuard, ProviderFactory,
    egress::{EgressAllow, SystemResolver},
    tls::TlsConfigs,
};
use comms_core::{Channel, HashKey, SystemClock};
use comms_delivery::{Quotas, SharedHealth};
use comms_runtime::{
    AuditSubjects, Environment, Function,
    auth::ClaimNames,
    aws,
    http::{HttpFunction, routes::Endpoint},
};
use comms_settings::{HashKeys, OwnAccount, SettingsStore, TestLimits};

pub use comms_runtime::http::handle;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// Where settings are kept.
    pub store: SettingsStore,
    /// How often they may be tested.
    pub limits: TestLimits,
    /// Makes providers. None is remembered: a test shows how things are now.
    pub factory: ProviderFactory,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// Whose roles no clinic may name.
    pub own_account: OwnAccount,
    /// The key of the callers' hashes, which signs links as well.
    pub hash_keys: HashKeys,
    /// What the platform's account may send.
    pub quotas: Quotas,
    /// What the sends have shown of providers, and a passed test disproves.
    pub health: SharedHealth,
    /// How logs name callers.
    pub audit_subjects: AuditSubjects,
    /// See [`HOLD_STEP`].
    pub hold_step: Duration,
}

/// The declaration of this function.
pub const FUNCTION: Function = Function::http::<Deps>("config-test", 29);

impl HttpFunction for Deps {
    const ROUTES: &'static [Endpoint<Self>] = &[
        Endpoint::post(
            "/api/v1/clinics/{clinicId}/communication/test-email",
            |deps, call| {
                let clinic = call.variable("clinicId");
                Box::pin(run::test(deps, call.request, clinic, Channel::Email))
            },
        ),
        Endpoint::post(
            "/api/v1/clinics/{clinicId}/communication/test-whatsapp",
            |deps, call| {
                let clinic = call.variable("clinicId");
                Box::pin(run::test(deps, call.request, clinic, Channel::Whatsapp))
            },
        ),
        Endpoint::post(
            "/api/v1/clinics/{clinicId}/communication/reply-to",
            |deps, call| {
                let clinic = call.variable("clinicId");
                Box::pin(reply_to::send_link(deps, call.request, clinic))
            },
        ),
    ];

    fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let table = environment.required("SETTINGS_TABLE");
        let deliveries = environment.required("DELIVERIES_TABLE");
        let key = environment.required("KMS_KEY_ID");
        let own_account = environment.parsed("STACK_ACCOUNT_ID");
        let accepts_unsealed = environment.parsed("ACCEPT_UNSEALED_SETTINGS");
        let claims = ClaimNames::from_environment(environment);
        let audit_subjects = environment.parsed("AUDIT_SUBJECTS");
        let egress = EgressGuard::new(
            environment.parsed::<EgressAllow>("EGRESS_ALLOW"),
            Arc::new(SystemResolver),
        );
        let tls = TlsConfigs::new(environment.file("EXTRA_CA_FILE").as_deref())?;
        environment.finish()?;
        let store = SettingsStore::new(&sdk, table, key).accepting_unsealed(accepts_unsealed);
        Ok(Self {
            hash_keys: HashKeys::new(store.clone()),
            health: SharedHealth::new(&sdk, deliveries.clone(), Arc::new(SystemClock)),
            quotas: Quotas::new(&sdk, deliveries, Arc::new(SystemClock)),
            audit_subjects,
            limits: TestLimits::new(store.clone(), Arc::new(SystemClock)),
            store,
            factory: ProviderFactory::new(tls, egress, sdk, Arc::new(SystemClock), 1),
            claims,
            own_account,
            hold_step: HOLD_STEP,
        })
    }

    fn audit_subjects(&self) -> AuditSubjects {
        self.audit_subjects
    }

    async fn log_key(&self) -> Option<&HashKey> {
        self.hash_keys.for_logs().await
    }
}
