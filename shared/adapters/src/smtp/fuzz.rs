//! Fuzz targets of what SMTP servers say.

#![allow(
    clippy::unwrap_used,
    reason = "what is not as it should be is the target's failure"
)]

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    classify,
    failure::{Cause, Failure, Stage},
    reply::{MOST, Reply, parse_reply},
    server_capabilities::ServerCapabilities,
    submission::Draft,
    timeouts::COMMAND_TIMEOUT,
    transaction::{Start, send_transaction},
    wire::Wire,
};
use crate::{
    deadline::Deadline,
    fuzz::check::{check_error, email, mailbox},
    mime::Feedback,
};

/// A server that says what it is to say, some bytes at a time, and its next turn when it is spoken to.
struct Server<'a> {
    turns: Vec<&'a [u8]>,
    said: usize,
    chunk: usize,
    /// Whether it hangs up after its last turn, or waits.
    hangs_up: bool,
}

impl<'a> Server<'a> {
    /// A server that says all of it unasked, and hangs up.
    fn saying(bytes: &'a [u8], chunk: usize) -> Self {
        Self {
            turns: vec![bytes],
            said: 0,
            chunk,
            hangs_up: true,
        }
    }
}

impl AsyncRead for Server<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self
            .turns
            .first()
            .map(|turn| &turn[self.said..])
            .unwrap_or_default();
        let now = &rest[..rest.len().min(self.chunk).min(buffer.remaining())];
        if now.is_empty() && !(self.hangs_up && self.turns.len() <= 1) {
            return Poll::Pending;
        }
        buffer.put_slice(now);
        self.said += now.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Its turn comes with the first word; what it has not got rid of by then, it says with that.
        if !self.turns.is_empty() {
            debug_assert!(
                self.said == self.turns[0].len(),
                "spoken to while it had something to say"
            );
            self.turns.remove(0);
            self.said = 0;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Every reply up to the first that is none, with its bytes.
fn read_all(bytes: &[u8], chunk: usize) -> (Vec<(Vec<u8>, Reply)>, Cause) {
    let mut wire = Wire::new(Server::saying(bytes, chunk), usize::MAX);
    let mut replies = Vec::new();
    loop {
        let next = wire.reply_with_lines().now_or_never();
        assert!(wire.buffered() <= MOST + 1, "{} bytes", wire.buffered());
        match next.unwrap() {
            Ok((lines, reply)) => {
                assert!(lines.len() <= MOST, "a reply of {} bytes", lines.len());
                assert!((200..600).contains(&reply.code));
                replies.push((lines, reply));
            }
            Err(cause) => return (replies, cause),
        }
    }
}

/// Replies are the same in whatever pieces they arrive, and none is longer than it may be.
pub(crate) fn replies(input: &[u8]) {
    let (replies, cause) = read_all(input, usize::MAX);
    let read: usize = replies.iter().map(|(lines, _)| lines.len()).sum();
    assert!(read <= input.len());
    for chunk in [input.len() / 64 + 1, input.len() / 7 + 2, 1_000] {
        let (again, same) = read_all(input, chunk);
        assert!(
            again == replies && same == cause,
            "in pieces of {chunk}: {same:?}, not {cause:?}"
        );
    }
    for (lines, reply) in &replies {
        let (length, parsed) = parse_reply(lines).unwrap().unwrap();
        assert_eq!((length, parsed), (lines.len(), *reply));
        for stage in [
            Stage::Greeting,
            Stage::Auth,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Body,
        ] {
            check_error(classify(Failure::new(stage, Cause::Reply(*reply))));
        }
    }
}

/// What a server offers is in what it says.
pub(crate) fn offers(input: &[u8]) {
    let capabilities = ServerCapabilities::parse(input);
    let says = |word: &str| {
        let upper = input.to_ascii_uppercase();
        upper
            .windows(word.len())
            .any(|part| part == word.as_bytes())
    };
    assert!(capabilities.messages != Some(0));
    assert!(!capabilities.smtputf8 || capabilities.eight_bit_mime);
    for (offered, word) in [
        (capabilities.start_tls, "STARTTLS"),
        (capabilities.pipelining, "PIPELINING"),
        (capabilities.eight_bit_mime, "8BITMIME"),
        (capabilities.smtputf8, "SMTPUTF8"),
        (capabilities.size.is_some(), "SIZE"),
        (capabilities.messages.is_some(), "MAILMAX="),
        (capabilities.mechanisms.in_order().next().is_some(), "AUTH"),
    ] {
        assert!(!offered || says(word), "{word} was not offered");
    }
}

/// A message counts as accepted only where the server said yes to every command, in its turn and no sooner.
///
/// The first line of the input says what the server offers (`P`: PIPELINING), how many copies there are, whether a refused
/// message was before (`R`), and whether it hangs up at the end (`H`). The rest is what it says, an empty line after each of its turns.
pub(crate) fn transactions(input: &[u8]) {
    let (line, said) = input.split_at(
        input
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(input.len()),
    );
    let copies = line.split(|byte| *byte == b'C').count().min(4) - 1;
    let capabilities = ServerCapabilities {
        pipelining: line.contains(&b'P'),
        ..ServerCapabilities::default()
    };
    let said = said.strip_prefix(b"\n").unwrap_or(said);
    let mut turns: Vec<&[u8]> = vec![b""];
    let mut rest = said;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
        turns.push(&rest[..=end]);
        rest = &rest[end + 2..];
    }
    turns.push(rest);

    let start = Start {
        first_reply: COMMAND_TIMEOUT,
        after_refusal: line.contains(&b'R'),
    };
    let is_yes = says_yes(
        &turns[1..],
        capabilities.pipelining,
        start.after_refusal,
        copies,
    );
    let server = Server {
        turns,
        said: 0,
        chunk: usize::MAX,
        hangs_up: line.contains(&b'H'),
    };
    let mut wire = Wire::new(server, 0);
    let addresses = ["one@example.com", "two@example.com", "three@example.com"];
    let (message, sender) = (
        email(&addresses[..copies]),
        mailbox("sender@clinic.example"),
    );
    let mut draft = Draft::new(&message, &sender, Feedback::Named).unwrap();
    let submission = draft.for_server(&capabilities).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let sent = runtime.block_on(async {
        let deadline = Deadline::after(Duration::from_mins(1));
        send_transaction(&mut wire, &capabilities, &submission, start, deadline).await
    });
    match sent {
        Ok(refused) => {
            assert!(is_yes, "accepted what was not");
            assert!(refused.len() <= copies);
        }
        Err(failure) => {
            assert!(!is_yes, "{failure:?} where the server said yes");
            check_error(classify(failure));
        }
    }
}

/// Whether a server that says this has taken a message with so many copies: RFC 5321 section 3.3, told in another way
/// than the code tells it.
fn says_yes(turns: &[&[u8]], pipelining: bool, after_refusal: bool, copies: usize) -> bool {
    let mut turns = turns.iter();
    // The replies of one turn, if they are as many as were asked for.
    let mut hear = |count: usize, last: bool| -> Option<Vec<u16>> {
        let mut rest = *turns.next()?;
        let mut codes = Vec::new();
        for _ in 0..count {
            let (length, reply) = parse_reply(rest)?
                .ok()
                .filter(|(length, _)| *length <= MOST)?;
            codes.push(reply.code);
            rest = &rest[length..];
        }
        // After the last reply nothing is asked any more.
        (last || rest.is_empty()).then_some(codes)
    };
    let is_yes = |code: &u16| code / 100 == 2;
    let is_answer = |code: &u16| is_yes(code) || (*code >= 400 && *code != 421);
    let resets = usize::from(after_refusal);
    let mut envelope = if pipelining {
        let Some(codes) = hear(resets + 2 + copies + usize::from(copies == 0), false) else {
            return false;
        };
        codes
    } else {
        let mut codes = Vec::new();
        for _ in 0..resets + 2 + copies {
            let Some(code) = hear(1, false) else {
                return false;
            };
            codes.extend(code);
        }
        codes
    };
    if !envelope.drain(..resets).all(|code| is_yes(&code)) {
        return false;
    }
    let (to_sender_and_recipient, others) = envelope.split_at(2);
    if !to_sender_and_recipient.iter().all(is_yes) || !others.iter().take(copies).all(is_answer) {
        return false;
    }
    let data = match others.get(copies) {
        Some(code) => Some(*code),
        None => hear(1, false).and_then(|codes| codes.first().copied()),
    };
    data.is_some_and(|code| code / 100 == 3)
        && hear(1, true).is_some_and(|codes| codes.iter().all(is_yes))
}

#[cfg(test)]
mod tests {
    use super::{super::wire::READ, *};

    /// How much of a reply comes at once decides nothing, not even about one that is too long by a byte.
    #[test]
    fn a_reply_has_so_many_bytes_in_whatever_pieces_it_arrives() {
        let reply = |bytes: usize| {
            let (line, last) = ("250-x\r\n", "250 ");
            let lines = line.repeat((bytes - 100) / line.len());
            let text = "t".repeat(bytes - lines.len() - last.len() - 2);
            format!("{lines}{last}{text}\r\n").into_bytes()
        };
        for chunk in [1_000, READ, 10_000, usize::MAX] {
            let (replies, _) = read_all(&reply(MOST), chunk);
            assert_eq!(replies.len(), 1, "{chunk}");
            for bytes in [MOST + 1, MOST + 5_000] {
                let (replies, cause) = read_all(&reply(bytes), chunk);
                assert!(
                    replies.is_empty() && cause == Cause::Malformed,
                    "{bytes} in {chunk}"
                );
            }
        }
    }
}
