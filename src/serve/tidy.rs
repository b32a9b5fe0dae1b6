//! Gives memory back to the system after a rush. The allocator keeps what a thread has freed until that thread allocates
//! again, which may be never; only the thread itself can give it back.

use spillway_actors::task;
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// Looks without an open request, [`super::UPKEEP`] apart, after which it is quiet, and after which connections that were kept are
/// closed, too.
const QUIET: [u32; 2] = [2, 22];

/// Counts the times that threads were asked.
static ASKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// Whether it has become quiet.
#[derive(Debug, Default)]
pub(super) struct Rush {
    /// `None`: nothing has run since the last time, or ever.
    quiet_looks: Option<u32>,
}

impl Rush {
    /// Whether now is a time to give memory back; `admitted` = requests since the last look.
    pub(super) fn is_over(&mut self, running: usize, admitted: u64) -> bool {
        if running > 0 || admitted > 0 {
            self.quiet_looks = Some(0);
            return false;
        }
        let Some(looks) = &mut self.quiet_looks else { return false };
        *looks += 1;
        let looks = *looks;
        if Some(&looks) == QUIET.last() {
            self.quiet_looks = None;
        }
        QUIET.contains(&looks)
    }
}

/// Asks every worker. Those asleep are woken by having something to do.
pub(super) fn ask() {
    ASKED.fetch_add(1, Ordering::Relaxed);
    for _ in 0..tokio::runtime::Handle::current().metrics().num_workers() * 2 {
        drop(task::detached(std::future::ready(())));
    }
}

/// What a worker does before it goes to sleep.
pub fn before_sleep() {
    let asked = ASKED.load(Ordering::Relaxed);
    if GIVEN.replace(asked) != asked {
        give_back();
    }
}

#[expect(unsafe_code, reason = "the allocator has no safe way to say this")]
fn give_back() {
    // SAFETY: it touches what this thread has freed, and nothing else.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_twice_after_each_rush_and_never_in_it() {
        let mut rush = Rush::default();
        let mut looks = |count: usize, running: usize, admitted: u64| {
            (0..count).filter(|_| rush.is_over(running, admitted)).count()
        };
        assert_eq!(looks(50, 0, 0), 0, "there was none");
        assert_eq!(looks(50, 3, 0), 0);
        assert_eq!(looks(1, 0, 0), 0, "not at once");
        assert_eq!(looks(1, 0, 0), 1);
        assert_eq!(looks(50, 0, 0), 1);
        assert_eq!(looks(50, 0, 0), 0, "nothing has run since");
        assert_eq!(looks(50, 0, 1), 0, "requests that end between two looks are a rush, too");
        assert_eq!(looks(3, 0, 0), 1);
    }
}
