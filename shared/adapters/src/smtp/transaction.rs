//! One message: MAIL, RCPT for the recipient and every copy, DATA, the message (RFC 5321 section 3.3).
//!
//! Where the server offers PIPELINING (RFC 2920), the commands go out in one write: with DATA among
//! them for a single recipient, without it where there are copies, since DATA after a refused
//! recipient and an accepted copy would begin a message that must not be sent.

use std::time::Duration;

use comms_core::RefusedCopy;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    commands::{RSET, push_mail, push_rcpt, read_reply, send_command},
    failure::{Cause, Failure, Stage, succeeded},
    reply::Reply,
    server_capabilities::ServerCapabilities,
    submission::Submission,
    timeouts::{QUIT_TIMEOUT, command_time, within},
    wire::Wire,
};
use crate::{
    deadline::{Deadline, Elapsed},
    net::sockets::MIN_MESSAGE_DURATION,
};

/// The longest that the message and the reply to it may take.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest that all commands up to the message may take while a caller waits for the outcome. A queued message has
/// no such limit: each recipient has the time of its own command (RFC 5321 section 4.5.3.2.3).
const ENVELOPE_TIMEOUT: Duration = Duration::from_secs(12);
/// The most that is kept for the reply to the message where a command was slow. One command alone may be far slower than the
/// message is: a recipient that the server asks another server about.
const MAX_SLOW_REPLY_DURATION: Duration = Duration::from_secs(5);
/// Bytes that hold the commands of almost every message to one recipient.
const COMMANDS: usize = 256;

/// How a message is begun on its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// How long the first reply is waited for.
    pub(super) first_reply: Duration,
    /// Whether a refused message was before it, whose transaction RSET has to close first.
    pub(super) after_refusal: bool,
}

/// Sends `submission` in one transaction. `Ok` means a 2yz reply to the message, and lists the copies that the server
/// refused. A copy that is refused for now counts as refused: the message is not sent again for a copy. Copies beyond the
/// server's limit get transactions of their own ([`send_rest`](super::further::send_rest)).
///
/// The first reply is waited for no longer than `start.first_reply`.
///
/// After an error the transaction may still be open. [`Wire::is_in_step`] is true if the connection can be used again.
pub(super) async fn send_transaction<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    capabilities: &ServerCapabilities,
    submission: &Submission<'_>,
    start: Start,
    deadline: Deadline,
) -> Result<Vec<RefusedCopy>, Failure> {
    let envelope_deadline = if deadline.is_queued() {
        deadline
    } else {
        deadline.min(Deadline::after(ENVELOPE_TIMEOUT))
    };
    wire.begin_transaction();
    let refused = if capabilities.pipelining {
        pipelined(wire, capabilities, submission, start, envelope_deadline).await?
    } else {
        one_by_one(wire, capabilities, submission, start, envelope_deadline).await?
    };
    message(wire, submission.body.as_bytes(), deadline).await?;
    Ok(refused)
}

/// Up to the reply to DATA, with a round trip for every command.
async fn one_by_one<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    capabilities: &ServerCapabilities,
    submission: &Submission<'_>,
    start: Start,
    deadline: Deadline,
) -> Result<Vec<RefusedCopy>, Failure> {
    let mut first_reply = start.first_reply;
    if start.after_refusal {
        let exchange = wire.command(RSET.as_bytes());
        let reset = within(Stage::Mail, first_reply, deadline, exchange).await?;
        was_reset(wire, reset)?;
        first_reply = command_time(deadline);
    }
    let mut command = String::with_capacity(COMMANDS);
    push_mail(&mut command, submission, capabilities);
    let exchange = wire.command(command.as_bytes());
    let mail = within(Stage::Mail, first_reply, deadline, exchange).await?;
    succeeded(mail, Stage::Mail)?;
    command.clear();
    push_rcpt(&mut command, submission.recipient);
    succeeded(
        send_command(wire, Stage::Rcpt, &command, deadline).await?,
        Stage::Rcpt,
    )?;
    let mut refused = submission.refused.clone();
    for copy in &submission.copies {
        command.clear();
        push_rcpt(&mut command, copy.address);
        let reply = send_command(wire, Stage::Rcpt, &command, deadline).await?;
        if !is_taken(reply)? {
            refused.push(copy.refused(reply.provider_code()));
        }
    }
    data(wire, deadline).await?;
    Ok(refused)
}

/// Up to the reply to DATA, in as few round trips as can be.
async fn pipelined<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    capabilities: &ServerCapabilities,
    submission: &Submission<'_>,
    start: Start,
    deadline: Deadline,
) -> Result<Vec<RefusedCopy>, Failure> {
    let with_data = submission.copies.is_empty();
    let mut group = String::with_capacity(COMMANDS);
    if start.after_refusal {
        group.push_str(RSET);
    }
    push_mail(&mut group, submission, capabilities);
    push_rcpt(&mut group, submission.recipient);
    for copy in &submission.copies {
        push_rcpt(&mut group, copy.address);
    }
    if with_data {
        enough_time(wire, deadline)?;
        group.push_str("DATA\r\n");
    }
    // 52 commands of 300 bytes at most: less than any socket's buffers, so that neither side can wait
    // for the other to read (RFC 2920 section 3.1).
    let replies =
        2 + submission.copies.len() + usize::from(start.after_refusal) + usize::from(with_data);
    let exchange = async {
        wire.write(group.as_bytes(), replies).await?;
        wire.reply().await
    };
    let first = within(Stage::Mail, start.first_reply, deadline, exchange).await?;
    let mail = if start.after_refusal {
        was_reset(wire, first)?;
        read_reply(wire, Stage::Mail, deadline).await?
    } else {
        first
    };
    if let Err(refusal) = succeeded(mail, Stage::Mail) {
        let recipients = 1 + submission.copies.len();
        drain_replies(wire, mail, recipients, with_data, deadline).await;
        return Err(refusal);
    }
    let rcpt = read_reply(wire, Stage::Rcpt, deadline).await?;
    if let Err(refusal) = succeeded(rcpt, Stage::Rcpt) {
        drain_replies(wire, rcpt, submission.copies.len(), with_data, deadline).await;
        return Err(refusal);
    }
    let mut refused = submission.refused.clone();
    for copy in &submission.copies {
        let reply = read_reply(wire, Stage::Rcpt, deadline).await?;
        if !is_taken(reply)? {
            refused.push(copy.refused(reply.provider_code()));
        }
    }
    if with_data {
        is_asked_for(read_reply(wire, Stage::Data, deadline).await?)?;
    } else {
        data(wire, deadline).await?;
    }
    Ok(refused)
}

/// Reads the remaining replies of a group of commands after one was refused, so that the connection can carry the next
/// message. Marks the connection as unusable if that fails.
async fn drain_replies<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    refusal: Reply,
    recipients: usize,
    with_data: bool,
    deadline: Deadline,
) {
    // This only saves a connection, and is not worth more than making one.
    let deadline = deadline.min(Deadline::after(QUIT_TIMEOUT));
    let is_over = refusal.is_refusal()
        && drain_group(wire, recipients, with_data, deadline)
            .await
            .unwrap_or(false);
    if !is_over {
        wire.spoil();
    }
}

/// Reads the replies to `recipients` RCPTs and, `with_data`, to DATA. True if the server then waits for a command.
async fn drain_group<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    recipients: usize,
    with_data: bool,
    deadline: Deadline,
) -> Result<bool, Failure> {
    let mut nobody_is_taken = true;
    for _ in 0..recipients {
        let reply = read_reply(wire, Stage::Rcpt, deadline).await?;
        nobody_is_taken &= reply.is_refusal();
    }
    if !with_data {
        return Ok(true);
    }
    let reply = read_reply(wire, Stage::Data, deadline).await?;
    if reply.asks_for_more() && nobody_is_taken {
        // RFC 2920 section 3.1: a server may ask for the message although it took no recipient; a
        // message of nothing to nobody ends that, whatever it says to it.
        send_command(wire, Stage::Data, ".\r\n", deadline).await?;
        return Ok(true);
    }
    Ok(reply.is_refusal())
}

async fn data<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    deadline: Deadline,
) -> Result<(), Failure> {
    enough_time(wire, deadline)?;
    is_asked_for(send_command(wire, Stage::Data, "DATA\r\n", deadline).await?)
}

/// That the server asks for the message, which is a 3yz (RFC 5321 section 4.2.1).
fn is_asked_for(reply: Reply) -> Result<(), Failure> {
    if reply.asks_for_more() {
        Ok(())
    } else {
        Err(Failure::new(Stage::Data, Cause::Reply(reply)))
    }
}

/// That RSET, to which no refusal is known (RFC 5321 section 4.1.1.5), closed the transaction of the message before. Else
/// the connection is of no use, and the message that is begun not at fault.
fn was_reset<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    reply: Reply,
) -> Result<(), Failure> {
    if reply.is_success() {
        return Ok(());
    }
    wire.spoil();
    let cause = if reply.code == 421 {
        Cause::Reply(reply)
    } else {
        Cause::Malformed
    };
    Err(Failure::new(Stage::Mail, cause))
}

/// The message up to its final dot, and the reply to it.
async fn message<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    bytes: &[u8],
    deadline: Deadline,
) -> Result<(), Failure> {
    enough_time(wire, deadline).inspect_err(|_| wire.spoil())?;
    let deadline = deadline.min(Deadline::after(BODY_TIMEOUT));
    let cause = match deadline
        .bound(BODY_TIMEOUT, wire.write_message(bytes))
        .await
    {
        Ok(Ok(())) => {
            let mut reply = within(Stage::Body, BODY_TIMEOUT, deadline, wire.reply()).await?;
            if reply.asks_for_more() {
                // Most likely its reply to DATA once more, and that to the message is still to come. Whatever comes, what
                // the next reply belongs to would be a guess.
                wire.spoil();
                reply = within(Stage::Body, BODY_TIMEOUT, deadline, wire.reply()).await?;
            }
            return succeeded(reply, Stage::Body);
        }
        Ok(Err(cause)) => cause,
        Err(Elapsed) => Cause::TimedOut,
    };
    if wire.message_ended() {
        return Err(Failure::new(Stage::Body, cause));
    }
    // The end of the message never left, so it was not accepted. The server may have said why it closed;
    // where something else is wrong, what it says next belongs to nothing.
    let cause = if matches!(cause, Cause::Closed | Cause::TimedOut) {
        match deadline.bound(QUIT_TIMEOUT, wire.reply()).await {
            Ok(Ok(reply)) if reply.is_refusal() => Cause::Reply(reply),
            Ok(Ok(_) | Err(_)) | Err(Elapsed) => cause,
        }
    } else {
        cause
    };
    wire.spoil();
    Err(Failure::new(Stage::Data, cause))
}

/// That the message may be begun: what the deadline cuts off behind its end may have been accepted. A server that took
/// long over a command is expected to take as long over the message, up to [`MAX_SLOW_REPLY_DURATION`].
///
/// Where there is not enough time, it is the server's fault if a reply of it took longer than the least time that a message
/// is begun with. Else the time went by before it was asked, or over many commands.
fn enough_time<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &Wire<S>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let reserve = MIN_MESSAGE_DURATION.max(wire.slowest_reply().min(MAX_SLOW_REPLY_DURATION));
    if deadline.remaining() >= reserve {
        Ok(())
    } else if wire.slowest_reply_before().max(wire.slowest_reply()) > MIN_MESSAGE_DURATION {
        Err(Failure::new(Stage::Data, Cause::TooSlow))
    } else {
        Err(Failure::new(Stage::Pool, Cause::TimedOut))
    }
}

/// Whether a copy is taken. What is neither a success nor a refusal ends the conversation.
fn is_taken(reply: Reply) -> Result<bool, Failure> {
    if reply.is_success() {
        Ok(true)
    } else if reply.is_refusal() {
        Ok(false)
    } else {
        Err(Failure::new(Stage::Rcpt, Cause::Reply(reply)))
    }
}
