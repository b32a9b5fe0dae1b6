//! A flight's events as a response body. Every event that is ready when the connection asks goes into one frame; silence
//! is broken by comments or pings. Dropping the body drops the receiver, which cancels the flight.

use super::dialect::{Frames, Next};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use spillway_actors::flight::FlightEvent;
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep},
};

/// A frame this large is sent although more is ready.
const FRAME_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The last word is written. The receiver is kept until the flight has settled, lest it take us for a client gone.
    Said,
    Ended,
}

/// The body of one streamed answer. `held` is kept as long as the body.
pub(super) struct EventBody<H> {
    events: mpsc::Receiver<FlightEvent>,
    frames: Box<dyn Frames>,
    buffer: BytesMut,
    phase: Phase,
    silence: Option<Silence>,
    _held: H,
}

struct Silence {
    bound: Duration,
    over: Pin<Box<Sleep>>,
}

impl Silence {
    fn broken(&mut self) {
        self.over.as_mut().reset(Instant::now() + self.bound);
    }
}

impl<H> EventBody<H> {
    pub(super) fn new(
        events: mpsc::Receiver<FlightEvent>,
        mut frames: Box<dyn Frames>,
        keep_alive: Option<Duration>,
        held: H,
    ) -> Self {
        let silence = keep_alive.map(|bound| Silence { bound, over: Box::pin(tokio::time::sleep(bound)) });
        let mut buffer = BytesMut::new();
        frames.begin(&mut buffer);
        Self { events, frames, buffer, phase: Phase::Open, silence, _held: held }
    }

    /// Takes what is ready. `true` when nothing more can come now.
    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        while self.phase != Phase::Ended && self.buffer.len() < FRAME_BYTES {
            match self.events.poll_recv(cx) {
                Poll::Ready(Some(event)) if self.phase == Phase::Open => {
                    if self.frames.write(event, &mut self.buffer) == Next::End {
                        self.phase = Phase::Said;
                    }
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => {
                    if self.phase == Phase::Open {
                        self.frames.vanished(&mut self.buffer);
                    }
                    self.phase = Phase::Ended;
                }
                Poll::Pending => return true,
            }
        }
        false
    }
}

impl<H: Unpin> Body for EventBody<H> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let is_waiting = this.gather(cx);
        if !this.buffer.is_empty() {
            if let Some(silence) = &mut this.silence {
                silence.broken();
            }
            return Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))));
        }
        if !is_waiting {
            return Poll::Ready(None);
        }
        let is_open = this.phase == Phase::Open;
        let Some(silence) = this.silence.as_mut().filter(|_| is_open) else { return Poll::Pending };
        if silence.over.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        silence.broken();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(this.frames.keep_alive())))))
    }

    fn is_end_stream(&self) -> bool {
        self.phase == Phase::Ended && self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests;
