//! One attempt at a local engine: lease in hand, its jobs submitted, their outputs passed on. Most requests are one job; one
//! of several prompts or answers is one job for each answer, all under the same lease.

mod part;

use super::{AttemptReport, Failure, Flight, FlightEvent, hedge::Hedge, judge::HoldBack, whole_of};
use crate::{
    config::LocalConfig,
    domain::{ChatRequest, Delta, ErrorKind, GatewayError, Input, NanoUsd, Passage, RequestKind, TokenUsage},
    gpu::{
        JobStream, Lease,
        frame::{Batch, JobEvent, JobFailure, JobFailureKind, JobSpec, Member, Prompt, StopReason, TokenLogprob},
    },
    ledger::AttemptRow,
    observe,
    route::Decision,
};
use part::Part;
use serde_json::{Value, json};
use tokio::time::Instant;

/// One attempt's running state.
struct Progress {
    began: Instant,
    first_token: Option<std::time::Duration>,
    /// One for each job.
    parts: Vec<Part>,
    /// Of a stream of one answer: what waits to be judged.
    held: HoldBack,
}

impl Flight {
    pub(super) async fn fly_local(&mut self, decision: &Decision) -> Result<(), Failure> {
        if self.request().needs.embeddings {
            return self.embed_local(decision).await;
        }
        let began = Instant::now();
        let parts = part::parts(self.request(), &self.sent);
        let held = if parts.len() == 1 { self.hold_back() } else { HoldBack::of(0) };
        let mut progress = Progress { began, first_token: None, parts, held };
        let mut hedge = self.hedge(decision, began);
        let result = match self.job.take_lease() {
            Some(lease) => self.run_jobs(&lease, decision, &mut progress, &mut hedge).await,
            None => Err(engine_gone(decision).into()),
        };
        if result.as_ref().is_err_and(|failure| !failure.poor && failure.error.may_try_elsewhere()) {
            hedge.last_chance().await;
        }
        self.call_off(&mut hedge);
        let won = hedge.won();
        let outcome = match &result {
            Ok(()) if won.is_some() => "hedged",
            Ok(()) => "ok",
            Err(failure) if failure.death.is_some() => "engine_died",
            Err(failure) if failure.poor => "poor",
            Err(failure) => failure.error.kind.label(),
        };
        let usage = part::usage_of_attempt(&progress.parts);
        self.record_attempt(decision, outcome, progress.began, progress.first_token, usage);
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
        let spec = self.job_spec(lease.slot().config(), decision);
        self.note_dispatch(decision);
        let outputs = if is_one_job(self.request()) {
            lease.submit(spec)
        } else {
            lease.submit_all(self.batch(spec, &progress.parts))
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
            }
            JobEvent::Piece { text, tokens, .. } if part.echo && tokens.is_empty() => {
                part.echo = false;
                self.echo(job, text, decision, progress).await;
            }
            JobEvent::Piece { text, tokens, logprobs } => {
                self.piece(job, text, &tokens, &logprobs, decision, progress).await;
            }
            JobEvent::Finished { reason, prompt_tokens, completion_tokens, cached_tokens } => {
                part.usage = TokenUsage {
                    prompt_tokens: u64::from(prompt_tokens),
                    completion_tokens: u64::from(completion_tokens),
                    cached_tokens: u64::from(cached_tokens),
                    estimated: false,
                };
                part.end = Some(reason);
                self.end_part(job, reason, decision, progress).await;
            }
            JobEvent::Failed(failure) => return Err(refused(decision, failure).into()),
            JobEvent::Vector { .. } => {}
        }
        Ok(())
    }

    /// The prompt before its answer.
    async fn echo(&mut self, job: usize, text: String, decision: &Decision, progress: &mut Progress) {
        let Some(part) = progress.parts.get_mut(job) else { return };
        if self.request().stream {
            self.show_echo(Delta { choice: part.choice, content: Some(text), ..Delta::default() }, decision).await;
        } else {
            part.text.push_str(&text);
        }
    }

    async fn piece(
        &mut self,
        job: usize,
        text: String,
        tokens: &[i32],
        logprobs: &[TokenLogprob],
        decision: &Decision,
        progress: &mut Progress,
    ) {
        let Some(part) = progress.parts.get_mut(job) else { return };
        part.usage.completion_tokens += tokens.len() as u64;
        logprobs.iter().for_each(|logprob| part.weigh(logprob.chosen.logprob));
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        if !self.request().stream {
            part.text.push_str(&text);
            return;
        }
        self.sent.generated(part.choice, tokens);
        if !text.is_empty() {
            let delta = Delta { choice: part.choice, content: Some(text), tokens: tokens.to_vec(), ..Delta::default() };
            for delta in progress.held.push(delta) {
                self.show(delta, decision).await;
            }
        }
    }

    /// One of several answers of a stream has its end at once; the only one waits to be judged.
    async fn end_part(&mut self, job: usize, reason: StopReason, decision: &Decision, progress: &mut Progress) {
        if self.request().stream
            && !is_one_job(self.request())
            && let Some(part) = progress.parts.get(job)
        {
            self.show_finish(part.choice, word(reason).to_owned(), decision).await;
            self.sent.ended(part.choice);
        }
    }

    /// Every job has ended.
    async fn land_local(&mut self, decision: &Decision, progress: &mut Progress) -> Result<(), Failure> {
        self.usage = self.usage_of_answer(progress);
        if is_one_job(self.request()) {
            return self.land_one(decision, progress).await;
        }
        self.finished = true;
        if !self.request().stream {
            let best = part::best(&progress.parts, self.request().choices.n).into_iter();
            let answers = best.map(|(choice, part)| (choice, part.text.clone(), part.end.map_or("stop", word)));
            self.emit(FlightEvent::Whole(Box::new(whole_of(answers)))).await;
        }
        Ok(())
    }

    async fn land_one(&mut self, decision: &Decision, progress: &mut Progress) -> Result<(), Failure> {
        let Some(part) = progress.parts.first_mut() else { return Ok(()) };
        let reason = part.end.map_or("stop", word);
        if self.keep_if_poor(&mut part.text, &mut progress.held, reason, decision) {
            let message = "the local answer was poor";
            let error = GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, message);
            return Err(Failure { poor: true, ..Failure::from(error) });
        }
        self.finished = true;
        if self.request().stream {
            for delta in progress.held.release() {
                self.show(delta, decision).await;
            }
            self.show_finish(0, reason.to_owned(), decision).await;
        } else {
            let answer = whole_of([(0, std::mem::take(&mut part.text), reason)]);
            self.emit(FlightEvent::Whole(Box::new(answer))).await;
        }
        Ok(())
    }

    /// Of the whole answer: what an earlier attempt has ended counts as well.
    fn usage_of_answer(&self, progress: &Progress) -> TokenUsage {
        let usage = part::usage_of_parts(&progress.parts);
        TokenUsage {
            prompt_tokens: self.sent.prompt_tokens().max(usage.prompt_tokens),
            completion_tokens: usage.completion_tokens + self.ended_before(progress),
            ..usage
        }
    }

    /// Tokens of answers that no job of this attempt has made.
    fn ended_before(&self, progress: &Progress) -> u64 {
        let ended_now = progress.parts.iter().filter(|part| self.sent.has_ended(part.choice));
        self.sent.ended_tokens().saturating_sub(ended_now.map(|part| self.sent.tokens(part.choice).len() as u64).sum())
    }

    fn job_spec(&self, config: &LocalConfig, decision: &Decision) -> JobSpec {
        let request = self.request();
        let stop = match (&request.stop, request.kind) {
            (Some(stop), _) => stop.clone(),
            (None, RequestKind::Completion) => config.defaults.completion_stop.clone(),
            (None, RequestKind::Chat | RequestKind::Embedding) => Vec::new(),
        };
        JobSpec {
            job: 0,
            prompt: prompt(request),
            sampling: request.sampling.or(config.defaults.sampling),
            max_tokens: decision.candidate.output_cap.max(1),
            stop,
            replay: self.sent.tokens(0).to_vec(),
            sent_bytes: self.sent.bytes(0),
            canary: false,
            logprobs: (request.choices.best_of > request.choices.n).then_some(0),
            logit_bias: Vec::new(),
            grammar: None,
        }
    }

    /// One member for each part, in their order.
    fn batch(&self, spec: JobSpec, parts: &[Part]) -> Batch {
        let seed = spec.sampling.seed;
        let member = |part: &Part| Member {
            job: 0,
            prompt: u32::try_from(part.prompt).unwrap_or(u32::MAX),
            seed: part::seed(seed, part.nth),
            replay: self.sent.tokens(part.choice).to_vec(),
            sent_bytes: self.sent.bytes(part.choice),
            echo: part.echo,
        };
        let like = JobSpec { prompt: Prompt::Tokens(Vec::new()), replay: Vec::new(), ..spec };
        Batch { group: 0, like, prompts: prompts(self.request()), members: parts.iter().map(member).collect() }
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
        self.services.ledger.post(AttemptRow {
            request: self.job.id(),
            target: target.clone(),
            model: model.clone(),
            outcome,
            usage,
            cost: NanoUsd::ZERO,
            reserved: NanoUsd::ZERO,
            // An answer that was thrown away saves nothing.
            baseline: if matches!(outcome, "poor" | "hedged") { NanoUsd::ZERO } else { self.baseline(usage) },
        });
        self.attempts.push(AttemptReport {
            target,
            model,
            outcome,
            first_token,
            took: began.elapsed(),
            usage,
            cost: NanoUsd::ZERO,
        });
        self.note_score(decision);
    }
}

/// Whether it is answered by a single job: one answer to one prompt, and nothing before it.
fn is_one_job(request: &ChatRequest) -> bool {
    let choices = &request.choices;
    choices.n.max(choices.best_of) <= 1 && !choices.echo && !matches!(request.input, Input::Several(_))
}

const fn word(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
    }
}

/// Every prompt of a request of several answers.
fn prompts(request: &ChatRequest) -> Vec<Prompt> {
    match &request.input {
        Input::Several(passages) => passages.iter().map(|one| before_suffix(passage(one), request)).collect(),
        _ => vec![prompt(request)],
    }
}

/// The request's input as the engine takes it: roles and text only, because local templates know nothing else.
fn prompt(request: &ChatRequest) -> Prompt {
    match &request.input {
        Input::Messages(messages) => {
            let plain: Vec<Value> = messages
                .iter()
                .map(|message| {
                    let role = if message.role == "developer" { "system" } else { &message.role };
                    json!({"role": role, "content": message.content})
                })
                .collect();
            Prompt::Chat { messages_json: Value::Array(plain).to_string() }
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
        JobEvent::Finished { .. } => true,
        _ => false,
    }
}

pub(super) fn engine_gone(decision: &Decision) -> GatewayError {
    GatewayError::target(&decision.candidate.target, ErrorKind::Unavailable, "the local engine went away")
        .retry_after(std::time::Duration::from_secs(1))
}

pub(super) fn died(lease: &Lease, decision: &Decision) -> Failure {
    let death = lease.slot().death_of(lease.epoch());
    if let Some(death) = &death {
        observe::failover_stage("detect", death.at.elapsed());
    }
    Failure { death, ..Failure::from(engine_gone(decision)) }
}

pub(super) fn refused(decision: &Decision, failure: JobFailure) -> GatewayError {
    let kind = match failure.kind {
        JobFailureKind::ContextLength => ErrorKind::ContextLengthExceeded,
        JobFailureKind::Invalid => ErrorKind::InvalidRequest,
        JobFailureKind::Decode => ErrorKind::Upstream,
    };
    GatewayError::target(&decision.candidate.target, kind, failure.message)
}
