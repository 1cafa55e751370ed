//! Stages of a conversation.

/// A point of the conversation that a script can change.
///
/// A stage is reached when the client's command is well-formed, in order and permitted; what is out of order is
/// answered by the protocol and uses no action up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The connection was accepted; nothing was sent yet, not even TLS.
    Connect,
    /// The `220` greeting.
    Greeting,
    /// EHLO or HELO, except after STARTTLS.
    Ehlo,
    /// The STARTTLS command.
    StartTls,
    /// The TLS handshake, of either mode.
    Tls,
    /// EHLO or HELO after STARTTLS.
    EhloAfterTls,
    /// The outcome of an AUTH exchange.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// The DATA command.
    Data,
    /// The message was received up to its final dot.
    Body,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}
