//! One thing that happened, as one short line: `09:20:01 ✓  clinic-a     email    → p***@example.com  sent by smtp (12 ms)`.

use std::fmt;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// As it should.
    Done,
    /// It is tried again, or waits.
    Retry,
    /// It ended, and not as it should.
    Failed,
    /// Nobody knows whether it was sent.
    Unknown,
    /// A message is in the dead-letter queue.
    DeadLetter,
    /// A request that changed something.
    Request,
    /// The developer may want to know.
    Notice,
}

impl Mark {
    /// Two columns wide, as the widest of them is.
    const fn text(self) -> &'static str {
        match self {
            Self::Done => "✓ ",
            Self::Retry => "↻ ",
            Self::Failed => "✗ ",
            Self::Unknown => "? ",
            Self::DeadLetter => "⛔",
            Self::Request => "→ ",
            Self::Notice => "! ",
        }
    }

    const fn style(self) -> Style {
        let color = match self {
            Self::Done => AnsiColor::Green,
            Self::Retry | Self::Unknown | Self::Notice => AnsiColor::Yellow,
            Self::Failed | Self::DeadLetter => AnsiColor::Red,
            Self::Request => AnsiColor::Cyan,
        };
        color.on_default().bold()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// When.
    pub(crate) at: Timestamp,
    /// How it went.
    pub(crate) mark: Mark,
    /// To whom or what, padded so that what follows is aligned.
    pub(crate) subject: String,
    /// What, and what to do about it.
    pub(crate) text: String,
}

impl Event {
    /// The line, with the time of day in `zone`.
    fn line(&self, zone: TimeZone, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dim = Style::new().dimmed();
        let style = self.mark.style();
        let time = self.at.to_zoned(zone).strftime("%H:%M:%S");
        let mark = self.mark.text();
        write!(f, "{dim}{time}{dim:#} {style}{mark}{style:#} ")?;
        // What a function or a table says is text, whatever a terminal would make of it.
        let plain = |text: &str| text.replace(char::is_control, " ");
        write!(f, "{}  {}", plain(&self.subject), plain(&self.text))
    }
}

impl fmt::Display for Event {
    /// In the reader's time zone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(TimeZone::system(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct In(TimeZone, Event);

    impl fmt::Display for In {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.1.line(self.0.clone(), f)
        }
    }

    fn event(mark: Mark, text: &str) -> Event {
        Event {
            at: "2026-01-01T08:20:01Z".parse().unwrap(),
            mark,
            subject: "clinic-a".to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn line_has_the_local_time_and_is_plain_without_a_terminal() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let line = In(zone, event(Mark::Done, "sent")).to_string();
        let plain = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(plain, "09:20:01 ✓  clinic-a  sent");
        assert!(line.contains("\x1b["), "on a terminal it is colored");
    }

    #[test]
    fn text_cannot_move_the_cursor_or_begin_a_line() {
        let line = In(TimeZone::UTC, event(Mark::Failed, "a\n\x1b[2Jb")).to_string();
        assert!(line.ends_with("a  [2Jb"), "{line:?}");
    }
}
