//! The communication in a message, and that it is accepted.
//!
//! Numbers without a country code, of a producer that put the message on the queue by itself, are of the clinic's
//! `defaultCountry`. A message of a request that was accepted before is read by the country of that time: else a change of the
//! settings would make another communication of it, or one to another person.

use comms_core::{
    ClinicId, Country, DeadLetterReason, IdempotencyKey, Problems,
    request::{NationalNumbers, Submission},
};
use comms_delivery::{
    Accepted, CountryLookup, PipelineError, QueueClaim, QueuedMessage,
    queue_claim::{ACCEPTANCE_MAC, ACCEPTED_AS, ENDED_DELIVERIES, PAYLOAD_HASH},
};
use comms_runtime::sqs::SqsMessage;

use crate::{Deps, dead_letter::source_message_id};

/// Why a message is not accepted.
pub(crate) enum Refused {
    /// A store cannot be reached at the moment.
    Later(PipelineError),
    /// It can never be worked on.
    DeadLetter {
        /// Why.
        reason: DeadLetterReason,
        /// The wrong fields, by their JSON pointers.
        fields: String,
        /// Whose it is, where that is known.
        clinic: Option<ClinicId>,
    },
}

/// Reads the message and accepts its communication.
pub(crate) async fn accept(
    deps: &Deps,
    message: &SqsMessage,
) -> Result<(Submission, Accepted), Refused> {
    let body = &message.body;
    let unread = match Submission::parse(body) {
        Ok(submission) => return accept_read(deps, message, submission).await,
        Err(problems) => problems,
    };
    let Some(national) = NationalNumbers::of(body) else {
        return Err(unreadable(&unread));
    };
    let asked = deps.pipeline.settings_moment();
    let set = deps.pipeline.default_country(&national.tenant, asked).await;
    let set = set.map_err(|error| Refused::Later(error.into()))?;
    let refused = match Submission::parse_by(set, body, unread) {
        Ok(submission) => match accept_read(deps, message, submission).await {
            // Perhaps only because the clinic's country is another one since.
            Err(
                refused @ Refused::DeadLetter {
                    reason: DeadLetterReason::KeyConflict,
                    ..
                },
            ) => refused,
            other => return other,
        },
        Err(problems) => unreadable(&problems),
    };
    let first = first_country(deps, message, &national).await?;
    let Some(country) = first.filter(|first| Some(*first) != set) else {
        return Err(refused);
    };
    match Submission::parse_in(Some(country), body) {
        Ok(submission) => accept_read(deps, message, submission).await,
        Err(_) => Err(refused),
    }
}

/// The country by which the message's request was read when it was accepted.
async fn first_country(
    deps: &Deps,
    message: &SqsMessage,
    national: &NationalNumbers,
) -> Result<Option<Country>, Refused> {
    let Some(key) = key(message, national.key.as_ref()) else {
        return Ok(None);
    };
    let (pipeline, by) = (&deps.pipeline, CountryLookup::Write);
    let first = pipeline.first_country(&national.tenant, &key, by);
    first.await.map_err(Refused::Later)
}

/// A producer's own key, or SQS's id of the message: both survive a redelivery. One that was a dead letter has a new id, and
/// says which one it had.
fn key(message: &SqsMessage, own: Option<&IdempotencyKey>) -> Option<IdempotencyKey> {
    own.cloned()
        .or_else(|| IdempotencyKey::parse(source_message_id(message)).ok())
}

fn unreadable(problems: &Problems) -> Refused {
    Refused::DeadLetter {
        reason: DeadLetterReason::NotACommunication,
        fields: problems.known_pointers().join(" "),
        clinic: None,
    }
}

async fn accept_read(
    deps: &Deps,
    message: &SqsMessage,
    submission: Submission,
) -> Result<(Submission, Accepted), Refused> {
    let dead_letter = |reason| Refused::DeadLetter {
        reason,
        fields: String::new(),
        clinic: submission.request.requested.clinic().cloned(),
    };
    let Some(key) = key(message, submission.idempotency_key.as_ref()) else {
        return Err(dead_letter(DeadLetterReason::NoKey));
    };
    let claimed = message
        .attribute(ACCEPTED_AS)
        .zip(message.attribute(PAYLOAD_HASH));
    let queued = QueuedMessage {
        request: &submission.request,
        key: &key,
        body: &message.body,
        claim: claimed.map(|(id, payload_hash)| QueueClaim {
            id,
            payload_hash,
            mac: message.attribute(ACCEPTANCE_MAC),
            ended: message.attribute(ENDED_DELIVERIES),
        }),
        sender: message.sender_id(),
    };
    // On the heap, which has it back when the deliveries begin.
    match Box::pin(deps.pipeline.accept_queued(queued)).await {
        Ok(accepted) => Ok((submission, accepted)),
        Err(PipelineError::KeyConflict) => Err(dead_letter(DeadLetterReason::KeyConflict)),
        Err(PipelineError::ClinicRequired) => Err(Refused::DeadLetter {
            reason: DeadLetterReason::NotACommunication,
            fields: "/metadata/clinicId".to_owned(),
            clinic: None,
        }),
        Err(error @ (PipelineError::Store(_) | PipelineError::Ledger(_))) => {
            Err(Refused::Later(error))
        }
    }
}
