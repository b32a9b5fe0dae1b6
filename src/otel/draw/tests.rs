use super::*;
use crate::otel::peers::Peer;
use proptest::prelude::*;
use spillway_actors::{
    domain::{Complexity, ErrorKind, GatewayError, RequestId, TraceId, UnixMs},
    flight::{Course, Ended},
};
use std::{collections::HashSet, sync::Arc};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

fn peers() -> Peers {
    let engine = Peer { provider: "llama.cpp".into(), address: None, is_engine: true };
    let cloud = Peer { provider: "openai".into(), address: Some(("api.openai.com".into(), 443)), is_engine: false };
    [("local".to_owned(), engine), ("cloud".to_owned(), cloud)].into()
}

fn attempt(target: &str, outcome: &'static str, began: u32, took: u32) -> AttemptReport {
    AttemptReport {
        target: target.into(),
        model: format!("{target}-model"),
        outcome,
        first_token: (outcome == "ok").then_some(MS * (took / 2)),
        took: MS * took,
        usage: TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..TokenUsage::default() },
        cost: NanoUsd::new(5),
        course: Course {
            span: SpanId::new(u64::from(began) + 1000),
            began: MS * began,
            seated: (target == "local").then_some(MS * (took / 4)),
            status: (target == "cloud").then_some(if outcome == "ok" { 200 } else { 503 }),
        },
    }
}

fn flown(attempts: Vec<AttemptReport>, outcome: Outcome) -> Flown {
    let last = attempts.last().cloned();
    let report = FlightReport {
        target: last.as_ref().map_or("none".into(), |last| last.target.clone()),
        model: last.as_ref().map_or("none".into(), |last| last.model.clone()),
        complexity: Complexity::Trivial,
        confidence: 0.9,
        reasoning: "because".into(),
        budget_sensitive: false,
        estimated_cost_per_1k: 0.0,
        estimated_cost: NanoUsd::ZERO,
        estimated_latency: Duration::ZERO,
        actual_latency: MS * 100,
        attempts,
        usage: TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..TokenUsage::default() },
        is_local: false,
        resumed: None,
        met_stop: None,
    };
    let ended = Ended {
        request: RequestId::from_bits(9),
        key: None,
        at: UnixMs::new(0),
        stream: false,
        outcome: outcome.label(),
        asked: "auto".to_owned(),
        why: None,
        first_token: None,
        report,
    };
    Flown {
        trace: Trace {
            id: TraceId::new(0xabc).unwrap(),
            parent: SpanId::new(0xdef),
            root: SpanId::new(1).unwrap(),
            sampled: true,
            state: None,
            arrived: Instant::now(),
        },
        ended: Arc::new(ended),
        outcome,
        failure: None,
        kind: RequestKind::Chat,
        asked: ModelChoice::Auto,
        max_tokens: Some(64),
        answers: 1,
        reasons: vec!["stop"],
        steps: vec![Step {
            asked: Duration::ZERO,
            took: MS * 2,
            waited: MS,
            target: Some("local".into()),
            reason: "preferred",
        }],
        client_id: Some("theirs".into()),
        admitted: MS * 3,
        took: MS * 110,
        at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

fn drawn(flown: Flown) -> Vec<Span> {
    spans(&Traced::Flown(Box::new(flown)), &peers())
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

fn of<'s>(span: &'s Span, key: &str) -> Option<&'s Value> {
    span.attributes.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
}

/// From the request's first byte, in milliseconds.
fn at(spans: &[Span], time: &Range<u64>) -> (u64, u64) {
    let start = spans[0].time.start;
    ((time.start - start) / 1_000_000, (time.end - start) / 1_000_000)
}

#[test]
fn a_local_answer_has_its_queue_prefill_and_decoding_under_its_attempt() {
    let spans = drawn(flown(vec![attempt("local", "ok", 4, 80)], Outcome::Completed));
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["chat auto", "route", "chat local-model", "queue", "prefill", "decode"]);
    let parent = named(&spans, "chat local-model").id;
    assert_eq!(at(&spans, &spans[0].time), (0, 110));
    assert_eq!(at(&spans, &named(&spans, "route").time), (3, 5));
    assert_eq!(at(&spans, &named(&spans, "chat local-model").time), (7, 87));
    for (name, time) in [("queue", (7, 27)), ("prefill", (27, 47)), ("decode", (47, 87))] {
        let span = named(&spans, name);
        assert_eq!((span.parent, span.kind, at(&spans, &span.time)), (Some(parent), Kind::Internal, time), "{name}");
    }
    let root = &spans[0];
    assert_eq!((root.kind, root.parent, root.is_error), (Kind::Server, SpanId::new(0xdef), false));
    for (key, value) in [
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.provider.name", "llama.cpp".into()),
        ("gen_ai.request.model", "auto".into()),
        ("gen_ai.response.model", "local-model".into()),
        ("gen_ai.request.max_tokens", Value::Integer(64)),
        ("gen_ai.usage.input_tokens", Value::Integer(7)),
        ("gen_ai.usage.output_tokens", Value::Integer(3)),
        ("gen_ai.response.finish_reasons", Value::Texts(vec!["stop"])),
        ("http.response.status_code", Value::Integer(200)),
        ("spillway.request.id", RequestId::from_bits(9).to_string().into()),
        ("spillway.client_request_id", "theirs".into()),
        ("spillway.complexity", "trivial".into()),
        ("spillway.route.reason", "preferred".into()),
        ("spillway.cost_nanousd", Value::Integer(5)),
    ] {
        assert_eq!(of(root, key), Some(&value), "{key}");
    }
}

#[test]
fn a_failover_shows_both_attempts_and_why_there_are_two() {
    let attempts = vec![attempt("cloud", "upstream", 4, 20), attempt("local", "ok", 30, 50)];
    let spans = drawn(flown(attempts, Outcome::Completed));
    let failed = named(&spans, "chat cloud-model");
    assert!(failed.is_error && failed.kind == Kind::Client);
    assert_eq!(of(failed, "error.type"), Some(&"upstream".into()));
    assert_eq!(of(failed, "http.response.status_code"), Some(&Value::Integer(503)));
    assert_eq!(of(failed, "server.address"), Some(&"api.openai.com".into()));
    assert_eq!(of(failed, "server.port"), Some(&Value::Integer(443)));
    let second = named(&spans, "chat local-model");
    assert_eq!(of(second, "spillway.failover.cause"), Some(&"upstream".into()));
    assert!(!second.is_error && !spans[0].is_error, "the request went well");
}

#[test]
fn an_engine_that_dies_leaves_the_stages_that_it_reached() {
    let stages = |course: Course, first: Option<Duration>| -> Vec<String> {
        let died = AttemptReport { course, first_token: first, ..attempt("local", "engine_died", 4, 40) };
        drawn(flown(vec![died], Outcome::Failed(ErrorKind::Unavailable))).drain(3..).map(|span| span.name).collect()
    };
    let course = attempt("local", "ok", 4, 40).course;
    assert_eq!(stages(Course { seated: None, ..course }, None), ["queue"]);
    assert_eq!(stages(course, None), ["queue", "prefill"]);
    assert_eq!(stages(course, Some(MS * 30)), ["queue", "prefill", "decode"]);
}

#[test]
fn what_fails_is_in_error_and_says_what_its_client_read() {
    let mut failed = flown(vec![attempt("cloud", "upstream", 1, 5)], Outcome::Failed(ErrorKind::Upstream));
    failed.failure = Some(GatewayError::target("cloud", ErrorKind::Upstream, "it failed"));
    let spans = drawn(failed);
    assert!(spans[0].is_error);
    assert_eq!(of(&spans[0], "error.type"), Some(&"upstream".into()));
    assert_eq!(of(&spans[0], "http.response.status_code"), Some(&Value::Integer(502)));
    assert_eq!(of(&spans[0], "gen_ai.response.model"), None, "nothing answered");

    let gone = drawn(flown(vec![attempt("local", "abandoned", 1, 5)], Outcome::ClientGone));
    assert_eq!(of(&gone[0], "error.type"), Some(&"client_gone".into()));
    assert_eq!(of(&gone[0], "http.response.status_code"), None, "nobody was there to read one");
    assert!(named(&gone, "chat local-model").is_error);

    let raced = vec![attempt("cloud", "abandoned", 1, 5), attempt("local", "ok", 1, 6)];
    assert!(!drawn(flown(raced, Outcome::Completed)).iter().any(|span| span.is_error), "a race lost is no error");
}

#[test]
fn a_request_that_was_refused_at_the_door_is_one_span() {
    let trace = flown(Vec::new(), Outcome::Completed).trace;
    let refusal = |status| Refusal {
        trace: trace.clone(),
        request: RequestId::from_bits(3),
        method: "POST",
        route: "/v1/chat/completions".into(),
        status,
        took: MS * 4,
        at: UNIX_EPOCH + MS * 10,
    };
    let one = |status| spans(&Traced::Refused(Box::new(refusal(status))), &peers()).remove(0);
    let refused = one(400);
    assert_eq!((refused.name.as_str(), refused.time.clone()), ("POST /v1/chat/completions", 6_000_000..10_000_000));
    assert!(!refused.is_error && one(503).is_error, "a client's mistake is no error of the server");
}

fn courses() -> impl Strategy<Value = AttemptReport> {
    let outcome = prop::sample::select(vec!["ok", "upstream", "engine_died", "abandoned", "poor", "hedged"]);
    let some = || prop::option::of(0u32..400);
    (prop::bool::ANY, outcome, 0u32..300, 0u32..300, some(), some()).prop_map(
        |(local, outcome, began, took, first, seated)| {
            let base = attempt(if local { "local" } else { "cloud" }, outcome, began, took);
            let course = Course { span: None, seated: seated.map(|at| MS * at), ..base.course };
            AttemptReport { first_token: first.map(|at| MS * at), course, ..base }
        },
    )
}

proptest! {
    /// Whatever was noted, however the clocks went.
    #[test]
    fn every_span_is_inside_its_parent_ends_after_it_starts_and_has_an_id_of_its_own(
        attempts in prop::collection::vec(courses(), 0..6),
        took in 0u32..400,
        admitted in 0u32..400,
        kind in prop::sample::select(vec![RequestKind::Chat, RequestKind::Completion, RequestKind::Embedding]),
    ) {
        let flown = Flown { took: MS * took, admitted: MS * admitted, kind, ..flown(attempts, Outcome::Completed) };
        let count = flown.ended.report.attempts.len();
        let spans = drawn(flown);
        let ids: HashSet<SpanId> = spans.iter().map(|span| span.id).collect();
        prop_assert_eq!(ids.len(), spans.len());
        prop_assert_eq!(spans.iter().filter(|span| span.kind == Kind::Client).count(), count);
        for span in &spans {
            prop_assert!(span.time.start <= span.time.end, "{:?}", span);
            if span.id == spans[0].id {
                continue;
            }
            let parent = spans.iter().find(|other| Some(other.id) == span.parent).expect("a parent");
            prop_assert!(parent.time.start <= span.time.start && span.time.end <= parent.time.end, "{:?} {:?}", span, parent);
            prop_assert!(parent.kind != Kind::Internal);
        }
    }
}
