//! Commands and their replies, each within its time limit.

use comms_core::EmailAddress;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    failure::{Failure, Stage},
    reply::Reply,
    server_capabilities::ServerCapabilities,
    submission::Submission,
    timeouts::{command_time, within},
    wire::Wire,
};
use crate::deadline::Deadline;

/// Ends the open transaction, if there is one (RFC 5321 section 4.1.1.5).
pub(super) const RSET: &str = "RSET\r\n";
/// Ends the session (RFC 5321 section 4.1.1.10).
pub(super) const QUIT: &str = "QUIT\r\n";

/// Sends one command and reads the reply to it.
pub(super) async fn send_command<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    stage: Stage,
    command: &str,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    let exchange = wire.command(command.as_bytes());
    within(stage, command_time(deadline), deadline, exchange).await
}

/// Reads the reply to a command that was sent before.
pub(super) async fn read_reply<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    stage: Stage,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    within(stage, command_time(deadline), deadline, wire.reply()).await
}

/// Appends MAIL with the parameters that the message needs.
pub(super) fn push_mail(
    command: &mut String,
    submission: &Submission<'_>,
    capabilities: &ServerCapabilities,
) {
    command.push_str("MAIL FROM:<");
    command.push_str(submission.sender.as_str());
    command.push('>');
    if capabilities.size.is_some() {
        // RFC 1870 section 3.
        command.push_str(" SIZE=");
        command.push_str(&submission.body.size().to_string());
    }
    if !submission.body.is_ascii() {
        // RFC 6152 section 3; that it is offered was looked at before.
        command.push_str(" BODY=8BITMIME");
    }
    if submission.smtputf8 {
        // RFC 6531 section 3.4.
        command.push_str(" SMTPUTF8");
    }
    command.push_str("\r\n");
}

/// Appends RCPT. An [`EmailAddress`] has neither spaces, brackets nor control characters: it cannot end its command.
pub(super) fn push_rcpt(commands: &mut String, address: &EmailAddress) {
    commands.push_str("RCPT TO:<");
    commands.push_str(address.as_str());
    commands.push_str(">\r\n");
}
