//! What is handed over to a server: the envelope, and the message as it follows DATA.

use comms_core::{CopyField, EmailAddress, Mailbox, ProviderCode, ProviderError, RefusedCopy};
use memchr::memchr2;

use super::{
    classify,
    failure::{Cause, Failure, Stage},
    server_capabilities::ServerCapabilities,
};
use crate::{
    message::Message,
    mime::{self, Feedback},
};

/// A message for any server; [`Draft::for_server`] makes it fit one.
pub(super) struct Draft<'a> {
    message: &'a Message,
    sender: &'a Mailbox,
    recipient: &'a Mailbox,
    message_id: String,
    feedback: Feedback,
    body: Body,
    /// The same without the copies that need SMTPUTF8 in its header, once a server wanted it so.
    ascii_body: Option<Body>,
}

/// A message for one server.
pub(super) struct Submission<'a> {
    pub(super) sender: &'a EmailAddress,
    pub(super) recipient: &'a EmailAddress,
    pub(super) copies: Vec<CopyReceiver<'a>>,
    pub(super) body: &'a Body,
    /// Whether an address is in need of it.
    pub(super) smtputf8: bool,
    /// The copies that this server cannot be asked to take.
    pub(super) refused: Vec<RefusedCopy>,
}

/// Somebody who is to get a copy.
#[derive(Clone, Copy)]
pub(super) struct CopyReceiver<'a> {
    pub(super) field: CopyField,
    pub(super) index: u8,
    pub(super) address: &'a EmailAddress,
}

impl CopyReceiver<'_> {
    pub(super) const fn refused(self, code: Option<ProviderCode>) -> RefusedCopy {
        RefusedCopy {
            field: self.field,
            index: self.index,
            code,
            is_unknown: false,
        }
    }

    /// Whether `copy` is about this one.
    pub(super) fn is(&self, copy: &RefusedCopy) -> bool {
        (self.field, self.index) == (copy.field, copy.index)
    }
}

impl<'a> Draft<'a> {
    /// Puts the message together.
    pub(super) fn new(
        message: &'a Message,
        sender: &'a Mailbox,
        feedback: Feedback,
    ) -> Result<Self, ProviderError> {
        let mail = mime::build(message, sender, feedback)?;
        Ok(Self {
            message,
            sender,
            recipient: message.mailbox()?,
            message_id: mail.message_id,
            feedback,
            body: Body::new(mail.bytes),
            ascii_body: None,
        })
    }

    pub(super) fn into_message_id(self) -> String {
        self.message_id
    }

    /// What goes to a server with this `capabilities`; an error where it cannot take the message, which is
    /// known before a word of it is said.
    ///
    /// Addresses beyond ASCII need SMTPUTF8 (RFC 6531 section 3.4). Without it a copy to one is left
    /// out, from the header too; the message itself is not sent with another recipient or sender.
    pub(super) fn for_server(
        &mut self,
        capabilities: &ServerCapabilities,
    ) -> Result<Submission<'_>, ProviderError> {
        let refuse = |stage, cause| Err(classify(Failure::new(stage, cause)));
        let content = &self.message.content;
        let copies = copies(CopyField::Cc, &content.cc).chain(copies(CopyField::Bcc, &content.bcc));
        let (foreign, plain) =
            copies.partition::<Vec<_>, _>(|copy: &CopyReceiver<'_>| copy.address.needs_smtputf8());
        let sender_is_foreign = self.sender.address.needs_smtputf8();
        let recipient_is_foreign = self.recipient.address.needs_smtputf8();
        let answers_are_foreign = self
            .message
            .reply_to
            .as_ref()
            .is_some_and(EmailAddress::needs_smtputf8);

        let mut submission = Submission {
            sender: &self.sender.address,
            recipient: &self.recipient.address,
            copies: plain,
            body: &self.body,
            smtputf8: false,
            refused: Vec::new(),
        };
        if capabilities.smtputf8 {
            submission.smtputf8 = sender_is_foreign
                || recipient_is_foreign
                || answers_are_foreign
                || !foreign.is_empty();
            submission.copies.extend(foreign);
        } else {
            if sender_is_foreign {
                return refuse(Stage::Mail, Cause::NotOffered);
            }
            if recipient_is_foreign {
                return refuse(Stage::Rcpt, Cause::NotOffered);
            }
            if answers_are_foreign {
                return refuse(Stage::Data, Cause::NotOffered);
            }
            if foreign.iter().any(|copy| copy.field == CopyField::Cc) {
                let body = if let Some(body) = self.ascii_body.take() {
                    body
                } else {
                    let named = content.cc.iter().filter(|cc| !cc.needs_smtputf8());
                    Body::new(
                        mime::build_naming(self.message, self.sender, self.feedback, named)?.bytes,
                    )
                };
                submission.body = self.ascii_body.insert(body);
            }
            submission.refused = foreign.iter().map(|copy| copy.refused(None)).collect();
        }
        if !submission.body.is_ascii() && !capabilities.eight_bit_mime {
            return refuse(Stage::Body, Cause::NotOffered);
        }
        if capabilities
            .size
            .is_some_and(|most| most > 0 && submission.body.size() > most)
        {
            return refuse(Stage::Mail, Cause::TooLarge);
        }
        Ok(submission)
    }
}

fn copies(field: CopyField, addresses: &[EmailAddress]) -> impl Iterator<Item = CopyReceiver<'_>> {
    // A request has 49 copies at most: the index always fits.
    (0..=u8::MAX)
        .zip(addresses)
        .map(move |(index, address)| CopyReceiver {
            field,
            index,
            address,
        })
}

/// A message as it follows DATA: every line ended by CRLF, dots at the beginning of lines doubled, and
/// the line with the final dot (RFC 5321 section 4.5.2).
pub(super) struct Body {
    wire: Vec<u8>,
    size: u64,
    is_ascii: bool,
}

const FINAL_DOT: &[u8] = b".\r\n";

impl Body {
    /// Carriage returns and line feeds on their own become line ends. None are expected; but what some
    /// servers take for the end of a message must not come from its content (SMTP smuggling).
    pub(super) fn new(message: Vec<u8>) -> Self {
        let is_ascii = message.is_ascii();
        if is_wire_form(&message) {
            let size = message.len() as u64;
            let mut wire = message;
            wire.extend_from_slice(FINAL_DOT);
            return Self {
                wire,
                size,
                is_ascii,
            };
        }
        let mut wire = Vec::with_capacity(message.len() + message.len() / 16 + 64);
        let mut stuffed = 0;
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            if line.starts_with(b".") {
                wire.push(b'.');
                stuffed += 1;
            }
            wire.extend_from_slice(line);
            wire.extend_from_slice(b"\r\n");
            rest = after
                .strip_prefix(b"\r\n")
                .or_else(|| after.get(1..))
                .unwrap_or_default();
        }
        let size = (wire.len() - stuffed) as u64;
        wire.extend_from_slice(FINAL_DOT);
        Self {
            wire,
            size,
            is_ascii,
        }
    }

    /// What is written.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.wire
    }

    /// Bytes of the message as SIZE counts them: neither doubled dots nor the final one (RFC 1870
    /// section 3).
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it goes without 8BITMIME.
    pub(super) const fn is_ascii(&self) -> bool {
        self.is_ascii
    }
}

/// Whether a message is as it goes out already, which spares a copy of it.
fn is_wire_form(message: &[u8]) -> bool {
    let begins_well = !matches!(message.first(), Some(b'.' | b'\n'));
    if !begins_well || !message.ends_with(b"\r\n") {
        return message.is_empty();
    }
    // Every pair of neighbours, without leaving off early: so the compiler looks at many at a time.
    let pairs = message.iter().zip(&message[1..]);
    let odd = pairs.fold(0, |odd, (&byte, &next)| {
        let half_a_line_end = u8::from((byte == b'\r') != (next == b'\n'));
        let dot = u8::from(byte == b'\n') & u8::from(next == b'.');
        odd | half_a_line_end | dot
    });
    odd == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(message: &str) -> (String, u64) {
        let body = Body::new(message.as_bytes().to_vec());
        (
            String::from_utf8(body.as_bytes().to_vec()).unwrap(),
            body.size(),
        )
    }

    #[test]
    fn lines_end_in_crlf_and_dots_are_doubled() {
        for (message, expected, size) in [
            ("", ".\r\n", 0),
            ("a\r\n", "a\r\n.\r\n", 3),
            ("a", "a\r\n.\r\n", 3),
            (".", "..\r\n.\r\n", 3),
            (".\r\n", "..\r\n.\r\n", 3),
            ("a\r\n..b\r\n", "a\r\n...b\r\n.\r\n", 8),
            ("a.\r\nb.c\r\n", "a.\r\nb.c\r\n.\r\n", 9),
            ("a\n.\nb\r.\rc", "a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n", 15),
            ("a\r\r\n\r\n", "a\r\n\r\n\r\n.\r\n", 7),
            ("\n.", "\r\n..\r\n.\r\n", 5),
        ] {
            assert_eq!(wire(message), (expected.to_owned(), size), "{message:?}");
        }
    }

    /// What a server makes of it.
    fn received(wire: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        for line in wire.split_inclusive(|byte| *byte == b'\n') {
            assert!(line.ends_with(b"\r\n"), "{line:?}");
            if line == FINAL_DOT {
                continue;
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        message
    }

    proptest! {
        #[test]
        fn what_arrives_is_the_message_and_only_the_last_line_ends_it(
            message in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'a'), Just(0xc3)], 0..40)
        ) {
            let body = Body::new(message.clone());
            let bytes = body.as_bytes();
            let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            prop_assert_eq!(lines.iter().filter(|line| **line == FINAL_DOT).count(), 1);
            prop_assert!(bytes.ends_with(FINAL_DOT));
            for (at, byte) in bytes.iter().enumerate() {
                prop_assert!(*byte != b'\n' || bytes[at - 1] == b'\r');
                prop_assert!(*byte != b'\r' || bytes[at + 1] == b'\n');
            }
            let arrived = received(bytes);
            prop_assert_eq!(arrived.len() as u64, body.size());
            let text = |bytes: &[u8]| bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect::<Vec<_>>();
            prop_assert_eq!(text(&arrived), text(&message));
            // A message that was in order arrives as it was.
            let again = Body::new(arrived);
            prop_assert_eq!(again.as_bytes(), bytes);
        }
    }
}
