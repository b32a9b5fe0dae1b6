//! One attempt at a local engine: lease in hand, job submitted, its outputs passed on.

use super::{AttemptReport, Failure, Flight, FlightEvent, hedge::Hedge, judge::HoldBack, whole_text};
use crate::{
    config::LocalConfig,
    domain::{ChatRequest, Delta, ErrorKind, GatewayError, Input, NanoUsd, RequestKind, TokenUsage},
    gpu::{
        JobStream, Lease,
        frame::{JobEvent, JobFailure, JobFailureKind, JobSpec, Prompt, StopReason},
    },
    ledger::AttemptRow,
    observe,
    route::Decision,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// One attempt's running state.
struct Progress {
    began: Instant,
    first_token: Option<std::time::Duration>,
    /// Tokens that another attempt had sent: read again, not generated again.
    replayed: u64,
    /// Text of a non-streaming answer so far.
    text: String,
    /// Of a stream: what waits to be judged.
    held: HoldBack,
    usage: TokenUsage,
}

impl Flight {
    pub(super) async fn fly_local(&mut self, decision: &Decision) -> Result<(), Failure> {
        let began = Instant::now();
        let replayed = self.sent.tokens().len() as u64;
        let (text, usage) = (String::new(), TokenUsage::default());
        let mut progress = Progress { began, first_token: None, replayed, text, held: self.hold_back(), usage };
        let mut hedge = self.hedge(decision, began);
        let result = match self.job.take_lease() {
            Some(lease) => self.run_job(&lease, decision, &mut progress, &mut hedge).await,
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
        let spec = self.job_spec(lease.slot().config(), decision);
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
                Some(JobEvent::Piece { text, tokens, .. }) => self.piece(text, tokens, decision, progress).await,
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

    async fn piece(&mut self, text: String, tokens: Vec<i32>, decision: &Decision, progress: &mut Progress) {
        progress.usage.completion_tokens += tokens.len() as u64;
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        if !self.request().stream {
            progress.text.push_str(&text);
            return;
        }
        self.sent.generated(&tokens);
        if !text.is_empty() {
            for delta in progress.held.push(Delta { content: Some(text), tokens, ..Delta::default() }) {
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
        if self.keep_if_poor(&mut progress.text, &mut progress.held, reason, decision) {
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
            let answer = whole_text(std::mem::take(&mut progress.text), reason);
            self.emit(FlightEvent::Whole(Box::new(answer))).await;
        }
        Ok(())
    }

    fn job_spec(&self, config: &LocalConfig, decision: &Decision) -> JobSpec {
        let request = self.request();
        let stop = match (&request.stop, request.kind) {
            (Some(stop), _) => stop.clone(),
            (None, RequestKind::Completion) => config.defaults.completion_stop.clone(),
            (None, RequestKind::Chat) => Vec::new(),
        };
        JobSpec {
            job: 0,
            prompt: prompt(request),
            sampling: request.sampling.or(config.defaults.sampling),
            max_tokens: decision.candidate.output_cap.max(1),
            stop,
            replay: self.sent.tokens().to_vec(),
            sent_bytes: self.sent.bytes(),
            canary: false,
            logprobs: None,
            logit_bias: Vec::new(),
            grammar: None,
        }
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

fn died(lease: &Lease, decision: &Decision) -> Failure {
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
    GatewayError::target(&decision.candidate.target, kind, failure.message)
}
