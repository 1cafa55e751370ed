//! Further transactions for copies that the server had no room for in the first (RFC 5321 section 4.5.3.1.10).
//!
//! The message is accepted by then, and stays so whatever becomes of them. Every transaction names only those that no
//! transaction before it was accepted for, so that nobody gets a second copy.

use comms_core::{ProviderCode, RefusedCopy};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    failure::{Cause, Failure, Stage},
    server_capabilities::ServerCapabilities,
    submission::{CopyReceiver, Submission},
    timeouts::command_time,
    transaction::{Start, send_transaction},
    wire::Wire,
};
use crate::deadline::{Deadline, MIN_ATTEMPT_DURATION};

/// Further transactions of one message at most: a server that takes five recipients in each is served.
const MAX_FURTHER_TRANSACTIONS: u32 = 10;

/// What became of the connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Further {
    /// How many transactions there were.
    pub(super) transactions: u32,
    /// Whether the last one was refused, and may be open still.
    pub(super) was_refused: bool,
    /// Whether the connection is of no use any more.
    pub(super) is_over: bool,
}

/// Hands `submission` over to those of its copies that are `refused` for want of room, as long as the server takes some of
/// them. What is left in `refused` was accepted for by no transaction, or is marked as unknown.
pub(super) async fn send_rest<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    capabilities: &ServerCapabilities,
    submission: &Submission<'_>,
    refused: &mut Vec<RefusedCopy>,
    deadline: Deadline,
) -> Further {
    let mut further = Further::default();
    let mut rest = without_room(&submission.copies, refused);
    while let Some((first, others)) = rest.split_first() {
        let has_time = deadline.remaining() >= MIN_ATTEMPT_DURATION;
        if further.transactions == MAX_FURTHER_TRANSACTIONS || !has_time || !wire.is_in_step() {
            break;
        }
        let next = Submission {
            sender: submission.sender,
            recipient: first.address,
            copies: others.to_vec(),
            body: submission.body,
            smtputf8: submission.smtputf8,
            refused: Vec::new(),
        };
        let start = Start {
            first_reply: command_time(deadline),
            after_refusal: std::mem::take(&mut further.was_refused),
        };
        further.transactions += 1;
        match send_transaction(wire, capabilities, &next, start, deadline).await {
            Ok(again) => {
                refused.retain(|copy| !rest.iter().any(|one| one.is(copy)));
                let left = without_room(&rest, &again);
                refused.extend(again);
                rest = left;
            }
            Err(Failure {
                stage,
                cause: Cause::Reply(reply),
            }) if reply.is_refusal() && wire.is_in_step() => {
                further.was_refused = true;
                let code = reply.provider_code();
                if stage != Stage::Rcpt || is_want_of_room(code.as_ref()) {
                    break;
                }
                // The first of them alone; the others were not asked for in earnest.
                refused.retain(|copy| !first.is(copy));
                refused.push(first.refused(code));
                rest = others.to_vec();
            }
            Err(failure) => {
                if is_doubtful(failure) {
                    for copy in refused.iter_mut() {
                        if rest.iter().any(|one| one.is(copy)) {
                            copy.code = None;
                            copy.is_unknown = true;
                        }
                    }
                }
                further.is_over = true;
                break;
            }
        }
    }
    further
}

/// Whether there was no room for some of `copies`.
pub(super) fn is_without_room(copies: &[CopyReceiver<'_>], refused: &[RefusedCopy]) -> bool {
    !refused.is_empty() && !without_room(copies, refused).is_empty()
}

/// Those of `copies` that `refused` names for want of room.
fn without_room<'a>(copies: &[CopyReceiver<'a>], refused: &[RefusedCopy]) -> Vec<CopyReceiver<'a>> {
    let has_none = |copy: &&CopyReceiver<'a>| {
        let mut refusals = refused.iter().filter(|refusal| copy.is(refusal));
        refusals.any(|refusal| is_want_of_room(refusal.code.as_ref()))
    };
    copies.iter().filter(has_none).copied().collect()
}

/// Whether a recipient was refused because there were too many: X.5.3 (RFC 3463), or 452 without an enhanced code (RFC 5321
/// section 4.5.3.1.10).
fn is_want_of_room(code: Option<&ProviderCode>) -> bool {
    code.is_some_and(|code| {
        let code = code.as_str();
        code == "452" || code.ends_with(" 4.5.3") || code.ends_with(" 5.5.3")
    })
}

/// Whether the server may have accepted the message although it did not say so.
fn is_doubtful(failure: Failure) -> bool {
    let is_refused = matches!(failure.cause, Cause::Reply(reply) if reply.is_refusal());
    failure.stage == Stage::Body && !is_refused
}
