//! Who runs, who waits, and what the next batch holds.
//!
//! Pure bookkeeping over job ids and token counts: no tokens, no text, no llama.cpp. Jobs are served in the order they
//! came; nothing overtakes the head of the queue, so nothing starves. When the running jobs' tokens no longer fit the KV
//! pool, the newest one gives its cells back and returns to its old place in the queue. The canary has a sequence and
//! cells of its own.

use crate::backend::{Limits, Sequence};
use spillway_actors::gpu::frame::JobId;
use std::collections::{BTreeMap, VecDeque};

/// Cells kept free per running job when another is admitted, so that it is not preempted at once.
const HEADROOM_TOKENS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    job: JobId,
    tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    job: JobId,
    /// Place in the queue when it came; kept over preemptions.
    order: u64,
    /// Tokens known: prompt, and generated ones.
    tokens: usize,
    /// How many of them are in the KV cache.
    evaluated: usize,
}

/// A run of one job's tokens in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub job: JobId,
    pub sequence: Sequence,
    /// Index of the first token.
    pub start: usize,
    pub len: usize,
    /// Whether this is the last known token, so that the next one is sampled from it.
    pub samples: bool,
}

/// A job and the sequence it got, or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub job: JobId,
    pub sequence: Sequence,
}

#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    waiting: BTreeMap<u64, Waiting>,
    /// Index = sequence.
    seats: Vec<Option<Running>>,
    canary: Option<Running>,
    canaries: VecDeque<Waiting>,
    next_order: u64,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Self {
        let seats = (0..limits.parallel).map(|_| None).collect();
        Self { limits, waiting: BTreeMap::new(), seats, canary: None, canaries: VecDeque::new(), next_order: 0 }
    }

    /// Puts a job of `tokens` tokens at the end of its queue.
    pub fn enqueue(&mut self, job: JobId, tokens: usize, canary: bool) {
        let waiting = Waiting { job, tokens };
        if canary {
            self.canaries.push_back(waiting);
        } else {
            self.waiting.insert(self.next_order, waiting);
            self.next_order += 1;
        }
    }

    /// Gives sequences to as many waiting jobs as fit, in order.
    pub fn admit(&mut self) -> Vec<Seat> {
        let mut seated = Vec::new();
        if self.canary.is_none()
            && let Some(Waiting { job, tokens }) = self.canaries.pop_front()
        {
            self.canary = Some(Running { job, order: 0, tokens, evaluated: 0 });
            seated.push(Seat { job, sequence: self.limits.parallel });
        }
        while let Some(seat) = self.admit_next() {
            seated.push(seat);
        }
        seated
    }

    fn admit_next(&mut self) -> Option<Seat> {
        let running = self.seats.iter().flatten().count();
        let reserve = HEADROOM_TOKENS * (running + 1);
        let next = self.waiting.first_entry()?;
        let Waiting { job, tokens } = *next.get();
        let committed: usize = self.seats.iter().flatten().map(|running| running.tokens).sum();
        if running > 0 && committed + tokens + reserve > self.limits.pool_cells {
            return None;
        }
        let index = self.seats.iter().position(Option::is_none)?;
        let order = *next.key();
        next.remove();
        *self.seats.get_mut(index)? = Some(Running { job, order, tokens, evaluated: 0 });
        Some(Seat { job, sequence: u32::try_from(index).ok()? })
    }

    /// Takes the newest job off the KV pool when the running ones no longer fit. Call until it returns `None`.
    pub fn preempt_if_full(&mut self) -> Option<Seat> {
        let committed: usize = self.seats.iter().flatten().map(|running| running.tokens).sum();
        if committed <= self.limits.pool_cells { None } else { self.preempt_newest() }
    }

    /// The KV cache is smaller than it said: lowers the pool to what the other jobs hold and preempts the newest.
    pub fn pool_was_full(&mut self) -> Option<Seat> {
        let seat = self.preempt_newest()?;
        let committed: usize = self.seats.iter().flatten().map(|running| running.tokens).sum();
        self.limits.pool_cells = self.limits.pool_cells.min(committed.max(self.limits.max_request_tokens));
        Some(seat)
    }

    /// A job alone is never preempted: nobody would gain.
    fn preempt_newest(&mut self) -> Option<Seat> {
        if self.seats.iter().flatten().count() < 2 {
            return None;
        }
        let newest = self.seats.iter().flatten().max_by_key(|running| running.order)?.order;
        let index = self.seats.iter().position(|seat| seat.is_some_and(|running| running.order == newest))?;
        let Running { job, order, tokens, .. } = self.seats.get_mut(index)?.take()?;
        self.waiting.insert(order, Waiting { job, tokens });
        Some(Seat { job, sequence: u32::try_from(index).ok()? })
    }

    /// The next batch: every decoding sequence, then the canary's prompt, then prompts in fair shares.
    pub fn plan(&self) -> Vec<Chunk> {
        let (decoding, prompts): (Vec<_>, Vec<_>) = self
            .running()
            .filter(|(_, running)| running.pending() > 0)
            .partition(|(_, running)| running.pending() == 1);
        let mut budget = self.limits.batch_tokens.saturating_sub(decoding.len());
        if !decoding.is_empty() {
            budget = budget.min(self.limits.mixed_prompt_tokens);
        }
        let mut chunks: Vec<Chunk> = decoding.iter().map(|(sequence, running)| running.chunk(*sequence, 1)).collect();
        let (canary, mut jobs): (Vec<_>, Vec<_>) =
            prompts.into_iter().partition(|(sequence, _)| *sequence == self.limits.parallel);
        jobs.sort_by_key(|(_, running)| running.order);
        for group in [canary, jobs] {
            let needs: Vec<usize> = group.iter().map(|(_, running)| running.pending()).collect();
            for ((sequence, running), len) in group.into_iter().zip(fair_shares(budget, &needs)) {
                budget -= len;
                if len > 0 {
                    chunks.push(running.chunk(sequence, len));
                }
            }
        }
        chunks
    }

    /// This chunk is in the KV cache now.
    pub fn evaluated(&mut self, chunk: &Chunk) {
        if let Some(running) = self.find(chunk.job) {
            running.evaluated = chunk.start + chunk.len;
        }
    }

    /// A token of this job was sampled; it will be part of the next batch.
    pub fn sampled(&mut self, job: JobId) {
        if let Some(running) = self.find(job) {
            running.tokens += 1;
        }
    }

    /// Forgets a job wherever it is. Returns its sequence, whose KV cells are now nobody's, if it had one.
    pub fn remove(&mut self, job: JobId) -> Option<Sequence> {
        self.waiting.retain(|_, waiting| waiting.job != job);
        self.canaries.retain(|waiting| waiting.job != job);
        if self.canary.take_if(|running| running.job == job).is_some() {
            return Some(self.limits.parallel);
        }
        let index = self.seats.iter_mut().position(|seat| seat.take_if(|running| running.job == job).is_some())?;
        u32::try_from(index).ok()
    }

    /// Nothing to decode and nothing to admit.
    pub fn is_idle(&self) -> bool {
        self.running().next().is_none() && self.waiting() == 0
    }

    pub fn running_count(&self) -> usize {
        self.running().count()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.canaries.len()
    }

    /// KV cells in use.
    pub fn used_cells(&self) -> usize {
        self.running().map(|(_, running)| running.evaluated).sum()
    }

    fn running(&self) -> impl Iterator<Item = (Sequence, Running)> + '_ {
        let jobs = (0..).zip(&self.seats).filter_map(|(sequence, seat)| seat.map(|running| (sequence, running)));
        jobs.chain(self.canary.map(|running| (self.limits.parallel, running)))
    }

    fn find(&mut self, job: JobId) -> Option<&mut Running> {
        self.seats.iter_mut().chain([&mut self.canary]).flatten().find(|running| running.job == job)
    }
}

impl Running {
    fn pending(&self) -> usize {
        self.tokens - self.evaluated
    }

    fn chunk(&self, sequence: Sequence, len: usize) -> Chunk {
        Chunk { job: self.job, sequence, start: self.evaluated, len, samples: len == self.pending() }
    }
}

/// Divides `budget` so that nobody gets more than needed, and nobody less than another unless satisfied (or by one token,
/// to whom comes first).
fn fair_shares(budget: usize, needs: &[usize]) -> Vec<usize> {
    let mut shares = vec![0; needs.len()];
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&index| needs.get(index).copied());
    let (mut left, mut takers) = (budget, needs.len());
    for index in order {
        let equal = left.checked_div(takers).unwrap_or(0);
        let share = needs.get(index).copied().unwrap_or(0).min(equal);
        if let Some(slot) = shares.get_mut(index) {
            *slot = share;
        }
        left -= share;
        takers -= 1;
    }
    for (share, need) in shares.iter_mut().zip(needs) {
        if *share < *need && left > 0 {
            *share += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests;
