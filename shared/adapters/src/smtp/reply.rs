//! SMTP replies: their codes. Texts are not kept; they repeat addresses.

use comms_core::ProviderCode;
use memchr::memchr;

use super::text_hint::TextHint;

/// Bytes of a reply, all lines together. RFC 5321 section 4.5.3.1.5 has 512 per line.
pub(super) const MOST: usize = 16_384;

/// The server sent what is not a reply of SMTP (RFC 5321 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedReply;

/// A reply without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The three-digit code (RFC 5321 section 4.2), 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 3463), such as `5.7.8`.
    pub enhanced: Option<(u8, u16, u16)>,
    /// Which limit the sender is over, where the text says so in SES's words.
    pub throttling: Option<Throttling>,
    /// What the text of a refusal says beside.
    pub text_hint: Option<TextHint>,
}

/// The limits that Amazon SES names in the text of a 454 and nowhere else
/// (<https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Throttling {
    /// Messages per second.
    Rate,
    /// Messages per day.
    Quota,
}

impl Reply {
    /// A reply of one line with `code`, and what is known from its `text`.
    pub fn new(code: u16, text: &str) -> Self {
        let mut texts = Texts::default();
        texts.add(code, text.as_bytes());
        texts.reply(code)
    }

    /// Whether it says that the command was carried out (RFC 5321 section 4.2.1: the first digit tells).
    pub(super) const fn is_success(self) -> bool {
        self.code / 100 == 2
    }

    /// Whether it asks for more: a response to AUTH, the message to DATA.
    pub(super) const fn asks_for_more(self) -> bool {
        self.code / 100 == 3
    }

    /// Whether it refuses the command and leaves the connection as it was; 421 ends it (RFC 5321
    /// section 3.8).
    pub(super) const fn is_refusal(self) -> bool {
        self.code >= 400 && self.code != 421
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

/// The enhanced status code of a text: at its beginning (RFC 2034 section 4), which Cisco writes `#5.7.1`, or `(#5.7.1)` at
/// its end, as qmail does.
fn parse_enhanced(text: &str) -> Option<(u8, u16, u16)> {
    let first = text.split_whitespace().next()?;
    let at_end = || {
        let word = text.trim_end().trim_end_matches('.').strip_suffix(')')?;
        let (_, code) = word.rsplit_once("(#")?;
        parse_status(code)
    };
    parse_status(first.strip_prefix('#').unwrap_or(first)).or_else(at_end)
}

fn parse_status(word: &str) -> Option<(u8, u16, u16)> {
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

fn throttling(code: u16, text: &str) -> Option<Throttling> {
    if code != 454 {
        return None;
    }
    let limit = text.strip_prefix("Throttling failure: ")?;
    if limit.starts_with("Maximum sending rate exceeded") {
        Some(Throttling::Rate)
    } else if limit.starts_with("Daily message quota exceeded") {
        Some(Throttling::Quota)
    } else {
        None
    }
}

/// The first reply in `bytes`, of one line or several, and how many bytes it has; `None` while more of
/// it is to come.
pub(super) fn parse_reply(bytes: &[u8]) -> Option<Result<(usize, Reply), MalformedReply>> {
    let mut end = 0;
    let mut so_far: Option<(u16, Texts)> = None;
    while let Some(length) = memchr(b'\n', &bytes[end..]) {
        let line = &bytes[end..end + length];
        end += length + 1;
        let Some(ReplyLine {
            code,
            text,
            is_last,
        }) = parse_line(line)
        else {
            return Some(Err(MalformedReply));
        };
        // RFC 5321 section 4.2.1: every line has the same code. Where one is another of its class, the last decides, as with
        // clients that read no other.
        let mut texts = match so_far.take() {
            Some((before, _)) if before / 100 != code / 100 => {
                return Some(Err(MalformedReply));
            }
            Some((_, texts)) => texts,
            None => Texts::default(),
        };
        texts.add(code, text);
        if is_last {
            return Some(Ok((end, texts.reply(code))));
        }
        so_far = Some((code, texts));
    }
    None
}

/// What is known of the lines of a reply so far.
#[derive(Default)]
struct Texts {
    enhanced: Option<(u8, u16, u16)>,
    throttling: Option<Throttling>,
    /// The texts of a refusal without the codes at their beginnings: a phrase may go over several lines.
    joined: String,
}

impl Texts {
    fn add(&mut self, code: u16, text: &[u8]) {
        // A text may be in any character set; what is looked for is ASCII.
        let text = String::from_utf8_lossy(text);
        // On every line (RFC 2034 section 4), but some servers give it once.
        self.enhanced = self.enhanced.or_else(|| parse_enhanced(&text));
        self.throttling = self.throttling.or_else(|| throttling(code, &text));
        if code >= 400 {
            self.joined.push(' ');
            self.joined.push_str(without_status(&text));
        }
    }

    fn reply(self, code: u16) -> Reply {
        Reply {
            code,
            enhanced: self.enhanced,
            throttling: self.throttling,
            text_hint: TextHint::of(&self.joined),
        }
    }
}

/// A text behind the enhanced status code at its beginning.
fn without_status(text: &str) -> &str {
    match text.trim().split_once(char::is_whitespace) {
        Some((first, rest)) if parse_status(first).is_some() => rest.trim_start(),
        Some(_) | None => text.trim(),
    }
}

/// One line of a reply.
struct ReplyLine<'a> {
    code: u16,
    text: &'a [u8],
    is_last: bool,
}

fn parse_line(line: &[u8]) -> Option<ReplyLine<'_>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let code = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?
        .parse::<u16>()
        .ok()
        .filter(|code| (200..600).contains(code))?;
    let (is_last, text) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return None,
    };
    Some(ReplyLine {
        code,
        text,
        is_last,
    })
}

#[cfg(test)]
mod tests;
