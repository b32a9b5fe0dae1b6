//! SIMULATED: a model that only counts. Its words tell their own place (`sim0-simulated sim1-local sim2-local …`), as the
//! simulated provider's do, so that whoever reads sees every lost or doubled token; it takes the time that it is told to.
//!
//! Everything around it is the real engine: socket, scheduler, jobs, replay, heartbeats, and all the ways to die. Served
//! only to a gateway with `[chaos] enabled`.

use crate::{
    backend::{
        Backend, BatchToken, DecodeFault, EmbedRun, EmbedderFault, Limits, SampleFault, Sampled, Sequence, Token,
    },
    embed::EmbedLimits,
    job::failure,
    logprobs::Likelihood,
    process::say,
    sampling::SamplingPlan,
    session::Progress,
};
use spillway_actors::{
    domain::Simulation,
    gpu::frame::{ChatTraits, JobFailure, JobFailureKind, LoadFailure, LoadFailureKind, LoadSpec, LoadedInfo, Prompt},
};
use std::{thread, time::Duration};

/// Tokens below this are words of answers: token n is word n.
const WORDS: Token = 100_000;
/// Tokens from [`WORDS`] on are words of prompts.
const PROMPT_WORDS: Token = 1000;
const END: Token = WORDS + PROMPT_WORDS;
const BATCH_TOKENS: usize = 2048;
const CANARY_CELLS: usize = 64;
/// What it pretends to need of memory, so that it can run out of it.
const BYTES: u64 = 64 << 20;
const BYTES_A_CELL: u64 = 16 << 10;
/// How often a load tells of its progress.
const LOAD_STEPS: u16 = 20;

pub struct Simulated {
    plan: Simulation,
    limits: Limits,
    last_batch: Vec<BatchToken>,
}

/// Pretends to load.
pub fn load(spec: &LoadSpec, mut progress: Progress) -> Result<(Simulated, LoadedInfo), LoadFailure> {
    let failed = |kind, message: String| LoadFailure { kind, message, gpu_layers: 0 };
    let plan: Simulation = spec.model_path.parse().map_err(|why| failed(LoadFailureKind::Other, why))?;
    say(&format!("SIMULATED engine, no model answers here: {plan}"));
    for step in 0..LOAD_STEPS {
        thread::sleep(Duration::from_millis(u64::from(plan.load_ms)) / u32::from(LOAD_STEPS));
        if !progress(f32::from(step) / f32::from(LOAD_STEPS)) {
            return Err(failed(LoadFailureKind::Other, "the gateway has gone".to_owned()));
        }
    }
    let needs = BYTES + BYTES_A_CELL * u64::from(spec.context_tokens);
    if spec.simulated_memory.is_some_and(|memory| memory < needs) {
        let message = format!("SIMULATED: out of memory, {needs} bytes are needed");
        return Err(failed(LoadFailureKind::OutOfMemory, message));
    }
    let request = spec.max_request_tokens.unwrap_or(spec.context_tokens).min(spec.context_tokens);
    let info = LoadedInfo {
        name: Simulation::MODEL.to_owned(),
        device: "SIMULATED".to_owned(),
        on_gpu: false,
        context_tokens: spec.context_tokens,
        max_request_tokens: request,
        parallel: spec.parallel,
        has_chat_template: true,
        chat: ChatTraits::default(),
        layers: 0,
        gpu_layers: 0,
        load_ms: u64::from(plan.load_ms),
        generates: true,
        embeddings: None,
        infills: false,
    };
    let limits = Limits {
        batch_tokens: BATCH_TOKENS,
        first_prompt_tokens: BATCH_TOKENS,
        parallel: spec.parallel,
        pool_cells: spec.context_tokens as usize,
        kept_cells: 0,
        canary_cells: CANARY_CELLS,
        max_request_tokens: request as usize,
        vocab: END + 1,
        prefix_reuse: false,
        apart: false,
    };
    Ok((Simulated { plan, limits, last_batch: Vec::new() }, info))
}

impl Simulated {
    fn next(&self, token: Token) -> Token {
        let next = if (0..WORDS).contains(&token) { token + 1 } else { 0 };
        if u32::try_from(next).is_ok_and(|next| next < self.plan.tokens) { next } else { END }
    }
}

/// A word of a prompt, whatever it is.
fn prompt_word(word: &str) -> Token {
    let hash = word.bytes().fold(7, |hash: i32, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    WORDS + hash.rem_euclid(PROMPT_WORDS)
}

impl Backend for Simulated {
    /// Alternatives wanted.
    type Sampler = Option<usize>;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure> {
        let words = |text: &str| std::iter::once(WORDS).chain(text.split_whitespace().map(prompt_word)).collect();
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => Ok(words(text)),
            Prompt::Chat { messages_json, .. } => Ok(words(messages_json)),
            Prompt::Between { .. } => {
                Err(failure(JobFailureKind::Invalid, "the simulated engine writes nothing between two texts"))
            }
        }
    }

    fn piece(&self, token: Token, _markers: bool) -> Vec<u8> {
        match token {
            0 => b"sim0-simulated".to_vec(),
            1..WORDS => format!(" sim{token}-local").into_bytes(),
            _ => Vec::new(),
        }
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn sampler(&mut self, plan: &SamplingPlan, _max: usize, _replay: &[Token]) -> Result<Option<usize>, JobFailure> {
        match plan.grammar {
            Some(_) => Err(failure(JobFailureKind::Invalid, "the simulated engine follows no grammar")),
            None => Ok(plan.logprobs),
        }
    }

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault> {
        let prompt = batch.iter().filter(|token| !token.wants_logits).count();
        let seconds = self.plan.tokens_per_second.recip() + prompt as f64 / self.plan.prompt_tokens_per_second;
        thread::sleep(Duration::from_secs_f64(seconds));
        self.last_batch = batch.to_vec();
        Ok(())
    }

    fn sample(&mut self, top: &mut Option<usize>, row: usize) -> Result<Sampled, SampleFault> {
        let token = self.last_batch.get(row).map(|last| self.next(last.token)).ok_or(SampleFault::NoNumbers)?;
        let likelihood = top.map(|top| Likelihood { chosen: 0.0, top: vec![(token, 0.0); top.min(1)] });
        Ok(Sampled { token, likelihood })
    }

    fn likelihood(&mut self, row: usize, token: Token, top: usize) -> Option<Likelihood> {
        let likely = self.next(self.last_batch.get(row)?.token);
        Some(Likelihood { chosen: if token == likely { 0.0 } else { -9999.0 }, top: vec![(likely, 0.0); top.min(1)] })
    }

    fn share(&mut self, _from: Sequence, _to: Sequence, _start: usize, _end: usize) -> bool {
        false
    }

    fn truncate(&mut self, _sequence: Sequence, _len: usize) -> bool {
        true
    }

    fn clear(&mut self, _sequence: Sequence) {}

    fn generates(&self) -> bool {
        true
    }

    fn embedder(&mut self) -> Result<EmbedLimits, EmbedderFault> {
        let refused = failure(JobFailureKind::Invalid, "the simulated engine makes no vectors");
        Err(EmbedderFault::Refused(refused))
    }

    fn embed(&mut self, _runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        Err(DecodeFault::Failed("the simulated engine makes no vectors".to_owned()))
    }

    fn forget_text(&mut self, _sequence: Sequence) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(model: &str, memory: Option<u64>) -> LoadSpec {
        LoadSpec {
            model_path: model.to_owned(),
            gpu_layers: None,
            device: None,
            require_gpu: false,
            context_tokens: 4096,
            parallel: 4,
            max_request_tokens: None,
            frugal: false,
            threads: None,
            use_mmap: true,
            use_mlock: false,
            embedding_tokens: None,
            batch_tokens: None,
            ubatch_tokens: 512,
            kv_type_k: spillway_actors::gpu::frame::KvType::F16,
            kv_type_v: spillway_actors::gpu::frame::KvType::F16,
            rope: spillway_actors::gpu::frame::Rope::default(),
            overrides: Vec::new(),
            simulated_memory: memory,
        }
    }

    fn tiny(memory: Option<u64>) -> Result<Simulated, LoadFailure> {
        let spec = spec("sim:tokens_per_second=1000000,tokens=3,load_ms=0", memory);
        load(&spec, Box::new(|_| true)).map(|(simulated, _)| simulated)
    }

    /// Greedy text after `tokens`, decoded one by one.
    fn text_after(simulated: &mut Simulated, tokens: &[Token]) -> String {
        let (mut last, mut text) = (*tokens.last().unwrap(), String::new());
        loop {
            let token = BatchToken { token: last, position: 0, sequence: 0, wants_logits: true };
            simulated.decode(&[token]).unwrap();
            last = simulated.sample(&mut None, 0).unwrap().token;
            if simulated.is_end(last) {
                return text;
            }
            text += &String::from_utf8(simulated.piece(last, false)).unwrap();
        }
    }

    #[test]
    fn words_are_numbered_from_any_prompt_and_a_replay_goes_on_where_it_was_cut() {
        let mut simulated = tiny(None).unwrap();
        let prompt = simulated.tokenize(&Prompt::Text("any sim1-local prompt".to_owned())).unwrap();
        assert_eq!(text_after(&mut simulated, &prompt), "sim0-simulated sim1-local sim2-local");
        assert_eq!(text_after(&mut simulated, &[0]), " sim1-local sim2-local");
    }

    #[test]
    fn it_runs_out_of_memory_when_it_is_given_too_little() {
        assert_eq!(tiny(Some(1 << 20)).err().map(|failure| failure.kind), Some(LoadFailureKind::OutOfMemory));
        assert!(tiny(Some(1 << 30)).is_ok());
    }
}
