//! What the HTTP edge is told, in order. Events that come together are handed over together: the connection is woken once
//! for all of them, and writes once.

use super::{EVENTS, FlightEvent};
use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Events that come one by one, each just before the turn of others is over, are not held for longer than this.
const TOGETHER: Duration = Duration::from_millis(5);

/// Nobody listens any more.
#[derive(Debug)]
pub(super) struct Deaf;

#[derive(Debug)]
pub(super) struct Outbox {
    events: mpsc::Sender<FlightEvent>,
    /// Not handed over yet; no more than [`EVENTS`] and the last word.
    held: Vec<FlightEvent>,
    /// Whoever gives sees to it that what is held is handed over before anything takes time.
    gathers: bool,
    /// When the first of those held was given.
    since: Option<Instant>,
    /// Something was handed over.
    has_told: bool,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<FlightEvent>) -> Self {
        Self { events, held: Vec::new(), gathers: false, since: None, has_told: false }
    }

    /// From now on given events are kept until the next [`Outbox::flush`], or until they are many.
    pub(super) fn gather(&mut self) {
        self.gathers = true;
    }

    /// From now on each is handed over at once. Those held stay so until the next one, or until [`Outbox::flush`].
    pub(super) fn gather_no_more(&mut self) {
        self.gathers = false;
    }

    /// Whether the next event given is kept, so that giving it takes no time. Not while the reader has something to read: it
    /// takes that and this together anyway, and a slow one has no more before it than the channel holds.
    pub(super) fn keeps_next(&self, now: Instant) -> bool {
        let is_fresh = self.since.is_none_or(|since| now.saturating_duration_since(since) < TOGETHER);
        let is_read = self.events.capacity() == EVENTS;
        self.gathers && is_fresh && is_read && self.held.len() + 1 < EVENTS
    }

    /// Keeps it, which is right if [`Outbox::keeps_next`] says so.
    pub(super) fn keep(&mut self, event: FlightEvent, now: Instant) {
        self.since.get_or_insert(now);
        self.held.push(event);
    }

    /// # Errors
    /// The receiver is gone.
    pub(super) async fn give(&mut self, event: FlightEvent) -> Result<(), Deaf> {
        let now = Instant::now();
        let is_kept = self.keeps_next(now);
        self.keep(event, now);
        if is_kept { Ok(()) } else { self.flush().await }
    }

    /// Hands over what is held, and this after it.
    ///
    /// # Errors
    /// The receiver is gone.
    pub(super) async fn send(&mut self, event: FlightEvent) -> Result<(), Deaf> {
        self.held.push(event);
        self.flush().await
    }

    /// The last word of an answer that fails: what a slow reader has no room for does not keep it from that.
    ///
    /// # Errors
    /// The receiver is gone.
    pub(super) async fn break_off(&mut self, event: FlightEvent) -> Result<(), Deaf> {
        if self.events.capacity() <= self.held.len() {
            self.held.clear();
        }
        self.send(event).await
    }

    /// Waits for what comes next. If it takes time, what is held is handed over first.
    pub(super) async fn beside<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        tokio::select! {
            biased;
            came = &mut next => came,
            _ = self.flush_soon() => next.await,
        }
    }

    /// A provider's connection is a task that hands over one piece and then waits to be asked for the next one, even if it has
    /// that already: it gets its turn first. Nobody waits for the first event longer than must be.
    async fn flush_soon(&mut self) -> Result<(), Deaf> {
        if self.has_told && !self.held.is_empty() {
            turn_of_others().await;
        }
        self.flush().await
    }

    /// Hands over what is held, when the edge has room for it. Cancel safe.
    ///
    /// # Errors
    /// The receiver is gone.
    pub(super) async fn flush(&mut self) -> Result<(), Deaf> {
        while !self.held.is_empty() {
            let some = self.held.len().min(EVENTS);
            let Ok(places) = self.events.reserve_many(some).await else {
                self.held.clear();
                return Err(Deaf);
            };
            self.has_told = true;
            places.zip(self.held.drain(..some)).for_each(|(place, event)| place.send(event));
        }
        self.since = None;
        Ok(())
    }
}

/// Lets whoever is ready run before this task goes on. Unlike tokio's own way it does not look at the sockets in between, which
/// is a system call.
async fn turn_of_others() {
    let mut is_over = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Delta, GatewayError};
    use std::future::{pending, ready};
    use tokio::time::{advance, timeout};

    fn piece(text: usize) -> FlightEvent {
        FlightEvent::Delta(Delta { content: Some(text.to_string()), ..Delta::default() })
    }

    /// What has been handed over.
    fn told(inbox: &mut mpsc::Receiver<FlightEvent>) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(event) = inbox.try_recv() {
            told.push(match event {
                FlightEvent::Delta(delta) => delta.content.unwrap_or_default(),
                _ => "end".into(),
            });
        }
        told
    }

    #[tokio::test]
    async fn what_comes_together_is_handed_over_together_before_the_next_wait() {
        let (events, mut inbox) = mpsc::channel(EVENTS);
        let mut outbox = Outbox::new(events);
        outbox.give(piece(0)).await.unwrap();
        assert_eq!(told(&mut inbox), ["0"], "at once, unless told to gather");
        outbox.gather();
        outbox.give(piece(1)).await.unwrap();
        outbox.beside(ready(())).await;
        outbox.give(piece(2)).await.unwrap();
        assert!(told(&mut inbox).is_empty());
        assert!(timeout(Duration::ZERO, outbox.beside(pending::<()>())).await.is_err());
        assert_eq!(told(&mut inbox), ["1", "2"]);
        for number in 0..EVENTS {
            outbox.give(piece(number)).await.unwrap();
        }
        assert_eq!(told(&mut inbox).len(), EVENTS, "not more than so many are kept");
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_trickle_in_are_not_held_for_long() {
        let (events, mut inbox) = mpsc::channel(EVENTS);
        let mut outbox = Outbox::new(events);
        outbox.gather();
        for number in 0..3 {
            outbox.give(piece(number)).await.unwrap();
            advance(TOGETHER / 2).await;
        }
        assert_eq!(told(&mut inbox), ["0", "1", "2"]);
        outbox.give(piece(3)).await.unwrap();
        assert!(told(&mut inbox).is_empty(), "time is counted anew");
    }

    #[tokio::test]
    async fn a_wait_for_the_reader_that_is_given_up_loses_nothing_but_before_a_failure() {
        let (events, mut inbox) = mpsc::channel(EVENTS);
        let mut outbox = Outbox::new(events);
        outbox.gather();
        for number in 0..EVENTS {
            outbox.give(piece(number)).await.unwrap();
        }
        let full = outbox.give(piece(EVENTS));
        assert!(timeout(Duration::ZERO, full).await.is_err(), "nothing is gathered for a reader who is behind");
        let reading = async {
            let mut all = Vec::new();
            while all.last().is_none_or(|last| last != "end") {
                all.extend(told(&mut inbox));
                tokio::task::yield_now().await;
            }
            all
        };
        let end = || FlightEvent::Failed(GatewayError::invalid("x", "y"));
        let (said, all) = tokio::join!(outbox.send(end()), reading);
        said.unwrap();
        let wanted: Vec<String> = (0..=EVENTS).map(|number| number.to_string()).chain(["end".into()]).collect();
        assert_eq!(all, wanted);
        for number in 0..EVENTS {
            outbox.give(piece(number)).await.unwrap();
        }
        assert!(timeout(Duration::ZERO, outbox.give(piece(EVENTS))).await.is_err());
        inbox.recv().await.unwrap();
        timeout(Duration::ZERO, outbox.break_off(end())).await.unwrap().unwrap();
        assert_eq!(told(&mut inbox).last().unwrap(), "end", "one place is enough for the last word");
        drop(inbox);
        outbox.gather_no_more();
        outbox.give(piece(0)).await.unwrap_err();
        assert!(outbox.held.is_empty());
    }
}
