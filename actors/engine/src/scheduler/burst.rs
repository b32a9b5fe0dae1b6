//! A burst of requests onto an engine in which not many speak: their prompts are computed first, and they begin to speak
//! together.
//!
//! One that began alone would decode alone, which takes as long as decoding for all, and every further prompt would hold it
//! up. Nobody waits so for a long prompt. Who speaks already pauses once while the burst is computed, where that is soon
//! done: one pause disturbs less than a slow token in each of several batches. After a pause they are left in peace for a
//! while, and a further burst has them with it, a token a batch.

use super::{Running, Scheduler};
use crate::backend::Sequence;
use std::time::Duration;

/// Prompt tokens that are computed before they speak: the oldest prompts up to so many.
const BURST_TOKENS: usize = 2048;
/// So long may they pause who speak; half of the silence that a gateway takes for a broken stream.
const PAUSE: Duration = Duration::from_secs(10);
/// And after a pause so many steps not again.
const STEPS_IN_PEACE: u32 = 16;

type Member = (Sequence, Running);

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

/// Whether those who speak pause.
#[derive(Debug)]
pub(super) struct Peace {
    pausing: bool,
    /// Since the last pause.
    steps: u32,
}

impl Peace {
    pub(super) fn new() -> Self {
        Self { pausing: false, steps: STEPS_IN_PEACE }
    }

    /// A pause begins or goes on only if it is `short`.
    fn pauses(&self, short: bool) -> bool {
        short && (self.pausing || self.steps >= STEPS_IN_PEACE)
    }

    /// Told of every batch.
    fn batch(&mut self, pausing: bool) {
        self.pausing = pausing;
        self.steps = if pausing { 0 } else { self.steps.saturating_add(1) };
    }
}

impl Scheduler {
    /// Whether the prompts that wait, the oldest first, are a burst. The arguments keep who takes part in the batch of at
    /// most `budget` tokens: while the burst gathers, those of it with all but their last tokens.
    pub(super) fn gather(&mut self, decoding: &mut Vec<Member>, prompts: &mut Vec<Member>, budget: usize) -> Burst {
        let members = self.burst(decoding, prompts);
        let due: usize = members.iter().map(|(_, running)| running.due()).sum();
        let (burst, pause) = if members.is_empty() {
            (Burst::None, false)
        } else if due + decoding.len() <= budget {
            if prompts.iter().any(|member| !self.goes_on(member) && !member.1.is_short()) {
                // A long one has to move on, too.
                (Burst::None, false)
            } else {
                prompts.retain(|member| self.goes_on(member) || members.contains(member));
                (Burst::Speaks, false)
            }
        } else {
            let pause = self.peace.pauses(self.pace.alone(due).is_some_and(|takes| takes <= PAUSE));
            decoding.retain(|member| self.is_canary(member) || (member.1.speaks() && !pause));
            prompts.retain(|member| self.goes_on(member) || members.contains(member));
            (Burst::Gathers, pause)
        };
        self.peace.batch(pause);
        burst
    }

    /// The prompts of the burst that are not yet computed; empty when there is none.
    fn burst(&self, decoding: &[Member], prompts: &[Member]) -> Vec<Member> {
        let speakers = decoding.iter().chain(prompts).filter(|member| self.goes_on(member)).count();
        if speakers * 2 > decoding.len() + prompts.len() {
            return Vec::new();
        }
        let ready = || decoding.iter().filter(|member| !self.goes_on(member));
        let mut size: usize = ready().map(|(_, running)| running.brought).sum();
        let mut members = Vec::new();
        for &member in prompts.iter().filter(|member| !self.goes_on(member)) {
            size += member.1.brought;
            if size > BURST_TOKENS || !member.1.is_short() || member.1.is_scored() {
                break;
            }
            members.push(member);
        }
        if members.len() + ready().count() < 2 { Vec::new() } else { members }
    }

    fn goes_on(&self, member: &Member) -> bool {
        member.1.speaks() || self.is_canary(member)
    }

    fn is_canary(&self, member: &Member) -> bool {
        member.0 == self.limits.parallel
    }
}
