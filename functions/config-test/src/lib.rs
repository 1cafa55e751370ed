//! The `config-test` function: tries settings, saved or not, and says stage by stage how it went.
//!
//! [`ROUTES`] has its routes; `infra/openapi.yaml` says what each answers.
//!
//! Every entry of the clinic's own chain is tried, disabled ones too: an admin wants to know before
//! enabling one. The entries of the global account are the platform's, and are tested as `_global`.

mod health;
mod message;
mod reply_to;
mod report;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use comms_adapters::{
    Deadline, EgressGuard, EntrySpec, ProviderFactory, StageOutcome, StageReport, VerifyStage,
    egress::{EgressAllow, SystemResolver},
    registry,
    tls::TlsConfigs,
};
use comms_core::{
    Channel, EmailAddress, EntryId, ErrorKind, Mailbox, PhoneNumber, Problems, ProviderKind,
    SystemClock, Tenant,
    json::{Object, read},
    request::{Target, Template, read_template},
};
use comms_delivery::{Quotas, SharedHealth, health::PassedTest};
use comms_runtime::{
    AuditSubjects, Environment, Exchange, Function, HttpProblem,
    auth::{Action, ClaimNames, Principal},
    aws,
    function::Trigger,
    http::{
        json_body, json_response,
        routes::{Endpoint, dispatch, routes},
        serve, time_left,
    },
};
use comms_settings::{
    ChannelSettings, CommunicationSettings, HashKeys, LimitHolder, Limited, OwnAccount,
    SettingsStore, StoreError, TestLimitError, TestLimits,
    document::{MAX_DOCUMENT_BYTES, POINTER},
};
use futures_util::future::join_all;
use lambda_http::{Body, Request, Response, http::StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant as TokioInstant;
use tracing::{error, info, warn};

use crate::{message::TestMessage, report::Stages};

/// The step to which the time is rounded up after which it is told that nobody was there. A port that
/// refuses does so at once, one that is silent takes three seconds (the longest that is waited for a
/// connection): to who waits for the answer they are the same.
pub const HOLD_STEP: Duration = Duration::from_secs(5);
/// What is left of the request's time for answering when nothing more is waited for.
const RESPONSE_MARGIN: Duration = Duration::from_secs(1);

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

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
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
}

/// The routes that this function answers.
pub const ROUTES: &[Endpoint<Deps>] = &[
    Endpoint::post(
        "/api/v1/clinics/{clinicId}/communication/test-email",
        |deps, call| {
            let clinic = call.variable("clinicId");
            Box::pin(test(deps, call.request, clinic, Channel::Email))
        },
    ),
    Endpoint::post(
        "/api/v1/clinics/{clinicId}/communication/test-whatsapp",
        |deps, call| {
            let clinic = call.variable("clinicId");
            Box::pin(test(deps, call.request, clinic, Channel::Whatsapp))
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

/// This function, for the list of all.
pub const FUNCTION: Function = Function {
    name: "config-test",
    trigger: Trigger::Http(|| routes(ROUTES)),
    timeout_seconds: 29,
    run: || Box::pin(run()),
};

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
    let work = Box::pin(dispatch(ROUTES, deps, &request));
    exchange.answer(work, deps.hash_keys.for_logs()).await
}

/// What is to be tested.
struct TestRequest {
    /// Where a test message goes; nowhere when the stages are only to be verified.
    to: Option<Target>,
    /// The template of a `WhatsApp` test message.
    template: Option<Template>,
    only: Only,
    candidate: Option<Value>,
}

/// Which entries are to be tested: those that are everything that is set here.
struct Only {
    provider: Option<ProviderKind>,
    entry: Option<EntryId>,
}

impl Only {
    fn takes(&self, spec: &EntrySpec) -> bool {
        self.provider.is_none_or(|only| only == spec.config.kind())
            && self.entry.as_ref().is_none_or(|only| *only == spec.id)
    }
}

async fn test(
    deps: &Deps,
    request: &Request,
    id: &str,
    channel: Channel,
) -> Result<Response<Body>, HttpProblem> {
    let principal = Principal::of(request, &deps.claims)?;
    let tenant = Tenant::parse(id)
        .map_err(|_| HttpProblem::not_found("There is no clinic with such an id."))?;
    principal.authorize(Action::TestSettings, &tenant)?;
    let deadline = Deadline::after(time_left(request));
    let test = read_request(json_body(request, MAX_DOCUMENT_BYTES)?, channel)?;
    let (settings, version) = settings_to_test(deps, &tenant, test.candidate).await?;
    let settings = match channel {
        Channel::Email => settings.email,
        Channel::Whatsapp => settings.whatsapp,
    };
    let settings = settings.ok_or_else(|| {
        HttpProblem::not_found("There are no settings for this channel to be tested.")
    })?;
    let mut entries = entries(settings);
    entries.retain(|(spec, _)| test.only.takes(spec));
    if entries.is_empty() {
        return Err(HttpProblem::not_found(
            "No entry of this channel is the one that provider and entry say; leave them out to test all.",
        ));
    }
    let message = test.to.map(|to| TestMessage::new(to, test.template));
    // Everything is read and right: only what would connect to somebody counts.
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let messages = if message.is_some() { count } else { 0 };
    deps.limits
        .take(&tenant, &principal.subject, count, messages)
        .await
        .map_err(|error| limit_problem(&error, &tenant))?;
    // All at once: an entry that hangs leaves the others their time.
    let tests = entries.into_iter().map(|(spec, enabled)| {
        test_entry(deps, &tenant, spec, enabled, message.as_ref(), deadline)
    });
    let (reports, passed): (Vec<_>, Vec<_>) = join_all(tests).await.into_iter().unzip();
    if let Some(version) = version {
        let passed = passed.into_iter().flatten().collect();
        health::record(deps, &tenant, version, channel, passed, deadline).await;
    }
    let ok = reports.iter().all(|report| report["ok"] == true);
    info!(clinic_id = %tenant, %channel, entries = reports.len(), messages, ok, "settings tested");
    Ok(json_response(
        StatusCode::OK,
        &json!({"ok": ok, "results": reports}),
    ))
}

fn read_request(body: Value, channel: Channel) -> Result<TestRequest, HttpProblem> {
    let mut problems = Problems::default();
    let test = Object::new(body, "", &mut problems).map(|mut object| {
        let (field, to, template) = match channel {
            Channel::Email => {
                let to = object.optional("testEmail", read::parsed(EmailAddress::parse_new));
                let to = to.map(|address| {
                    Target::Email(Mailbox {
                        address,
                        name: None,
                    })
                });
                ("testEmail", to, None)
            }
            Channel::Whatsapp => {
                let to = object.optional("testPhone", read::parsed(PhoneNumber::parse));
                let template = read_template(&mut object);
                ("testPhone", to.map(Target::Whatsapp), template)
            }
        };
        let verify_only = object.optional("verifyOnly", read::flag).unwrap_or(false);
        if to.is_none() && !verify_only {
            object.missing(field, "is required, unless verifyOnly is true");
        }
        let provider = object.optional("provider", |value| {
            registry::find(&read::string(value)?)
                .filter(|provider| provider.channels.contains(&channel))
                .map(|provider| provider.kind)
                .ok_or_else(|| format!("must be the name of a provider of the {channel} channel"))
        });
        let entry = object.optional("entry", read::parsed(EntryId::parse));
        let candidate = object.object("settings", |mut settings| {
            let candidate = settings.take("communicationSettings");
            if candidate.is_none() {
                settings.problem("communicationSettings", "is required");
            }
            settings.finish();
            candidate
        });
        object.finish();
        TestRequest {
            to: to.filter(|_| !verify_only),
            template,
            only: Only { provider, entry },
            candidate,
        }
    });
    problems
        .or(test)
        .map_err(|problems| HttpProblem::invalid(&problems))
}

/// The candidate, or the saved settings where none is given. A candidate may leave out a secret that
/// is saved, under the same rules as when it is saved. Of saved settings, their version.
async fn settings_to_test(
    deps: &Deps,
    tenant: &Tenant,
    candidate: Option<Value>,
) -> Result<(CommunicationSettings, Option<u64>), HttpProblem> {
    let stored = match deps.store.load(tenant).await {
        Ok(stored) => stored.map(|stored| (stored.settings, stored.version.number)),
        // Saved settings that cannot be read any more are no reason not to test those that are to take
        // their place; a secret that these leave out is missing then.
        Err(error) if candidate.is_some() && !error.is_worth_a_retry() => {
            warn!(clinic_id = %tenant, %error, "the saved settings cannot be used");
            None
        }
        Err(error) => return Err(store_problem(&error)),
    };
    let Some(candidate) = candidate else {
        let (settings, version) =
            stored.ok_or_else(|| HttpProblem::not_found("This clinic has no settings."))?;
        return Ok((settings, Some(version)));
    };
    let stored = stored.map(|(settings, _)| settings);
    let mut problems = Problems::default();
    let settings =
        CommunicationSettings::read(candidate, POINTER, tenant, stored.as_ref(), &mut problems);
    if let Some(settings) = &settings {
        deps.own_account
            .check_roles(settings, POINTER, &mut problems);
    }
    let settings = problems
        .or(settings)
        .map_err(|problems| HttpProblem::invalid(&problems))?;
    Ok((settings, None))
}

/// Every entry in its order, and whether it is enabled.
fn entries(mut settings: ChannelSettings) -> Vec<(EntrySpec, bool)> {
    let disabled: Vec<_> = settings
        .entries()
        .filter(|(_, entry)| !entry.enabled)
        .map(|(_, entry)| entry.id.clone())
        .collect();
    // A chain is made of the enabled ones only.
    settings.primary.enabled = true;
    for entry in &mut settings.fallback {
        entry.enabled = true;
    }
    let entries = settings.chain_spec().entries.into_iter();
    entries
        .map(|spec| {
            let enabled = !disabled.contains(&spec.id);
            (spec, enabled)
        })
        .collect()
}

async fn test_entry(
    deps: &Deps,
    tenant: &Tenant,
    spec: EntrySpec,
    enabled: bool,
    message: Option<&TestMessage>,
    deadline: Deadline,
) -> (Value, Option<PassedTest>) {
    let started = TokioInstant::now();
    let (id, position, provider) = (spec.id, spec.position, spec.config.kind());
    let stages = Stages::of(&*spec.config, message.is_some());
    let row = match deps.factory.provider(&*spec.config, spec.sender) {
        Ok(adapter) => {
            let reports = adapter.verify(deadline).await;
            log_failures(tenant, &id, &reports);
            let verified = reports
                .iter()
                .all(|report| report.outcome == StageOutcome::Passed);
            let mut row = stages.row(reports);
            if let Some(message) = message.filter(|_| verified) {
                let started = Instant::now();
                let sent = adapter.send(&message.for_one_entry(), deadline).await;
                row.sent(sent.map(drop), started.elapsed());
            }
            row
        }
        Err(_) => stages.row(vec![unusable_roots()]),
    };
    if row.conceals {
        hold(started, deps.hold_step, deadline).await;
    }
    let json = json!({
        "entry": id, "position": position, "provider": provider, "enabled": enabled,
        "ok": row.is_ok(), "stages": row.to_json(),
    });
    let passed = row.is_ok().then_some(PassedTest {
        entry: id,
        was_message_sent: message.is_some(),
    });
    (json, passed)
}

/// What the answer may not tell, for those who run the service.
fn log_failures(tenant: &Tenant, entry: &EntryId, reports: &[StageReport]) {
    for report in reports {
        if let StageOutcome::Failed { kind, code, .. } = &report.outcome {
            info!(
                clinic_id = %tenant,
                %entry,
                stage = ?report.stage,
                kind = kind.as_str(),
                code = code.as_ref().map(tracing::field::display),
                duration_ms = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
                "a stage failed"
            );
        }
    }
}

/// Waits until a whole number of `step`s has passed since `started`, as far as the deadline allows: how
/// long it took to find nobody tells what the row does not.
async fn hold(started: TokioInstant, step: Duration, deadline: Deadline) {
    let over = started
        .elapsed()
        .as_nanos()
        .checked_rem(step.as_nanos())
        .and_then(|over| u64::try_from(over).ok());
    if let Some(over) = over {
        let wait = step.saturating_sub(Duration::from_nanos(over));
        tokio::time::sleep(wait.min(deadline.less(RESPONSE_MARGIN).remaining())).await;
    }
}

fn unusable_roots() -> StageReport {
    StageReport {
        stage: VerifyStage::Tls,
        outcome: StageOutcome::Failed {
            kind: ErrorKind::Unauthenticated,
            code: None,
            detail: "caPem holds no certificate that can be a trust root.",
        },
        duration: Duration::ZERO,
    }
}

fn limit_problem(error: &TestLimitError, tenant: &Tenant) -> HttpProblem {
    match error {
        TestLimitError::Reached {
            holder,
            limited,
            retry_after,
        } => {
            warn!(clinic_id = %tenant, ?holder, ?limited, "settings are tested too often");
            let detail = match (holder, limited) {
                (LimitHolder::Clinic, Limited::Entries) => {
                    "The settings of this clinic were tested too often, and nothing was tried now. Wait as long as \
                     Retry-After says, or test one entry at a time."
                }
                (LimitHolder::Author, Limited::Entries) => {
                    "You have tested settings too often, and nothing was tried now. Wait as long as Retry-After says, \
                     or test one entry at a time."
                }
                (LimitHolder::Address, Limited::Entries | Limited::Messages) => {
                    "Too many links were asked for to this address, and none was sent now. Use one of those, or wait as \
                     long as Retry-After says."
                }
                (LimitHolder::Clinic, Limited::Messages) => {
                    "Too many test messages were asked for by this clinic, and nothing was tried now. Set verifyOnly, \
                     which sends none, or wait as long as Retry-After says."
                }
                (LimitHolder::Author, Limited::Messages) => {
                    "You have asked for too many test messages, and nothing was tried now. Set verifyOnly, which sends \
                     none, or wait as long as Retry-After says."
                }
            };
            HttpProblem::too_many_requests(detail, *retry_after)
        }
        // Without the limits nothing is tried.
        TestLimitError::Store(error) => store_problem(error),
    }
}

fn store_problem(error: &StoreError) -> HttpProblem {
    if error.is_worth_a_retry() {
        warn!(%error, "the settings store cannot be reached");
        HttpProblem::unavailable()
    } else {
        error!(%error, "the settings cannot be used");
        HttpProblem::unreadable_settings(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When an entry for which nobody was found after `millis` is answered, in milliseconds.
    async fn answered_after(millis: u64, deadline: Duration) -> u128 {
        let deadline = Deadline::after(deadline);
        let started = TokioInstant::now();
        tokio::time::advance(Duration::from_millis(millis)).await;
        hold(started, HOLD_STEP, deadline).await;
        started.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_and_a_silent_port_are_answered_after_the_same_time() {
        let time = Duration::from_secs(28);
        for millis in [1, 60, 3_000, 4_999] {
            assert_eq!(answered_after(millis, time).await, 5_000, "{millis}");
        }
        assert_eq!(answered_after(8_001, time).await, 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_made_to_wait_beyond_the_requests_time() {
        let time = Duration::from_secs(4);
        assert_eq!(answered_after(1_000, time).await, 3_000);
        assert_eq!(answered_after(3_500, time).await, 3_500);
    }
}
