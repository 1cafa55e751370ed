//! The connections that one message goes over: an idle one, a new one, or one of the others where the server refuses more.

use std::time::Duration;

use comms_core::{AfterRetries, ProviderError, Receipt};

use super::{
    SmtpProvider,
    classify::classify,
    failure::Failure,
    lease::Lease,
    pool::{CheckedOut, Rest, SUSPICIOUS_REST},
    slots::{Permit, Slot},
    submission::Draft,
    timeouts::command_time,
};
use crate::{deadline::Deadline, net::sockets::Retirement};

/// The longest that is waited for the first reply on such a connection. A new one costs less than a second.
const SUSPICIOUS_TIMEOUT: Duration = Duration::from_secs(4);
/// What must be left of the deadline for a new connection and a message on it.
const RETRY_TIME_LEAST: Duration = Duration::from_secs(4);
/// How often one message is refused a new connection beside others before that is its error.
const MAX_REFUSALS: u32 = 3;

impl SmtpProvider {
    /// Sends over a connection that was kept, if one is still good, else over a new one. A connection
    /// that turns out to be dead before the message's end was said, or one that the server refuses
    /// beside our others, does not cost the message.
    pub(super) async fn deliver(
        &self,
        mut draft: Draft<'_>,
        mut slot: Slot<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        let mut refusals = 0;
        let checked_out = self.pool.check_out(&slot, deadline).await;
        let mut next = checked_out.map_err(classify)?;
        loop {
            let (lease, rest) = match next {
                CheckedOut::Idle(idle) => (idle.lease, Some(idle.rest)),
                CheckedOut::New(room) => match self.open(deadline).await {
                    Ok(connection) => {
                        self.limit.note_opened();
                        (self.pool.opened(connection, room), None)
                    }
                    Err(failure) => {
                        refusals += 1;
                        let others =
                            self.one_of_the_others(failure, refusals, room, slot, deadline);
                        (slot, next) = others.await?;
                        continue;
                    }
                },
            };
            let submission = match draft.for_server(lease.connection.capabilities()) {
                Ok(submission) => submission,
                Err(error) => {
                    self.pool.put_back(lease);
                    return Err(error);
                }
            };
            let Lease { connection, held } = lease;
            let carried = connection.messages();
            let sent = connection
                .send(&submission, first_reply_time(rest, deadline), deadline)
                .await;
            match (sent.result, sent.connection, rest) {
                (Ok(refused_copies), connection, _) => {
                    match connection {
                        Ok(connection) => self.pool.put_back(Lease { connection, held }),
                        Err(Some(cause)) => {
                            self.pool.ended_behind_message(held, carried + 1, cause);
                        }
                        Err(None) => {}
                    }
                    return Ok(Receipt {
                        refused_copies,
                        message_id: draft.into_message_id(),
                    });
                }
                (Err(failure), _, Some(rest)) if is_worth_another(failure, deadline) => {
                    next = CheckedOut::New(self.pool.replace(held, carried, rest, failure));
                }
                // Too late for another: it is our connection that was dead, and not the server.
                (Err(failure), _, Some(rest)) if failure.is_stale_connection() => {
                    drop(self.pool.replace(held, carried, rest, failure));
                    return Err(classify(failure.without_another()).health_unchanged());
                }
                (Err(failure), connection, None) if failure.is_one_too_many() => {
                    refusals += 1;
                    drop(connection);
                    let room = held.vacate(Retirement::Dropped);
                    let others = self.one_of_the_others(failure, refusals, room, slot, deadline);
                    (slot, next) = others.await?;
                }
                (Err(failure), connection, _) => {
                    if let Ok(connection) = connection {
                        self.pool.put_back(Lease { connection, held });
                    }
                    return Err(classify(failure));
                }
            }
        }
    }

    /// What a message goes over whose new connection was refused: where that was beside others of ours, one
    /// of those when it is free. The slot is given back meanwhile; there are fewer of them now.
    async fn one_of_the_others<'a>(
        &'a self,
        failure: Failure,
        refusals: u32,
        refused: Permit,
        slot: Slot<'a>,
        deadline: Deadline,
    ) -> Result<(Slot<'a>, CheckedOut), ProviderError> {
        let is_one_too_many = failure.is_one_too_many();
        let there_are_others = is_one_too_many && self.pool.learn_one_too_many(refused);
        let may_be_for_number = is_one_too_many && self.limit.note_refused();
        drop(slot);
        if there_are_others || may_be_for_number {
            self.sockets
                .count(|statistics| statistics.one_too_many += 1);
        }
        if !there_are_others && may_be_for_number {
            return Err(classify(failure)
                .health_unchanged()
                .after_retries(AfterRetries::WhenConnectionFree));
        }
        if !there_are_others || refusals > MAX_REFUSALS {
            return Err(classify(failure));
        }
        let slot = self.slot(deadline).await?;
        let next = self.pool.check_out(&slot, deadline).await;
        Ok((slot, next.map_err(classify)?))
    }

    /// The right to use one connection. There is none where other processes have all that the login may have.
    pub(super) async fn slot(&self, deadline: Deadline) -> Result<Slot<'_>, ProviderError> {
        self.pool.slot(deadline).await.map_err(|failure| {
            let error = classify(failure);
            if self.pool.slots().is_revoked() {
                error.after_retries(AfterRetries::WhenConnectionFree)
            } else {
                error
            }
        })
    }
}

/// How long the first reply on a connection is waited for that has been idle for so long, or is new. A kept one leaves time
/// for another.
pub(super) fn first_reply_time(rest: Option<Rest>, deadline: Deadline) -> Duration {
    match rest {
        Some(rest) if rest.time >= SUSPICIOUS_REST => SUSPICIOUS_TIMEOUT,
        Some(_) if deadline.allows_slow_stages() => deadline.remaining() / 2,
        Some(_) | None => command_time(deadline),
    }
}

/// Whether a message is to be tried once more over a new connection, since the kept one was dead.
fn is_worth_another(failure: Failure, deadline: Deadline) -> bool {
    failure.is_stale_connection() && deadline.remaining() >= RETRY_TIME_LEAST
}
