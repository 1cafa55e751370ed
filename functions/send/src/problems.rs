//! Errors of the queue, the pipeline and the quotas, as they are answered.

use comms_core::Problems;
use comms_delivery::{Accepted, ClinicMissing, Payer, PipelineError, QuotaError, quota::Exhausted};
use comms_runtime::HttpProblem;
use lambda_http::http::StatusCode;
use tracing::{error, warn};

use crate::{EnqueueError, queue};

/// 503 that names the recipients whose deliveries are not on the queue. The same request under the same key queues the
/// missing ones; a delivery that is queued twice is sent once.
pub(crate) fn not_queued(
    error: EnqueueError,
    accepted: &Accepted,
    unknown_key: Option<&str>,
) -> HttpProblem {
    error!(request_id = %accepted.id(), %error, "a communication could not be queued");
    let mut problems = Problems::default();
    match error {
        EnqueueError::TooLarge | EnqueueError::Unreadable => {}
        EnqueueError::Incomplete { left, .. } => {
            for recipients in left {
                problems.add(
                    format!("/recipients/{}", recipients.start),
                    format!(
                        "{} recipients from here on are not queued",
                        recipients.len()
                    ),
                );
            }
        }
    }
    let problem = HttpProblem::unavailable()
        .with_detail(
            "Not everything is queued. Send the same request again with the same idempotency key, which is \
             idempotencyKey where it had none: what is queued or sent is not sent again.",
        )
        .with_errors(&problems)
        .with_member("requestId", accepted.id().as_str());
    match unknown_key {
        Some(key) => problem.with_member("idempotencyKey", key),
        None => problem,
    }
}

pub(crate) fn too_large(error: &EnqueueError) -> HttpProblem {
    match error {
        EnqueueError::TooLarge => HttpProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The communication is too large for the queue",
            format!(
                "A communication may have {} bytes as JSON on the queue, where an immediate one goes too if it cannot be sent at \
                 once. Send fewer attachments, or use the immediate strategy for one recipient and one channel.",
                queue::MAX_PART_BYTES
            ),
        ),
        EnqueueError::Unreadable | EnqueueError::Incomplete { .. } => HttpProblem::unavailable(),
    }
}

pub(crate) fn key_conflict() -> HttpProblem {
    HttpProblem::new(
        StatusCode::CONFLICT,
        "idempotency_key_conflict",
        "The idempotency key was used for another communication",
        "Use a new key for a new communication, or send the first one unchanged.",
    )
}

pub(crate) fn quota_problem(error: QuotaError) -> HttpProblem {
    match error {
        QuotaError::Store(error) => pipeline_problem(error.into()),
        QuotaError::Table(error) => pipeline_problem(error.into()),
        QuotaError::Exhausted {
            payer,
            channel,
            exhausted: Exhausted { period, limit, .. },
            after,
        } => HttpProblem::rate_limited(
            format!(
                "Nothing was sent: {} limit of {limit} {channel} recipients in a {period} (rateLimit.{}) leaves \
                 no room for this request. Wait as long as Retry-After says, or use the queued strategy.",
                whose(payer),
                period.field()
            ),
            after,
        ),
        QuotaError::TooMany {
            payer,
            channel,
            count,
            period,
            limit,
        } => HttpProblem::invalid(&Problems::one(
            "/recipients",
            format!(
                "must make at most {limit} {channel} recipients together, copies included, not {count}: {} limit for a \
                 {period} (rateLimit.{}); send fewer at once, or use the queued strategy",
                whose(payer),
                period.field()
            ),
        )),
    }
}

const fn whose(payer: Payer) -> &'static str {
    match payer {
        Payer::Clinic => "the clinic's",
        Payer::Platform => "the platform account's",
    }
}

pub(crate) fn pipeline_problem(error: PipelineError) -> HttpProblem {
    match error {
        PipelineError::KeyConflict => key_conflict(),
        PipelineError::ClinicRequired => clinic_missing(&ClinicMissing::NoClinicId),
        PipelineError::Store(error) if error.is_worth_a_retry() => {
            warn!(%error, "the settings store cannot be reached");
            HttpProblem::unavailable()
        }
        PipelineError::Store(error) => {
            error!(%error, "the stored settings cannot be used");
            HttpProblem::unreadable_settings(StatusCode::INTERNAL_SERVER_ERROR)
        }
        PipelineError::Ledger(error) => {
            error!(%error, "the ledger cannot be used");
            HttpProblem::unavailable()
        }
    }
}

/// 422 for a request without the clinic that this deployment requires.
pub(crate) fn clinic_missing(missing: &ClinicMissing) -> HttpProblem {
    let detail = match missing {
        ClinicMissing::NoClinicId => {
            "is required: this deployment sends for clinics only; name one, or _global for the platform's own account"
                .to_owned()
        }
        ClinicMissing::NoSettings(channel) => format!(
            "must be a clinic with an enabled provider of the {channel} channel: this deployment does not send for others \
             by the platform's account"
        ),
    };
    HttpProblem::invalid(&Problems::one("/metadata/clinicId", detail))
}
