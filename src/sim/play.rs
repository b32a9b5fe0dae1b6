//! Sends a script's steps at their time and notes how far it came.

use super::log::{Outcome, Served};
use super::script::{Step, Steps};
use super::text::Words;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::convert::Infallible;
use std::future::pending;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Long enough that the peer's kernel has the bytes before anything else happens to the connection.
const FLUSH: Duration = Duration::from_millis(5);

/// Ends a connection from inside one of its requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker {
    broken: CancellationToken,
    reset: Arc<AtomicBool>,
}

impl Breaker {
    /// Closes the connection, with a TCP reset or in order. The connection's task drops the caller, so this never returns.
    pub(super) async fn break_off(&self, reset: bool) -> Infallible {
        self.reset.store(reset, Relaxed);
        self.broken.cancel();
        pending().await
    }

    /// When it happens, whether by reset.
    pub(super) async fn broken(&self) -> bool {
        self.broken.cancelled().await;
        self.reset.load(Relaxed)
    }
}

/// When tokens are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub first: Instant,
    /// `None`: all at once.
    pub between: Option<Duration>,
}

impl Pace {
    fn due(&self, token: u32) -> Instant {
        self.first + self.between.unwrap_or_default().saturating_mul(token)
    }

    /// Waits until so many tokens before it are out.
    pub(super) async fn wait(&self, token: u32) {
        let due = self.due(token);
        if due > Instant::now() {
            sleep_until(due).await;
        }
    }
}

struct Player {
    steps: Peekable<Steps>,
    pace: Pace,
    served: Served,
    breaker: Breaker,
    tokens: u32,
    choices: u32,
    /// The words behind the tokens, if what is said is kept.
    words: Option<Words>,
}

/// The body that plays `steps`. Dropped early, its client has gone.
pub(super) fn body(
    steps: Steps,
    pace: Pace,
    served: Served,
    breaker: Breaker,
    choices: u32,
    words: Option<Words>,
) -> Body {
    let player = Player { steps: steps.peekable(), pace, served, breaker, tokens: 0, choices, words };
    Body::from_stream(stream::unfold(player, |mut player| async move {
        let bytes = player.next().await?;
        Some((Ok::<_, Infallible>(bytes), player))
    }))
}

impl Player {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.steps.next()? {
                Step::Send(bytes) => {
                    self.end_if_last();
                    return Some(bytes);
                }
                Step::Token(bytes) => {
                    self.pace.wait(self.tokens).await;
                    if let Some(words) = &self.words {
                        self.served.said(&words.word(words.first() + self.tokens));
                    }
                    self.tokens += 1;
                    self.served.sent(self.choices.into());
                    return Some(bytes);
                }
                Step::Flush => sleep(FLUSH).await,
                Step::Reset => self.break_off(true).await,
                Step::Close => self.break_off(false).await,
                Step::Stall => pending().await,
                Step::End(outcome) => {
                    self.served.end(outcome);
                    return None;
                }
            }
        }
    }

    /// A body of known length is dropped once its last byte is taken, without being asked for its end.
    fn end_if_last(&mut self) {
        if let Some(Step::End(outcome)) = self.steps.peek() {
            self.served.end(*outcome);
        }
    }

    async fn break_off(&mut self, reset: bool) {
        self.served.end(Outcome::Fault);
        self.breaker.break_off(reset).await;
    }
}
