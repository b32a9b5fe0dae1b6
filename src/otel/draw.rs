//! What is known of an ended request → its tree of spans. Pure: no clock, no randomness, no socket. Every span lies inside its
//! parent, whatever the clocks said. Attributes are those of OpenTelemetry's conventions for generative AI and HTTP, and
//! our own under `spillway.`: names, numbers and labels. No text of a prompt, an answer or an error gets here.

use super::peers::{Peer, Peers};
use crate::http::error;
use spillway_actors::{
    domain::{ModelChoice, NanoUsd, RequestKind, SpanId, TokenUsage, Trace},
    flight::{AttemptReport, FlightReport, Flown, Refusal, Step, Traced},
    jobs::Outcome,
};
use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server,
    Client,
    Internal,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Texts(Vec<&'static str>),
    Integer(i64),
    Number(f64),
    Flag(bool),
}

/// One span. Times are nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub id: SpanId,
    pub parent: Option<SpanId>,
    pub name: String,
    pub kind: Kind,
    pub time: Range<u64>,
    pub attributes: Vec<(&'static str, Value)>,
    pub is_error: bool,
}

impl Span {
    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    fn put_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn fails(&mut self, error: impl Into<Value>) {
        self.is_error = true;
        self.put("error.type", error);
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// The root first, parents before their children.
pub fn spans(traced: &Traced, peers: &Peers) -> Vec<Span> {
    match traced {
        Traced::Flown(flown) => Drawing::of(flown, peers).spans(),
        Traced::Refused(refusal) => vec![refused(refusal)],
    }
}

pub fn trace_of(traced: &Traced) -> &Trace {
    match traced {
        Traced::Flown(flown) => &flown.trace,
        Traced::Refused(refusal) => &refusal.trace,
    }
}

fn refused(refusal: &Refusal) -> Span {
    let end = unix_ns(refusal.at);
    let mut span = Span {
        id: refusal.trace.root,
        parent: refusal.trace.parent,
        name: format!("{} {}", refusal.method, refusal.route),
        kind: Kind::Server,
        time: end.saturating_sub(ns(refusal.took))..end,
        attributes: Vec::new(),
        is_error: false,
    };
    span.put("http.request.method", refusal.method);
    span.put("http.route", refusal.route.as_str());
    span.put("http.response.status_code", u64::from(refusal.status));
    span.put("spillway.request.id", refusal.request.to_string());
    // A server's span is in error if the server is; what it says to a client's mistake is no error of its own.
    if refusal.status >= 500 {
        span.fails(refusal.status.to_string());
    }
    span
}

/// One flight on its way to spans.
struct Drawing<'f> {
    flown: &'f Flown,
    peers: &'f Peers,
    root: Range<u64>,
    /// When the request was admitted: attempts and questions count from here.
    admitted: u64,
    /// Spans without an id of their own so far.
    unnamed: u64,
}

impl<'f> Drawing<'f> {
    fn of(flown: &'f Flown, peers: &'f Peers) -> Self {
        let end = unix_ns(flown.at);
        let root = end.saturating_sub(ns(flown.took))..end;
        let admitted = (root.start + ns(flown.admitted)).min(end);
        Self { flown, peers, root, admitted, unnamed: 0 }
    }

    fn report(&self) -> &'f FlightReport {
        &self.flown.ended.report
    }

    fn spans(mut self) -> Vec<Span> {
        let mut spans = vec![self.request()];
        for step in &self.flown.steps {
            let span = self.step(step);
            spans.push(span);
        }
        let mut failed = None;
        for (number, attempt) in (1..).zip(&self.report().attempts) {
            let span = self.attempt(attempt, number, failed);
            let (parent, time) = (span.id, span.time.clone());
            spans.push(span);
            if self.peer(&attempt.target).is_some_and(|peer| peer.is_engine) {
                spans.extend(self.stages(attempt, parent, &time));
            }
            failed = (attempt.outcome != "ok").then_some(attempt.outcome);
        }
        spans
    }

    fn peer(&self, target: &str) -> Option<&'f Peer> {
        self.peers.get(target)
    }

    fn operation(&self) -> &'static str {
        match self.flown.kind {
            RequestKind::Chat => "chat",
            RequestKind::Completion => "text_completion",
            RequestKind::Embedding => "embeddings",
        }
    }

    fn unnamed_id(&mut self) -> SpanId {
        self.unnamed += 1;
        self.flown.trace.root.nth(self.unnamed)
    }

    /// A span from one time to another, kept inside its parent's.
    fn span(&self, id: SpanId, parent: Option<SpanId>, name: String, kind: Kind, time: Range<u64>) -> Span {
        Span { id, parent, name, kind, time, attributes: Vec::new(), is_error: false }
    }

    fn request(&self) -> Span {
        let (flown, report) = (self.flown, self.report());
        let asked = match &flown.asked {
            ModelChoice::Auto => "auto",
            ModelChoice::Local => "local",
            ModelChoice::Named(name) => name.as_str(),
        };
        let name = format!("{} {asked}", self.operation());
        let mut span = self.span(flown.trace.root, flown.trace.parent, name, Kind::Server, self.root.clone());
        span.put("gen_ai.operation.name", self.operation());
        span.put("gen_ai.provider.name", self.peer(&report.target).map_or("spillway", |peer| peer.provider.as_str()));
        span.put("gen_ai.request.model", asked);
        span.put_some("gen_ai.request.max_tokens", flown.max_tokens.map(u64::from));
        if flown.answers != 1 {
            span.put("gen_ai.request.choice.count", u64::from(flown.answers));
        }
        self.answer_of(&mut span);
        span.put("http.request.method", "POST");
        span.put_some("http.response.status_code", self.status());
        self.own_facts(&mut span);
        match flown.outcome {
            Outcome::Completed => {}
            Outcome::ClientGone | Outcome::Failed(_) => span.fails(flown.outcome.label()),
        }
        span
    }

    fn answer_of(&self, span: &mut Span) {
        let report = self.report();
        if self.flown.outcome == Outcome::Completed || self.flown.ended.first_token.is_some() {
            span.put("gen_ai.response.model", report.model.as_str());
        }
        usage(span, &report.usage);
        if !self.flown.reasons.is_empty() {
            span.put("gen_ai.response.finish_reasons", Value::Texts(self.flown.reasons.clone()));
        }
    }

    fn own_facts(&self, span: &mut Span) {
        let (flown, report) = (self.flown, self.report());
        let ended = &flown.ended;
        span.put("spillway.request.id", ended.request.to_string());
        span.put_some("spillway.client_request_id", flown.client_id.as_deref());
        span.put("spillway.stream", ended.stream);
        span.put("spillway.target", report.target.as_str());
        span.put("spillway.complexity", report.complexity.as_str());
        span.put("spillway.confidence", report.confidence);
        let led_somewhere = flown.steps.iter().rfind(|step| step.target.is_some());
        span.put_some("spillway.route.reason", led_somewhere.map(|step| step.reason));
        span.put("spillway.route.reasoning", report.reasoning.as_str());
        span.put("spillway.budget_sensitive", report.budget_sensitive);
        span.put("spillway.attempts", report.attempts.len() as u64);
        let cost: NanoUsd = report.attempts.iter().map(|attempt| attempt.cost).sum();
        span.put("spillway.cost_nanousd", cost.get());
        span.put_some("spillway.time_to_first_token_ms", ended.first_token.map(millis));
        span.put_some("spillway.resumed", report.resumed.map(|how| how.label()));
    }

    /// What the client read; `None`: it did not wait for it.
    fn status(&self) -> Option<u64> {
        let begun = self.flown.ended.first_token.is_some();
        match (&self.flown.outcome, &self.flown.failure) {
            (Outcome::Failed(_), Some(failure)) if !begun => Some(u64::from(error::status(failure).as_u16())),
            (Outcome::ClientGone, _) if !begun => None,
            _ => Some(200),
        }
    }

    fn step(&mut self, step: &Step) -> Span {
        let time = within(&self.root, self.admitted + ns(step.asked), step.took);
        let id = self.unnamed_id();
        let mut span = self.span(id, Some(self.flown.trace.root), "route".to_owned(), Kind::Internal, time);
        span.put_some("spillway.target", step.target.as_ref().map(|target| target.as_str()));
        span.put("spillway.route.reason", step.reason);
        span.put("spillway.queue_wait_ms", millis(step.waited));
        span
    }

    fn attempt(&mut self, attempt: &AttemptReport, number: u64, failed: Option<&'static str>) -> Span {
        let id = attempt.course.span.unwrap_or_else(|| self.unnamed_id());
        let time = within(&self.root, self.admitted + ns(attempt.course.began), attempt.took);
        let name = format!("{} {}", self.operation(), attempt.model);
        let mut span = self.span(id, Some(self.flown.trace.root), name, Kind::Client, time);
        let peer = self.peer(&attempt.target);
        span.put("gen_ai.operation.name", self.operation());
        let provider = peer.map_or(attempt.target.as_str(), |peer| peer.provider.as_str());
        span.put("gen_ai.provider.name", provider);
        span.put("gen_ai.request.model", attempt.model.as_str());
        if let Some((address, port)) = peer.and_then(|peer| peer.address.as_ref()) {
            span.put("server.address", address.as_str());
            span.put("server.port", u64::from(*port));
        }
        span.put_some("http.response.status_code", attempt.course.status.map(u64::from));
        usage(&mut span, &attempt.usage);
        span.put("spillway.target", attempt.target.as_str());
        span.put("spillway.attempt.number", number);
        span.put("spillway.attempt.outcome", attempt.outcome);
        span.put_some("spillway.failover.cause", failed);
        span.put("spillway.cost_nanousd", attempt.cost.get());
        span.put_some("spillway.time_to_first_token_ms", attempt.first_token.map(millis));
        if self.has_failed(attempt) {
            span.fails(attempt.outcome);
        }
        span
    }

    /// A poor answer, or a race lost, is no error of the target's. One that was left is, if its request came to nothing.
    fn has_failed(&self, attempt: &AttemptReport) -> bool {
        match attempt.outcome {
            "ok" | "poor" | "hedged" => false,
            "abandoned" => self.flown.outcome != Outcome::Completed,
            _ => true,
        }
    }

    /// What our own engine did: waited for a sequence, read the prompt, wrote the answer.
    fn stages(&mut self, attempt: &AttemptReport, parent: SpanId, whole: &Range<u64>) -> Vec<Span> {
        let at = |after: Duration| (whole.start + ns(after)).clamp(whole.start, whole.end);
        let seated = attempt.course.seated.map(at);
        let first = attempt.first_token.map(at);
        // The first token of a prompt that is not seated was replayed, or the engine did not tell.
        let seated_by = seated.unwrap_or(whole.end).min(first.unwrap_or(whole.end));
        let mut stages = vec![("queue", whole.start..seated_by)];
        match (seated, first) {
            (None, _) => {}
            (Some(_), _) if self.flown.kind == RequestKind::Embedding => stages.push(("embed", seated_by..whole.end)),
            (Some(_), None) => stages.push(("prefill", seated_by..whole.end)),
            (Some(_), Some(first)) => {
                stages.push(("prefill", seated_by..first));
                stages.push(("decode", first..whole.end));
            }
        }
        let drawn = stages.into_iter().map(|(name, time)| {
            let id = self.unnamed_id();
            let mut span = self.span(id, Some(parent), name.to_owned(), Kind::Internal, time);
            match name {
                "prefill" | "embed" => {
                    span.put("gen_ai.usage.input_tokens", attempt.usage.prompt_tokens);
                    span.put("spillway.cached_tokens", attempt.usage.cached_tokens);
                }
                "decode" => span.put("gen_ai.usage.output_tokens", attempt.usage.completion_tokens),
                _ => {}
            }
            span
        });
        drawn.collect()
    }
}

fn usage(span: &mut Span, usage: &TokenUsage) {
    if *usage == TokenUsage::default() {
        return;
    }
    span.put("gen_ai.usage.input_tokens", usage.prompt_tokens);
    span.put("gen_ai.usage.output_tokens", usage.completion_tokens);
    if usage.cached_tokens > 0 {
        span.put("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
    }
    if usage.estimated {
        span.put("spillway.usage_estimated", true);
    }
}

/// From `start` for `took`, cut to what lies inside of `parent`.
fn within(parent: &Range<u64>, start: u64, took: Duration) -> Range<u64> {
    let start = start.clamp(parent.start, parent.end);
    start..(start + ns(took)).min(parent.end)
}

fn ns(time: Duration) -> u64 {
    // Half of the range: sums of two stay inside it.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

fn unix_ns(at: SystemTime) -> u64 {
    ns(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests;
