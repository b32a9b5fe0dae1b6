//! One attempt at a local engine: lease in hand, its jobs submitted, their outputs passed on. Most requests are one job; one
//! of several prompts or answers is one job for each answer, all under the same lease.

mod part;

use super::{
    AttemptReport, Failure, Flight, cascade::Shown, hedge::Hedge, judge::HoldBack, leave::ABANDONED, reading,
    so_far::SoFar,
};
use crate::{
    cloud::assemble::Assembler,
    config::LocalConfig,
    domain::{ChatRequest, Delta, ErrorKind, GatewayError, Input, NanoUsd, Passage, RequestKind, TokenUsage},
    gpu::{
        JobStream, Lease,
        frame::{
            Batch, ChatTraits, Echo, JobEvent, JobFailure, JobFailureKind, JobSpec, Member, Prompt, StopReason,
            TokenLogprob,
        },
    },
    ledger::AttemptRow,
    observe,
    route::Decision,
    tools,
};
use part::Part;
use tokio::time::Instant;

/// One attempt's running state.
pub(super) struct Progress {
    pub(super) began: Instant,
    pub(super) first_token: Option<std::time::Duration>,
    /// One for each job of an engine; of a server's answer none.
    parts: Vec<Part>,
    /// A non-streaming answer so far.
    pub(super) whole: Assembler,
    /// Of a stream of one answer: what waits to be judged.
    pub(super) held: HoldBack,
    /// As a server told it.
    pub(super) usage: TokenUsage,
}

impl Progress {
    /// What this attempt has taken, so that the sum of all attempts is what was generated.
    fn taken(&self) -> TokenUsage {
        let usage = part::usage_of_attempt(&self.parts);
        if usage == TokenUsage::default() { self.usage } else { usage }
    }
}

impl Flight {
    pub(super) async fn fly_local(&mut self, decision: &Decision) -> Result<(), Failure> {
        if self.request().needs.embeddings {
            return self.embed_local(decision).await;
        }
        let (began, usage) = (Instant::now(), TokenUsage::default());
        self.set_out(began);
        let parts = part::parts(self.request(), &self.sent);
        let held = if is_one_job(self.request()) { self.hold_back() } else { HoldBack::default() };
        let mut progress = Progress { began, first_token: None, parts, whole: Assembler::default(), held, usage };
        let mut hedge = self.hedge(decision, began);
        self.begin_draw(decision);
        let result = match self.job.take_lease() {
            Some(lease) => match lease.server() {
                Some(server) => self.run_on_server(&lease, &server, decision, &mut progress, &mut hedge).await,
                None => self.run_jobs(&lease, decision, &mut progress, &mut hedge).await,
            },
            None => Err(engine_gone(decision).into()),
        };
        if result.as_ref().is_err_and(|failure| !failure.poor && failure.error.may_try_elsewhere()) {
            hedge.last_chance().await;
        }
        self.call_off(&mut hedge);
        let won = hedge.won();
        self.note_refusal(&result);
        let outcome = match &result {
            Ok(()) if won.is_some() => "hedged",
            Ok(()) => "ok",
            Err(failure) if failure.death.is_some() => "engine_died",
            Err(failure) if failure.poor => "poor",
            Err(failure) => failure.error.kind.label(),
        };
        self.record_attempt(decision, outcome, progress.began, progress.first_token, progress.taken());
        match won {
            Some(won) => self.go_on_with(won).await,
            None => result,
        }
    }

    /// `Ok` also when the hedge has won.
    async fn run_jobs(
        &mut self,
        lease: &Lease,
        decision: &Decision,
        progress: &mut Progress,
        hedge: &mut Hedge,
    ) -> Result<(), Failure> {
        let traits = lease.slot().view().info.map_or_else(ChatTraits::default, |info| info.chat);
        let spec = self.job_spec(lease.slot().config(), traits, decision)?;
        let order = if is_one_job(self.request()) { None } else { Some(self.batch(&spec, &progress.parts, traits)) };
        self.note_dispatch(decision, SoFar::new(progress.began));
        let outputs = match order {
            None => lease.submit(spec),
            Some(batch) => lease.submit_all(batch),
        };
        let Some(mut outputs) = outputs else { return Err(died(lease, decision)) };
        self.pass_on(&mut outputs, lease, decision, progress, hedge).await
    }

    async fn pass_on(
        &mut self,
        outputs: &mut JobStream,
        lease: &Lease,
        decision: &Decision,
        progress: &mut Progress,
        hedge: &mut Hedge,
    ) -> Result<(), Failure> {
        while progress.parts.iter().any(|part| part.end.is_none()) {
            let event = tokio::select! {
                biased;
                event = outputs.next_part() => event,
                () = hedge.wins() => return Ok(()),
            };
            let Some((job, event)) = event else { return Err(died(lease, decision)) };
            self.note_seated(progress.began, outputs.seated());
            if is_visible(&event) {
                self.call_off(hedge);
            }
            self.pass_event(job as usize, event, decision, progress).await?;
        }
        self.land_local(decision, progress).await
    }

    async fn pass_event(
        &mut self,
        job: usize,
        event: JobEvent,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let Some(part) = progress.parts.get_mut(job) else { return Ok(()) };
        match event {
            JobEvent::Accepted { prompt_tokens, cached_tokens } => {
                part.usage.prompt_tokens = u64::from(prompt_tokens);
                part.usage.cached_tokens = u64::from(cached_tokens);
                part.usage.completion_tokens = part.replayed;
                self.sent.counted_prompt(part.prompt, part.usage.prompt_tokens);
                self.note_taken(progress.taken());
            }
            JobEvent::Echoed { text, tokens, done } => {
                part.echoed.push_str(&text);
                part.echoed_tokens.extend(tokens.iter().map(reading::spelled_prompt));
                // All at once: an engine that dies in the middle of it begins it again.
                if done {
                    let delta = part.echo_whole(self.job.request.output.logprobs.is_some());
                    self.echo(delta, decision, progress).await;
                }
            }
            // An engine makes one token at least.
            JobEvent::Piece { .. } if self.job.request.wants_prompt_only() => {}
            JobEvent::Piece { text, tokens, logprobs } => {
                let choice = part.choice;
                part.usage.completion_tokens += tokens.len() as u64;
                self.piece(choice, text, tokens, logprobs, decision, progress).await;
            }
            JobEvent::Finished { reason, prompt_tokens, completion_tokens, cached_tokens } => {
                let is_scored = self.job.request.wants_prompt_only();
                let reason = if is_scored { StopReason::Length } else { reason };
                part.usage = TokenUsage {
                    prompt_tokens: u64::from(prompt_tokens),
                    completion_tokens: if is_scored { 0 } else { u64::from(completion_tokens) },
                    cached_tokens: u64::from(cached_tokens),
                    ..TokenUsage::default()
                };
                let choice = part.choice;
                let word = self.end_part(choice, reason, decision, progress).await;
                if let Some(part) = progress.parts.get_mut(job) {
                    part.end = Some(word);
                }
                self.note_taken(progress.taken());
            }
            JobEvent::Failed(failure) => return Err(refused(decision, failure).into()),
            JobEvent::Vector { .. } => {}
        }
        Ok(())
    }

    /// The prompt before its answer.
    async fn echo(&mut self, delta: Delta, decision: &Decision, progress: &mut Progress) {
        if self.request().stream {
            self.show_echo(delta, decision).await;
        } else {
            let _ = progress.whole.delta(delta);
        }
    }

    async fn piece(
        &mut self,
        choice: u32,
        text: String,
        tokens: Vec<i32>,
        logprobs: Vec<TokenLogprob>,
        decision: &Decision,
        progress: &mut Progress,
    ) {
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        if let Some(so_far) = &mut self.under_way {
            so_far.heard(Instant::now());
            so_far.usage.completion_tokens += tokens.len() as u64;
        }
        self.services.recent.generated(true, tokens.len() as u64);
        if self.request().stream {
            self.sent.generated(choice, &tokens);
        }
        let deltas = self.sent.read(choice).map(|reading| reading.piece(text, tokens, logprobs)).unwrap_or_default();
        self.take(choice, deltas, decision, progress).await;
    }

    /// To the client, to be judged first, or into the whole answer.
    async fn take(&mut self, choice: u32, deltas: Vec<Delta>, decision: &Decision, progress: &mut Progress) {
        for delta in deltas {
            let delta = Delta { choice, ..delta };
            if !self.request().stream {
                // Bounded by the engine's context long before the assembler's own bound.
                let _ = progress.whole.delta(delta);
                continue;
            }
            for delta in progress.held.push(delta) {
                self.show(delta, decision).await;
            }
        }
    }

    /// What is left of an answer, and the word for its end. One of several answers of a stream has its end at once; the only
    /// one waits to be judged.
    async fn end_part(
        &mut self,
        choice: u32,
        reason: StopReason,
        decision: &Decision,
        progress: &mut Progress,
    ) -> &'static str {
        let reason = match reason {
            StopReason::StopText(which) => {
                let stops = self.request().stop.as_deref().unwrap_or_default();
                self.met_stop = usize::try_from(which).ok().and_then(|which| stops.get(which)).cloned();
                "stop"
            }
            StopReason::Stop => "stop",
            StopReason::Length => "length",
        };
        let (rest, reason) = self.sent.read(choice).map_or((Vec::new(), reason), |reading| reading.finish(reason));
        self.take(choice, rest, decision, progress).await;
        if self.request().stream && !is_one_job(self.request()) {
            self.show_finish(choice, reason.to_owned(), decision).await;
            self.sent.ended(choice);
        }
        reason
    }

    /// Every job has ended.
    async fn land_local(&mut self, decision: &Decision, progress: &mut Progress) -> Result<(), Failure> {
        self.usage = self.usage_of_answer(progress);
        if is_one_job(self.request()) {
            return self.land_one(decision, progress).await;
        }
        self.finished = true;
        if !self.request().stream {
            let n = self.request().choices.n;
            let likelihood = |part: &Part| self.sent.mean_logprob(part.choice);
            let best = part::best(&progress.parts, n, likelihood);
            let mut whole = std::mem::take(&mut progress.whole);
            for part in &progress.parts {
                whole.finish(part.choice, part.end.unwrap_or("stop").to_owned());
            }
            let Shown::Whole(mut answer) = Shown::all(whole) else { return Ok(()) };
            answer.choices.retain_mut(|choice| {
                let shown = best.iter().find(|(_, made)| *made == choice.index);
                shown.map(|(index, _)| choice.index = *index).is_some()
            });
            answer.choices.sort_by_key(|choice| choice.index);
            self.emit(super::FlightEvent::Whole(answer)).await;
        }
        Ok(())
    }

    async fn land_one(&mut self, decision: &Decision, progress: &mut Progress) -> Result<(), Failure> {
        let reason = progress.parts.first().and_then(|part| part.end).unwrap_or("stop");
        let shown = if self.request().stream {
            Shown::Stream(std::mem::take(&mut progress.held))
        } else {
            Shown::whole(std::mem::take(&mut progress.whole), reason)
        };
        let Some(shown) = self.keep_if_poor(shown, reason, decision) else {
            let message = "the local answer was poor";
            let error = GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, message);
            return Err(Failure { poor: true, ..Failure::from(error) });
        };
        self.finished = true;
        self.show_all(shown, reason, decision).await;
        Ok(())
    }

    /// Of the whole answer: what an earlier attempt has ended counts as well.
    fn usage_of_answer(&self, progress: &Progress) -> TokenUsage {
        let usage = part::usage_of_parts(&progress.parts);
        let ended_now = progress.parts.iter().filter(|part| self.sent.has_ended(part.choice));
        let ended_now: u64 = ended_now.map(|part| self.sent.tokens(part.choice).len() as u64).sum();
        TokenUsage {
            prompt_tokens: self.sent.prompt_tokens().max(usage.prompt_tokens),
            completion_tokens: usage.completion_tokens + self.sent.ended_tokens().saturating_sub(ended_now),
            ..usage
        }
    }

    fn job_spec(
        &mut self,
        config: &LocalConfig,
        traits: ChatTraits,
        decision: &Decision,
    ) -> Result<JobSpec, GatewayError> {
        let request = &self.job.request;
        let judged = self.judges_likelihood() || request.choices.best_of > request.choices.n;
        let stop = match (&request.stop, request.kind) {
            (Some(stop), _) => stop.clone(),
            (None, RequestKind::Completion) => config.defaults.completion_stop.clone(),
            (None, RequestKind::Chat | RequestKind::Embedding) => Vec::new(),
        };
        let reading = self.sent.reading(0, request, traits);
        let dialect = reading.dialect();
        let sent_bytes = reading.bytes();
        // The gates have looked already: what cannot be promised is not here.
        let grammar = tools::answer_grammar(&request.output, dialect.unwrap_or_default())
            .map_err(|unfit| GatewayError::invalid(None, unfit.to_string()))?;
        Ok(JobSpec {
            job: 0,
            prompt: prompt(request, traits),
            sampling: request.sampling.or(config.defaults.sampling),
            max_tokens: decision.candidate.output_cap.max(1),
            stop,
            replay: self.sent.tokens(0).to_vec(),
            sent_bytes,
            canary: false,
            logprobs: request.output.logprobs.or(judged.then_some(0)),
            logit_bias: request.output.logit_bias.clone(),
            grammar,
            markers: dialect.is_some(),
            cache_scope: request.caller.as_ref().map_or(0, |caller| caller.cache_scope()),
        })
    }

    /// One member for each part, in their order.
    fn batch(&mut self, spec: &JobSpec, parts: &[Part], traits: ChatTraits) -> Batch {
        let request = &self.job.request;
        let echo = if request.output.logprobs.is_some() { Echo::Scored } else { Echo::Text };
        let mut members = Vec::with_capacity(parts.len());
        for part in parts {
            members.push(Member {
                job: 0,
                prompt: u32::try_from(part.prompt).unwrap_or(u32::MAX),
                seed: part::seed(spec.sampling.seed, part.nth),
                replay: self.sent.tokens(part.choice).to_vec(),
                sent_bytes: self.sent.reading(part.choice, request, traits).bytes(),
                echo: if part.echo { echo } else { Echo::Nothing },
            });
        }
        let prompts = prompts(request, traits);
        let like = JobSpec { prompt: Prompt::Tokens(Vec::new()), replay: Vec::new(), ..spec.clone() };
        Batch { group: 0, like, prompts, members }
    }

    /// What the attempt under way has taken, as its target counts.
    pub(super) fn note_taken(&mut self, usage: TokenUsage) {
        if let Some(so_far) = &mut self.under_way {
            so_far.usage = usage;
        }
    }

    pub(super) fn record_attempt(
        &mut self,
        decision: &Decision,
        outcome: &'static str,
        began: Instant,
        first_token: Option<std::time::Duration>,
        usage: TokenUsage,
    ) {
        let (target, model) = (decision.candidate.target.to_string(), decision.candidate.model.to_string());
        self.under_way = None;
        observe::attempt(&target, outcome);
        // Once, by the attempt that ends it, is saved what its client has of the answer: not what died or was thrown away.
        let is_last = matches!(outcome, "ok" | ABANDONED);
        let baseline = if is_last { self.baseline(self.usage) } else { NanoUsd::ZERO };
        let energy_mj = self.end_draw(decision);
        let row = self.row(&decision.candidate);
        self.services.ledger.post(AttemptRow { outcome: outcome.into(), usage, baseline, energy_mj, ..row });
        self.attempts.push(AttemptReport {
            target,
            model,
            outcome,
            first_token,
            took: began.elapsed(),
            usage,
            cost: NanoUsd::ZERO,
            course: self.course,
        });
        // One that was left says nothing of its target.
        if outcome != ABANDONED {
            self.note_score(decision);
        }
    }
}

/// Whether it is answered by a single job: one answer to one prompt, and nothing before it.
fn is_one_job(request: &ChatRequest) -> bool {
    let choices = &request.choices;
    choices.n.max(choices.best_of) <= 1 && !choices.echo && !matches!(request.input, Input::Several(_))
}

/// Every prompt of a request of several answers.
fn prompts(request: &ChatRequest, traits: ChatTraits) -> Vec<Prompt> {
    match &request.input {
        Input::Several(passages) => passages.iter().map(|one| before_suffix(passage(one), request)).collect(),
        _ => vec![prompt(request, traits)],
    }
}

/// The request's input as the engine takes it.
pub(super) fn prompt(request: &ChatRequest, traits: ChatTraits) -> Prompt {
    match &request.input {
        Input::Messages(messages) => {
            let (messages, tools) = tools::chat_prompt(messages, &request.output, traits);
            Prompt::Chat { messages_json: messages.to_string(), tools_json: tools.map(|tools| tools.to_string()) }
        }
        Input::Text(text) => before_suffix(Prompt::Text(text.clone()), request),
        Input::Tokens(tokens) => Prompt::Tokens(tokens.clone()),
        Input::Several(passages) => passages.first().map_or_else(|| Prompt::Tokens(Vec::new()), passage),
    }
}

fn before_suffix(prompt: Prompt, request: &ChatRequest) -> Prompt {
    match (prompt, &request.choices.suffix) {
        (Prompt::Text(prefix), Some(suffix)) => Prompt::Between { prefix, suffix: suffix.clone() },
        (prompt, _) => prompt,
    }
}

pub(super) fn passage(passage: &Passage) -> Prompt {
    match passage {
        Passage::Text(text) => Prompt::Text(text.clone()),
        Passage::Tokens(tokens) => Prompt::Tokens(tokens.clone()),
    }
}

/// Whether it is a token that a client would see, or the answer's good end.
fn is_visible(event: &JobEvent) -> bool {
    match event {
        JobEvent::Piece { text, .. } => !text.is_empty(),
        JobEvent::Echoed { done, .. } => *done,
        JobEvent::Finished { .. } => true,
        _ => false,
    }
}

pub(super) fn engine_gone(decision: &Decision) -> GatewayError {
    GatewayError::target(&decision.candidate.target, ErrorKind::Unavailable, "the local engine went away")
        .retry_after(std::time::Duration::from_secs(1))
}

pub(super) fn died(lease: &Lease, decision: &Decision) -> Failure {
    let (death, failure) = (lease.slot().death_of(lease.epoch()), Failure::from(engine_gone(decision)));
    Failure { at: death.as_ref().map_or(failure.at, |death| death.at), death, ..failure }
}

pub(super) fn refused(decision: &Decision, failure: JobFailure) -> GatewayError {
    let kind = match failure.kind {
        JobFailureKind::ContextLength => ErrorKind::ContextLengthExceeded,
        JobFailureKind::Invalid => ErrorKind::InvalidRequest,
        JobFailureKind::Decode => ErrorKind::Upstream,
    };
    let mut error = GatewayError::target(&decision.candidate.target, kind, failure.message);
    error.param = failure.param;
    error
}
