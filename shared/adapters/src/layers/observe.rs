//! The record of every attempt: for the ledger, as a line of the log, and as a metric.

use std::time::Duration;

use comms_core::{Attempt, AttemptOutcome, ErrorKind, ProviderError, Receipt, metric::METRICS};
use tokio::time::Instant;
use tracing::{info, warn};

use super::SendOnce;
use crate::{chain::ChainEntry, deadline::Deadline, message::Message};

/// Sends through an entry's provider, and records each attempt in `attempts`.
pub(crate) struct Observe<'a> {
    pub(crate) entry: &'a ChainEntry,
    pub(crate) attempts: &'a mut Vec<Attempt>,
    /// Whether an earlier attempt may have been accepted.
    pub(crate) is_possible_duplicate: bool,
    /// Whether the message lost its Reply-To, which was not verified for the platform's account.
    pub(crate) is_reply_to_dropped: bool,
}

impl SendOnce for Observe<'_> {
    async fn send_once(
        &mut self,
        message: &Message,
        deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        let entry = self.entry;
        let (at, started) = (entry.health.now_in_milliseconds(), Instant::now());
        let result = entry.provider.send(message, deadline).await;
        let duration = started.elapsed();
        log_attempt(entry, message, &result, duration);
        self.attempts.push(Attempt {
            provider: entry.provider.kind(),
            entry: entry.id.clone(),
            position: entry.position,
            outcome: match &result {
                Ok(receipt) => AttemptOutcome::Accepted {
                    refused_copies: receipt.refused_copies.clone(),
                },
                Err(error) => AttemptOutcome::from(error),
            },
            at: Some(at),
            duration,
            possible_duplicate: self.is_possible_duplicate,
            reply_to_dropped: self.is_reply_to_dropped,
        });
        result
    }
}

fn log_attempt(
    entry: &ChainEntry,
    message: &Message,
    result: &Result<Receipt, ProviderError>,
    duration: Duration,
) {
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(receipt) => info!(
            delivery_id = %message.delivery, provider = %entry.provider.kind(),
            position = %entry.position, duration_ms,
            refused_copies = receipt.refused_copies.len(), "attempt accepted"
        ),
        Err(error) => {
            let provider = entry.provider.kind();
            warn!(
                delivery_id = %message.delivery, %provider,
                position = %entry.position, disposition = error.disposition.as_str(),
                kind = error.kind.as_str(), code = error.code.as_ref().map(tracing::field::display),
                duration_ms, detail = error.detail, "attempt failed"
            );
            info!(
                target: METRICS,
                attempts_failed = 1_u64,
                logins_refused = (error.kind == ErrorKind::Unauthenticated).then_some(1_u64),
                channel = message.target.channel().as_str(),
                %provider,
                kind = error.kind.as_str(),
            );
        }
    }
}
