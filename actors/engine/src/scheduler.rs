//! Who runs, who waits, and what the next batch holds.
//!
//! Pure bookkeeping over job ids, token ids and counts: no text, no clock, no llama.cpp. Requests are served in the order
//! they came, and one of several jobs takes more than one sequence only while nobody else waits (`groups.rs`). When the running jobs' tokens no longer fit the KV
//! pool, the newest one returns to its old place in the queue. A job that leaves keeps its cells as long as nobody needs
//! them; a later one that begins with the same tokens takes or shares them (see [`crate::prefix`]). The canary has a
//! sequence and cells of its own and shares nothing.

mod burst;
mod groups;
mod reuse;
mod shares;

use crate::{
    backend::{Limits, Sequence, Token},
    pace::Pace,
    prefix::{Change, Rows},
};
use burst::{Burst, Member, Patience};
use reuse::Follow;
use spillway_actors::gpu::frame::JobId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Cells kept free per running job when another is admitted, so that it is not preempted at once.
const HEADROOM_TOKENS: usize = 8;
/// Positions of scored prompts in one batch: each is a row over the whole vocabulary, to be kept and gone through.
const SCORED_AT_ONCE: usize = 64;
/// Tokens of a prompt that is soon computed, if it takes no longer than [`SHORT_WORK`]: those who stream can wait for it.
const SHORT_PROMPT: usize = 1000;
const SHORT_WORK: Duration = Duration::from_secs(5);
/// Other work moves on, however slow the machine.
const LEAST_BESIDE: usize = 8;

/// What a job brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub job: JobId,
    /// Jobs of one request; alone, its own id. Groups get what is free in equal parts: one that has several sequences
    /// gives one up when another has none.
    pub group: u64,
    /// Only jobs of one scope use each other's cells.
    pub scope: u64,
    /// Prompt tokens.
    pub prompt: usize,
    /// Tokens known: prompt, and replayed ones.
    pub tokens: usize,
    /// Its text must be the same every time: its tokens are computed in the batches of an undisturbed run. Kept only
    /// where one job runs at a time; batches shared with others round differently anyway.
    pub exact: bool,
    /// Something is read out of every position of its prompt: no cells are taken over, and few tokens are computed at once.
    pub scored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    ask: Ask,
    /// Place in the queue when it came; kept over preemptions.
    order: u64,
    /// How many of its tokens are in the KV cache.
    evaluated: usize,
    /// How many it brought that had to be computed.
    brought: usize,
    /// Somebody ahead computes the same tokens.
    follows: Option<Follow>,
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
    /// Computed in the batch an undisturbed run would use.
    canonical: bool,
}

/// A job, the sequence it got, and how many of its tokens need not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub job: JobId,
    pub sequence: Sequence,
    pub reused: usize,
}

/// The tokens of a job that is in the scheduler.
pub type TokensOf<'a> = &'a dyn Fn(JobId) -> &'a [Token];

#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    waiting: BTreeMap<u64, Ask>,
    /// Index = sequence.
    seats: Vec<Option<Running>>,
    canary: Option<Running>,
    canaries: VecDeque<Ask>,
    next_order: u64,
    rows: Rows,
    pace: Pace,
    patience: Patience,
    /// To be done to the backend's cells before the next batch.
    changes: Vec<Change>,
    /// Nothing was computed since nobody ran.
    begins: bool,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Self {
        let sequences = usize::try_from(limits.parallel).unwrap_or(usize::MAX);
        Self {
            limits,
            waiting: BTreeMap::new(),
            seats: vec![None; sequences],
            canary: None,
            canaries: VecDeque::new(),
            next_order: 0,
            rows: Rows::new(sequences),
            pace: Pace::new(sequences + 1),
            patience: Patience::new(),
            changes: Vec::new(),
            begins: true,
        }
    }

    /// Puts a job at the end of its queue.
    pub fn enqueue(&mut self, ask: Ask, canary: bool) {
        let ask = Ask { exact: ask.exact && self.limits.parallel == 1 && !canary, ..ask };
        if canary {
            self.canaries.push_back(ask);
        } else {
            self.waiting.insert(self.next_order, ask);
            self.next_order += 1;
        }
    }

    /// Gives sequences to as many waiting jobs as fit, in order.
    pub fn admit(&mut self, tokens_of: TokensOf<'_>) -> Vec<Seat> {
        let mut seated = Vec::new();
        if self.canary.is_none()
            && let Some(ask) = self.canaries.pop_front()
        {
            self.canary = Some(Running { ask, order: 0, evaluated: 0, brought: ask.tokens, follows: None });
            seated.push(Seat { job: ask.job, sequence: self.limits.parallel, reused: 0 });
        }
        while let Some(seat) = self.admit_next(tokens_of) {
            seated.push(seat);
        }
        seated
    }

    fn admit_next(&mut self, tokens_of: TokensOf<'_>) -> Option<Seat> {
        let groups::Next { order, ask, held } = groups::next(&self.waiting, &self.seats)?;
        loop {
            let seat = self.try_seat(order, ask, tokens_of);
            if seat.is_some() || held > 0 || self.preempt_extra().is_none() {
                return seat;
            }
        }
    }

    fn try_seat(&mut self, order: u64, ask: Ask, tokens_of: TokensOf<'_>) -> Option<Seat> {
        let running = self.seats.iter().flatten().count();
        if running == self.seats.len() {
            return None;
        }
        let tokens = tokens_of(ask.job);
        let found = self.reusable(&ask, tokens);
        let have = found.map_or(0, |(_, len)| len);
        let follows = self.leader_of(&ask, order, have, tokens, tokens_of);
        let live = found.map_or(0, |(from, len)| self.rows.live_among(from, len));
        let shared = follows.map_or(0, |follow| follow.common).max(live);
        let reserve = HEADROOM_TOKENS * (running + 1);
        if running > 0
            && !self.limits.apart
            && self.committed() + ask.tokens - shared + reserve > self.limits.pool_cells
        {
            return None;
        }
        self.waiting.remove(&order);
        let (sequence, reused) = self.prepare_row(found, ask.scope)?;
        let seat = self.seats.get_mut(usize::try_from(sequence).ok()?)?;
        *seat = Some(Running { ask, order, evaluated: reused, brought: ask.tokens - reused, follows });
        self.rows.set_live(sequence, true);
        Some(Seat { job: ask.job, sequence, reused })
    }

    /// Cells that the running jobs hold or will need for the tokens they have.
    fn committed(&self) -> usize {
        self.rows.live_used() + self.seats.iter().flatten().map(Running::own_need).sum::<usize>()
    }

    /// Takes the newest job off the KV pool when the running ones no longer fit. Call until it returns `None`.
    pub fn preempt_if_full(&mut self) -> Option<JobId> {
        if self.committed() <= self.limits.pool_cells { None } else { self.preempt_newest() }
    }

    /// The KV cache is smaller than it said. First all cells that no job holds go; when there are none, the newest job is
    /// preempted and the pool lowered to what the others hold. Returns whether anything could be done.
    pub fn pool_was_full(&mut self) -> bool {
        let reclaimed = self.rows.reclaim(usize::MAX);
        if !reclaimed.is_empty() {
            self.changes.extend(reclaimed);
            return true;
        }
        if self.preempt_newest().is_none() {
            return false;
        }
        self.changes.extend(self.rows.reclaim(usize::MAX));
        self.limits.pool_cells = self.limits.pool_cells.min(self.committed().max(self.limits.max_request_tokens));
        true
    }

    /// A job alone is never preempted: nobody would gain.
    fn preempt_newest(&mut self) -> Option<JobId> {
        if self.seats.iter().flatten().count() < 2 {
            return None;
        }
        let extra = self.preempt_extra();
        if extra.is_some() {
            return extra;
        }
        let newest = self.seats.iter().flatten().max_by_key(|running| running.order)?.order;
        self.preempt(newest)
    }

    /// Takes the newest job of the group that holds most sequences back into the queue, if that is more than one.
    fn preempt_extra(&mut self) -> Option<JobId> {
        let order = groups::extra(&self.seats)?;
        self.preempt(order)
    }

    fn preempt(&mut self, order: u64) -> Option<JobId> {
        let index = self.seats.iter().position(|seat| seat.is_some_and(|running| running.order == order))?;
        let Running { ask, order, .. } = self.seats.get_mut(index)?.take()?;
        self.waiting.insert(order, ask);
        self.leave(u32::try_from(index).ok()?, true);
        Some(ask.job)
    }

    /// The next batch: every decoding sequence, unless a burst has it pause; then the canary's prompt, then prompts in shares
    /// of what keeps the decoding ones' steps short.
    pub fn plan(&mut self) -> Vec<Chunk> {
        let canary_alone = self.canary.is_some() && self.limits.parallel == 1;
        let ready = self.running().filter(|(sequence, running)| {
            let waits = running.follows.is_some() || (canary_alone && *sequence != self.limits.parallel);
            running.pending() > 0 && !waits
        });
        let (mut decoding, mut prompts): (Vec<_>, Vec<_>) = ready.partition(|(_, running)| running.due() == 1);
        prompts.sort_by_key(|(_, running)| running.order);
        let begins = std::mem::take(&mut self.begins) && decoding.is_empty();
        let first = if begins { self.limits.first_prompt_tokens } else { usize::MAX };
        let most = self.limits.batch_tokens.min(first);
        let burst = self.gather(&mut decoding, &mut prompts, most);
        let mut chunks: Vec<Chunk> =
            decoding.iter().map(|(sequence, running)| self.chunk(*sequence, running, 1)).collect();
        let paced = burst == Burst::None && !decoding.is_empty();
        let mut long = Vec::new();
        let (mut room, mut for_long) = (most.saturating_sub(decoding.len()), 0);
        if paced {
            (prompts, long) = prompts.into_iter().partition(|(_, running)| self.is_short(running));
            (room, for_long) = self.shared(decoding.len(), &prompts, !long.is_empty(), room);
        }
        let (canary, jobs): (Vec<_>, Vec<_>) = prompts.into_iter().partition(|member| self.is_canary(member));
        let mut scored = SCORED_AT_ONCE;
        let gathers = burst == Burst::Gathers;
        self.fill(&mut chunks, canary, &mut room, &mut scored, false);
        self.fill(&mut chunks, jobs, &mut room, &mut scored, gathers);
        self.fill(&mut chunks, long, &mut for_long, &mut scored, false);
        self.make_room(&chunks);
        chunks
    }

    /// Beside `decoding` sequences: prompt tokens for the `short` prompts, and for long ones, if there are any. A long prompt
    /// gets what it would get without the short ones, and never what may hold somebody up for them.
    fn shared(&self, decoding: usize, short: &[Member], long: bool, room: usize) -> (usize, usize) {
        let for_long = if long { self.pace.prompt_budget(decoding, false, room) } else { 0 };
        let most =
            if short.is_empty() { for_long } else { self.pace.prompt_budget(decoding, true, room).max(for_long) };
        let due: usize = short.iter().map(|(_, running)| running.due()).sum();
        let for_short = due.min(most - for_long.min(most / 2));
        (for_short, for_long.min(most - for_short))
    }

    /// Adds what `room` holds of this group's prompts. In a burst that `gathers` everybody's last token waits for the others.
    fn fill(&self, chunks: &mut Vec<Chunk>, group: Vec<Member>, room: &mut usize, scored: &mut usize, gathers: bool) {
        let needs: Vec<(u64, usize)> =
            group.iter().map(|(_, running)| (running.ask.group, running.due() - usize::from(gathers))).collect();
        for ((sequence, running), len) in group.into_iter().zip(shares::split_by_group(*room, &needs)) {
            let len = if running.is_scored() { len.min(*scored) } else { len };
            *scored -= if running.is_scored() { len } else { 0 };
            *room -= len;
            if len > 0 {
                chunks.push(self.chunk(sequence, &running, len));
            }
        }
    }

    /// Others can wait for it.
    fn is_short(&self, running: &Running) -> bool {
        running.brought <= SHORT_PROMPT && self.pace.alone(running.brought).is_none_or(|takes| takes <= SHORT_WORK)
    }

    /// Tokens of other work between two steps, so that those who decode keep their pace; `most` when nobody does.
    pub fn beside(&self, most: usize) -> usize {
        let decoding = self.running().filter(|(_, running)| running.due() == 1).count();
        if self.running_count() == 0 {
            return most;
        }
        self.pace.prompt_budget(decoding, false, most).max(LEAST_BESIDE).min(most)
    }

    fn chunk(&self, sequence: Sequence, running: &Running, len: usize) -> Chunk {
        let (start, prompt) = (running.evaluated, running.ask.prompt);
        let in_prompt = start + len <= prompt;
        let whole = len == self.limits.batch_tokens || start + len == prompt;
        Chunk {
            job: running.ask.job,
            sequence,
            start,
            len,
            samples: len == running.pending(),
            canonical: self.limits.parallel == 1
                && in_prompt
                && whole
                && start.is_multiple_of(self.limits.batch_tokens.max(1)),
        }
    }

    /// Old cells go before new ones come, and when there are too many of them.
    fn make_room(&mut self, chunks: &[Chunk]) {
        let needed: usize =
            chunks.iter().filter(|chunk| chunk.sequence != self.limits.parallel).map(|chunk| chunk.len).sum();
        let free = self.limits.pool_cells.saturating_sub(self.rows.used());
        let wanted = needed.saturating_sub(free).max(self.kept_cells().saturating_sub(self.limits.kept_cells));
        if wanted > 0 {
            self.changes.extend(self.rows.reclaim(wanted));
        }
    }

    /// What to do to the backend's cells, in order, before the batch that was planned.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// This chunk, whose tokens these are, is in the KV cache now.
    pub fn evaluated(&mut self, chunk: &Chunk, tokens: &[Token]) {
        let Some(running) = self.find(chunk.job) else { return };
        running.evaluated = chunk.start + chunk.len;
        if chunk.sequence != self.limits.parallel {
            self.rows.append(chunk.sequence, tokens, chunk.canonical);
        }
    }

    /// The backend could not do what the books say: this sequence holds nothing. Returns its job, which begins again.
    pub fn lost(&mut self, sequence: Sequence) -> Option<JobId> {
        self.rows.truncate(sequence, 0);
        let running = self.seats.get_mut(usize::try_from(sequence).ok()?)?.as_mut()?;
        running.evaluated = 0;
        running.brought = running.ask.tokens;
        running.follows = None;
        Some(running.ask.job)
    }

    /// A token of this job was sampled; it will be part of the next batch.
    pub fn sampled(&mut self, job: JobId) {
        if let Some(running) = self.find(job) {
            running.ask.tokens += 1;
        }
    }

    /// A step with these chunks took this long.
    pub fn took(&mut self, chunks: &[Chunk], took: Duration) {
        let decoding = chunks.iter().filter(|chunk| chunk.len == 1).count();
        let prompt: usize = chunks.iter().map(|chunk| chunk.len).filter(|len| *len > 1).sum();
        self.pace.observe(decoding, prompt, took);
    }

    /// Forgets a job wherever it is. With `keep` its cells stay for others until the room is needed; without, they are in
    /// an unknown state and go at once.
    pub fn remove(&mut self, job: JobId, keep: bool) {
        self.waiting.retain(|_, waiting| waiting.job != job);
        self.canaries.retain(|waiting| waiting.job != job);
        if self.canary.take_if(|running| running.ask.job == job).is_some() {
            self.changes.push(Change::Truncate { sequence: self.limits.parallel, len: 0 });
        }
        let seat = self.seats.iter_mut().position(|seat| seat.take_if(|running| running.ask.job == job).is_some());
        if let Some(sequence) = seat.and_then(|index| u32::try_from(index).ok()) {
            self.leave(sequence, keep);
            self.begins |= self.running_count() == 0;
        }
    }

    /// The only way a row loses its job.
    fn leave(&mut self, sequence: Sequence, keep: bool) {
        self.rows.set_live(sequence, false);
        if !(keep && self.limits.prefix_reuse) {
            self.rows.truncate(sequence, 0);
            self.changes.push(Change::Truncate { sequence, len: 0 });
        }
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

    /// KV cells that jobs hold.
    pub fn used_cells(&self) -> usize {
        self.rows.live_used() + self.canary.map_or(0, |running| running.evaluated)
    }

    /// KV cells that nobody holds and that a later prompt may take.
    pub fn kept_cells(&self) -> usize {
        self.rows.used() - self.rows.live_used()
    }

    /// The tokens whose cells a sequence holds, by the books.
    #[cfg(test)]
    pub(crate) fn kept_tokens(&self, sequence: Sequence) -> &[Token] {
        self.rows.tokens(sequence)
    }

    fn running(&self) -> impl Iterator<Item = (Sequence, Running)> + '_ {
        let jobs = (0..).zip(&self.seats).filter_map(|(sequence, seat)| seat.map(|running| (sequence, running)));
        jobs.chain(self.canary.map(|running| (self.limits.parallel, running)))
    }

    fn find(&mut self, job: JobId) -> Option<&mut Running> {
        self.seats.iter_mut().chain([&mut self.canary]).flatten().find(|running| running.ask.job == job)
    }
}

impl Running {
    fn pending(&self) -> usize {
        self.ask.tokens - self.evaluated
    }

    /// Cells it will take for the tokens it has; not those that its leader computes.
    fn own_need(&self) -> usize {
        let shared = self.follows.map_or(0, |follow| follow.common.saturating_sub(self.evaluated));
        self.pending().saturating_sub(shared)
    }

    /// Whether its next chunk is looked at, position by position.
    fn is_scored(&self) -> bool {
        self.ask.scored && self.evaluated < self.ask.prompt
    }

    /// Its client has got a token already.
    fn speaks(&self) -> bool {
        self.ask.tokens > self.ask.prompt
    }

    /// How many tokens its next chunk may hold. An exact job's generated tokens are computed one by one, as when they
    /// were sampled.
    fn due(&self) -> usize {
        match (self.ask.exact, self.ask.prompt.checked_sub(self.evaluated)) {
            (true, Some(left)) if left > 0 => left,
            (true, _) => self.pending().min(1),
            (false, _) => self.pending(),
        }
    }
}

#[cfg(test)]
mod tests;
