//! A model for tests that only counts.

use super::{Backend, BatchToken, DecodeFault, EmbedRun, EmbedderFault, Limits, SampleFault, Sampled, Sequence, Token};
use crate::{embed::EmbedLimits, job::failure, logprobs::Likelihood, sampling::SamplingPlan};
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind, JobId, JobSpec, Prompt, Sampling};
use std::collections::{HashMap, HashSet};

/// A model whose next token is the last token plus one, mod 26, spelled `a`..`z`; token 26 ends. It checks every batch
/// against its own picture of the KV cache, so a wrong position, a stale sequence or an overfull pool fails the test.
pub(crate) struct Counting {
    limits: Limits,
    /// Tokens, and the cells they are in: a shared cell is in two sequences.
    pub(crate) cache: HashMap<Sequence, Vec<(Token, u64)>>,
    next_cell: u64,
    pub(crate) decoded: usize,
    /// Sequences whose decodes always fail.
    pub(crate) broken: HashSet<Sequence>,
    /// Whether cells can be cut and shared when it comes to it.
    pub(crate) pliable: bool,
    last_batch: Vec<BatchToken>,
    /// Faults for the next decodes, last one first.
    pub(crate) faults: Vec<DecodeFault>,
    /// Whether it makes vectors, and how.
    pub(crate) embedder: Option<EmbedLimits>,
    pub(crate) generates: bool,
    pub(crate) no_room_for_vectors: bool,
    /// Tokens that sequences of the context for vectors hold.
    pub(crate) texts: HashMap<Sequence, Vec<Token>>,
    /// A text with this token cannot be computed.
    pub(crate) poison: Option<Token>,
}

impl Counting {
    pub(crate) fn new(parallel: u32, pool_cells: usize) -> Self {
        let limits = Limits {
            batch_tokens: 16,
            first_prompt_tokens: usize::MAX,
            parallel,
            pool_cells,
            canary_cells: 16,
            max_request_tokens: pool_cells.min(60),
            vocab: 27,
            prefix_reuse: true,
            kept_cells: usize::MAX,
            apart: false,
        };
        Self {
            limits,
            cache: HashMap::new(),
            next_cell: 0,
            decoded: 0,
            broken: HashSet::new(),
            pliable: true,
            last_batch: vec![],
            faults: vec![],
            embedder: Some(EmbedLimits { batch_tokens: 12, sequences: 4, max_tokens: 40, whole: false }),
            generates: true,
            no_room_for_vectors: false,
            texts: HashMap::new(),
            poison: None,
        }
    }

    /// Tokens in the cells of a sequence.
    pub(crate) fn held(&self, sequence: Sequence) -> Vec<Token> {
        self.cache.get(&sequence).map_or(vec![], |cells| cells.iter().map(|(token, _)| *token).collect())
    }

    pub(crate) fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }
}

impl Backend for Counting {
    /// Alternatives wanted.
    type Sampler = Option<usize>;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => Ok(text.bytes().map(|byte| i32::from(byte - b'a')).collect()),
            Prompt::Chat { .. } | Prompt::Between { .. } => Err(failure(JobFailureKind::Invalid, "no template")),
        }
    }

    fn piece(&self, token: Token, _: bool) -> Vec<u8> {
        vec![b'a' + u8::try_from(token).unwrap()]
    }

    fn is_end(&self, token: Token) -> bool {
        token == 26
    }

    fn sampler(&mut self, plan: &SamplingPlan, _: usize, _: &[Token]) -> Result<Option<usize>, JobFailure> {
        Ok(plan.logprobs)
    }

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault> {
        assert!(!batch.is_empty() && batch.len() <= self.limits.batch_tokens);
        if let Some(fault) = self.faults.pop() {
            return Err(fault);
        }
        if batch.iter().any(|token| self.broken.contains(&token.sequence)) {
            // As llama.cpp: what came before the failure stays.
            let early = batch.iter().take_while(|token| !self.broken.contains(&token.sequence));
            for token in early {
                self.next_cell += 1;
                self.cache.entry(token.sequence).or_default().push((token.token, self.next_cell));
            }
            return Err(DecodeFault::Failed("broken".into()));
        }
        self.decoded += batch.len();
        for token in batch {
            assert!(token.sequence <= self.limits.parallel);
            let cells = self.cache.entry(token.sequence).or_default();
            assert_eq!(cells.len(), token.position, "position in sequence {}", token.sequence);
            self.next_cell += 1;
            cells.push((token.token, self.next_cell));
        }
        let jobs = self.cache.iter().filter(|(sequence, _)| **sequence < self.limits.parallel);
        let used: HashSet<u64> = jobs.flat_map(|(_, cells)| cells.iter().map(|(_, cell)| *cell)).collect();
        assert!(used.len() <= self.limits.pool_cells, "{} cells", used.len());
        self.last_batch = batch.to_vec();
        Ok(())
    }

    fn sample(&mut self, top: &mut Option<usize>, row: usize) -> Result<Sampled, SampleFault> {
        assert!(self.last_batch[row].wants_logits);
        let token = (self.last_batch[row].token + 1) % 26;
        let likelihood = top.map(|top| Likelihood { chosen: 0.0, top: (0..).zip([-1.0; 20]).take(top).collect() });
        Ok(Sampled { token, likelihood })
    }

    /// The next letter is as good as certain, every other one equally unlikely.
    fn likelihood(&mut self, row: usize, token: Token, top: usize) -> Option<Likelihood> {
        let entry = self.last_batch[row];
        assert!(entry.wants_logits);
        let likely = (entry.token + 1) % 26;
        let chosen = if token == likely { -0.25 } else { -4.0 };
        Some(Likelihood { chosen, top: vec![(likely, -0.25); top.min(1)] })
    }

    fn share(&mut self, from: Sequence, to: Sequence, start: usize, end: usize) -> bool {
        let cells = self.cache.get(&from).map_or(vec![], |cells| cells[start..end].to_vec());
        let target = self.cache.entry(to).or_default();
        assert_eq!(target.len(), start, "a gap in sequence {to}");
        if self.pliable {
            target.extend(cells);
        }
        self.pliable
    }

    fn truncate(&mut self, sequence: Sequence, len: usize) -> bool {
        if len == 0 {
            self.clear(sequence);
            return true;
        }
        let cells = self.cache.entry(sequence).or_default();
        assert!(cells.len() >= len, "sequence {sequence} holds {} cells, not {len}", cells.len());
        if self.pliable {
            cells.truncate(len);
        }
        self.pliable
    }

    fn clear(&mut self, sequence: Sequence) {
        self.cache.remove(&sequence);
    }

    fn generates(&self) -> bool {
        self.generates
    }

    fn embedder(&mut self) -> Result<EmbedLimits, EmbedderFault> {
        if self.no_room_for_vectors {
            return Err(EmbedderFault::OutOfMemory("vectors".into()));
        }
        self.embedder.ok_or_else(|| EmbedderFault::Refused(failure(JobFailureKind::Invalid, "no vectors here")))
    }

    /// A text's vector is its tokens.
    fn embed(&mut self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        let limits = self.embedder.unwrap();
        assert!(runs.iter().map(|run| run.tokens.len()).sum::<usize>() <= limits.batch_tokens);
        if runs.iter().any(|run| run.tokens.iter().any(|token| Some(*token) == self.poison)) {
            runs.iter().for_each(|run| self.forget_text(run.sequence));
            return Err(DecodeFault::Failed("poison".into()));
        }
        let mut vectors = Vec::new();
        for run in runs {
            assert!(run.sequence < limits.sequences);
            let held = self.texts.entry(run.sequence).or_default();
            assert_eq!(held.len(), run.start);
            held.extend(run.tokens);
            let vector = run.last.then(|| held.iter().map(|token| *token as f32).collect());
            if run.last {
                self.texts.remove(&run.sequence);
            }
            vectors.push(vector);
        }
        Ok(vectors)
    }

    fn forget_text(&mut self, sequence: Sequence) {
        self.texts.remove(&sequence);
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
        logprobs: None,
        logit_bias: vec![],
        grammar: None,
        markers: false,
        cache_scope: 0,
    }
}
