//! Text for people: lines and tables that fit a terminal, in colors where they are wanted.

use std::{fmt::Write as _, io::IsTerminal as _};

/// How wide the text may be, and whether it has colors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Columns; `None` where nobody looks at lines: a file or a pipe.
    width: Option<usize>,
    is_colored: bool,
}

/// What a piece of text is for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// A heading.
    Strong,
    /// What one reads last.
    Dim,
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// The "Select Graphic Rendition" parameters of ECMA-48.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Columns below which a line is not broken further.
const MIN_WIDTH: usize = 30;
/// Before what stands below its label.
const NARROW_INDENT: usize = 2;
/// Between two columns.
const GAP: usize = 2;

impl Layout {
    /// The layout of standard output. `COLUMNS` sets the width, `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` switch
    /// colors off.
    pub(crate) fn of_stdout() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let is_terminal = std::io::stdout().is_terminal();
        let wanted = variable("COLUMNS").and_then(|text| text.parse().ok());
        let measured = || {
            let size = ::console::Term::stdout().size_checked();
            size.map(|(_, columns)| usize::from(columns))
        };
        let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
        Self {
            width: wanted.or_else(|| measured().filter(|_| is_terminal)),
            is_colored: is_terminal && variable("NO_COLOR").is_none() && !is_dumb,
        }
    }

    /// The text in the color of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        match tone.code() {
            Some(code) if self.is_colored => format!("\x1b[{code}m{text}\x1b[0m"),
            Some(_) | None => text.to_owned(),
        }
    }

    /// `label` and `text` in lines, of which the second and later ones begin under the text. The label is `label_width` wide;
    /// on a narrow terminal a text that does not fit beside it stands below.
    pub(crate) fn labelled(
        self,
        label: &str,
        label_width: usize,
        tone: Tone,
        text: &str,
    ) -> String {
        let (mut lines, indent) = if !self.is_narrow() {
            let indent = label_width + GAP;
            (format!("{label:<indent$}"), indent)
        } else if label.is_empty() {
            (" ".repeat(NARROW_INDENT), NARROW_INDENT)
        } else if self.fits(label.chars().count() + GAP + text.chars().count()) {
            (format!("{label}{}", " ".repeat(GAP)), NARROW_INDENT)
        } else {
            let below = " ".repeat(NARROW_INDENT);
            (format!("{label}\n{below}"), NARROW_INDENT)
        };
        let broken = self.broken(text, indent);
        for (number, line) in broken.iter().enumerate() {
            if number > 0 {
                lines.push('\n');
                lines.push_str(&" ".repeat(indent));
            }
            lines.push_str(&self.paint(tone, line));
        }
        lines.push('\n');
        lines
    }

    fn fits(self, columns: usize) -> bool {
        self.width.is_none_or(|width| columns <= width)
    }

    /// Whether labels stand above their texts.
    fn is_narrow(self) -> bool {
        self.width.is_some_and(|width| width < 60)
    }

    /// `text` in lines that fit behind `indent` columns. A word that is longer than a line stays whole, so that it can be copied.
    fn broken(self, text: &str, indent: usize) -> Vec<String> {
        let Some(width) = self.width else {
            return vec![text.to_owned()];
        };
        let room = width.saturating_sub(indent).max(MIN_WIDTH);
        let mut lines = vec![String::new()];
        for word in text.split(' ') {
            let line = lines.last().map_or(0, |line| line.chars().count());
            if line > 0 && line + 1 + word.chars().count() > room {
                lines.push(word.to_owned());
            } else if let Some(last) = lines.last_mut() {
                if !last.is_empty() {
                    last.push(' ');
                }
                last.push_str(word);
            }
        }
        lines
    }

    /// A table with a line of titles; where it is too wide, each row as lines of title and cell.
    pub(crate) fn table<const N: usize>(self, titles: [&str; N], rows: &[[Cell; N]]) -> String {
        let length = |text: &str| text.chars().count();
        let mut widths = titles.map(length);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(length(&cell.text));
            }
        }
        let total = widths.iter().sum::<usize>() + GAP * N.saturating_sub(1);
        if !self.fits(total) {
            return self.cards(titles, rows);
        }
        let titles = titles.map(|title| Cell::new(title, Tone::Dim));
        let mut table = String::new();
        for row in std::iter::once(&titles).chain(rows) {
            let mut line = String::new();
            let mut missing = 0;
            for (cell, width) in row.iter().zip(widths) {
                if !cell.text.is_empty() {
                    line.push_str(&" ".repeat(missing));
                    line.push_str(&self.paint(cell.tone, &cell.text));
                    missing = 0;
                }
                missing += width - length(&cell.text) + GAP;
            }
            table.push_str(&line);
            table.push('\n');
        }
        table
    }

    fn cards<const N: usize>(self, titles: [&str; N], rows: &[[Cell; N]]) -> String {
        let widest = titles.iter().map(|title| title.chars().count()).max();
        let widest = widest.unwrap_or_default();
        let mut cards = String::new();
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                cards.push('\n');
            }
            let cells = titles
                .iter()
                .zip(row)
                .filter(|(_, cell)| !cell.text.is_empty());
            for (title, cell) in cells {
                let indent = widest + GAP;
                for (line, text) in self.broken(&cell.text, indent).iter().enumerate() {
                    let title = if line == 0 { *title } else { "" };
                    let text = self.paint(cell.tone, text);
                    let _ = writeln!(cards, "{title:<indent$}{text}");
                }
            }
        }
        cards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(width: usize) -> Layout {
        Layout {
            width: Some(width),
            is_colored: false,
        }
    }

    #[test]
    fn too_wide_table_becomes_lines_of_title_and_cell() {
        let rows = [
            [Cell::from("primary"), Cell::new("down", Tone::Bad)],
            [Cell::from("b"), Cell::from("healthy since yesterday")],
        ];
        let titles = ["entry", "health"];
        assert_eq!(
            wide(40).table(titles, &rows),
            "entry    health\nprimary  down\nb        healthy since yesterday\n"
        );
        assert_eq!(
            wide(30).table(titles, &rows),
            "entry   primary\nhealth  down\n\nentry   b\nhealth  healthy since yesterday\n"
        );
    }

    #[test]
    fn long_text_breaks_between_words() {
        let text = "the provider refused the login of this clinic and nobody else was left";
        assert_eq!(
            wide(60).labelled("why", 4, Tone::Plain, text),
            "why   the provider refused the login of this clinic and\n      nobody else was left\n"
        );
        assert_eq!(
            wide(40).labelled("why", 4, Tone::Plain, text),
            "why\n  the provider refused the login of this\n  clinic and nobody else was left\n"
        );
        let piped = Layout {
            width: None,
            is_colored: false,
        };
        assert_eq!(
            piped.labelled("why", 4, Tone::Bad, text),
            format!("why   {text}\n")
        );
    }

    #[test]
    fn colors_are_written_only_where_wanted() {
        let mut layout = wide(80);
        assert_eq!(layout.paint(Tone::Bad, "down"), "down");
        layout.is_colored = true;
        assert_eq!(layout.paint(Tone::Bad, "down"), "\x1b[31mdown\x1b[0m");
        assert_eq!(layout.paint(Tone::Plain, "up"), "up");
    }
}
