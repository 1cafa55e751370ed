//! An SMTP reply: its code and its enhanced status code. The text is not kept; it repeats addresses.

use comms_core::ProviderCode;
use tokio::io::AsyncRead;

use super::connection::{Cause, read_some};

/// Bytes of a reply, all lines together. RFC 5321 section 4.5.3.1.5 has 512 per line.
const MOST: usize = 16_384;

/// A reply without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The three-digit code (RFC 5321 section 4.2).
    pub code: u16,
    /// The enhanced status code (RFC 3463), such as `5.7.8`.
    pub enhanced: Option<(u8, u16, u16)>,
}

impl Reply {
    /// A reply with `code`, and the enhanced status code that `text` begins with, if any.
    pub fn new(code: u16, text: &str) -> Self {
        Self {
            code,
            enhanced: parse_enhanced(text),
        }
    }

    /// Both codes, as a provider's code: `535 5.7.8`.
    pub fn provider_code(self) -> Option<ProviderCode> {
        let text = match self.enhanced {
            Some((class, subject, detail)) => format!("{} {class}.{subject}.{detail}", self.code),
            None => self.code.to_string(),
        };
        ProviderCode::parse(&text)
    }
}

fn parse_enhanced(text: &str) -> Option<(u8, u16, u16)> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.');
    let class: u8 = parts
        .next()?
        .parse()
        .ok()
        .filter(|class| matches!(class, 2 | 4 | 5))?;
    let mut number = || {
        parts
            .next()?
            .parse::<u16>()
            .ok()
            .filter(|number| *number < 1000)
    };
    let (subject, detail) = (number()?, number()?);
    parts.next().is_none().then_some((class, subject, detail))
}

/// Reads one reply, of one line or several, and not a byte more. Returns it with its bytes.
pub(super) async fn read_reply<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Vec<u8>, Reply), Cause> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        read_some(stream, &mut bytes).await?;
        if let Some(parsed) = parse_reply(&bytes) {
            let reply = parsed?;
            return Ok((bytes, reply));
        }
        if bytes.len() > MOST {
            return Err(Cause::Malformed);
        }
    }
}

/// The reply in `bytes`; `None` while more is to come. Bytes after the last line are an error: the
/// server has said something that it was not asked for.
fn parse_reply(bytes: &[u8]) -> Option<Result<Reply, Cause>> {
    let mut start = 0;
    while let Some(length) = bytes[start..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[start..start + length];
        start += length + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((digits, rest)) = line.split_first_chunk::<3>() else {
            return Some(Err(Cause::Malformed));
        };
        let code = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|code| (200..600).contains(code));
        match (code, rest.split_first()) {
            (Some(_), Some((b'-', _))) => {}
            (Some(code), None) if start == bytes.len() => return Some(Ok(Reply::new(code, ""))),
            (Some(code), Some((b' ', text))) if start == bytes.len() => {
                return Some(Ok(Reply::new(code, &String::from_utf8_lossy(text))));
            }
            (_, _) => return Some(Err(Cause::Malformed)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_read_and_texts_are_not_kept() {
        let reply = parse_reply(b"550-5.1.1 no\r\n550 5.1.1 such user planted@example.com\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(
            reply,
            Reply {
                code: 550,
                enhanced: Some((5, 1, 1))
            }
        );
        assert!(!format!("{reply:?}").contains("planted"));
        assert_eq!(reply.provider_code().unwrap().as_str(), "550 5.1.1");
        assert_eq!(parse_reply(b"220\r\n").unwrap().unwrap().code, 220);
    }

    #[test]
    fn a_reply_that_is_not_over_waits_and_bytes_after_it_are_refused() {
        assert_eq!(parse_reply(b"250-one\r\n250"), None);
        assert_eq!(parse_reply(b"250 ok"), None);
        assert_eq!(
            parse_reply(b"220 go ahead\r\n250 injected\r\n"),
            Some(Err(Cause::Malformed))
        );
        assert_eq!(
            parse_reply(b"HTTP/1.1 400 Bad Request\r\n"),
            Some(Err(Cause::Malformed))
        );
        assert_eq!(parse_reply(b"199 x\r\n"), Some(Err(Cause::Malformed)));
    }

    #[test]
    fn only_enhanced_codes_that_are_well_formed_count() {
        for text in ["5.7", "5.7.8.9", "3.1.1 x", "5.7.1000", "x", "", "5..1"] {
            assert_eq!(Reply::new(535, text).enhanced, None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_reply(&bytes);
        }

        #[test]
        fn any_reply_is_read_however_it_is_cut(lines in proptest::collection::vec("[ -~]{0,20}", 1..4), code in 200_u16..600) {
            let (last, others) = lines.split_last().unwrap();
            let others: Vec<_> = others.iter().map(|line| format!("{code}-{line}\r\n")).collect();
            let text = format!("{}{code} {last}\r\n", others.concat());
            for end in 0..text.len() {
                prop_assert_eq!(parse_reply(&text.as_bytes()[..end]), None);
            }
            prop_assert_eq!(parse_reply(text.as_bytes()).unwrap().unwrap().code, code);
        }
    }
}
