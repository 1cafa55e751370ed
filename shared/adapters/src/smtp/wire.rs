//! Commands out, replies in, over any stream, and the count of replies that are still owed.
//!
//! Out of step means that a reply would be taken for the answer to something else; a message would
//! pass for sent on the wrong 250. Therefore replies are counted, and before anything is written the
//! server must have said all that it was asked for, and nothing more.

use std::{io, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use super::{
    failure::Cause,
    reply::{MOST, Reply, parse_reply},
};
use crate::net::metered::{Budget, BudgetExceeded};

/// Bytes that are read at a time at most.
pub(super) const READ: usize = 2_048;
/// The end of a message that is handed over last, its final dot included: a TLS record's worth
/// (RFC 8446 section 5.1), so that all but large messages go out in one write.
const TAIL: usize = 16_384;
/// Bytes on the wire for one reply, with all that TLS puts around it.
const MAX_REPLY_WIRE_BYTES: usize = 65_536;

/// One side of a conversation.
pub(super) struct Wire<S> {
    stream: S,
    /// What the server may send, where the stream is a socket.
    budget: Budget,
    /// What was received and not read as a reply yet.
    input: Vec<u8>,
    /// Replies that are still to come.
    owed: usize,
    /// Whether the end of a message has been handed over, so that the server may have it whole.
    message_ended: bool,
    /// The longest that a reply was waited for since the transaction was begun.
    slowest_reply: Duration,
    /// The same of the transaction before, or of what opened the connection.
    slowest_reply_before: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A conversation in which the server has `owed` replies to give before anything is asked: its
    /// greeting, or none.
    #[cfg(any(test, fuzzing))]
    pub(super) fn new(stream: S, owed: usize) -> Self {
        Self::metered(stream, owed, Budget::default())
    }

    /// The same over a socket with this budget.
    pub(super) fn metered(stream: S, owed: usize, budget: Budget) -> Self {
        budget.allow(MAX_REPLY_WIRE_BYTES);
        Self {
            stream,
            budget,
            input: Vec::new(),
            owed,
            message_ended: false,
            slowest_reply: Duration::ZERO,
            slowest_reply_before: Duration::ZERO,
        }
    }

    pub(super) const fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, unless more was received than the replies; that is never carried over. Whether the
    /// server has closed it is found by who uses it.
    pub(super) fn into_stream(mut self) -> Result<S, Cause> {
        match self.unasked() {
            None | Some(Cause::Closed) if self.owed == 0 => Ok(self.stream),
            None | Some(_) => Err(Cause::Malformed),
        }
    }

    /// Whether the server has said all that it was asked for, and nothing more.
    pub(super) fn is_in_step(&mut self) -> bool {
        self.out_of_step().is_none()
    }

    /// What the server said or did beyond what it was asked for, as far as it has arrived, or what it
    /// still owes.
    pub(super) fn out_of_step(&mut self) -> Option<Cause> {
        let owes = (self.owed != 0).then_some(Cause::Malformed);
        self.unasked().or(owes)
    }

    /// Gives the conversation up: it is not in step any more, whatever is read.
    pub(super) const fn spoil(&mut self) {
        self.owed = usize::MAX;
    }

    /// Writes `commands`, which get `replies` replies.
    pub(super) async fn write(&mut self, commands: &[u8], replies: usize) -> Result<(), Cause> {
        self.begin(replies)?;
        self.write_all(commands).await
    }

    /// Sends one command and reads the reply to it.
    pub(super) async fn command(&mut self, line: &[u8]) -> Result<Reply, Cause> {
        self.write(line, 1).await?;
        self.reply().await
    }

    /// Writes a message with its final dot, all in one unless it is large. Where this fails, or is
    /// dropped, [`Wire::message_ended`] says whether the server may have the whole of it.
    pub(super) async fn write_message(&mut self, message: &[u8]) -> Result<(), Cause> {
        self.message_ended = false;
        self.begin(1)?;
        let (head, tail) = message.split_at(message.len().saturating_sub(TAIL));
        if !head.is_empty() {
            self.write_all(head).await?;
            // What came before the end is no answer to the message, which nobody has had whole yet.
            if let Some(cause) = self.early_reply() {
                return Err(cause);
            }
        }
        self.message_ended = true;
        self.write_all(tail).await
    }

    /// Bytes that it holds of what was received.
    #[cfg(any(test, fuzzing))]
    pub(super) fn buffered(&self) -> usize {
        self.input.capacity()
    }

    /// Whether the last message's end has been handed over.
    pub(super) const fn message_ended(&self) -> bool {
        self.message_ended
    }

    /// The longest that a reply was waited for since [`Wire::begin_transaction`].
    pub(super) const fn slowest_reply(&self) -> Duration {
        self.slowest_reply
    }

    /// The longest that a reply was waited for in the transaction before, or, in the first one, while the connection was
    /// opened.
    pub(super) const fn slowest_reply_before(&self) -> Duration {
        self.slowest_reply_before
    }

    pub(super) const fn begin_transaction(&mut self) {
        self.slowest_reply_before = self.slowest_reply;
        self.slowest_reply = Duration::ZERO;
    }

    /// The next reply.
    pub(super) async fn reply(&mut self) -> Result<Reply, Cause> {
        let (length, reply) = self.next_reply().await?;
        self.input.drain(..length);
        Ok(reply)
    }

    /// The next reply, with its bytes.
    pub(super) async fn reply_with_lines(&mut self) -> Result<(Vec<u8>, Reply), Cause> {
        let (length, reply) = self.next_reply().await?;
        Ok((self.input.drain(..length).collect(), reply))
    }

    /// The next reply, which is not owed any more, and how many bytes of the input it has.
    async fn next_reply(&mut self) -> Result<(usize, Reply), Cause> {
        let since = Instant::now();
        loop {
            if let Some(parsed) = parse_reply(&self.input) {
                let (length, reply) = parsed?;
                if length > MOST {
                    return Err(Cause::Malformed);
                }
                self.slowest_reply = self.slowest_reply.max(since.elapsed());
                self.owed = self.owed.saturating_sub(1);
                return Ok((length, reply));
            }
            if self.input.len() > MOST {
                return Err(Cause::Malformed);
            }
            match self.receive().await {
                Err(error) if BudgetExceeded::is_in(&error) => return Err(Cause::Malformed),
                Ok(0) | Err(_) => return Err(Cause::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Reads some of what there is, but never more than a byte beyond [`MOST`]: that tells enough of a
    /// reply that is too long, and what a reply is does not depend on the pieces in which it arrives.
    async fn receive(&mut self) -> io::Result<usize> {
        let room = (MOST + 1).saturating_sub(self.input.len()).min(READ);
        self.input.reserve_exact(room);
        let mut stream = (&mut self.stream).take(room as u64);
        stream.read_buf(&mut self.input).await
    }

    /// Notes that something is asked. Until then the server must have kept silent.
    fn begin(&mut self, replies: usize) -> Result<(), Cause> {
        if let Some(cause) = self.out_of_step() {
            return Err(cause);
        }
        self.owed = replies;
        self.budget
            .allow(MAX_REPLY_WIRE_BYTES.saturating_mul(replies));
        Ok(())
    }

    /// What the server said to the beginning of a message: that it will have none of it, or what makes
    /// no sense.
    fn early_reply(&mut self) -> Option<Cause> {
        let cause = self.unasked()?;
        match parse_reply(&self.input) {
            Some(Ok((_, reply))) if reply.is_refusal() => Some(Cause::Reply(reply)),
            Some(_) | None => Some(cause),
        }
    }

    /// What the server said or did without being asked, as far as it has arrived.
    fn unasked(&mut self) -> Option<Cause> {
        if self.input.is_empty() {
            // Unconstrained, since tokio makes a task that has done much wait where there is something to
            // read: here that would pass for silence.
            // For the same reason without the pauses of the socket.
            let budget = self.budget.clone();
            let unpaced = budget.unpaced();
            let arrived = tokio::task::unconstrained(self.receive()).now_or_never();
            drop(unpaced);
            match arrived {
                None => return None,
                Some(Ok(0) | Err(_)) => return Some(Cause::Closed),
                Some(Ok(_)) => {}
            }
        }
        // RFC 5321 section 3.8: a server may say 421 at any time, and close.
        match parse_reply(&self.input) {
            Some(Ok((_, reply))) if reply.code == 421 => Some(Cause::Reply(reply)),
            Some(_) | None => Some(Cause::Malformed),
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|_| Cause::Closed)
    }
}
