//! One attempt at a provider: permission from a CloudActor, money reserved, the call made, its stream passed on.

use super::{AttemptReport, Failure, Flight, FlightEvent, show::Told, so_far::SoFar};
use crate::{
    chaos::faults::Befalls,
    cloud::{
        Answer, Asked, CallEnd, CloudMsg, Continuation, EventStream, Grant, Provider, WholeAnswer, assemble::Assembler,
        count, repetition::RepetitionCutter,
    },
    config::{CloudModel, PrefillStyle},
    domain::{
        BudgetLimits, CloudBound, Delta, ErrorKind, GatewayError, GenerationEvent, NanoUsd, TextCount, TokenUsage,
        UnixMs, Who,
    },
    jobs::Job,
    ledger::{AttemptRow, Reservation, unix_now},
    observe,
    route::Decision,
    upstream::OutputCap,
};
use bytes::Bytes;
use ractor::RpcReplyPort;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// How long a flight looks for a living CloudActor before it tries another target.
const POOL_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks while a pool restarts.
const POOL_LOOK: Duration = Duration::from_millis(5);

/// How long a flight waits for a place at a busy provider before it asks anew where to go.
pub(super) const PLACE_PATIENCE: Duration = Duration::from_secs(2);

/// A provider that reports more tokens than this for one answer has miscounted.
const PLAUSIBLE_TOKENS: u64 = 10_000_000;

/// One attempt's running state.
pub(super) struct Progress {
    pub(super) began: Instant,
    /// The provider said 200: from here on it may bill.
    pub(super) headed: bool,
    first_token: Option<Duration>,
    usage: Option<TokenUsage>,
    /// What the provider says of its tokens before it has ended.
    told: Option<TokenUsage>,
    /// We left before the provider had ended: it may have generated what we never saw.
    left_open: bool,
    /// What is accounted for if it is left unended; the flight has the latest state of it, too.
    pub(super) so_far: SoFar,
    /// Of a continuation: keeps what the client has from being shown again.
    cutter: Option<RepetitionCutter>,
}

impl Progress {
    /// The whole answer is there, with what the provider says of its tokens.
    pub(super) fn answered(&mut self, usage: Option<TokenUsage>) {
        self.headed = true;
        self.first_token = Some(self.began.elapsed());
        self.usage = usage;
    }

    /// The stream ended before its answer did. What was told of its tokens was told on the way: it is the last word only of a
    /// provider that has stopped, and never less than what came.
    fn broke(&mut self, told: Option<TokenUsage>, is_open: bool) {
        (self.told, self.left_open) = (told, is_open);
        self.usage = told.filter(|_| !is_open).map(|told| {
            let completion_tokens = told.completion_tokens.max(self.so_far.seen());
            TokenUsage { completion_tokens, estimated: true, ..told }
        });
    }

    /// What the attempt's end tells about its provider.
    pub(super) fn call_end(&self, result: &Result<(), Failure>) -> CallEnd {
        match result {
            Ok(()) => CallEnd::Success { first_token: self.first_token },
            // A provider that was answering is not to blame for the time that the request was given.
            Err(failure) if failure.error.kind == ErrorKind::Timeout && self.first_token.is_some() => {
                CallEnd::Abandoned
            }
            Err(failure) => CallEnd::of(&failure.error),
        }
    }
}

impl Flight {
    pub(super) async fn fly_cloud(
        &mut self,
        decision: &Decision,
        provider: usize,
        model: usize,
    ) -> Result<(), Failure> {
        let gone = || GatewayError::target(&decision.candidate.target, ErrorKind::Internal, "no such provider");
        let provider = self.services.fleet.providers.get(provider).map(Arc::clone).ok_or_else(gone)?;
        let asked = Instant::now();
        // Held until the attempt ends: the cloud absorbs a drained queue in order, not all at once.
        let place = tokio::time::timeout(PLACE_PATIENCE, provider.place()).await;
        self.waited += asked.elapsed();
        // Meanwhile a better target may have come back.
        let Ok(_place) = place else { return Err(sent_away(busy(&provider))) };
        let grant = acquire(&provider, model, self.job.deadline).await.map_err(sent_away)?;
        let mut progress = self.begin(Instant::now());
        self.set_out(progress.began);
        self.reserved = Some(self.reserve(decision, self.set_aside(progress.so_far.usage.prompt_tokens)).await?);
        let result = if self.request().needs.embeddings {
            self.embed_in_cloud(&grant, model, decision, &mut progress).await
        } else {
            self.call(&grant, model, decision, &mut progress).await
        };
        grant.report(progress.call_end(&result), Instant::now());
        self.settle(decision, &progress, &result);
        result
    }

    /// Prompt tokens to pay for at most; where nothing bounds what is spent, about.
    pub(super) fn set_aside(&self, estimated: u64) -> u64 {
        let is_bounded = self.job.config.ledger.budget.any() || limits(&self.job).any();
        if is_bounded { count::most_prompt_tokens(self.request()).max(estimated) } else { estimated }
    }

    /// Money first: written down before anything is sent.
    async fn reserve(&mut self, decision: &Decision, prompt_tokens: u64) -> Result<Reservation, Failure> {
        let row = self.reserved_row(decision, prompt_tokens);
        let reserved = self.services.ledger.reserve(row, limits(&self.job), deadline(&self.job)).await;
        self.paid |= reserved.is_ok();
        reserved.map_err(|refused| Failure { unpaid: Some(refused), ..Failure::from(refused.told()) })
    }

    pub(super) fn begin(&self, began: Instant) -> Progress {
        let sent = self.sent.text();
        let again = if sent.is_empty() { 0 } else { TextCount::of(sent).tokens() + 4 };
        Progress {
            began,
            headed: false,
            first_token: None,
            usage: None,
            told: None,
            left_open: false,
            so_far: SoFar::asked(began, count::prompt_tokens(self.request()) + again),
            cutter: self.started.then(|| RepetitionCutter::new(sent)),
        }
    }

    async fn call(
        &mut self,
        grant: &Grant,
        model: usize,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let internal = |what| GatewayError::target(&decision.candidate.target, ErrorKind::Internal, what);
        let job = Arc::clone(&self.job);
        let bound = CloudBound::new(&job.request).ok_or_else(|| internal("a local-only request"))?;
        let provider = Arc::clone(grant.provider());
        let model = provider.model(model).ok_or_else(|| internal("no such model"))?;
        let key = grant.key().ok_or_else(|| internal("no such key"))?;
        let (body, style) = self.asked(bound, &provider, &model, decision)?;
        self.note_dispatch(decision, progress.so_far);
        let client = provider.client().continuing(style).speaking(model.wire(provider.config().wire));
        let client = client.suffering(self.befalls_cloud(&provider, &model));
        let id = self.course.call_id_abroad(&job);
        let answer = client.start(body, id, key, Asked::by(&job.request), job.deadline).await?;
        progress.headed = true;
        self.note_answering();
        self.pass(answer, decision, progress).await
    }

    /// Chaos.
    pub(super) fn befalls_cloud(&self, provider: &Provider, model: &CloudModel) -> Option<Befalls> {
        self.services.faults.befall(&[provider.config().name.as_str(), model.name.as_str()])
    }

    /// What the provider is sent, and in which style. Once a client has text, nothing but its continuation may be asked for.
    fn asked(
        &self,
        bound: CloudBound<'_>,
        provider: &Provider,
        model: &CloudModel,
        decision: &Decision,
    ) -> Result<(Bytes, PrefillStyle), GatewayError> {
        let (wire, field) = (model.wire(provider.config().wire), provider.config().limit_field);
        let cap = OutputCap { tokens: self.request().output_cap(decision.candidate.output_cap), field };
        if !self.started {
            return Ok((wire.body(bound, &model.upstream, cap, true)?, PrefillStyle::None));
        }
        let Some(continuation) = Continuation::new(self.sent.text(), model.prefill) else {
            let message = "the model does not continue what another one began";
            return Err(GatewayError::target(&decision.candidate.target, ErrorKind::InvalidRequest, message).unworked());
        };
        let body = wire.continued_body(bound, &model.upstream, cap, continuation).map_err(|error| {
            // The client's request is good; this provider cannot be told of the answer so far.
            GatewayError::target(&decision.candidate.target, error.kind, error.message).unworked()
        })?;
        Ok((body, model.prefill))
    }

    /// Passes an answer on.
    pub(super) async fn pass(
        &mut self,
        answer: Answer,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        self.outbox.gather();
        let passed = match answer {
            Answer::Stream(events) => self.pass_stream(*events, decision, progress).await,
            Answer::Body(whole) => self.pass_whole(whole, decision, progress).await,
        };
        self.told(passed.is_ok()).await;
        passed
    }

    /// A provider that does not stream although it was asked to.
    async fn pass_whole(
        &mut self,
        whole: WholeAnswer,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        self.note_usage(progress, whole.usage);
        self.imprint = Some(whole.imprint());
        for choice in &whole.choices {
            let mut other = choice.message.clone();
            other.shift_remove("role");
            let content = match other.shift_remove("content") {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            let (index, logprobs) = (choice.index, choice.logprobs.clone());
            let delta = Delta { choice: index, content, other, logprobs, tokens: Vec::new() };
            self.pass_delta(delta, None, decision, progress).await?;
            if self.request().stream {
                self.finish_choice(index, choice.finish_reason.clone(), decision, progress).await?;
            }
        }
        self.usage = self.usage_of_all(self.counted(progress, decision));
        self.finished = true;
        if !self.request().stream {
            self.emit(FlightEvent::Whole(Box::new(whole))).await;
        }
        Ok(())
    }

    async fn pass_stream(
        &mut self,
        mut events: EventStream,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut whole = (!self.request().stream).then(Assembler::default);
        progress.left_open = true;
        self.imprint = None;
        loop {
            let event = match self.outbox.beside(events.next()).await {
                Ok(event) => event,
                Err(error) => {
                    progress.broke(events.usage_so_far().filter(is_plausible), events.is_open());
                    return Err(error.into());
                }
            };
            if whole.is_none() && !self.started && self.imprint.is_none() {
                self.imprint = events.imprint().cloned();
            }
            match (event, &mut whole) {
                (Some(GenerationEvent::Delta(delta)), whole) => {
                    progress.told = events.usage_so_far().filter(is_plausible);
                    self.pass_delta(delta, whole.as_mut(), decision, progress).await?;
                }
                (Some(GenerationEvent::Finish { choice, reason }), Some(whole)) => whole.finish(choice, reason),
                (Some(GenerationEvent::Finish { choice, reason }), None) => {
                    self.finish_choice(choice, reason, decision, progress).await?;
                }
                (Some(GenerationEvent::Usage(usage)), _) => self.note_usage(progress, Some(usage)),
                (None, _) => break,
            }
        }
        self.usage = self.usage_of_all(self.counted(progress, decision));
        self.finished = true;
        if let Some(whole) = whole {
            self.emit(FlightEvent::Whole(Box::new(whole.into_answer(events.imprint())))).await;
        }
        Ok(())
    }

    /// Counts a delta, and shows it: to the client of a stream, else to the assembler, if there is one.
    async fn pass_delta(
        &mut self,
        mut delta: Delta,
        whole: Option<&mut Assembler>,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        if !delta.is_visible() {
            return Ok(());
        }
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        let before = progress.so_far.usage.completion_tokens;
        let now = Instant::now();
        progress.so_far.delta(&delta, progress.told, now);
        self.services.recent.generated(false, progress.so_far.usage.completion_tokens.saturating_sub(before));
        self.note_so_far(progress);
        if progress.so_far.overruns(self.output_tokens(decision)) {
            let message = "the provider does not end its answer at the limit that it was given";
            return Err(GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, message).into());
        }
        if let Some(whole) = whole {
            whole.delta(delta).map_err(|_| {
                let message = "the provider sent more than an answer may hold";
                GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, message)
            })?;
        } else if self.request().stream {
            if let (Some(cutter), Some(text)) = (&mut progress.cutter, &delta.content) {
                let fresh = cutter.push(text).map_err(|_| begun_anew(self.job.who(), decision))?;
                delta.content = (!fresh.is_empty()).then_some(fresh);
            }
            if delta.is_visible() && self.show(delta, decision).await == Told::HandedOver {
                progress.so_far.released(now, Instant::now());
            }
        }
        Ok(())
    }

    /// The provider's last word on its tokens.
    fn note_usage(&mut self, progress: &mut Progress, usage: Option<TokenUsage>) {
        progress.usage = usage;
        if let Some(usage) = usage.filter(is_plausible) {
            progress.so_far.over(usage);
            self.note_so_far(progress);
        }
    }

    fn note_so_far(&mut self, progress: &Progress) {
        self.under_way = Some(progress.so_far);
    }

    /// The end of a choice of a stream, after what was still held back.
    async fn finish_choice(
        &mut self,
        choice: u32,
        reason: String,
        decision: &Decision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        if let Some(cutter) = &mut progress.cutter {
            let held = cutter.finish(reason == "length").map_err(|_| begun_anew(self.job.who(), decision))?;
            if !held.is_empty() {
                self.show(Delta { choice, content: Some(held), ..Delta::default() }, decision).await;
            }
        }
        self.show_finish(choice, reason, decision).await;
        Ok(())
    }

    /// The provider's usage, or our own count marked as estimated, never more than was asked for.
    pub(super) fn counted(&self, progress: &Progress, decision: &Decision) -> TokenUsage {
        // Nothing is no count of an answer that came.
        let is_count = |usage: &TokenUsage| usage.completion_tokens > 0 || progress.so_far.seen() == 0;
        progress.usage.filter(is_plausible).filter(is_count).unwrap_or_else(|| TokenUsage {
            prompt_tokens: progress.so_far.usage.prompt_tokens,
            completion_tokens: progress.so_far.seen().min(self.output_tokens(decision)),
            estimated: true,
            ..TokenUsage::default()
        })
    }

    /// The most output that it may be charged for.
    pub(super) fn output_tokens(&self, decision: &Decision) -> u64 {
        count::output_tokens(self.request(), decision.candidate.output_cap.max(1))
    }

    /// Prompt estimate × input price + output cap × output price.
    pub(super) fn reserved_row(&self, decision: &Decision, prompt_tokens: u64) -> AttemptRow {
        let candidate = &decision.candidate;
        let usage = TokenUsage {
            prompt_tokens,
            completion_tokens: self.output_tokens(decision),
            estimated: true,
            ..TokenUsage::default()
        };
        let cost = candidate.price.cost(usage.prompt_tokens, 0, usage.completion_tokens);
        AttemptRow { usage, cost, ..self.row(candidate) }
    }

    /// The attempt under way has ended: what it cost.
    pub(super) fn settle(&mut self, decision: &Decision, progress: &Progress, result: &Result<(), Failure>) {
        let Some(reservation) = self.reserved.take() else { return };
        self.note_refusal(result);
        let usage = self.counted(progress, decision);
        let cost = decision.candidate.price.cost_of(&usage);
        let Err(failure) = result else {
            // The answer's end waits for the request's own row, which comes after this one.
            self.settled = Some(reservation.settle("ok", usage, cost, self.baseline(self.usage)));
            return self.record_cloud(decision, progress, "ok", cost);
        };
        let (label, amount) = (failure.error.kind.label(), reservation.amount());
        let (usage, cost) = if progress.first_token.is_some() {
            // Tokens were generated before it failed: they are billed. What a provider that is broken goes on to generate
            // nobody can reckon, other than what a sound one does whose client leaves.
            let is_open = progress.left_open && progress.usage.is_none();
            let told = progress.told.map_or(NanoUsd::ZERO, |told| decision.candidate.price.cost_of(&told));
            let all = TokenUsage { completion_tokens: self.output_tokens(decision), ..usage };
            if is_open { (all, amount.max(told)) } else { (usage, cost) }
        } else if failure.error.unworked && !progress.headed {
            // It could not be reached, or refused at once.
            (TokenUsage::default(), NanoUsd::ZERO)
        } else {
            // It may bill what we never saw.
            drop(reservation);
            return self.record_cloud(decision, progress, label, amount);
        };
        drop(reservation.settle(label, usage, cost, NanoUsd::ZERO));
        self.record_cloud(decision, progress, label, cost);
    }

    fn record_cloud(&mut self, decision: &Decision, progress: &Progress, outcome: &'static str, cost: NanoUsd) {
        let (target, model) = (decision.candidate.target.to_string(), decision.candidate.model.to_string());
        self.under_way = None;
        observe::attempt(&target, outcome);
        let nothing = progress.first_token.is_none() && progress.usage.is_none();
        let usage = if nothing { TokenUsage::default() } else { self.counted(progress, decision) };
        let (first_token, took) = (progress.first_token, progress.began.elapsed());
        self.attempts.push(AttemptReport {
            target,
            model,
            outcome,
            first_token,
            took,
            usage,
            cost,
            course: self.course,
        });
        self.note_score(decision);
    }
}

fn is_plausible(usage: &TokenUsage) -> bool {
    usage.prompt_tokens.max(usage.completion_tokens) <= PLAUSIBLE_TOKENS
}

/// What the request's key may spend.
pub(super) fn limits(job: &Job) -> BudgetLimits {
    job.request.caller.as_ref().map(|caller| caller.budget).unwrap_or_default()
}

/// The request's, by the wall clock.
pub(super) fn deadline(job: &Job) -> UnixMs {
    unix_now().plus(job.deadline.saturating_duration_since(Instant::now()))
}

/// Our own pool or breaker has no place: no attempt was made.
fn sent_away(error: GatewayError) -> Failure {
    Failure { sent_away: true, ..Failure::from(error) }
}

/// The model's style promised a continuation. That is no fault of its provider's health.
fn begun_anew(who: Who, decision: &Decision) -> GatewayError {
    observe::prefix_not_honoured(who, decision.candidate.target.as_str(), decision.candidate.model.as_str());
    let message = "the model began its answer anew instead of going on with it";
    GatewayError::target(&decision.candidate.target, ErrorKind::InvalidRequest, message)
}

pub(super) fn busy(provider: &Provider) -> GatewayError {
    let message = "all its connections are in use";
    GatewayError::target(&provider.config().name, ErrorKind::Unavailable, message).retry_after(Duration::from_secs(1))
}

/// Asks the least loaded CloudActor for permission. One that dies with the question is replaced by another.
pub(super) async fn acquire(provider: &Arc<Provider>, model: usize, deadline: Instant) -> Result<Grant, GatewayError> {
    let patience = deadline.min(Instant::now() + POOL_PATIENCE);
    loop {
        if let Some(actor) = provider.least_loaded().and_then(|seat| seat.address.get()) {
            let (sender, answer) = oneshot::channel();
            let reply_to = RpcReplyPort::from(sender);
            if actor.cast(CloudMsg::Acquire { model, reply_to }).is_ok()
                && let Ok(granted) = answer.await
            {
                return granted;
            }
        }
        if Instant::now() >= patience {
            let message = "no connection actor is alive";
            return Err(GatewayError::target(&provider.config().name, ErrorKind::Unavailable, message)
                .retry_after(Duration::from_secs(1)));
        }
        tokio::time::sleep(POOL_LOOK).await;
    }
}
