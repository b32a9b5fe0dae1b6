//! One attempt at a local engine: lease in hand, job submitted, its outputs passed on.

use super::{AttemptReport, Failure, Flight, cascade::Shown, hedge::Hedge, judge::HoldBack};
use crate::{
    cloud::assemble::Assembler,
    config::LocalConfig,
    domain::{ChatRequest, Delta, ErrorKind, GatewayError, Input, NanoUsd, RequestKind, TokenUsage},
    gpu::{
        JobStream, Lease,
        frame::{ChatTraits, JobEvent, JobFailure, JobFailureKind, JobSpec, Prompt, StopReason, TokenLogprob},
    },
    ledger::AttemptRow,
    observe,
    route::Decision,
    tools,
};
use tokio::time::Instant;

/// One attempt's running state.
pub(super) struct Progress {
    pub(super) began: Instant,
    pub(super) first_token: Option<std::time::Duration>,
    /// Tokens that another attempt had sent: read again, not generated again.
    replayed: u64,
    /// A non-streaming answer so far.
    pub(super) whole: Assembler,
    /// Of a stream: what waits to be judged.
    pub(super) held: HoldBack,
    pub(super) usage: TokenUsage,
}

impl Flight {
    pub(super) async fn fly_local(&mut self, decision: &Decision) -> Result<(), Failure> {
        let began = Instant::now();
        let replayed = self.sent.tokens().len() as u64;
        let (whole, usage) = (Assembler::default(), TokenUsage::default());
        let mut progress = Progress { began, first_token: None, replayed, whole, held: self.hold_back(), usage };
        let mut hedge = self.hedge(decision, began);
        let result = match self.job.take_lease() {
            Some(lease) => match lease.server() {
                Some(server) => self.run_on_server(&lease, &server, decision, &mut progress, &mut hedge).await,
                None => self.run_job(&lease, decision, &mut progress, &mut hedge).await,
            },
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
        self.record_local(decision, &progress, outcome);
        match won {
            Some(won) => self.go_on_with(won).await,
            None => result,
        }
    }

    /// `Ok` also when the hedge has won.
    async fn run_job(
        &mut self,
        lease: &Lease,
        decision: &Decision,
        progress: &mut Progress,
        hedge: &mut Hedge,
    ) -> Result<(), Failure> {
        let traits = lease.slot().view().info.map_or_else(ChatTraits::default, |info| info.chat);
        let spec = self.job_spec(lease.slot().config(), traits, decision)?;
        self.note_dispatch(decision);
        let Some(mut outputs) = lease.submit(spec) else { return Err(died(lease, decision)) };
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
        loop {
            let event = tokio::select! {
                biased;
                event = outputs.next() => event,
                () = hedge.wins() => return Ok(()),
            };
            if is_visible(event.as_ref()) {
                self.call_off(hedge);
            }
            match event {
                Some(JobEvent::Accepted { prompt_tokens, cached_tokens }) => {
                    progress.usage.prompt_tokens = u64::from(prompt_tokens) + progress.replayed;
                    progress.usage.cached_tokens = u64::from(cached_tokens);
                }
                Some(JobEvent::Piece { text, tokens, logprobs }) => {
                    self.piece(text, tokens, logprobs, decision, progress).await;
                }
                Some(JobEvent::Finished { reason, prompt_tokens, completion_tokens, cached_tokens }) => {
                    self.usage = TokenUsage {
                        prompt_tokens: u64::from(prompt_tokens),
                        completion_tokens: u64::from(completion_tokens),
                        cached_tokens: u64::from(cached_tokens),
                        estimated: false,
                    };
                    // Of this attempt alone, so that the sum of all attempts is what was generated.
                    progress.usage = TokenUsage {
                        prompt_tokens: self.usage.prompt_tokens + progress.replayed,
                        completion_tokens: self.usage.completion_tokens.saturating_sub(progress.replayed),
                        ..self.usage
                    };
                    return self.land_local(reason, decision, progress).await;
                }
                Some(JobEvent::Failed(failure)) => return Err(refused(decision, failure).into()),
                None => return Err(died(lease, decision)),
            }
        }
    }

    async fn piece(
        &mut self,
        text: String,
        tokens: Vec<i32>,
        logprobs: Vec<TokenLogprob>,
        decision: &Decision,
        progress: &mut Progress,
    ) {
        progress.usage.completion_tokens += tokens.len() as u64;
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        if self.request().stream {
            self.sent.generated(&tokens);
        }
        let deltas = self.sent.read().map(|reading| reading.piece(text, tokens, logprobs)).unwrap_or_default();
        self.take(deltas, decision, progress).await;
    }

    /// To the client, to be judged first, or into the whole answer.
    async fn take(&mut self, deltas: Vec<Delta>, decision: &Decision, progress: &mut Progress) {
        for delta in deltas {
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

    async fn land_local(
        &mut self,
        reason: StopReason,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let reason = match reason {
            StopReason::Stop => "stop",
            StopReason::Length => "length",
        };
        let (rest, reason) = self.sent.read().map_or((Vec::new(), reason), |reading| reading.finish(reason));
        self.take(rest, decision, progress).await;
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

    fn job_spec(
        &mut self,
        config: &LocalConfig,
        traits: ChatTraits,
        decision: &Decision,
    ) -> Result<JobSpec, GatewayError> {
        let judged = self.judges_likelihood().then_some(0);
        let request = &self.job.request;
        let stop = match (&request.stop, request.kind) {
            (Some(stop), _) => stop.clone(),
            (None, RequestKind::Completion) => config.defaults.completion_stop.clone(),
            (None, RequestKind::Chat) => Vec::new(),
        };
        let reading = self.sent.reading(request, traits);
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
            replay: self.sent.tokens().to_vec(),
            sent_bytes,
            canary: false,
            logprobs: request.output.logprobs.or(judged),
            logit_bias: request.output.logit_bias.clone(),
            grammar,
            markers: dialect.is_some(),
        })
    }

    fn record_local(&mut self, decision: &Decision, progress: &Progress, outcome: &'static str) {
        let (target, model) = (decision.candidate.target.to_string(), decision.candidate.model.to_string());
        self.under_way = None;
        observe::attempt(&target, outcome);
        // An answer that was thrown away saves nothing.
        let thrown_away = matches!(outcome, "poor" | "hedged");
        let baseline = if thrown_away { NanoUsd::ZERO } else { self.baseline(progress.usage) };
        let energy_mj = self.energy_mj(decision, progress.began.elapsed());
        let (usage, row) = (progress.usage, self.row(&decision.candidate));
        self.services.ledger.post(AttemptRow { outcome: outcome.into(), usage, baseline, energy_mj, ..row });
        self.attempts.push(AttemptReport {
            target,
            model,
            outcome,
            first_token: progress.first_token,
            took: progress.began.elapsed(),
            usage: progress.usage,
            cost: NanoUsd::ZERO,
        });
        self.note_score(decision);
    }
}

/// The request's input as the engine takes it.
fn prompt(request: &ChatRequest, traits: ChatTraits) -> Prompt {
    match &request.input {
        Input::Messages(messages) => {
            let (messages, tools) = tools::chat_prompt(messages, &request.output, traits);
            Prompt::Chat { messages_json: messages.to_string(), tools_json: tools.map(|tools| tools.to_string()) }
        }
        Input::Text(text) => Prompt::Text(text.clone()),
        Input::Tokens(tokens) => Prompt::Tokens(tokens.clone()),
    }
}

/// Whether it is a token that a client would see, or the answer's good end.
fn is_visible(event: Option<&JobEvent>) -> bool {
    match event {
        Some(JobEvent::Piece { text, .. }) => !text.is_empty(),
        Some(JobEvent::Finished { .. }) => true,
        _ => false,
    }
}

fn engine_gone(decision: &Decision) -> GatewayError {
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

fn refused(decision: &Decision, failure: JobFailure) -> GatewayError {
    let kind = match failure.kind {
        JobFailureKind::ContextLength => ErrorKind::ContextLengthExceeded,
        JobFailureKind::Invalid => ErrorKind::InvalidRequest,
        JobFailureKind::Decode => ErrorKind::Upstream,
    };
    let mut error = GatewayError::target(&decision.candidate.target, kind, failure.message);
    error.param = failure.param;
    error
}
