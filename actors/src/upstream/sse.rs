//! An incremental parser of `text/event-stream`, fed with chunks cut at any byte.
//!
//! It follows the HTML standard's rules for lines, fields, comments and the byte order mark, and bounds what the standard
//! leaves open. It ignores `id` and `retry`: nothing here reconnects. Bytes stay bytes until an event is complete, so a
//! character split over chunks is no error.

use memchr::{memchr, memchr2};
use std::fmt;

/// A longer line is an error, not growth.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Bound on one event's data and name together.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// Bound on bytes pushed and not yet read as events.
pub const MAX_UNREAD_BYTES: usize = 16 << 20;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field; `None` when absent or empty.
    pub name: Option<String>,
    /// The `data` lines joined with a newline.
    pub data: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SseError {
    LineTooLong,
    EventTooLong,
    /// The reader pushes without reading events.
    UnreadTooLong,
    NotUtf8,
}

impl fmt::Display for SseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LineTooLong => "an event-stream line is too long",
            Self::EventTooLong => "an event of the stream is too long",
            Self::UnreadTooLong => "too many unread bytes of an event stream",
            Self::NotUtf8 => "an event of the stream is not UTF-8",
        })
    }
}

impl std::error::Error for SseError {}

/// Push bytes, then read [`next_event`](Self::next_event) until it says `None`. The events (and the first error) do not
/// depend on where the bytes were cut. An error is final.
#[derive(Debug, Default)]
pub struct SseParser {
    buffer: Vec<u8>,
    /// Where the current line starts in `buffer`.
    line_start: usize,
    /// Up to here the current line is known to hold no line end: it is never searched twice.
    searched: usize,
    /// The last line ended in CR: a LF that follows belongs to it.
    after_cr: bool,
    /// The byte order mark was looked for.
    begun: bool,
    data: Vec<u8>,
    has_data: bool,
    name: Vec<u8>,
    failed: Option<SseError>,
}

impl SseParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// The parser failed before, or events are not being read.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.buffer.len() - self.line_start + bytes.len() > MAX_UNREAD_BYTES {
            return Err(self.fail(SseError::UnreadTooLong));
        }
        if self.line_start > 0 {
            // What is left is less than a line, unless the reader stopped early.
            self.buffer.drain(..self.line_start);
            self.searched -= self.line_start;
            self.line_start = 0;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete event, `None` when more bytes are needed.
    ///
    /// # Errors
    /// A bound is exceeded or an event is not UTF-8; the same error every time after.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance().map_err(|error| self.fail(error))
    }

    /// The body ended. The standard drops an event without its empty line; this gives it out, because several providers
    /// end the last one with the connection. Call it once `next_event` says `None`.
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event).
    pub fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        self.push(b"\n\n")?;
        self.next_event()
    }

    fn fail(&mut self, error: SseError) -> SseError {
        self.failed = Some(error);
        self.buffer = Vec::new();
        error
    }

    fn advance(&mut self) -> Result<Option<SseEvent>, SseError> {
        if !self.begun && !self.skip_bom() {
            return Ok(None);
        }
        while let Some((start, end)) = self.next_line()? {
            if start < end {
                self.field(start, end)?;
            } else if let Some(event) = self.dispatch()? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether enough bytes are there to tell.
    fn skip_bom(&mut self) -> bool {
        let head = &self.buffer[..self.buffer.len().min(BOM.len())];
        if head == BOM {
            self.line_start = BOM.len();
            self.searched = BOM.len();
        } else if BOM.starts_with(head) {
            return false;
        }
        self.begun = true;
        true
    }

    /// The range of the next whole line without its end.
    fn next_line(&mut self) -> Result<Option<(usize, usize)>, SseError> {
        if self.after_cr && self.line_start < self.buffer.len() {
            if self.buffer[self.line_start] == b'\n' {
                self.line_start += 1;
                self.searched = self.line_start;
            }
            self.after_cr = false;
        }
        let start = self.line_start;
        let end = memchr2(b'\r', b'\n', &self.buffer[self.searched..]).map(|found| self.searched + found);
        if end.unwrap_or(self.buffer.len()) - start > MAX_LINE_BYTES {
            return Err(SseError::LineTooLong);
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        self.after_cr = self.buffer[end] == b'\r';
        self.line_start = end + 1;
        self.searched = end + 1;
        Ok(Some((start, end)))
    }

    fn field(&mut self, start: usize, end: usize) -> Result<(), SseError> {
        let line = &self.buffer[start..end];
        let (field, value) = match memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &line[line.len()..]),
        };
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // A comment (nothing before the colon), `id`, `retry` or a field nobody knows.
            _ => {}
        }
        if self.data.len() + self.name.len() > MAX_EVENT_BYTES {
            return Err(SseError::EventTooLong);
        }
        Ok(())
    }

    /// An empty line: an event without data is none.
    fn dispatch(&mut self) -> Result<Option<SseEvent>, SseError> {
        let name = std::mem::take(&mut self.name);
        if !std::mem::take(&mut self.has_data) {
            return Ok(None);
        }
        let data = String::from_utf8(std::mem::take(&mut self.data)).map_err(|_| SseError::NotUtf8)?;
        let name = String::from_utf8(name).map_err(|_| SseError::NotUtf8)?;
        Ok(Some(SseEvent { name: (!name.is_empty()).then_some(name), data }))
    }
}

#[cfg(test)]
mod tests;
