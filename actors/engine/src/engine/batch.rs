//! Requests of several answers: each answer becomes a job of its own. A prompt is tokenised once for all of its answers,
//! and a long list of prompts over several turns, so that it does not hold up those who decode.

use super::{Engine, embed::size};
use crate::{
    backend::{Backend, Token},
    job::{Echoing, failure},
};
use spillway_actors::gpu::frame::{Batch, Echo, JobFailureKind, JobId, JobSpec, Member, Prompt};
use std::collections::VecDeque;

/// Bytes of prompts that are tokenised between two steps: milliseconds.
const TOKENISED_AT_ONCE: usize = 64 << 10;

/// Batches that are not taken in yet, in their order.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    batches: VecDeque<(Batch, usize)>,
}

impl Arriving {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn contains(&self, job: JobId) -> bool {
        self.batches.iter().any(|(batch, _)| batch.members.iter().any(|member| member.job == job))
    }

    pub(super) fn len(&self) -> usize {
        self.batches.iter().map(|(batch, _)| batch.members.len()).sum()
    }

    pub(super) fn forget(&mut self, job: JobId) {
        for (batch, _) in &mut self.batches {
            batch.members.retain(|member| member.job != job);
        }
    }

    fn forget_group(&mut self, group: u64) {
        self.batches.retain(|(batch, _)| batch.group != group);
    }

    /// The next prompt, and its answers as far as they are still wanted.
    fn next_prompt(&mut self) -> Option<Arrived> {
        loop {
            let (batch, next) = self.batches.front_mut()?;
            let Some(prompt) = batch.prompts.get_mut(*next) else {
                self.batches.pop_front();
                continue;
            };
            let prompt = std::mem::replace(prompt, Prompt::Tokens(Vec::new()));
            let at = u32::try_from(*next).unwrap_or(u32::MAX);
            let (mine, others) = std::mem::take(&mut batch.members).into_iter().partition(|member| member.prompt == at);
            batch.members = others;
            *next += 1;
            return Some(Arrived { prompt, members: mine, group: batch.group, like: batch.like.clone() });
        }
    }
}

struct Arrived {
    prompt: Prompt,
    members: Vec<Member>,
    group: u64,
    like: JobSpec,
}

impl<B: Backend> Engine<B> {
    /// Takes a request of several answers. Jobs that are in work already are ignored, as by [`submit`](Self::submit).
    pub fn submit_all(&mut self, mut batch: Batch) {
        batch.members.retain(|member| !self.is_known(member.job));
        let prompts = u32::try_from(batch.prompts.len()).unwrap_or(u32::MAX);
        let (members, stray): (Vec<Member>, Vec<Member>) =
            batch.members.into_iter().partition(|member| member.prompt < prompts);
        for member in stray {
            self.refuse(member.job, failure(JobFailureKind::Invalid, "the prompt is missing"));
        }
        batch.members = members;
        self.arriving.batches.push_back((batch, 0));
    }

    /// Frees everything of a batch at once; nothing more is said about it.
    pub fn cancel_all(&mut self, group: u64) {
        self.arriving.forget_group(group);
        self.jobs_of(group).into_iter().for_each(|job| self.cancel(job));
    }

    pub(super) fn take_in_some(&mut self) {
        let mut bytes = 0;
        while bytes < TOKENISED_AT_ONCE
            && let Some(arrived) = self.arriving.next_prompt()
        {
            bytes += size(&arrived.prompt);
            self.take_in(arrived);
        }
    }

    fn take_in(&mut self, arrived: Arrived) {
        let Arrived { prompt, members, group, like } = arrived;
        if members.is_empty() {
            return;
        }
        let tokens = self.backend.tokenize(&prompt);
        let text = match &tokens {
            Ok(tokens) if members.iter().any(|member| member.echo != Echo::Nothing) => {
                Some(self.text_of(&prompt, tokens))
            }
            _ => None,
        };
        let batch = Batch { group, like, prompts: Vec::new(), members: Vec::new() };
        for member in &members {
            let spec = batch.spec_of(member);
            let scored = spec.logprobs.filter(|_| member.echo == Echo::Scored).map(usize::from);
            let echo = text.clone().filter(|_| member.echo != Echo::Nothing).map(|text| Echoing::new(text, scored));
            match &tokens {
                Ok(tokens) => self.take(&spec, tokens.clone(), group, echo),
                Err(failure) => self.refuse(member.job, failure.clone()),
            }
        }
    }

    /// As it was sent, or as its tokens spell it.
    fn text_of(&self, prompt: &Prompt, tokens: &[Token]) -> String {
        match prompt {
            Prompt::Text(text) | Prompt::Between { prefix: text, .. } => text.clone(),
            Prompt::Tokens(_) | Prompt::Chat { .. } => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.backend.piece(*token, false)).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests;
