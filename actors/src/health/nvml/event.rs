//! What the driver reports unasked, on its way from the NVML thread to HealthActor. The queue is bounded and outlives the
//! actor: what one incarnation did not finish, the next one finds.

use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Events kept. One fault reports itself a few times, never hundreds.
const EVENTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuEventKind {
    Xid(u64),
    /// An uncorrected memory error.
    DoubleBitEcc,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvent {
    pub uuid: String,
    pub kind: GpuEventKind,
}

#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: Mutex<VecDeque<GpuEvent>>,
    arrived: Notify,
    taken: Notify,
}

impl EventQueue {
    /// An event already waiting is not added again; of too many the oldest goes.
    pub(super) fn push(&self, event: GpuEvent) {
        let mut waiting = self.waiting.lock();
        if !waiting.contains(&event) {
            if waiting.len() == EVENTS {
                waiting.pop_front();
            }
            waiting.push_back(event);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The oldest event; it stays until [`EventQueue::done`].
    pub fn first(&self) -> Option<GpuEvent> {
        self.waiting.lock().front().cloned()
    }

    /// `event` has been acted upon.
    pub fn done(&self, event: &GpuEvent) {
        let mut waiting = self.waiting.lock();
        if waiting.front() == Some(event) {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            self.taken.notify_one();
        }
    }

    /// Resolves once nothing waits.
    pub async fn emptied(&self) {
        while self.first().is_some() {
            self.taken.notified().await;
        }
    }

    /// Resolves once something waits.
    pub async fn arrived(&self) {
        while self.first().is_none() {
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(number: u64) -> GpuEvent {
        GpuEvent { uuid: "GPU-a".into(), kind: GpuEventKind::Xid(number) }
    }

    #[test]
    fn an_event_stays_until_it_was_acted_upon() {
        let queue = EventQueue::default();
        queue.push(xid(13));
        assert_eq!(queue.first(), Some(xid(13)), "whoever looked first died");
        assert_eq!(queue.first(), Some(xid(13)));
        queue.done(&xid(13));
        assert_eq!(queue.first(), None);
    }

    #[test]
    fn a_storm_keeps_the_latest_and_each_once() {
        let queue = EventQueue::default();
        for number in (0..100).chain(90..100) {
            queue.push(xid(number));
        }
        assert_eq!(queue.first(), Some(xid(36)));
        assert_eq!(queue.waiting.lock().len(), EVENTS);
    }
}
