//! A model for tests that only counts.

use super::{Backend, BatchToken, DecodeFault, Limits, Sequence, Token};
use crate::{job::failure, sampling::SamplingPlan};
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind, JobId, JobSpec, Prompt, Sampling};
use std::collections::HashMap;

/// A model whose next token is the last token plus one, mod 26, spelled `a`..`z`; token 26 ends. It checks every batch
/// against its own picture of the KV cache, so a wrong position, a stale sequence or an overfull pool fails the test.
pub(crate) struct Counting {
    limits: Limits,
    pub(crate) cache: HashMap<Sequence, Vec<Token>>,
    last_batch: Vec<BatchToken>,
    /// Faults for the next decodes, last one first.
    pub(crate) faults: Vec<DecodeFault>,
}

impl Counting {
    pub(crate) fn new(parallel: u32, pool_cells: usize) -> Self {
        let limits = Limits {
            batch_tokens: 16,
            mixed_prompt_tokens: 8,
            parallel,
            pool_cells,
            canary_cells: 16,
            max_request_tokens: pool_cells.min(60),
            vocab: 27,
        };
        Self { limits, cache: HashMap::new(), last_batch: vec![], faults: vec![] }
    }
}

impl Backend for Counting {
    type Sampler = ();

    fn limits(&self) -> Limits {
        self.limits
    }

    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => Ok(text.bytes().map(|byte| i32::from(byte - b'a')).collect()),
            Prompt::Chat { .. } => Err(failure(JobFailureKind::Invalid, "no template")),
        }
    }

    fn piece(&self, token: Token) -> Vec<u8> {
        vec![b'a' + u8::try_from(token).unwrap()]
    }

    fn is_end(&self, token: Token) -> bool {
        token == 26
    }

    fn sampler(&mut self, _: &SamplingPlan, _: usize, _: &[Token]) {}

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault> {
        assert!(!batch.is_empty() && batch.len() <= self.limits.batch_tokens);
        if let Some(fault) = self.faults.pop() {
            return Err(fault);
        }
        for token in batch {
            assert!(token.sequence <= self.limits.parallel);
            let cells = self.cache.entry(token.sequence).or_default();
            assert_eq!(cells.len(), token.position, "position in sequence {}", token.sequence);
            cells.push(token.token);
        }
        let used: usize = self.cache.iter().filter(|(seq, _)| **seq < self.limits.parallel).map(|(_, c)| c.len()).sum();
        assert!(used <= self.limits.pool_cells);
        self.last_batch = batch.to_vec();
        Ok(())
    }

    fn sample(&mut self, (): &mut (), row: usize) -> Option<Token> {
        assert!(self.last_batch[row].wants_logits);
        Some((self.last_batch[row].token + 1) % 26)
    }

    fn clear(&mut self, sequence: Sequence) {
        self.cache.remove(&sequence);
    }
}

/// A text job over the letters `a` to `z`.
pub(crate) fn spec(job: JobId, prompt: &str, max_tokens: u32) -> JobSpec {
    JobSpec {
        job,
        prompt: Prompt::Text(prompt.into()),
        sampling: Sampling::default(),
        max_tokens,
        stop: vec![],
        replay: vec![],
        sent_bytes: 0,
        canary: false,
    }
}
