//! Which texts are turned into vectors next, and which of their tokens one batch holds.
//!
//! Pure bookkeeping: token ids and counts, no llama.cpp, no text. The requests take turns: each batch begins with another
//! one, so that a request of two thousand texts does not hold up one of a single word. Short texts share a batch; one that
//! is longer than a batch is computed in portions, alone among its kind, so that the room for it is that of one text.

mod pooling;

pub use pooling::{Pool, Pooling};

use crate::backend::{Sequence, Token};
use spillway_actors::gpu::frame::JobId;
use std::collections::VecDeque;

/// What the context for vectors can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedLimits {
    /// Most tokens of one batch.
    pub batch_tokens: usize,
    /// Sequences, at least 2: the first is for the text that is computed in portions.
    pub sequences: u32,
    /// Most tokens of one text.
    pub max_tokens: usize,
    /// Every text must lie in one batch as a whole, as where each token looks at those after it. `max_tokens` is at most
    /// `batch_tokens` then.
    pub whole: bool,
}

/// A run of one text's tokens in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub job: JobId,
    pub input: usize,
    pub sequence: Sequence,
    /// Index of the first token.
    pub start: usize,
    pub len: usize,
    /// The text ends with it.
    pub last: bool,
}

impl Run {
    /// The whole text.
    pub const fn is_whole(&self) -> bool {
        self.start == 0 && self.last
    }
}

#[derive(Debug)]
struct Job {
    id: JobId,
    /// As far as they are tokenised.
    texts: Vec<Vec<Token>>,
    /// Texts not begun yet.
    waiting: VecDeque<usize>,
    /// Vectors still due, of texts that are still to come as well.
    left: usize,
}

/// The text that is computed in portions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Long {
    job: JobId,
    input: usize,
    done: usize,
    begun_again: bool,
}

/// Texts of all jobs that wait for their vectors.
#[derive(Debug, Default)]
pub struct Queue {
    /// Whose turn it is comes first.
    jobs: VecDeque<Job>,
    long: Option<Long>,
}

const LONG: Sequence = 0;

impl Queue {
    /// A job of so many texts, which are [`add`](Self::add)ed as they are tokenised.
    pub fn enqueue(&mut self, id: JobId, texts: usize) {
        self.jobs.push_back(Job { id, texts: Vec::new(), waiting: VecDeque::new(), left: texts });
    }

    /// The next text of a job. It must have a token and fit the limits.
    pub fn add(&mut self, id: JobId, text: Vec<Token>) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            job.waiting.push_back(job.texts.len());
            job.texts.push(text);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn contains(&self, id: JobId) -> bool {
        self.jobs.iter().any(|job| job.id == id)
    }

    pub fn tokens(&self, run: &Run) -> &[Token] {
        let text = self.jobs.iter().find(|job| job.id == run.job).and_then(|job| job.texts.get(run.input));
        text.and_then(|text| text.get(run.start..run.start + run.len)).unwrap_or_default()
    }

    /// The next batch, of `budget` tokens (more only where a whole text needs it). Never empty while a text waits.
    pub fn plan(&mut self, budget: usize, limits: EmbedLimits) -> Vec<Run> {
        let mut room = budget.clamp(1, limits.batch_tokens);
        let mut runs: Vec<Run> = Vec::new();
        let mut sequences = (LONG + 1)..limits.sequences;
        for job in &mut self.jobs {
            if let Some(long) = self.long.filter(|long| long.job == job.id && room > 0) {
                let rest = job.texts.get(long.input).map_or(0, |text| text.len() - long.done);
                let len = rest.min(room);
                room -= len;
                runs.push(long.run(len, len == rest));
            }
            while let Some(&input) = job.waiting.front() {
                let len = job.texts.get(input).map_or(0, Vec::len);
                let fits = len <= room || (limits.whole && runs.is_empty());
                if fits && let Some(sequence) = sequences.next() {
                    runs.push(Run { job: job.id, input, sequence, start: 0, len, last: true });
                    room = room.saturating_sub(len);
                } else if runs.is_empty() && self.long.is_none() {
                    let long = Long { job: job.id, input, done: 0, begun_again: false };
                    self.long = Some(long);
                    runs.push(long.run(room, false));
                    room = 0;
                } else {
                    break;
                }
                job.waiting.pop_front();
            }
        }
        // The next batch begins with the next one.
        if let Some(first) = self.jobs.pop_front() {
            self.jobs.push_back(first);
        }
        runs
    }

    /// This run was computed. Returns whether its job has all its vectors, and forgets it then.
    pub fn computed(&mut self, run: &Run) -> bool {
        if let Some(long) = self.long.as_mut().filter(|long| (long.job, long.input) == (run.job, run.input)) {
            long.done += run.len;
            if run.last {
                self.long = None;
            }
        }
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == run.job).filter(|_| run.last) else { return false };
        job.left -= 1;
        let ended = job.left == 0;
        if ended {
            self.remove(run.job);
        }
        ended
    }

    /// The portions of this run's text are lost: it begins again, once. Returns whether it may.
    pub fn begin_again(&mut self, run: &Run) -> bool {
        match &mut self.long {
            Some(long) if (long.job, long.input) == (run.job, run.input) && !long.begun_again => {
                (long.done, long.begun_again) = (0, true);
                true
            }
            _ => false,
        }
    }

    /// Forgets a job. Returns the sequence that still holds tokens of it.
    pub fn remove(&mut self, id: JobId) -> Option<Sequence> {
        self.jobs.retain(|job| job.id != id);
        self.long.take_if(|long| long.job == id).map(|_| LONG)
    }
}

impl Long {
    const fn run(self, len: usize, last: bool) -> Run {
        Run { job: self.job, input: self.input, sequence: LONG, start: self.done, len, last }
    }
}

#[cfg(test)]
mod tests;
