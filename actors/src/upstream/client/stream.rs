//! A provider's event stream, read one event at a time.
//!
//! It ends in one of two ways: `None` after a complete answer, or an error. Once every choice has its `finish_reason`
//! nothing that still goes wrong (no declared end, a bad event, a cut) takes the answer back: it is whole.

use super::{Alarm, Patience, Timeouts, connections::Response, suffering};
use crate::chaos::faults::Mishap;
use crate::domain::{GatewayError, GenerationEvent, Imprint, TokenUsage};
use crate::upstream::chunk::Malformed;
use crate::upstream::sse::{SseEvent, SseParser};
use crate::upstream::wire::{Heard, StreamReader};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// After the stream has declared its end, the wait for the end of the body: with it the connection can serve again.
const END_WAIT: Duration = Duration::from_millis(20);

/// Most bytes parsed at once.
const PIECE: usize = 8 << 10;

#[derive(Debug)]
enum State {
    Reading(Response),
    Complete,
    Failed(GatewayError),
}

/// How many times longer a stream may show signs of life without an event.
const PATIENT: u32 = 3;

/// Dropping it closes the socket, unless the answer is complete.
#[derive(Debug)]
pub struct EventStream {
    state: State,
    patience: Patience,
    alarm: Alarm,
    timeouts: Timeouts,
    /// Start of the attempt, then the arrival of the latest bytes.
    quiet_since: Instant,
    /// Start of the attempt, then the arrival of the latest event. Comments prove that somebody is there, not that an
    /// answer is coming: they stretch a limit [`PATIENT`] times, not for ever.
    eventless_since: Instant,
    /// Since when nothing more has been asked of the provider, because whoever reads its events is slow: no silence of its own.
    away_since: Option<Instant>,
    /// No byte of the body has come.
    untouched: bool,
    /// No event has come.
    eventless: bool,
    /// The provider has ended the stream, in order or not.
    over: bool,
    /// When the first token is too late; `None` once it came.
    first_token_by: Option<Instant>,
    /// Received and not yet given to the parser, which keeps a copy of what it is given.
    unparsed: Bytes,
    parser: SseParser,
    reader: StreamReader,
    pending: VecDeque<GenerationEvent>,
    /// Chaos: after so many pieces of the answer this comes.
    mishap: Option<Mishap>,
    /// Pieces that were asked for.
    given: u32,
}

impl EventStream {
    pub(super) fn new(
        patience: Patience,
        reader: StreamReader,
        response: Response,
        timeouts: Timeouts,
        started: Instant,
    ) -> Self {
        Self {
            state: State::Reading(response),
            patience,
            alarm: Alarm::default(),
            timeouts,
            quiet_since: started,
            eventless_since: started,
            away_since: None,
            untouched: true,
            eventless: true,
            over: false,
            first_token_by: timeouts.first_token.map(|limit| started + limit),
            unparsed: Bytes::new(),
            parser: SseParser::new(),
            reader,
            pending: VecDeque::new(),
            mishap: None,
            given: 0,
        }
    }

    pub(super) fn suffering(mut self, mishap: Option<Mishap>) -> Self {
        self.mishap = mishap;
        self
    }

    /// The next event, `None` once after a complete answer; usage, if any came, is the last. Cancel safe.
    ///
    /// # Errors
    /// The answer is incomplete and will stay so; the same error again after.
    pub async fn next(&mut self) -> Result<Option<GenerationEvent>, GatewayError> {
        loop {
            self.suffer().await;
            if let Some(event) = self.pending.pop_front() {
                self.first_token_by = None;
                self.given += u32::from(is_piece(&event));
                self.away_since.get_or_insert_with(Instant::now);
                return Ok(Some(event));
            }
            match &self.state {
                State::Complete => return Ok(None),
                State::Failed(error) => return Err(error.clone()),
                State::Reading(_) => {}
            }
            match self.advance().await {
                Ok(()) => {}
                Err(_) if self.reader.is_complete() => self.complete(),
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    /// Lets come what chaos has ordered, once its place is reached. What was read beyond it nobody sees.
    async fn suffer(&mut self) {
        let error = match self.mishap {
            Some(Mishap::Cut { after_tokens }) if self.given >= after_tokens => self.patience.failed(&suffering::cut()),
            Some(Mishap::Stall { after_tokens }) if self.given >= after_tokens => {
                self.back();
                let limit = if self.given == 0 { self.timeouts.first_byte } else { self.timeouts.idle };
                let until = self.first_token_by.unwrap_or(self.quiet_since + limit).min(self.quiet_since + limit);
                match self.patience.within(until, &suffering::stalled(), pending::<()>()).await {
                    Err(error) => error,
                    Ok(()) => return,
                }
            }
            _ => return,
        };
        self.mishap = None;
        self.pending.clear();
        self.state = State::Failed(error);
    }

    fn back(&mut self) {
        if let Some(since) = self.away_since.take() {
            let away = since.elapsed();
            self.quiet_since += away;
            self.eventless_since += away;
        }
    }

    /// Makes `event` the next one again.
    pub fn put_back(&mut self, event: GenerationEvent) {
        self.given -= u32::from(is_piece(&event));
        self.pending.push_front(event);
    }

    /// An error of this provider's.
    pub fn failed(&self, how: &str) -> GatewayError {
        self.patience.failed(how)
    }

    /// What the provider has counted so far: for billing an answer that broke.
    pub fn usage_so_far(&self) -> Option<TokenUsage> {
        self.reader.usage()
    }

    /// What the provider has said of whatever makes its answer.
    pub fn imprint(&self) -> Option<&Imprint> {
        self.reader.imprint()
    }

    /// Whether the provider may be generating still: it has neither ended its stream nor told an error.
    pub fn is_open(&self) -> bool {
        !self.over
    }

    async fn advance(&mut self) -> Result<(), GatewayError> {
        match self.parser.next_event().map_err(|error| self.patience.failed(&format!("broke its stream: {error}")))? {
            Some(event) => self.take(event).await,
            None if self.unparsed.is_empty() => self.read_more().await,
            None => self.parse_more(),
        }
    }

    async fn read_more(&mut self) -> Result<(), GatewayError> {
        self.back();
        let State::Reading(response) = &mut self.state else { return Ok(()) };
        let (limit, late) = if self.reader.is_complete() {
            (self.timeouts.tail, "did not end its stream")
        } else if self.untouched {
            (self.timeouts.first_byte, "sent no first byte in time")
        } else {
            (self.timeouts.idle, "stopped in the middle of its stream")
        };
        let stretched = match (self.reader.is_complete(), self.eventless) {
            (true, _) => limit,
            (false, true) => self.timeouts.first_byte * PATIENT,
            (false, false) => self.timeouts.idle * PATIENT,
        };
        let mut until = (self.quiet_since + limit).min(self.eventless_since + stretched);
        let mut late = late;
        if let Some(by) = self.first_token_by.filter(|by| *by < until && !self.reader.is_complete()) {
            (until, late) = (by, "sent no first token in time");
        }
        let piece = self.patience.within_by(&mut self.alarm, until, late, response.chunk()).await?;
        self.over = !matches!(piece, Ok(Some(_)));
        let Some(piece) = piece.map_err(|error| self.patience.failed(&error.in_words()))? else {
            return self.ended().await;
        };
        self.quiet_since = Instant::now();
        self.untouched = false;
        self.unparsed = piece;
        self.parse_more()
    }

    fn parse_more(&mut self) -> Result<(), GatewayError> {
        let piece = self.unparsed.split_to(self.unparsed.len().min(PIECE));
        self.parser.push(&piece).map_err(|error| self.patience.failed(&format!("broke its stream: {error}")))
    }

    async fn take(&mut self, event: SseEvent) -> Result<(), GatewayError> {
        // What follows a complete answer does not prolong it.
        let prolongs = !self.reader.is_complete();
        let heard = self.reader.read(&event, &mut self.pending).map_err(|why| {
            self.over |= why != Malformed::Shape;
            self.patience.malformed(why)
        })?;
        self.over |= heard == Heard::End;
        if heard != Heard::LifeSign {
            self.eventless = false;
            if prolongs {
                self.eventless_since = self.quiet_since;
            }
        }
        if heard == Heard::End {
            return self.declared_end().await;
        }
        Ok(())
    }

    async fn declared_end(&mut self) -> Result<(), GatewayError> {
        if !self.reader.may_end() {
            return Err(self.patience.failed("ended its stream without a finish_reason"));
        }
        if let State::Reading(response) = &mut self.state {
            let _ = timeout(END_WAIT, response.chunk()).await;
        }
        self.complete();
        Ok(())
    }

    /// The body is at its end, without `[DONE]` so far.
    async fn ended(&mut self) -> Result<(), GatewayError> {
        if let Ok(Some(event)) = self.parser.finish() {
            self.take(event).await?;
        }
        match self.state {
            State::Reading(_) if self.reader.is_complete() => self.complete(),
            State::Reading(_) if self.untouched => return Err(self.patience.failed("sent an empty answer")),
            State::Reading(_) => return Err(self.patience.failed("cut its stream")),
            State::Complete | State::Failed(_) => {}
        }
        Ok(())
    }

    fn complete(&mut self) {
        self.state = State::Complete;
        self.pending.extend(self.reader.usage().map(GenerationEvent::Usage));
    }
}

fn is_piece(event: &GenerationEvent) -> bool {
    matches!(event, GenerationEvent::Delta(delta) if delta.is_visible())
}
