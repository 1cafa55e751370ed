//! What a test scripts: stages of a conversation, and what happens there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::record::ReceivedMessage;
use super::stage::Stage;

/// Where the server's encryption begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never: the server offers no TLS.
    None,
    /// After STARTTLS, as on ports 25 and 587.
    StartTls,
    /// With the first byte, as on port 465.
    Implicit,
}

/// What the server does at a [`Stage`] in place of its ordinary reply.
///
/// After a reply of one's own the conversation goes on as its first digit says (RFC 5321, section 4.2.1): `250` to MAIL
/// opens a transaction, `550` does not; `252` to the body accepts the message as `250` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This reply instead; several lines are separated by `\n` and sent with CRLF.
    Reply(String),
    /// This reply, then an orderly end of the connection.
    ReplyThenClose(String),
    /// No reply: the connection ends (FIN, and no TLS `close_notify`), as if the server's process had died.
    Close,
    /// No reply: the connection is reset (RST).
    Reset,
    /// No reply, ever; the connection stays open until the client or the server goes away.
    Hang,
    /// At [`Stage::Body`]: the message is accepted, but the connection ends before the reply. Elsewhere as `Close`.
    AcceptThenClose,
    /// The ordinary reply with these bytes behind it in the same write. At [`Stage::StartTls`] this is the
    /// response injection that a client must not carry over into the encrypted session.
    Inject(Vec<u8>),
    /// The ordinary reply, but every byte in a segment of its own.
    Trickle,
}

impl Action {
    /// [`Action::Reply`] from anything that is text.
    pub fn reply(text: impl Into<String>) -> Self {
        Self::Reply(text.into())
    }

    /// [`Action::ReplyThenClose`] from anything that is text.
    pub fn reply_then_close(text: impl Into<String>) -> Self {
        Self::ReplyThenClose(text.into())
    }
}

/// A stage that was reached, for [`SmtpServer::act_with`].
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// The connection, counted from 1.
    pub connection: u64,
    /// The stage.
    pub stage: Stage,
    /// Who asked to be logged in last, whatever became of it.
    pub user: Option<&'a str>,
    /// The recipient, at [`Stage::Rcpt`].
    pub recipient: Option<&'a str>,
    /// The message, at [`Stage::Body`]: what becomes of it is not settled yet.
    pub message: Option<&'a ReceivedMessage>,
}

type Responder = Arc<dyn Fn(Reached<'_>) -> Option<Action> + Send + Sync>;

/// What is called with every accepted message, before its `250` is sent.
pub type OnMessage = Arc<dyn Fn(&ReceivedMessage) + Send + Sync>;

/// The faults that are still to come.
#[derive(Default)]
pub(super) struct Script {
    pub(super) once: HashMap<Stage, VecDeque<Action>>,
    pub(super) always: HashMap<Stage, Action>,
    pub(super) recipients: HashMap<String, Action>,
    pub(super) users: HashMap<(String, Stage), Action>,
    pub(super) responder: Option<Responder>,
}

impl Script {
    pub(super) fn next(&mut self, reached: Reached<'_>) -> Option<Action> {
        let Reached {
            stage,
            user,
            recipient,
            ..
        } = reached;
        if let Some(action) =
            recipient.and_then(|address| self.recipients.get(&address.to_ascii_lowercase()))
        {
            return Some(action.clone());
        }
        if let Some(action) = user.and_then(|user| self.users.get(&(user.to_owned(), stage))) {
            return Some(action.clone());
        }
        self.once
            .get_mut(&stage)
            .and_then(VecDeque::pop_front)
            .or_else(|| self.always.get(&stage).cloned())
    }
}
