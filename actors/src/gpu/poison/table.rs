//! Suspects, verdicts and the deaths they come from. Pure.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// How long a request is barred, and how long a suspicion lasts that nothing has cleared.
pub(super) const TERM: Duration = Duration::from_secs(600);
/// Entries of each kind; beyond it the one that ends soonest is forgotten.
const MOST: usize = 1024;
/// Deaths whose cause may still become known.
const DEATHS: usize = 64;

/// A keyed hash of prompt and schema.
pub type Mark = [u8; 16];

/// Target and epoch.
pub type DeathId = (String, u64);

/// How a request may run on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    #[default]
    Free,
    /// With nothing beside it.
    Alone,
    Barred {
        until: Instant,
    },
}

#[derive(Debug)]
struct Accusation {
    death: DeathId,
    /// Whom only this death made suspects.
    fresh: Vec<Mark>,
    /// The only one that was there.
    lone: Option<Mark>,
    /// That one was barred for it.
    confirmed: bool,
}

#[derive(Debug, Default)]
pub struct Table {
    suspects: HashMap<Mark, Instant>,
    barred: HashMap<Mark, Instant>,
    accusations: VecDeque<Accusation>,
}

impl Table {
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty() && self.barred.is_empty()
    }

    pub fn verdict(&self, mark: &Mark, now: Instant) -> Verdict {
        let lasts = |until: &&Instant| **until > now;
        if let Some(until) = self.barred.get(mark).filter(lasts) {
            return Verdict::Barred { until: *until };
        }
        if self.suspects.get(mark).filter(lasts).is_some() { Verdict::Alone } else { Verdict::Free }
    }

    /// An engine died under these; nobody from outside is known to have ended it.
    pub fn accuse(&mut self, death: DeathId, marks: &[Mark], now: Instant) {
        self.forget_old(now);
        let mut marks = marks.to_vec();
        marks.sort_unstable();
        marks.dedup();
        let lone = if let [lone] = marks.as_slice() { Some(*lone) } else { None };
        let mut fresh = marks;
        fresh.retain(|mark| self.suspects.insert(*mark, now + TERM).is_none());
        bound(&mut self.suspects);
        if self.accusations.len() == DEATHS {
            self.accusations.pop_front();
        }
        self.accusations.push_back(Accusation { death, fresh, lone, confirmed: false });
    }

    /// That death came from inside. Says whether it barred somebody: one that was alone.
    pub fn confirm(&mut self, death: &DeathId, now: Instant) -> bool {
        let mut open = self.accusations.iter_mut().filter(|accusation| !accusation.confirmed);
        let Some(accusation) = open.find(|accusation| accusation.death == *death) else { return false };
        accusation.confirmed = true;
        let Some(lone) = accusation.lone else { return false };
        self.suspects.remove(&lone);
        self.barred.insert(lone, now + TERM);
        bound(&mut self.barred);
        true
    }

    /// That death was somebody else's doing, whatever it looked like before.
    pub fn absolve(&mut self, death: &DeathId) {
        if let Some(accusation) = self.take(death) {
            if let Some(lone) = accusation.lone.filter(|_| accusation.confirmed) {
                self.barred.remove(&lone);
            }
            self.suspects.retain(|mark, _| !accusation.fresh.contains(mark));
        }
    }

    /// An engine has answered it, so it ends none.
    pub fn clear(&mut self, mark: &Mark) {
        self.suspects.remove(mark);
    }

    fn take(&mut self, death: &DeathId) -> Option<Accusation> {
        let at = self.accusations.iter().position(|accusation| accusation.death == *death)?;
        self.accusations.remove(at)
    }

    fn forget_old(&mut self, now: Instant) {
        self.suspects.retain(|_, until| *until > now);
        self.barred.retain(|_, until| *until > now);
    }
}

fn bound(entries: &mut HashMap<Mark, Instant>) {
    while entries.len() > MOST {
        let Some(soonest) = entries.iter().min_by_key(|(_, until)| **until).map(|(mark, _)| *mark) else { return };
        entries.remove(&soonest);
    }
}
