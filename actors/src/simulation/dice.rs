//! Chance of one part of a schedule: each part has dice of its own, so that what one does leaves the others' as they were.

use super::chance::next;
use std::{ops::Range, time::Duration};

#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed ^ 0x5EED_0F5E_ED5E_ED00;
        next(&mut state);
        Self(state)
    }

    /// Dice for another part.
    pub(super) fn fork(&mut self) -> Self {
        Self(next(&mut self.0))
    }

    pub(super) fn number(&mut self, within: Range<u64>) -> u64 {
        within.start + next(&mut self.0) % (within.end - within.start).max(1)
    }

    /// Whether something happens that happens so many times of a hundred.
    pub(super) fn percent(&mut self, times: u64) -> bool {
        self.number(0..100) < times
    }

    pub(super) fn ms(&mut self, within: Range<u64>) -> Duration {
        Duration::from_millis(self.number(within))
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.number(0..choices.len() as u64);
        choices[usize::try_from(at).unwrap()]
    }

    /// One of them, each as often as its weight says.
    pub(super) fn weighed<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let mut at = self.number(0..choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        choices[0].1
    }
}
