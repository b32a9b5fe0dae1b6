//! Which cells a newly seated job takes over, shares, or waits for.
//!
//! A job whose beginning lies in a row that nobody uses continues that row when most of it fits; else it shares the common
//! cells from a row of its own. A job whose beginning is being computed right now for somebody ahead of it waits for that
//! one and shares step by step: eight clients with one system prompt compute it once.

use super::{Ask, Running, Scheduler, TokensOf};
use crate::{
    backend::{Sequence, Token},
    prefix::{Change, MIN_SHARED, common_len},
};
use spillway_actors::gpu::frame::JobId;

/// The job ahead whose tokens begin like this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Follow {
    leader: JobId,
    /// Tokens both have in common, and worth waiting for.
    pub(super) common: usize,
}

impl Scheduler {
    /// The row to begin from, and how many of its cells. At least one token is always left to compute: what is sampled
    /// comes out of it.
    pub(super) fn reusable(&self, ask: &Ask, tokens: &[Token]) -> Option<(Sequence, usize)> {
        if !self.limits.prefix_reuse || ask.scored {
            return None;
        }
        let (from, common) = self.rows.longest(ask.scope, tokens)?;
        let len = common.min(ask.tokens.saturating_sub(1));
        if ask.exact {
            // Whole batches of an undisturbed run, so that what follows is batched as in one.
            let len = len.min(self.rows.canonical(from)).min(ask.prompt.saturating_sub(1));
            let len = len - len % self.limits.batch_tokens.max(1);
            return (len > 0).then_some((from, len));
        }
        (len >= MIN_SHARED).then_some((from, len))
    }

    /// Chooses a row that no job holds and fills it with what was found.
    pub(super) fn prepare_row(&mut self, found: Option<(Sequence, usize)>, scope: u64) -> Option<(Sequence, usize)> {
        let running = self.seats.iter().flatten().count();
        // Sequences apart from each other are computed together as far as their numbers are adjacent: low ones are taken.
        let among = if self.limits.apart { running + 1 } else { self.seats.len() };
        let Some((from, len)) = found else {
            let to = self.rows.idle_oldest(among)?;
            self.cut(to, 0);
            self.rows.set_scope(to, scope);
            return Some((to, 0));
        };
        let is_low = usize::try_from(from).is_ok_and(|from| from < among);
        let mostly = len * 2 >= self.rows.tokens(from).len() && is_low;
        let to = if !self.rows.is_live(from) && mostly { from } else { self.rows.idle_oldest(among)? };
        if to == from {
            self.cut(from, len);
        } else {
            self.cut(to, 0);
            self.rows.set_scope(to, scope);
            self.share(from, to, 0, len);
        }
        Some((to, len))
    }

    /// The running prompt ahead of this job with the longest common beginning, if that is longer than what it has.
    pub(super) fn leader_of(
        &self,
        ask: &Ask,
        order: u64,
        have: usize,
        tokens: &[Token],
        tokens_of: TokensOf<'_>,
    ) -> Option<Follow> {
        if !self.limits.prefix_reuse || ask.exact || ask.scored {
            return None;
        }
        let most = ask.tokens.saturating_sub(1);
        let same = |other: &&Running| other.ask.scope == ask.scope;
        let ahead = self.seats.iter().flatten().filter(|other| other.order < order && other.pending() > 1).filter(same);
        let common = |other: &Running| common_len(tokens, tokens_of(other.ask.job)).min(most);
        let best = ahead.map(|other| (common(other), other.ask.job)).max_by_key(|(common, _)| *common)?;
        (best.0 >= have + MIN_SHARED).then_some(Follow { leader: best.1, common: best.0 })
    }

    /// Gives every follower what its leader has computed by now. Returns who got how many tokens.
    pub fn catch_up(&mut self, tokens_of: TokensOf<'_>) -> Vec<(JobId, usize)> {
        let followers: Vec<(Sequence, Running, Follow)> = self
            .running()
            .filter_map(|(sequence, running)| running.follows.map(|follow| (sequence, running, follow)))
            .collect();
        let mut gained = Vec::new();
        for (sequence, running, follow) in followers {
            let leader = self.running().find(|(_, other)| other.ask.job == follow.leader);
            let have = leader.map_or(0, |(_, leader)| leader.evaluated.min(follow.common));
            // Cells apart are copied as a whole, so once.
            let have = if self.limits.apart && have < follow.common { running.evaluated } else { have };
            if let Some((from, _)) = leader
                && have > running.evaluated
            {
                self.share(from, sequence, running.evaluated, have);
                gained.push((running.ask.job, have - running.evaluated));
            }
            let mut evaluated = have.max(running.evaluated);
            let follows = match leader {
                Some(_) if evaluated < follow.common => Some(follow),
                Some(_) => None,
                None => {
                    let tokens = tokens_of(running.ask.job);
                    // It may have ended in its last step and left everything behind.
                    if let Some((from, len)) = self.reusable(&running.ask, tokens)
                        && len > evaluated
                    {
                        self.share(from, sequence, evaluated, len);
                        gained.push((running.ask.job, len - evaluated));
                        evaluated = len;
                    }
                    self.leader_of(&running.ask, running.order, evaluated, tokens, tokens_of)
                }
            };
            if let Some(follower) = self.find(running.ask.job) {
                follower.brought -= evaluated - follower.evaluated;
                follower.evaluated = evaluated;
                follower.follows = follows;
            }
        }
        gained
    }

    fn cut(&mut self, sequence: Sequence, len: usize) {
        if self.rows.tokens(sequence).len() > len {
            self.rows.truncate(sequence, len);
            self.changes.push(Change::Truncate { sequence, len });
        }
    }

    fn share(&mut self, from: Sequence, to: Sequence, start: usize, end: usize) {
        self.rows.share(from, to, start, end);
        self.changes.push(Change::Share { from, to, start, end });
    }
}
