//! A job's sampling plan as llama.cpp samplers.
//!
//! `LlamaSampler::sample` is not used: it accepts the token inside and may throw C++ exceptions through Rust. Filters and
//! the final draw are two objects, so that a replayed job's random numbers can be advanced without its filters.

use crate::{
    backend::Token,
    sampling::{Pick, SamplingPlan, Stage},
};
use llama_cpp_2::{
    sampling::LlamaSampler,
    token::{LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray},
};

pub struct JobSampler {
    /// `None`: the token with the largest logit, without a candidate list.
    chain: Option<Chain>,
}

struct Chain {
    filters: LlamaSampler,
    pick: LlamaSampler,
}

impl JobSampler {
    /// In the state it would have had after sampling `replay`.
    pub fn new(plan: &SamplingPlan, vocab: Token, max_tokens: usize, replay: &[Token]) -> Self {
        if plan.is_argmax() {
            return Self { chain: None };
        }
        let window = i32::try_from(max_tokens).unwrap_or(i32::MAX);
        let stages = plan.stages.iter().map(|stage| stage_sampler(*stage, vocab, window));
        let mut chain = Chain { filters: LlamaSampler::chain(stages, true), pick: pick_sampler(plan.pick) };
        for &token in replay {
            chain.accept(token);
            // One draw per token, whatever there was to choose from.
            let only = LlamaTokenData::new(LlamaToken(token), 0.0, 0.0);
            chain.pick.apply(&mut LlamaTokenDataArray::new(vec![only], false));
        }
        Self { chain: Some(chain) }
    }

    /// `None` when the logits are not numbers.
    pub fn sample(&mut self, logits: &[f32], candidates: &mut LlamaTokenDataArray) -> Option<Token> {
        match &mut self.chain {
            Some(chain) => chain.sample(logits, candidates),
            None => argmax(logits),
        }
    }
}

impl Chain {
    fn sample(&mut self, logits: &[f32], candidates: &mut LlamaTokenDataArray) -> Option<Token> {
        candidates.data.clear();
        let entries = (0..).zip(logits).map(|(token, &logit)| LlamaTokenData::new(LlamaToken(token), logit, 0.0));
        candidates.data.extend(entries);
        candidates.selected = None;
        candidates.sorted = false;
        self.filters.apply(candidates);
        self.pick.apply(candidates);
        let chosen = candidates.data.get(candidates.selected?)?;
        if !chosen.logit().is_finite() {
            return None;
        }
        let LlamaToken(token) = chosen.id();
        self.accept(token);
        Some(token)
    }

    fn accept(&mut self, token: Token) {
        // Only a grammar can refuse a token, and there is none here.
        let _ = self.filters.try_accept(LlamaToken(token));
    }
}

fn stage_sampler(stage: Stage, vocab: Token, window: i32) -> LlamaSampler {
    match stage {
        Stage::Penalties { repeat, frequency, presence } => {
            LlamaSampler::penalties(vocab, window, repeat, frequency, presence)
        }
        Stage::TopK(k) => LlamaSampler::top_k(k),
        Stage::TopP(p) => LlamaSampler::top_p(p, 1),
        Stage::MinP(p) => LlamaSampler::min_p(p, 1),
        Stage::Temperature(temperature) => LlamaSampler::temp(temperature),
    }
}

fn pick_sampler(pick: Pick) -> LlamaSampler {
    match pick {
        Pick::Greedy => LlamaSampler::greedy(),
        // llama.cpp reads the largest seed as "random".
        Pick::Draw { seed } => LlamaSampler::dist(seed.map_or(u32::MAX, |seed| seed.min(u32::MAX - 1))),
    }
}

fn argmax(logits: &[f32]) -> Option<Token> {
    let numbers = (0..).zip(logits).filter(|(_, logit)| logit.is_finite());
    numbers
        .fold(None, |best: Option<(Token, f32)>, (token, &logit)| match best {
            Some((_, largest)) if largest >= logit => best,
            _ => Some((token, logit)),
        })
        .map(|(token, _)| token)
}
