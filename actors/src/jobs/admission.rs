//! How many requests are let in at once, and whose: pure decisions, the time being an argument.
//!
//! **How many.** Never more than configured. Fewer while the gateway itself is what requests wait for: the time from admission
//! to the first plan is nobody's but ours (scheduling, mailboxes, classifier, router), whatever a model or provider takes
//! later, so streams of minutes are no overload. The signal is CoDel's (K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM
//! Queue 10, 2012): the *least* delay within a window, because a burst that drains is no standing queue. The limit answers it
//! with additive increase and multiplicative decrease (D.-M. Chiu, R. Jain, 1989), the step being the root of the limit as in
//! Netflix' concurrency-limits. That queueing time and not response time tells who is overloaded is from WeChat's DAGOR
//! (H. Zhou et al., SoCC 2018).
//!
//! **Whose.** A share of the places is kept for each class of keys above the asker's that has asked within the last minute, so
//! that low is refused first and high last, while a class that is alone has all places.

use crate::domain::Priority;
use std::time::Duration;
use tokio::time::Instant;

/// A window whose least delay is longer has a standing queue.
pub(super) const TARGET: Duration = Duration::from_millis(50);
const WINDOW: Duration = Duration::from_millis(200);
/// After a bad window so much of what ran in it is let in.
const DECREASE: f64 = 0.9;
/// But no less than so much of the limit before.
const AT_ONCE: f64 = 0.7;
/// So few are never what the gateway chokes on; or all that are configured, if that is fewer.
const FLOOR: usize = 64;
/// A class that has not asked for so long needs no places kept.
const ABSENT: Duration = Duration::from_secs(60);
/// Shares kept from those below, of the limit.
const FOR_HIGH: f64 = 0.1;
const FOR_NORMAL: f64 = 0.3;

/// What is known of the last moments.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    most: usize,
    adaptive: bool,
    limit: f64,
    began: Instant,
    least: Option<Duration>,
    most_running: usize,
    /// When a class last asked: normal, high.
    asked: [Option<Instant>; 2],
}

impl Admission {
    pub(super) const fn new(most: usize, adaptive: bool, now: Instant) -> Self {
        Self { most, adaptive, limit: most as f64, began: now, least: None, most_running: 0, asked: [None; 2] }
    }

    /// From now on at most so many. A limit that was in force stays, if it is still one.
    pub(super) fn configure(&mut self, most: usize, adaptive: bool) {
        let was_all = self.limit >= self.most as f64;
        (self.most, self.adaptive) = (most, adaptive);
        self.limit = if was_all || !adaptive { most as f64 } else { self.limit.min(most as f64) };
    }

    /// At most so many now, whoever asks.
    pub(super) const fn limit(&self) -> usize {
        self.limit as usize
    }

    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// A request has been planned, so long after its admission, without what it waited for a free place at a target.
    pub(super) fn planned(&mut self, delay: Duration, now: Instant) {
        self.turn(now);
        self.least = Some(self.least.map_or(delay, |least| least.min(delay)));
    }

    /// Somebody asks while so many are let in.
    pub(super) fn admits(&mut self, priority: Priority, running: usize, now: Instant) -> bool {
        self.turn(now);
        self.most_running = self.most_running.max(running);
        match priority {
            Priority::Low => {}
            Priority::Normal => self.asked[0] = Some(now),
            Priority::High => self.asked[1] = Some(now),
        }
        running < self.limit_for(priority, now)
    }

    /// Places that this class may fill.
    fn limit_for(&self, priority: Priority, now: Instant) -> usize {
        let kept = |class: usize, share: f64| {
            let present = self.asked[class].is_some_and(|asked| now.saturating_duration_since(asked) < ABSENT);
            if present { (self.limit * share) as usize } else { 0 }
        };
        let kept = match priority {
            Priority::High => 0,
            Priority::Normal => kept(1, FOR_HIGH),
            Priority::Low => kept(1, FOR_HIGH) + kept(0, FOR_NORMAL),
        };
        self.limit().saturating_sub(kept)
    }

    /// Ends the window if its time is over.
    fn turn(&mut self, now: Instant) {
        let lasted = now.saturating_duration_since(self.began);
        if lasted < WINDOW {
            return;
        }
        let (least, most_running) = (self.least.take(), std::mem::take(&mut self.most_running));
        self.began = now;
        if !self.adaptive {
            return;
        }
        if least.is_some_and(|least| least > TARGET) {
            // Of what runs: those stay, and a limit far below them would only be slow to come back.
            // One stall takes no more than a part of the limit: a burst behind it may find nobody in its way.
            let fewer = (most_running as f64 * DECREASE).max(self.limit * AT_ONCE).max(FLOOR.min(self.most) as f64);
            self.limit = self.limit.min(fewer);
        } else {
            // Windows in which nobody came are good ones.
            let windows = (lasted.as_secs_f64() / WINDOW.as_secs_f64()).min(1000.0);
            self.limit = (self.limit + windows * self.limit.sqrt()).min(self.most as f64);
        }
    }
}

#[cfg(test)]
mod tests;
