//! A job's sampling plan as llama.cpp samplers.
//!
//! `LlamaSampler::sample` is not used: it accepts the token inside and may throw C++ exceptions through Rust. Filters and
//! the final draw are separate objects, so that a replayed job's random numbers can be advanced without its filters. The
//! grammar is asked about the chosen token first; only when it refuses is the whole vocabulary put before it, which takes
//! as long as several tokens. A request that names no more than a temperature needs none of that: see [`Draw`].

use super::grammar;
use crate::{
    backend::{SampleFault, Sampled, Token},
    draw::Draw,
    job::failure,
    logprobs,
    sampling::{Pick, SamplingPlan, Stage},
};
use llama_cpp_2::{
    model::LlamaModel,
    sampling::LlamaSampler,
    token::{LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray},
};
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind};

pub struct JobSampler {
    bias: Vec<(Token, f32)>,
    choice: Choice,
    grammar: Option<LlamaSampler>,
    /// Alternatives wanted with each token.
    logprobs: Option<usize>,
    /// Logits with the biases added.
    biased: Vec<f32>,
}

/// How a token is chosen.
enum Choice {
    /// The largest logit, without a candidate list.
    Largest,
    /// By probability, without one.
    Drawn(Box<Draw>),
    Filtered(Chain),
}

struct Chain {
    filters: LlamaSampler,
    pick: LlamaSampler,
    /// Draws when the grammar refused the first token. Both are advanced once per token, whichever was needed, so that a
    /// replay need not know.
    second_pick: LlamaSampler,
}

impl JobSampler {
    /// In the state it would have had after sampling `replay`.
    pub fn new(
        plan: &SamplingPlan,
        model: &LlamaModel,
        max_tokens: usize,
        replay: &[Token],
    ) -> Result<Self, JobFailure> {
        let grammar = plan.grammar.as_ref().map(|wanted| grammar::sampler(wanted, model)).transpose()?;
        let choice = match plan.plain_draw() {
            Some((temperature, seed)) => Choice::Drawn(Box::new(Draw::new(temperature, seed, replay.len()))),
            None if plan.is_argmax() => Choice::Largest,
            None => Choice::Filtered(Chain::new(plan, model.n_vocab(), max_tokens)),
        };
        let (bias, logprobs) = (plan.bias.clone(), plan.logprobs);
        let mut sampler = Self { bias, choice, grammar, logprobs, biased: Vec::new() };
        for &token in replay {
            if let Choice::Filtered(chain) = &mut sampler.choice {
                chain.accept(token);
                advance(&mut chain.pick, token);
                advance(&mut chain.second_pick, token);
            }
            if !sampler.grammar_accepts(token) {
                return Err(failure(JobFailureKind::Invalid, "the grammar does not allow the text generated so far"));
            }
        }
        Ok(sampler)
    }

    pub fn sample(&mut self, logits: &[f32], candidates: &mut LlamaTokenDataArray) -> Result<Sampled, SampleFault> {
        let token = if self.bias.is_empty() {
            self.choose(logits, candidates)?
        } else {
            let mut biased = std::mem::take(&mut self.biased);
            biased.clear();
            biased.extend_from_slice(logits);
            for &(token, bias) in &self.bias {
                if let Some(logit) = usize::try_from(token).ok().and_then(|at| biased.get_mut(at)) {
                    *logit += bias;
                }
            }
            let token = self.choose(&biased, candidates);
            self.biased = biased;
            token?
        };
        let likelihood = self.logprobs.and_then(|top| logprobs::likelihood(logits, token, top));
        Ok(Sampled { token, likelihood })
    }

    fn choose(&mut self, logits: &[f32], candidates: &mut LlamaTokenDataArray) -> Result<Token, SampleFault> {
        let first = match &mut self.choice {
            Choice::Largest => argmax(logits),
            Choice::Drawn(draw) => draw.draw(logits),
            Choice::Filtered(chain) => {
                fill(candidates, logits);
                chain.choose(candidates, false)
            }
        };
        let first = first.ok_or(SampleFault::NoNumbers)?;
        let token = if self.grammar_allows(first) { first } else { self.choose_again(logits, candidates)? };
        if let Choice::Filtered(chain) = &mut self.choice {
            if token == first {
                advance(&mut chain.second_pick, token);
            }
            chain.accept(token);
        }
        if self.grammar_accepts(token) { Ok(token) } else { Err(SampleFault::DeadEnd) }
    }

    /// Among those tokens that the grammar allows.
    fn choose_again(&mut self, logits: &[f32], candidates: &mut LlamaTokenDataArray) -> Result<Token, SampleFault> {
        fill(candidates, logits);
        if let Some(grammar) = &mut self.grammar {
            grammar.apply(candidates);
        }
        candidates.data.retain(|candidate| candidate.logit().is_finite());
        if candidates.data.is_empty() {
            return Err(SampleFault::DeadEnd);
        }
        match &mut self.choice {
            Choice::Filtered(chain) => chain.choose(candidates, true),
            // A grammar's job is drawn with filters, if it is drawn.
            Choice::Largest | Choice::Drawn(_) => {
                let best = candidates.data.iter().max_by(|one, other| one.logit().total_cmp(&other.logit()));
                best.map(|candidate| candidate.id().0)
            }
        }
        .ok_or(SampleFault::DeadEnd)
    }

    fn grammar_allows(&mut self, token: Token) -> bool {
        let Some(grammar) = &mut self.grammar else { return true };
        let mut only = LlamaTokenDataArray::new(vec![LlamaTokenData::new(LlamaToken(token), 1.0, 0.0)], false);
        grammar.apply(&mut only);
        only.data.first().is_some_and(|candidate| candidate.logit().is_finite())
    }

    /// A grammar that refuses here has no state left and may not be asked again: llama.cpp would abort.
    fn grammar_accepts(&mut self, token: Token) -> bool {
        let Some(grammar) = &mut self.grammar else { return true };
        let accepted = grammar.try_accept(LlamaToken(token)).is_ok();
        if !accepted {
            self.grammar = None;
        }
        accepted
    }
}

impl Chain {
    fn new(plan: &SamplingPlan, vocab: Token, max_tokens: usize) -> Self {
        let window = i32::try_from(max_tokens).unwrap_or(i32::MAX);
        let stages = plan.stages.iter().map(|stage| stage_sampler(*stage, vocab, window));
        let second = match plan.pick {
            Pick::Draw { seed } => Pick::Draw { seed: seed.map(|seed| seed ^ 0x5bd1_e995) },
            Pick::Greedy => Pick::Greedy,
        };
        Self {
            filters: LlamaSampler::chain(stages, true),
            pick: pick_sampler(plan.pick),
            second_pick: pick_sampler(second),
        }
    }

    fn choose(&mut self, candidates: &mut LlamaTokenDataArray, again: bool) -> Option<Token> {
        self.filters.apply(candidates);
        let pick = if again { &mut self.second_pick } else { &mut self.pick };
        pick.apply(candidates);
        let chosen = candidates.data.get(candidates.selected?)?;
        chosen.logit().is_finite().then(|| chosen.id().0)
    }

    fn accept(&mut self, token: Token) {
        // Only a grammar can refuse a token, and there is none here.
        let _ = self.filters.try_accept(LlamaToken(token));
    }
}

/// One draw, whatever there was to choose from.
fn advance(pick: &mut LlamaSampler, token: Token) {
    let only = LlamaTokenData::new(LlamaToken(token), 0.0, 0.0);
    pick.apply(&mut LlamaTokenDataArray::new(vec![only], false));
}

fn fill(candidates: &mut LlamaTokenDataArray, logits: &[f32]) {
    candidates.data.clear();
    let entries = (0..).zip(logits).map(|(token, &logit)| LlamaTokenData::new(LlamaToken(token), logit, 0.0));
    candidates.data.extend(entries);
    candidates.selected = None;
    candidates.sorted = false;
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
