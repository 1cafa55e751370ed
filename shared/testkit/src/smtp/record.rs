//! What the server saw: messages and events.

use super::stage::Stage;

/// A message that the server accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The envelope's sender, without angle brackets; empty for the null sender.
    pub mail_from: String,
    /// The recipients that were accepted, in order.
    pub rcpt_to: Vec<String>,
    /// The parameters of MAIL FROM as they came, such as `BODY=8BITMIME`.
    pub mail_params: Vec<String>,
    /// The message: dots unstuffed, line endings as they came, without the final dot.
    pub data: Vec<u8>,
    /// The user name of a successful AUTH.
    pub authenticated_as: Option<String>,
    /// Whether the message came over TLS.
    pub over_tls: bool,
    /// The connection it came on, counted from 1.
    pub connection: u64,
}

impl ReceivedMessage {
    /// The message as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// Something that happened at the server, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted.
    Connected {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// A stage was reached and its reply is about to be sent (or withheld).
    Reached {
        /// The connection, counted from 1.
        connection: u64,
        /// The stage.
        stage: Stage,
    },
    /// The TLS handshake succeeded.
    Secured {
        /// The connection, counted from 1.
        connection: u64,
        /// Whether the client resumed a session of before.
        is_resumed: bool,
    },
    /// The TLS handshake failed: the client refused the certificate, or did not speak TLS.
    HandshakeFailed {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// A message was accepted.
    Accepted {
        /// The connection, counted from 1.
        connection: u64,
    },
    /// The connection is over.
    Closed {
        /// The connection, counted from 1.
        connection: u64,
    },
}
