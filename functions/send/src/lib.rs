//! The `send` function: accepts a communication and queues it, or sends it while the caller waits.
//!
//! [`Deps::ROUTES`](HttpFunction::ROUTES) has its routes; `infra/openapi.yaml` says what each answers.

mod accept;
mod immediate;
mod key;
mod now;
mod outcome;
mod problems;
mod queue;
mod remainder;
mod submission;
mod tenant;

pub use outcome::CommunicationOutcome;
pub use queue::{EnqueueError, Queue, QueueMessages};

use comms_core::HashKey;
use comms_delivery::{Pipeline, PipelineConfig};
use comms_runtime::{
    AuditSubjects, Environment, Function,
    auth::ClaimNames,
    aws,
    http::{HttpFunction, routes::Endpoint},
};

pub use comms_runtime::http::handle;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// Accepts and delivers communications.
    pub pipeline: Pipeline,
    /// The queues.
    pub queue: Queue,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// How logs name callers.
    pub audit_subjects: AuditSubjects,
}

/// The declaration of this function.
pub const FUNCTION: Function = Function::http::<Deps>("send", 29);

impl HttpFunction for Deps {
    const ROUTES: &'static [Endpoint<Self>] =
        &[Endpoint::post("/api/v1/communications", |deps, call| {
            Box::pin(accept::post(deps, call.request))
        })];

    fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let config =
            PipelineConfig::from_variables(environment, immediate::share_limits(environment))?;
        let queue_url = environment.required("QUEUE_URL");
        let urgent_queue_url = environment.required("URGENT_QUEUE_URL");
        let claims = ClaimNames::from_environment(environment);
        let audit_subjects = environment.parsed("AUDIT_SUBJECTS");
        environment.finish()?;
        Ok(Self {
            pipeline: Pipeline::assemble(&sdk, config),
            queue: Queue::new(&sdk, queue_url, urgent_queue_url),
            claims,
            audit_subjects,
        })
    }

    fn audit_subjects(&self) -> AuditSubjects {
        self.audit_subjects
    }

    async fn log_key(&self) -> Option<&HashKey> {
        self.pipeline.key_for_logs().await
    }
}
