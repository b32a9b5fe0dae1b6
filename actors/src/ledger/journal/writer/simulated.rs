//! What the journal's two threads do, as a task in virtual time: the same steps at the same times, in one order.

use super::{RETRY, SYNC, Shared, sync_once};
use std::sync::{Arc, Weak, atomic::Ordering};
use tokio::time::{Instant, sleep};

/// Ends with the journal.
pub(super) async fn threads(journal: Weak<Shared>) {
    let (mut named, mut tried) = (0, Instant::now());
    loop {
        sleep(SYNC).await;
        let Some(shared) = journal.upgrade() else { return };
        if shared.stuck.lock().is_none() || tried.elapsed() >= RETRY {
            tried = Instant::now();
            turn(&shared);
        }
        sync_once(&shared, &mut named);
        if shared.queue.lock().closed {
            return;
        }
    }
}

pub(super) fn last_turn(shared: &Arc<Shared>) {
    turn(shared);
    sync_once(shared, &mut 0);
}

/// Insists on what is stuck, then writes what is left to the thread.
fn turn(shared: &Shared) {
    let mut open = shared.open.lock();
    let Some(open) = open.as_mut() else { return };
    let stuck = shared.stuck.lock().take();
    if let Some(mut taken) = stuck {
        if taken.batch.write(shared, open).is_err() {
            *shared.stuck.lock() = Some(taken);
            return;
        }
        shared.written_seq.store(taken.last, Ordering::Release);
        shared.set(&shared.write_works, true, "write", None);
    }
    let taken = {
        let mut queue = shared.queue.lock();
        if queue.is_empty() {
            return;
        }
        queue.take()
    };
    shared.write_down(taken, open);
}
