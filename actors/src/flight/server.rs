//! One attempt at a server of the operator's: lease in hand, call made, its stream passed on. Local in all but the wire:
//! it costs nothing, holds a lease, may be hedged or found poor, and its death is an engine's death.

use super::{
    Failure, Flight, FlightEvent,
    cascade::Shown,
    hedge::Hedge,
    judge::HoldBack,
    local::{Progress, died},
    so_far::SoFar,
};
use crate::{
    cloud::{assemble::Assembler, count, repetition::RepetitionCutter},
    config::PrefillStyle,
    domain::{Delta, ErrorKind, GatewayError, GenerationEvent, Imprint, Outbound, TextCount, TokenUsage},
    gpu::{Lease, server::Server, slot::Answered},
    route::Decision,
    upstream::{Answer, Asked, Continuation, EventStream, WholeAnswer, continued_body, upstream_body},
};
use bytes::Bytes;
use serde_json::Value;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How long a failed attempt waits to hear whether the server is dead, or has only failed this once.
const VERDICT: Duration = Duration::from_millis(300);
/// A server that reports more tokens than this for one answer has miscounted.
const PLAUSIBLE_TOKENS: u64 = 10_000_000;

/// What has been said so far.
struct Said {
    count: TextCount,
    usage: Option<TokenUsage>,
    /// Of a continuation: keeps what the client has from being shown again.
    cutter: Option<RepetitionCutter>,
    /// Of an answer in one piece.
    whole: Option<Assembler>,
    /// Ends of a stream's choices that wait until its beginning has been judged.
    finishes: Vec<(u32, String)>,
    /// The end of the first choice.
    reason: String,
    /// One choice of text, as far as is known.
    is_plain: bool,
}

/// Where events come from.
enum Source {
    Stream(Box<EventStream>),
    /// An answer in one piece, taken apart.
    Pieces(VecDeque<GenerationEvent>, Imprint),
}

impl Source {
    fn imprint(&self) -> Option<Imprint> {
        match self {
            Self::Stream(events) => events.imprint().cloned(),
            Self::Pieces(_, imprint) => Some(imprint.clone()),
        }
    }

    async fn next(&mut self) -> Result<Option<GenerationEvent>, GatewayError> {
        match self {
            Self::Stream(events) => events.next().await,
            Self::Pieces(pieces, _) => Ok(pieces.pop_front()),
        }
    }
}

impl From<Answer> for Source {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Stream(events) => Self::Stream(events),
            Answer::Body(whole) => {
                let imprint = whole.imprint();
                Self::Pieces(pieces(whole), imprint)
            }
        }
    }
}

fn pieces(whole: WholeAnswer) -> VecDeque<GenerationEvent> {
    let mut events = VecDeque::new();
    for choice in whole.choices {
        let mut other = choice.message;
        other.shift_remove("role");
        let content = match other.shift_remove("content") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let (index, logprobs) = (choice.index, choice.logprobs);
        events.push_back(GenerationEvent::Delta(Delta { choice: index, content, other, logprobs, tokens: Vec::new() }));
        events.push_back(GenerationEvent::Finish { choice: index, reason: choice.finish_reason });
    }
    events.extend(whole.usage.map(GenerationEvent::Usage));
    events
}

impl Flight {
    /// `Ok` also when the hedge has won.
    pub(super) async fn run_on_server(
        &mut self,
        lease: &Lease,
        server: &Server,
        decision: &Decision,
        progress: &mut Progress,
        hedge: &mut Hedge,
    ) -> Result<(), Failure> {
        self.note_dispatch(decision, SoFar::asked(progress.began, count::prompt_tokens(self.request())));
        if self.request().needs.any() {
            progress.held = HoldBack::default();
        }
        let mut said = self.said();
        self.outbox.gather();
        let result = tokio::select! {
            biased;
            () = lease.revoked() => Err(died(lease, decision)),
            result = self.talk(lease, server, decision, progress, &mut said, hedge) => result,
        };
        self.told(result.is_ok()).await;
        if progress.first_token.is_some() || said.usage.is_some() {
            progress.usage = self.usage_of(&said);
        }
        match result {
            Ok(()) => {
                note_answer(lease, progress);
                Ok(())
            }
            Err(failure) => Err(judged(lease, decision, failure).await),
        }
    }

    fn said(&self) -> Said {
        Said {
            count: TextCount::default(),
            usage: None,
            cutter: self.started.then(|| RepetitionCutter::new(self.sent.text())),
            whole: (!self.request().stream).then(Assembler::default),
            finishes: Vec::new(),
            reason: String::new(),
            is_plain: true,
        }
    }

    async fn talk(
        &mut self,
        lease: &Lease,
        server: &Server,
        decision: &Decision,
        progress: &mut Progress,
        said: &mut Said,
        hedge: &mut Hedge,
    ) -> Result<(), Failure> {
        let (body, style) = self.asked_of(server, decision)?;
        let befalls = self.services.faults.befall(&[decision.candidate.target.as_str()]);
        let client = server.client().continuing(style).suffering(befalls);
        let id = self.course.call_id(&self.job);
        let asking = client.start(body, id, server.key(), Asked::by(&self.job.request), self.job.deadline);
        let mut source = tokio::select! {
            biased;
            answer = asking => Source::from(answer?),
            () = hedge.wins() => return Ok(()),
        };
        self.note_answering();
        self.imprint = None;
        loop {
            let event = tokio::select! {
                biased;
                event = self.outbox.beside(source.next()) => event?,
                () = hedge.wins() => return Ok(()),
            };
            lease.slot().heard(lease.epoch(), Instant::now());
            if self.imprint.is_none() && !self.started {
                self.imprint = source.imprint();
            }
            match event {
                Some(GenerationEvent::Delta(delta)) if !delta.is_visible() => {}
                Some(GenerationEvent::Delta(delta)) => {
                    self.call_off(hedge);
                    self.hear(delta, decision, progress, said).await?;
                }
                Some(GenerationEvent::Finish { choice, reason }) => {
                    self.hear_end(choice, reason, decision, progress, said).await?;
                }
                Some(GenerationEvent::Usage(usage)) => {
                    said.usage = Some(usage);
                    self.note_taken(self.usage_of(said));
                }
                None => break,
            }
        }
        self.call_off(hedge);
        self.land_from_server(decision, progress, said).await
    }

    /// What the server is told, and in which style. Once a client has text, nothing but its continuation may be asked for.
    fn asked_of(&self, server: &Server, decision: &Decision) -> Result<(Bytes, PrefillStyle), GatewayError> {
        let target = &decision.candidate.target;
        let bound = Outbound::to_local(self.request(), server.premises()).ok_or_else(|| {
            GatewayError::target(target, ErrorKind::Internal, "a local-only request for a server that may be anywhere")
        })?;
        let (upstream, cap) = (server.upstream(), decision.candidate.output_cap.max(1));
        if !self.started {
            return Ok((upstream_body(bound, &upstream, cap, true)?, PrefillStyle::None));
        }
        let style = server.config().prefill;
        let continuation = Continuation::new(self.sent.text(), style).ok_or_else(|| {
            let message = "the server does not continue what another target began";
            GatewayError::target(target, ErrorKind::InvalidRequest, message).unworked()
        })?;
        Ok((continued_body(bound, &upstream, cap, continuation)?, style))
    }

    async fn hear(
        &mut self,
        mut delta: Delta,
        decision: &Decision,
        progress: &mut Progress,
        said: &mut Said,
    ) -> Result<(), Failure> {
        if progress.first_token.is_none() {
            progress.first_token = Some(progress.began.elapsed());
            self.note_first_token(decision, progress.began);
        }
        said.count.delta(&delta);
        if let Some(so_far) = &mut self.under_way {
            let before = so_far.usage.completion_tokens;
            so_far.delta(&delta, None, Instant::now());
            self.services.recent.generated(true, so_far.usage.completion_tokens.saturating_sub(before));
        }
        said.is_plain &= delta.choice == 0 && delta.other.is_empty() && delta.logprobs.is_none();
        if let Some(whole) = &mut said.whole {
            return whole.delta(delta).map_err(|_| {
                let message = "the server sent more than an answer may hold";
                GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, message).into()
            });
        }
        if let (Some(cutter), Some(text)) = (&mut said.cutter, &delta.content) {
            let fresh = cutter.push(text).map_err(|_| begun_anew(decision))?;
            delta.content = (!fresh.is_empty()).then_some(fresh);
        }
        if delta.is_visible() {
            for delta in progress.held.push(delta) {
                self.show(delta, decision).await;
            }
        }
        Ok(())
    }

    async fn hear_end(
        &mut self,
        choice: u32,
        reason: String,
        decision: &Decision,
        progress: &mut Progress,
        said: &mut Said,
    ) -> Result<(), Failure> {
        if choice == 0 {
            said.reason.clone_from(&reason);
        }
        if let Some(whole) = &mut said.whole {
            whole.finish(choice, reason);
            return Ok(());
        }
        if let Some(cutter) = &mut said.cutter {
            let held = cutter.finish(reason == "length").map_err(|_| begun_anew(decision))?;
            if !held.is_empty() {
                self.show(Delta { choice, content: Some(held), ..Delta::default() }, decision).await;
            }
        }
        if progress.held.holds() {
            said.finishes.push((choice, reason));
        } else {
            self.show_finish(choice, reason, decision).await;
        }
        Ok(())
    }

    async fn land_from_server(
        &mut self,
        decision: &Decision,
        progress: &mut Progress,
        said: &mut Said,
    ) -> Result<(), Failure> {
        self.usage = self.usage_of_all(self.usage_of(said));
        let judged = match said.reason.as_str() {
            "stop" if said.is_plain => Some("stop"),
            "length" if said.is_plain => Some("length"),
            _ => None,
        };
        let mut shown = match said.whole.take() {
            Some(whole) => Shown::Whole(Box::new(whole.into_answer(self.imprint.as_ref()))),
            None => Shown::Stream(std::mem::take(&mut progress.held)),
        };
        if let Some(reason) = judged {
            shown = self.keep_if_poor(shown, reason, decision).ok_or_else(|| poor(decision))?;
        }
        self.finished = true;
        match shown {
            Shown::Whole(answer) => self.emit(FlightEvent::Whole(answer)).await,
            Shown::Stream(mut held) => {
                for delta in held.release() {
                    self.show(delta, decision).await;
                }
                for (choice, reason) in said.finishes.drain(..) {
                    self.show_finish(choice, reason, decision).await;
                }
            }
        }
        Ok(())
    }

    /// The server's own count, or ours marked as estimated.
    fn usage_of(&self, said: &Said) -> TokenUsage {
        let plausible = |usage: &TokenUsage| usage.prompt_tokens.max(usage.completion_tokens) <= PLAUSIBLE_TOKENS;
        said.usage.filter(plausible).unwrap_or_else(|| TokenUsage {
            prompt_tokens: count::prompt_tokens(self.request()),
            completion_tokens: said.count.tokens(),
            estimated: true,
            ..TokenUsage::default()
        })
    }
}

/// What a failure at a server was: its own, or the server's death.
pub(super) async fn judged(lease: &Lease, decision: &Decision, failure: Failure) -> Failure {
    if failure.poor || failure.death.is_some() || !is_doubtful(&failure.error) {
        return failure;
    }
    lease.slot().doubt(lease.epoch());
    let _ = tokio::time::timeout(VERDICT, lease.settled()).await;
    if lease.is_valid() { failure } else { died(lease, decision) }
}

/// Whether a failure may mean that the server is gone. A refusal is an answer.
fn is_doubtful(error: &GatewayError) -> bool {
    matches!(error.kind, ErrorKind::Upstream | ErrorKind::Unavailable | ErrorKind::Timeout)
}

fn note_answer(lease: &Lease, progress: &Progress) {
    if let Some(first_token) = progress.first_token {
        let TokenUsage { prompt_tokens, completion_tokens, .. } = progress.usage;
        let took = progress.began.elapsed();
        lease.slot().note_answer(Answered { first_token, took, prompt_tokens, completion_tokens }, Instant::now());
    }
}

fn poor(decision: &Decision) -> Failure {
    let error = GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, "the answer was poor");
    Failure { poor: true, ..Failure::from(error) }
}

/// The style promised a continuation.
fn begun_anew(decision: &Decision) -> GatewayError {
    let message = "the server began its answer anew instead of going on with it";
    GatewayError::target(&decision.candidate.target, ErrorKind::InvalidRequest, message)
}
