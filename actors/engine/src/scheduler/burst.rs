//! A burst of requests onto an engine in which no more speak than wait: their prompts are computed first, and they begin to
//! speak together.
//!
//! One that began alone would decode alone, which takes as long as decoding for all, and every further prompt would hold it
//! up. Nobody waits so for a long prompt. Who speaks already pauses meanwhile, which disturbs less than a slow token in each of
//! many batches; a pause is bounded in time, whoever comes and leaves in it, and then they are left in peace for a while.
//! What takes no longer than the pace allows a short prompt anyway is no burst.

use super::{Running, Scheduler};
use crate::{
    backend::Sequence,
    pace::{ONE_PAUSE, Pace},
};
use std::time::Duration;

/// Prompt tokens that are computed before they speak: the oldest prompts up to so many.
const BURST_TOKENS: usize = 2048;
/// So long a burst may take, and they pause who speak; half of the silence that a gateway takes for a broken stream.
const PAUSE: Duration = Duration::from_secs(10);
/// And after a pause so many steps not again.
const STEPS_IN_PEACE: u32 = 16;

pub(super) type Member = (Sequence, Running);

/// What the next batch is to a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    /// There is none.
    None,
    /// Part of it: nobody of it speaks after this batch.
    Gathers,
    /// The rest of it: with this batch all of it speaks.
    Speaks,
}

/// How much was asked of those who speak, and of those who could.
#[derive(Debug)]
pub(super) struct Patience {
    /// Prompt tokens that the burst under way has taken so far.
    spent: usize,
    /// Since somebody paused.
    steps: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { spent: 0, steps: STEPS_IN_PEACE }
    }

    /// Whether a burst may begin, or go on, that has `due` tokens left.
    fn lasts(&self, pace: &Pace, due: usize, somebody_speaks: bool) -> bool {
        let Some(takes) = pace.alone(self.spent + due) else { return !somebody_speaks };
        let begins = || self.steps >= STEPS_IN_PEACE && takes > ONE_PAUSE;
        takes <= PAUSE && (!somebody_speaks || self.spent > 0 || begins())
    }

    /// Told of every batch; `tokens` of a burst.
    fn batch(&mut self, burst: Burst, tokens: usize, somebody_speaks: bool) {
        self.spent = if burst == Burst::Gathers { self.spent + tokens } else { 0 };
        let pause = burst != Burst::None && somebody_speaks;
        self.steps = if pause { 0 } else { self.steps.saturating_add(1) };
    }
}

impl Scheduler {
    /// Whether the prompts that wait, the oldest first, are a burst. The arguments keep who takes part in the batch of at
    /// most `room` tokens: while the burst gathers, those of it with all but their last tokens.
    pub(super) fn gather(&mut self, decoding: &mut Vec<Member>, prompts: &mut Vec<Member>, room: usize) -> Burst {
        let members = self.members(decoding, prompts);
        let together = members.len() + decoding.iter().filter(|member| self.is_new(member)).count();
        let speakers = decoding.iter().chain(prompts.iter()).filter(|member| member.1.speaks()).count();
        let due: usize = members.iter().map(|(_, running)| running.due()).sum();
        let is_burst =
            !members.is_empty() && together >= speakers.max(2) && self.patience.lasts(&self.pace, due, speakers > 0);
        let burst = if is_burst {
            prompts.retain(|member| self.is_canary(member) || members.contains(member));
            let all: usize = prompts.iter().map(|(_, running)| running.due()).sum();
            if all + decoding.len() <= room { Burst::Speaks } else { Burst::Gathers }
        } else {
            Burst::None
        };
        if burst == Burst::Gathers {
            decoding.retain(|member| self.is_canary(member));
        }
        self.patience.batch(burst, due.min(room), speakers > 0);
        burst
    }

    /// The prompts of the burst that are not yet computed.
    fn members(&self, decoding: &[Member], prompts: &[Member]) -> Vec<Member> {
        let ready = decoding.iter().filter(|member| self.is_new(member));
        let mut size: usize = ready.map(|(_, running)| running.brought).sum();
        let new = prompts.iter().filter(|member| self.is_new(member));
        let fits = |member: &&Member| {
            size += member.1.brought;
            size <= BURST_TOKENS && self.is_short(&member.1) && !member.1.is_scored()
        };
        new.take_while(fits).copied().collect()
    }

    /// Its client waits for the first token.
    fn is_new(&self, member: &Member) -> bool {
        !member.1.speaks() && !self.is_canary(member)
    }

    pub(super) fn is_canary(&self, member: &Member) -> bool {
        member.0 == self.limits.parallel
    }
}
