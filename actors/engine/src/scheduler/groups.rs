//! Whose turn it is when requests of several jobs stand beside others. Pure.
//!
//! A free sequence goes to the request that holds the fewest, and of equals to the one that came first. So a request of a
//! hundred answers fills what nobody else needs, and every other request gets a sequence as if it were not there.

use super::{Ask, Running};
use std::collections::{BTreeMap, HashMap};

/// The job whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) order: u64,
    pub(super) ask: Ask,
    /// Sequences that its group holds.
    pub(super) held: usize,
}

pub(super) fn next(waiting: &BTreeMap<u64, Ask>, seats: &[Option<Running>]) -> Option<Next> {
    if waiting.is_empty() {
        return None;
    }
    let held = held_by_group(seats);
    let nexts = waiting.iter().map(|(order, ask)| Next {
        order: *order,
        ask: *ask,
        held: held.get(&ask.group).copied().unwrap_or(0),
    });
    nexts.min_by_key(|next| (next.held, next.order))
}

/// The place in the queue of the job that gives way: the newest of the group that holds most, if that is more than one.
pub(super) fn extra(seats: &[Option<Running>]) -> Option<u64> {
    let held = held_by_group(seats);
    let (most, running) = seats
        .iter()
        .flatten()
        .map(|running| (held.get(&running.ask.group).copied().unwrap_or(0), running))
        .max_by_key(|(held, running)| (*held, running.order))?;
    (most > 1).then_some(running.order)
}

fn held_by_group(seats: &[Option<Running>]) -> HashMap<u64, usize> {
    let mut held = HashMap::new();
    for running in seats.iter().flatten() {
        *held.entry(running.ask.group).or_default() += 1;
    }
    held
}
