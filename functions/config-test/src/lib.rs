//! The `config-test` function: tries settings, saved or not, and says stage by stage how it went.
//!
//! | route | answers |
//! | --- | --- |
//! | `POST /api/v1/clinics/{clinicId}/communication/test-email` | 200 with a report per provider and stage |
//! | `POST /api/v1/clinics/{clinicId}/communication/test-whatsapp` | the same for the `WhatsApp` channel |

use std::{sync::Arc, time::Instant};

use comms_adapters::{
    Deadline, EgressGuard, EntrySpec, Message, ProviderFactory, StageOutcome, StageReport,
    VerifyStage,
    egress::{EgressAllow, SystemResolver},
    tls::TlsConfigs,
};
use comms_core::{
    Channel, DeliveryId, EmailAddress, Mailbox, PhoneNumber, Problems, ProviderKind, SystemClock,
    Tenant,
    json::{Object, read},
    request::{Content, Target, Template, read_template},
};
use comms_delivery::chain_spec::chain_spec;
use comms_runtime::{
    Environment, HttpProblem,
    auth::{Action, ClaimNames, Principal},
    aws,
    http::{answer, json_body, json_response, path_segments, serve, time_left},
};
use comms_settings::{CommunicationSettings, SettingsStore, StoreError};
use futures_util::future::join_all;
use lambda_http::{
    Body, Request, Response,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};
use tracing::{error, info, warn};
use uuid::Uuid;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// Where settings are kept.
    pub store: SettingsStore,
    /// Makes providers. None is remembered: a test shows how things are now.
    pub factory: ProviderFactory,
    /// The names of the token's claims.
    pub claims: ClaimNames,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let table = environment.required("SETTINGS_TABLE");
        let key = environment.required("KMS_KEY_ID");
        let claims = ClaimNames::from_environment(environment);
        let egress = EgressGuard::new(
            environment.parsed::<EgressAllow>("EGRESS_ALLOW"),
            Arc::new(SystemResolver),
        );
        let tls = TlsConfigs::new(environment.file("EXTRA_CA_FILE").as_deref())?;
        environment.finish()?;
        Ok(Self {
            store: SettingsStore::new(&sdk, table, key),
            factory: ProviderFactory::new(tls, egress, sdk, Arc::new(SystemClock), 1),
            claims,
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
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (route, result) = match (&method, path_segments(&path).as_slice()) {
        (&Method::POST, ["api", "v1", "clinics", id, "communication", "test-email"]) => (
            "/api/v1/clinics/{clinicId}/communication/test-email",
            test(deps, &request, id, Channel::Email).await,
        ),
        (&Method::POST, ["api", "v1", "clinics", id, "communication", "test-whatsapp"]) => (
            "/api/v1/clinics/{clinicId}/communication/test-whatsapp",
            test(deps, &request, id, Channel::Whatsapp).await,
        ),
        _ => (
            "unknown",
            Err(HttpProblem::not_found("There is no such route.")),
        ),
    };
    answer(&method, route, started, result)
}

/// What is to be tested.
struct TestRequest {
    /// Where a test message goes; nowhere when the stages are only to be verified.
    to: Option<Target>,
    /// The template of a `WhatsApp` test message.
    template: Option<Template>,
    provider: Option<ProviderKind>,
    candidate: Option<Value>,
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
    let test = read_request(json_body(request.body())?, channel)?;
    let settings = settings_to_test(deps, &tenant, test.candidate).await?;
    let settings = settings.channel(channel).ok_or_else(|| {
        HttpProblem::not_found("There are no settings for this channel to be tested.")
    })?;
    let message = test.to.map(|to| test_message(to, test.template));
    // All at once: an entry that hangs leaves the others their time.
    let tests = chain_spec(settings)
        .entries
        .into_iter()
        .filter(|entry| {
            test.provider
                .is_none_or(|only| only == entry.settings.kind())
        })
        .map(|entry| test_entry(deps, entry, message.as_ref(), deadline));
    let reports = join_all(tests).await;
    if reports.is_empty() {
        return Err(HttpProblem::not_found(
            "No enabled entry of this channel has this provider; enable one, or leave provider out.",
        ));
    }
    let ok = reports.iter().all(|report| report["ok"] == true);
    info!(clinic_id = %tenant, %channel, entries = reports.len(), ok, "settings tested");
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
                let to = object.optional("testEmail", read::parsed(EmailAddress::parse));
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
            ProviderKind::parse(&read::string(value)?)
                .filter(|kind| kind.channel() == channel)
                .ok_or_else(|| format!("must be the name of a provider of the {channel} channel"))
        });
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
            provider,
            candidate,
        }
    });
    problems
        .or(test)
        .map_err(|problems| HttpProblem::invalid(&problems))
}

/// The candidate, or the saved settings where none is given. A candidate may leave out a secret that
/// is saved, under the same rules as when it is saved.
async fn settings_to_test(
    deps: &Deps,
    tenant: &Tenant,
    candidate: Option<Value>,
) -> Result<CommunicationSettings, HttpProblem> {
    let stored = deps
        .store
        .load(tenant)
        .await
        .map_err(|error| store_problem(&error))?;
    let stored = stored.map(|stored| stored.settings);
    let Some(candidate) = candidate else {
        return stored.ok_or_else(|| HttpProblem::not_found("This clinic has no settings."));
    };
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(
        candidate,
        "/settings/communicationSettings",
        tenant,
        stored.as_ref(),
        &mut problems,
    );
    problems
        .or(settings)
        .map_err(|problems| HttpProblem::invalid(&problems))
}

async fn test_entry(
    deps: &Deps,
    entry: EntrySpec,
    message: Option<&TestMessage>,
    deadline: Deadline,
) -> Value {
    let kind = entry.settings.kind();
    let (id, position) = (entry.id, entry.position);
    let mut stages = match deps.factory.provider(entry.settings) {
        Ok(provider) => {
            let mut stages = provider.verify(deadline).await;
            let verified = stages
                .iter()
                .all(|stage| stage.outcome == StageOutcome::Passed);
            if let Some(message) = message.filter(|_| verified) {
                let started = Instant::now();
                let outcome = match provider.send(&message.for_one_entry(), deadline).await {
                    Ok(_) => StageOutcome::Passed,
                    Err(error) => StageOutcome::from(&error),
                };
                let stage = VerifyStage::Send;
                stages.push(StageReport {
                    stage,
                    outcome,
                    duration: started.elapsed(),
                });
            }
            stages
        }
        Err(_) => vec![StageReport {
            stage: VerifyStage::Tls,
            outcome: StageOutcome::Failed {
                kind: comms_core::ErrorKind::Unauthenticated,
                code: None,
                detail: "caPem holds no certificate that can be a trust root.",
            },
            duration: std::time::Duration::ZERO,
        }],
    };
    let ok = stages
        .iter()
        .all(|stage| stage.outcome == StageOutcome::Passed);
    let stages: Vec<_> = stages.drain(..).map(|stage| stage_json(&stage)).collect();
    json!({"entry": id, "position": position, "provider": kind, "ok": ok, "stages": stages})
}

fn stage_json(report: &StageReport) -> Value {
    let duration = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX);
    let mut json = json!({"stage": report.stage, "durationMs": duration});
    match &report.outcome {
        StageOutcome::Passed => json["outcome"] = json!("passed"),
        StageOutcome::Failed { kind, code, detail } => {
            json["outcome"] = json!("failed");
            json["kind"] = json!(kind);
            json["detail"] = json!(detail);
            if let Some(code) = code {
                json["code"] = json!(code);
            }
        }
    }
    json
}

/// What is sent through each entry, each time as a delivery of its own.
struct TestMessage {
    to: Target,
    content: Arc<Content>,
}

impl TestMessage {
    fn for_one_entry(&self) -> Message {
        Message {
            delivery: DeliveryId::of_uuid(Uuid::new_v4()),
            target: self.to.clone(),
            content: self.content.clone(),
            reply_to: None,
        }
    }
}

fn test_message(to: Target, template: Option<Template>) -> TestMessage {
    let content = Content {
        title: Some("[TEST] clinic-comms settings".to_owned()),
        body: Some(
            "This is a test message. It was sent because somebody with access to the clinic's \
             communication settings tested them. The settings work. No answer is needed."
                .to_owned(),
        ),
        html: Some(
            "<p><strong>This is a test message.</strong></p><p>It was sent because somebody with \
             access to the clinic's communication settings tested them. The settings work. No \
             answer is needed.</p>"
                .to_owned(),
        ),
        template,
        ..Content::default()
    };
    TestMessage {
        to,
        content: Arc::new(content),
    }
}

fn store_problem(error: &StoreError) -> HttpProblem {
    if error.is_worth_a_retry() {
        warn!(%error, "the settings store can not be reached");
        HttpProblem::unavailable()
    } else {
        error!(%error, "the settings can not be used");
        HttpProblem::internal()
    }
}
