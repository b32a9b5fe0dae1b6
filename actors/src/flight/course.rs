//! What the spans of a traced request say beyond its report: when each attempt and each question where to go began, what a
//! target answered with, how answers ended. Noted as it happens, told once to whoever draws spans. A request nobody traces
//! costs a few copies here.

use super::{Ended, Failure, Flight, FlightEvent};
use crate::{
    domain::{GatewayError, ModelChoice, Outgoing, RequestKind, SpanId, TargetName, Trace},
    jobs::{Job, Outcome},
    observe,
    route::Decision,
    upstream::CallId,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

/// Questions and ends of answers kept of one request; there are seldom more than two.
const KEPT: usize = 32;

/// What else is known of an attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Course {
    /// Its span, if the request is traced: the target was told.
    pub span: Option<SpanId>,
    /// From the request's admission to its beginning.
    pub began: Duration,
    /// From its beginning until an engine took it in hand.
    pub seated: Option<Duration>,
    /// Of the target's answer, if it spoke HTTP.
    pub status: Option<u16>,
}

impl Course {
    pub(super) fn begin(job: &Job, began: Instant) -> Self {
        let span = job.request.trace.as_ref().map(|_| SpanId::random());
        Self { span, began: began.saturating_duration_since(job.admitted_at), ..Self::default() }
    }

    /// What a target is told of who calls.
    pub(super) fn call_id(&self, job: &Job) -> CallId {
        CallId { request: job.id(), trace: self.outgoing(job) }
    }

    /// The same for a third party, which is not told what other systems say to each other in a trace.
    pub(super) fn call_id_abroad(&self, job: &Job) -> CallId {
        CallId { request: job.id(), trace: self.outgoing(job).map(Outgoing::without_state) }
    }

    fn outgoing(&self, job: &Job) -> Option<Outgoing> {
        job.request.trace.as_ref().zip(self.span).map(|(trace, span)| trace.outgoing(span))
    }
}

/// One question where to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// From the request's admission.
    pub asked: Duration,
    pub took: Duration,
    /// Of it, in the queue for a lease.
    pub waited: Duration,
    /// The answer; `None`: nowhere.
    pub target: Option<TargetName>,
    pub reason: &'static str,
}

/// A traced request, ended: all that its spans are drawn from. Holds names and numbers; never a prompt, an answer or a key.
#[derive(Debug, Clone)]
pub struct Flown {
    pub trace: Trace,
    pub ended: Arc<Ended>,
    pub outcome: Outcome,
    /// What its client was told instead of an answer.
    pub failure: Option<GatewayError>,
    pub kind: RequestKind,
    /// What it asked for, resolved.
    pub asked: ModelChoice,
    pub max_tokens: Option<u32>,
    pub answers: u32,
    /// Of the answers, as far as they were shown.
    pub reasons: Vec<&'static str>,
    pub steps: Vec<Step>,
    /// The client's own name for it.
    pub client_id: Option<Arc<str>>,
    /// From its first byte to its admission.
    pub admitted: Duration,
    /// From its first byte to its end.
    pub took: Duration,
    /// By the wall clock.
    pub at: SystemTime,
}

/// A traced request that never became a flight: refused by the edge.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub trace: Trace,
    pub request: crate::domain::RequestId,
    pub method: &'static str,
    /// A path of ours, not the client's.
    pub route: String,
    pub status: u16,
    pub took: Duration,
    pub at: SystemTime,
}

#[derive(Debug, Clone)]
pub enum Traced {
    Flown(Box<Flown>),
    Refused(Box<Refusal>),
}

/// Where traced requests are told. Never waits: who draws and sends spans may fall behind, and then some are missing.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<mpsc::Sender<Traced>>);

impl Traces {
    pub fn to(sender: mpsc::Sender<Traced>) -> Self {
        Self(Some(sender))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub fn tell(&self, traced: Traced) {
        let Some(sender) = &self.0 else { return };
        match sender.try_send(traced) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => observe::traces_dropped("full", 1),
            Err(TrySendError::Closed(_)) => observe::traces_dropped("shutdown", 1),
        }
    }
}

/// A provider's words for an answer's end are its own; these are everybody's.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 7] =
        ["stop", "length", "tool_calls", "content_filter", "function_call", "refusal", "pause_turn"];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("other")
}

impl Flight {
    /// Whether somebody will look at spans of this request.
    pub(super) fn is_traced(&self) -> bool {
        self.services.traces.is_on() && self.request().trace.as_ref().is_some_and(|trace| trace.sampled)
    }

    /// An attempt begins.
    pub(super) fn set_out(&mut self, began: Instant) {
        self.course = Course::begin(&self.job, began);
    }

    /// The engine took it in hand then; it cannot have waited before the attempt.
    pub(super) fn note_seated(&mut self, began: Instant, seated: Option<Instant>) {
        if self.course.seated.is_none() {
            self.course.seated = seated.map(|seated| seated.saturating_duration_since(began));
        }
    }

    /// A target that speaks HTTP has begun to answer.
    pub(super) fn note_answering(&mut self) {
        self.course.status = Some(200);
    }

    /// What it answered with instead.
    pub(super) fn note_refusal<T>(&mut self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            self.course.status = failure.error.status.or(self.course.status);
        }
    }

    pub(super) fn note_step(&mut self, asked: Instant, decided: &Result<Decision, GatewayError>) {
        if !self.is_traced() || self.steps.len() >= KEPT {
            return;
        }
        let decision = decided.as_ref().ok();
        self.steps.push(Step {
            asked: asked.saturating_duration_since(self.job.admitted_at),
            took: asked.elapsed(),
            waited: decision.map_or(Duration::ZERO, |decision| decision.waited),
            target: decision.map(|decision| decision.candidate.target.clone()),
            reason: decision.map_or("none", |decision| decision.candidate.reason.label()),
        });
    }

    /// What is about to be shown, as far as it says how an answer ended.
    pub(super) fn note_reasons(&mut self, event: &FlightEvent) {
        if !self.is_traced() {
            return;
        }
        let room = KEPT.saturating_sub(self.reasons.len());
        match event {
            FlightEvent::Finish { reason, .. } if room > 0 => self.reasons.push(known_reason(reason)),
            FlightEvent::Whole(whole) => {
                let reasons = whole.choices.iter().map(|choice| known_reason(&choice.finish_reason));
                self.reasons.extend(reasons.take(room));
            }
            _ => {}
        }
    }

    /// Its last act but for the accounts.
    pub(super) fn tell_trace(&mut self, ended: &Arc<Ended>, outcome: Outcome) {
        if !self.is_traced() {
            return;
        }
        let Some(trace) = self.request().trace.clone() else { return };
        let request = Arc::clone(&self.job.request);
        self.services.traces.tell(Traced::Flown(Box::new(Flown {
            ended: Arc::clone(ended),
            outcome,
            failure: self.failure.take(),
            kind: request.kind,
            asked: request.model.clone(),
            max_tokens: request.max_tokens,
            answers: request.answers(),
            reasons: std::mem::take(&mut self.reasons),
            steps: std::mem::take(&mut self.steps),
            client_id: request.client_id.clone(),
            admitted: self.job.admitted_at.saturating_duration_since(trace.arrived),
            took: trace.arrived.elapsed(),
            at: SystemTime::now(),
            trace,
        })));
    }
}
