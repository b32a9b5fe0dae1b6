//! `make bench-micro`: how long the steps of a request take by themselves. No sockets, no actors, no disk: what a change to one
//! of them costs or saves, before it is lost in the noise of a whole request (`make bench`).

#![allow(clippy::unwrap_used, reason = "a bench may fail")]
#![allow(unreachable_pub, reason = "its parts are of a program")]

#[path = "micro/fleet.rs"]
mod fleet;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fleet::Scene;
use futures_util::FutureExt;
use http::HeaderMap;
use serde_json::json;
use spillway::http::{Endpoint, chat_events, render::Stamp, request_in};
use spillway_actors::{
    classify::{keywords::keywords, sketch::sketch, weights::Weights},
    cloud::sse::SseParser,
    domain::{Complexity, Delta, KeyId, RequestId, RequestKind},
    flight::{FlightEvent, Head},
    gpu::frame::{FromEngine, JobEvent, JobOutput, encode, take},
    keys::{EmbeddedLimiter, Limiter, Limits},
    upstream::chunk::{ChunkReader, read_whole},
};
use std::{collections::VecDeque, hint::black_box, time::Duration};
use tokio::time::Instant;

const TOKENS: usize = 64;
const PROMPT: &str = "A shop sells pens at $3 each and gives one free for every five bought. How much do 23 pens cost?";

fn chunk(text: &str) -> String {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}],
    })
    .to_string()
}

/// A provider's stream of 64 tokens, in pieces as sockets give them.
fn sse(criterion: &mut Criterion) {
    let stream: String = (0..TOKENS).map(|at| format!("data: {}\n\n", chunk(&format!(" word{at}")))).collect();
    let mut group = criterion.benchmark_group("sse");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    for piece in [64, 1460, 65_536] {
        group.bench_with_input(BenchmarkId::from_parameter(piece), &piece, |bench, piece| {
            bench.iter(|| {
                let (mut parser, mut events) = (SseParser::new(), 0);
                for bytes in stream.as_bytes().chunks(*piece) {
                    parser.push(bytes).unwrap();
                    while let Some(event) = parser.next_event().unwrap() {
                        events += black_box(event).data.len();
                    }
                }
                events
            });
        });
    }
    group.finish();
}

fn classifier(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classifier");
    let long = PROMPT.repeat(10_000);
    for (name, prompt) in [("sentence", PROMPT), ("megabyte", long.as_str())] {
        group.bench_function(BenchmarkId::new("learned", name), |bench| {
            bench.iter(|| Weights::built_in().opinion(&sketch(black_box(prompt)), 0.0));
        });
        group.bench_function(BenchmarkId::new("keywords", name), |bench| {
            bench.iter(|| keywords(black_box(prompt), 0));
        });
    }
    group.finish();
}

fn plan(criterion: &mut Criterion) {
    // Providers have tasks.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let scene = Scene::new();
    criterion.bench_function("plan/32 targets", |bench| bench.iter(|| scene.decide(black_box(3))));
}

/// What a client sends, and what a provider answers.
fn json_in(criterion: &mut Criterion) {
    let config = fleet::config();
    let mut group = criterion.benchmark_group("json in");
    for (name, turns) in [("one turn", 1), ("20 turns", 20)] {
        let turn = |at: usize| json!({"role": if at.is_multiple_of(2) { "user" } else { "assistant" }, "content": PROMPT.repeat(4)});
        let messages: Vec<_> = (0..turns).map(turn).collect();
        let body = json!({"model": "auto", "messages": messages, "temperature": 0.5, "max_tokens": 64}).to_string();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("request", name), |bench| {
            let headers = HeaderMap::new();
            bench.iter(|| request_in(Endpoint::Chat, black_box(body.as_bytes()), &headers, &config).unwrap());
        });
    }
    let data = chunk(" word");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("chunk", |bench| {
        let (mut reader, mut out) = (ChunkReader::of(1), VecDeque::new());
        bench.iter(|| {
            reader.read(black_box(&data), &mut out).unwrap();
            out.clear();
        });
    });
    let whole = json!({
        "id": "c", "object": "chat.completion", "created": 1_700_000_000, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": PROMPT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    });
    let whole = whole.to_string();
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("whole answer", |bench| bench.iter(|| read_whole(black_box(whole.as_bytes())).unwrap()));
    group.finish();
}

/// A stream of 64 tokens, as a client gets it.
fn json_out(criterion: &mut Criterion) {
    let stamp = Stamp::new(RequestKind::Chat, RequestId::from_bits(1), 1_700_000_000);
    let delta = |at: usize| {
        let delta = Delta {
            choice: 0,
            content: Some(format!(" word{at}")),
            other: serde_json::Map::new(),
            logprobs: None,
            tokens: Vec::new(),
        };
        FlightEvent::Delta(delta)
    };
    let head = Head {
        target: "t".into(),
        model: "m".into(),
        complexity: Complexity::Trivial,
        attempts: 1,
        simulated: false,
        imprint: None,
    };
    let events = || (0..TOKENS).map(delta).collect::<Vec<_>>();
    criterion.bench_function("json out/64 tokens", |bench| {
        bench.iter_batched(events, |events| chat_events(&stamp, &head, events), BatchSize::SmallInput);
    });
}

/// What an engine with eight sequences says of one step.
fn frames(criterion: &mut Criterion) {
    let piece = |job: u64| JobOutput {
        job,
        seq: 7,
        event: JobEvent::Piece { text: " word".into(), tokens: vec![1234], logprobs: Vec::new() },
    };
    let step = FromEngine::Step { step: 7, epoch: 2, outputs: (0..8).map(piece).collect() };
    let mut wire = Vec::new();
    encode(&step, &mut wire).unwrap();
    let mut group = criterion.benchmark_group("frames");
    group.bench_function("encode a step of 8", |bench| {
        let mut out = Vec::new();
        bench.iter(|| {
            out.clear();
            encode(black_box(&step), &mut out).unwrap();
        });
    });
    group.bench_function("decode a step of 8", |bench| {
        bench.iter(|| take::<FromEngine>(black_box(&wire)).unwrap());
    });
    group.finish();
}

/// A request's whole way through the limits of its key.
fn limiter(criterion: &mut Criterion) {
    let (limiter, key) = (EmbeddedLimiter::default(), KeyId::from("key"));
    let limits =
        Limits { requests_per_minute: Some(u32::MAX), tokens_per_minute: Some(u32::MAX), concurrency: Some(100) };
    let mut now = Instant::now();
    criterion.bench_function("limiter/enter to leave", |bench| {
        bench.iter(|| {
            now += Duration::from_millis(1);
            limiter.enter(&key, limits, now).now_or_never().unwrap().unwrap();
            limiter.reserve(&key, limits, 100, now).now_or_never().unwrap().unwrap();
            limiter.count(&key, limits, true, now);
            limiter.settle(&key, limits, 100, 20, now);
            limiter.leave(&key);
        });
    });
}

criterion_group!(steps, sse, classifier, plan, json_in, json_out, frames, limiter);
criterion_main!(steps);
