//! Reading a file byte by byte.

use std::io::{self, BufRead};

use super::item::RawItem;

/// Reads a file byte by byte.
#[derive(Debug)]
pub(super) struct Scanner<R> {
    reader: R,
    /// The line of the next byte, from 1.
    pub(super) line: u64,
    /// Bytes that were read.
    pub(super) position: u64,
}

impl<R: BufRead> Scanner<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            line: 1,
            position: 0,
        }
    }

    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    pub(super) fn take(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.reader.consume(1);
            self.position += 1;
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    /// Skips the mark with which Windows programs begin a file (RFC 8259 section 8.1 lets a reader ignore it).
    pub(super) fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        for mark in [0xef, 0xbb, 0xbf] {
            if self.peek()? == Some(mark) {
                self.take()?;
            }
        }
        Ok(())
    }

    /// Skips blanks (RFC 8259 section 2), and returns the next byte without taking it.
    pub(super) fn peek_past_blanks(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.take()?,
                other => return Ok(other),
            };
        }
    }

    /// Takes the string that begins here, quotes included.
    pub(super) fn string(&mut self, text: &mut RawItem) -> io::Result<()> {
        let mut quotes = 0;
        while quotes < 2 {
            let Some(byte) = self.take()? else { break };
            text.push(byte);
            if byte == b'\\' {
                if let Some(escaped) = self.take()? {
                    text.push(escaped);
                }
            } else if byte == b'"' {
                quotes += 1;
            }
        }
        Ok(())
    }

    /// Takes the value that begins here, up to the ',' or bracket after it.
    pub(super) fn value(&mut self) -> io::Result<RawItem> {
        let mut text = RawItem::at(self.line);
        let mut depth = 0_u64;
        while let Some(byte) = self.peek()? {
            match byte {
                b'"' => {
                    self.string(&mut text)?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b'}' | b']' | b',' if depth == 0 => break,
                _ => {}
            }
            self.take()?;
            text.push(byte);
        }
        Ok(text)
    }

    /// Takes the rest of the line.
    pub(super) fn rest_of_line(&mut self, text: &mut RawItem) -> io::Result<()> {
        while let Some(byte) = self.take()? {
            if byte == b'\n' {
                break;
            }
            text.push(byte);
        }
        Ok(())
    }
}
