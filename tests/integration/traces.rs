//! Traces as a collector gets them, logs as a machine reads them: the tree of spans of every way a request may go, the trace's
//! context in and out, a collector that is down.

use crate::support::{
    Ask, Collector, Gateway, Record, Setup,
    cloud::Cloud,
    collector::{self, Span},
    poll::until,
    prometheus::repository,
    setup::KEY_VAR,
};
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use std::{
    collections::HashSet,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const LONG: Duration = Duration::from_secs(10);
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Names, in the order of their beginnings; those of a parent before those of its children.
fn names(tree: &[Span]) -> Vec<&str> {
    tree.iter().map(|span| span.name.as_str()).collect()
}

fn named<'s>(tree: &'s [Span], name: &str) -> &'s Span {
    tree.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {tree:#?}"))
}

fn of_kind(tree: &[Span], kind: u64) -> Vec<&Span> {
    tree.iter().filter(|span| span.kind == kind).collect()
}

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// What must hold of every tree.
fn assert_sound(tree: &[Span]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let ids: HashSet<&str> = tree.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), tree.len(), "{tree:#?}");
    for span in tree {
        assert!((span.trace.len(), span.id.len(), span.flags & 1) == (32, 16, 1), "{span:#?}");
        assert!(span.start <= span.end && span.end <= now && now - span.start < 300_000_000_000, "{span:#?}");
        assert_eq!(span.resource["service.name"], "gateway-under-test");
        if span.id == tree[0].id {
            continue;
        }
        let parent =
            tree.iter().find(|other| other.id == span.parent).unwrap_or_else(|| panic!("an orphan: {span:#?}"));
        assert!(parent.start <= span.start && span.end <= parent.end, "{span:#?} is not inside {parent:#?}");
    }
}

async fn traced(gateway: &Gateway, collector: &Collector, ask: Ask) -> (Record, Vec<Span>) {
    let record = gateway.client.ask(&gateway.api, ask).await;
    let tree = collector.of(record.id.as_deref().expect("an id")).await;
    assert_sound(&tree);
    (record, tree)
}

fn with_header(mut ask: Ask, name: &'static str, value: &str) -> Ask {
    ask.headers.push((name, value.to_owned()));
    ask
}

async fn exported(gateway: &Gateway) -> f64 {
    gateway.metric("spillway_traces_exported_total").await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_stream_shows_its_queue_prefill_and_decoding() {
    let collector = Collector::start().await;
    let gateway = Setup::default().without_cloud().extra(&collector.config()).warm().await;
    let (record, tree) = traced(&gateway, &collector, Ask::count().stream().max_tokens(24)).await;
    record.assert_complete();
    let local = format!("text_completion {}", crate::support::setup::MODEL);
    assert_eq!(names(&tree), ["text_completion auto", "route", &local, "queue", "prefill", "decode"]);
    let (root, attempt) = (&tree[0], named(&tree, &local));
    assert_eq!((root.kind, root.parent.as_str(), root.is_error, attempt.kind), (SERVER, "", false, CLIENT));
    assert_eq!(root.text("gen_ai.provider.name"), "llama.cpp");
    assert_eq!(root.text("spillway.target"), "local");
    assert_eq!(root.attributes["gen_ai.response.finish_reasons"], json!(["length"]));
    let usage = record.usage.as_ref().expect("it was asked for");
    assert_eq!(root.number("gen_ai.usage.output_tokens"), usage["completion_tokens"].as_i64());
    assert_eq!(root.number("gen_ai.usage.input_tokens"), usage["prompt_tokens"].as_i64());
    let (prefill, decode) = (named(&tree, "prefill"), named(&tree, "decode"));
    assert!(prefill.parent == attempt.id && decode.parent == attempt.id);
    assert!(prefill.end > prefill.start, "the prompt took time: {prefill:#?}");
    assert!(
        decode.end - decode.start > prefill.end - prefill.start,
        "twenty-four tokens took longer than their prompt"
    );
    assert_eq!(decode.number("gen_ai.usage.output_tokens"), Some(24));

    let embedding = Ask { path: "/v1/embeddings", body: json!({"input": "a text"}), headers: Vec::new() };
    let asked = gateway.client.raw().post(gateway.url(embedding.path)).json(&embedding.body).send().await.unwrap();
    let id = asked.headers()["x-request-id"].to_str().unwrap().to_owned();
    let tree = collector.of(&id).await;
    assert_sound(&tree);
    assert_eq!(&names(&tree)[3..], ["queue", "embed"], "{tree:#?}");
    assert_eq!(tree[0].text("gen_ai.operation.name"), "embeddings");
    gateway.shutdown().await;
}

/// What OpenTelemetry's own classes make of a body.
fn read_by_its_authors(body: &[u8]) -> Value {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(Into::into).or_else(home);
    let mut reading = Command::new(cache.unwrap().join("spillway/otlp/python/bin/python"))
        .arg(repository("tests/otlp/read.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`tests/otlp/install.sh` has run");
    reading.stdin.take().unwrap().write_all(body).unwrap();
    let output = reading.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_read_by_opentelemetrys_own_classes() {
    let collector = Collector::start().await;
    let gateway = Setup::default().without_local().extra(&collector.config()).start().await;
    let ask = with_header(with_header(Ask::hard(), "traceparent", CALLER), "tracestate", "vendor=1");
    let (_, tree) = traced(&gateway, &collector, ask).await;
    let read = read_by_its_authors(&collector.bodies()[0]);
    let sent = &read["resourceSpans"][0];
    assert_eq!(
        sent["resource"]["attributes"][0],
        json!({"key": "service.name", "value": {"stringValue": "gateway-under-test"}})
    );
    assert_eq!(sent["scopeSpans"][0]["scope"]["name"], "spillway");
    let spans = sent["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), tree.len());
    let kinds: Vec<&str> = spans.iter().map(|span| span["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["SPAN_KIND_SERVER", "SPAN_KIND_INTERNAL", "SPAN_KIND_CLIENT"]);
    for (read, span) in spans.iter().zip(&tree) {
        assert_eq!(read["name"], span.name.as_str());
        assert_eq!(read["startTimeUnixNano"], span.start.to_string());
        assert_eq!(read["endTimeUnixNano"], span.end.to_string());
        assert_eq!(read["flags"].as_u64(), Some(span.flags));
        assert_eq!(read["traceState"], "vendor=1");
        let attributes = read["attributes"].as_array().unwrap();
        assert_eq!(attributes.len(), span.attributes.len(), "{read}");
        for attribute in attributes {
            let (key, value) = (attribute["key"].as_str().unwrap(), &attribute["value"]);
            let ours = &span.attributes[key];
            let theirs = match ours {
                Value::String(text) => json!({"stringValue": text}),
                Value::Bool(flag) => json!({"boolValue": flag}),
                Value::Array(texts) => {
                    json!({"arrayValue": {"values": texts.iter().map(|t| json!({"stringValue": t})).collect::<Vec<_>>()}})
                }
                // A number of 64 bits is a text in their JSON.
                number if number.is_i64() => json!({"intValue": number.to_string()}),
                number => json!({"doubleValue": number}),
            };
            assert_eq!(*value, theirs, "{key}");
        }
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_goes_on_through_the_gateway_into_the_cloud() {
    let collector = Collector::start().await;
    let gateway = Setup::default().without_local().extra(&collector.config()).start().await;
    let ask = with_header(Ask::hard(), "traceparent", CALLER);
    let ask = with_header(with_header(ask, "tracestate", "vendor=1"), "baggage", "user=7");
    let (record, tree) = traced(&gateway, &collector, with_header(ask, "x-request-id", "from-the-proxy/7")).await;
    record.assert_complete();
    let root = &tree[0];
    assert_eq!((root.trace.as_str(), root.parent.as_str()), (&CALLER[3..35], &CALLER[36..52]));
    assert_eq!((root.flags, root.state.as_str()), (0x301, "vendor=1"));
    assert_eq!(root.text("spillway.client_request_id"), "from-the-proxy/7");
    assert_eq!(record.headers["x-client-request-id"], "from-the-proxy/7");
    let attempt = of_kind(&tree, CLIENT)[0];
    assert_eq!(attempt.number("http.response.status_code"), Some(200));
    assert_eq!(attempt.text("server.address"), "127.0.0.1");
    assert_eq!(attempt.number("server.port"), Some(i64::from(gateway.cloud().addr.port())));
    let arrived = gateway.cloud().arrived().await;
    let context = format!("00-{}-{}-01", root.trace, attempt.id);
    assert_eq!(arrived[0].trace, [("traceparent".to_owned(), context)].into(), "no state, no baggage");
    assert_eq!(Some(arrived[0].request_id.as_str()), record.id.as_deref());

    let before = collector.spans().len();
    let unsampled = gateway.client.ask(&gateway.api, with_header(Ask::hard(), "traceparent", UNSAMPLED)).await;
    unsampled.assert_complete();
    let malformed = with_header(Ask::hard(), "traceparent", "00-xyz-1-01");
    let (_, tree) = traced(&gateway, &collector, malformed).await;
    assert_eq!((tree[0].parent.as_str(), tree[0].flags), ("", 0x101), "as if nothing had come");
    assert_eq!(collector.spans().len(), before + tree.len(), "its caller does not keep the other one");
    let arrived = gateway.cloud().arrived().await;
    let passed = &arrived[1].trace["traceparent"];
    assert!(passed.starts_with(&UNSAMPLED[..36]) && passed.ends_with("-00") && *passed != UNSAMPLED, "{passed}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_ones_own_is_told_the_whole_context() {
    let (collector, server) = (Collector::start().await, Cloud::start(SimOptions::default()).await);
    let local_extra = format!(
        "engine = \"http\"\nbase_url = \"{}\"\nupstream = \"ok\"\napi_key_env = \"{KEY_VAR}\"\n",
        server.base_url()
    );
    let setup = Setup { local_extra, ..Setup::default().model("served") }.without_cloud().extra(&collector.config());
    let gateway = setup.warm().await;
    let ask = with_header(with_header(Ask::chat("Hi"), "traceparent", CALLER), "tracestate", "vendor=1");
    let (_, tree) = traced(&gateway, &collector, ask).await;
    assert_eq!(names(&tree), ["chat auto", "route", "chat served"], "what goes on inside it is its own to tell");
    let context = format!("00-{}-{}-01", tree[0].trace, tree[2].id);
    let sent = [("traceparent".to_owned(), context), ("tracestate".to_owned(), "vendor=1".to_owned())];
    assert_eq!(server.arrived().await[0].trace, sent.into());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_two_attempts_of_one_request() {
    let collector = Collector::start().await;
    let spare = SimOptions { tokens: 12, ..SimOptions::default() };
    let setup = Setup::default().without_local().backup(spare).extra(&collector.config());
    let gateway = setup.start().await;
    gateway.cloud().fault("*", "error-503").await;
    let (record, tree) = traced(&gateway, &collector, Ask::hard()).await;
    record.assert_complete();
    let attempts = of_kind(&tree, CLIENT);
    assert_eq!(attempts.len(), 2, "{tree:#?}");
    assert_eq!((attempts[0].text("spillway.target"), attempts[1].text("spillway.target")), ("sim", "backup"));
    assert_eq!((attempts[0].text("error.type"), attempts[0].is_error), ("upstream", true));
    assert_eq!(attempts[0].number("http.response.status_code"), Some(503));
    assert_eq!((attempts[1].text("spillway.failover.cause"), attempts[1].is_error), ("upstream", false));
    assert!(attempts[0].end <= attempts[1].start && !tree[0].is_error);
    let heard = |arrived: &[crate::support::cloud::Arrived]| arrived[0].trace["traceparent"].clone();
    let context = |attempt: &Span| format!("00-{}-{}-01", attempt.trace, attempt.id);
    assert_eq!(heard(&gateway.cloud().arrived().await), context(attempts[0]));
    assert_eq!(heard(&gateway.backup().arrived().await), context(attempts[1]));

    gateway.backup().fault("*", "error-500").await;
    let (record, tree) = traced(&gateway, &collector, Ask::hard()).await;
    let status = i64::from(record.status.unwrap());
    assert!(tree[0].is_error && tree[0].number("http.response.status_code") == Some(status), "{tree:#?}");
    let refused = gateway.client.ask(&gateway.api, Ask::hard().model("no-such-model")).await;
    let tree = collector.of(refused.id.as_deref().unwrap()).await;
    assert_eq!(names(&tree), ["POST /v1/chat/completions"]);
    assert_eq!((tree[0].number("http.response.status_code"), tree[0].is_error), (Some(404), false));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_has_a_trace_that_says_so() {
    let collector = Collector::start().await;
    let gateway = Setup::default().without_cloud().extra(&collector.config()).warm().await;
    let asked = gateway.client.raw().post(gateway.url("/v1/completions"));
    let body = Ask::count().stream().max_tokens(1500).body;
    let mut answer = asked.json(&body).send().await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(answer.chunk().await.unwrap().is_some());
    drop(answer);
    let tree = collector.of(&id).await;
    assert_sound(&tree);
    assert_eq!((tree[0].is_error, tree[0].text("error.type")), (true, "client_gone"));
    let attempt = of_kind(&tree, CLIENT)[0];
    assert_eq!((attempt.is_error, attempt.text("spillway.attempt.outcome")), (true, "abandoned"));
    assert_eq!(tree.last().unwrap().name, "decode");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_traces_and_nothing_else() {
    // An address at which nobody listens any more.
    let addr: SocketAddr = Collector::start().await.addr;
    let config = format!("{}queue = 4\ntimeout_ms = 300\nshutdown_ms = 500\n", collector::config(addr));
    let gateway = Setup::default().without_local().extra(&config).start().await;
    for _ in 0..12 {
        gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
    }
    let full = "spillway_traces_dropped_total{reason=\"full\"}";
    let unreachable = "spillway_traces_dropped_total{reason=\"unreachable\"}";
    until("batches are given up", LONG, || async {
        gateway.metric(unreachable).await.filter(|dropped| *dropped > 0.0)
    })
    .await;
    let lost = gateway.metric(full).await.unwrap_or(0.0) + gateway.metric(unreachable).await.unwrap_or(0.0);
    assert!(lost > 0.0 && exported(&gateway).await == 0.0);
    let told = |what: &'static str| {
        let gateway = &gateway;
        until(what, LONG, move || async move { gateway.log().contains(what).then_some(()) })
    };
    told("the collector takes no traces").await;

    // It comes, and is used.
    let collector = Collector::start_at(addr).await;
    until("traces arrive", LONG, || async {
        gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
        (!collector.spans().is_empty()).then_some(())
    })
    .await;
    told("takes traces again").await;

    // It refuses for good.
    collector.refuse(Some(401));
    gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
    let refused = "spillway_traces_dropped_total{reason=\"refused\"}";
    until("that is counted", LONG, || async { gateway.metric(refused).await.filter(|n| *n > 0.0) }).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_traces_are_sent_before_the_process_ends() {
    let collector = Collector::start().await;
    let config = collector.config().replace("flush_ms = 50", "flush_ms = 60000");
    let gateway = Setup::default().without_local().extra(&config).start().await;
    let record = gateway.client.ask(&gateway.api, Ask::hard()).await;
    gateway.shutdown().await;
    let tree = collector.of(record.id.as_deref().unwrap()).await;
    assert_sound(&tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetrys_own_variables_are_understood() {
    let collector = Collector::start().await;
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}/", collector.addr)),
        ("OTEL_SERVICE_NAME", "gateway-under-test".to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20c2VjcmV0,x-tenant=7".to_owned()),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value)).into();
    let gateway = Setup { vars, ..Setup::default() }.without_local().extra("[otel]\nflush_ms = 50\n").start().await;
    traced(&gateway, &collector, Ask::hard()).await;
    let headers = &collector.headers()[0];
    assert_eq!(
        (&headers["authorization"], &headers["x-tenant"]),
        (&"Basic c2VjcmV0".parse().unwrap(), &"7".parse().unwrap())
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_nothing_of_a_trace_goes_out() {
    let gateway = Setup::default().without_local().start().await;
    gateway.client.ask(&gateway.api, with_header(Ask::hard(), "traceparent", CALLER)).await.assert_complete();
    assert!(gateway.cloud().arrived().await[0].trace.is_empty());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_json_log_is_an_object_and_those_of_a_request_name_it_and_its_trace() {
    let collector = Collector::start().await;
    let vars = vec![("SPILLWAY_LOG_FORMAT".to_owned(), "json".to_owned())];
    let setup = Setup { vars, log: "info,spillway=debug,spillway_actors=debug".to_owned(), ..Setup::default() };
    let gateway = setup.without_local().extra(&collector.config()).start().await;
    gateway.cloud().fault("ok", "error-503").await;
    let ask = with_header(with_header(Ask::hard(), "traceparent", CALLER), "x-request-id", "theirs-1");
    let record = gateway.client.ask(&gateway.api, ask).await;
    let id = record.id.clone().unwrap();
    let log = until("its end is in the log", LONG, || async {
        Some(gateway.log()).filter(|log| log.lines().any(|line| line.contains("request ended") && line.contains(&id)))
    })
    .await;
    let lines: Vec<Value> = log
        .lines()
        // What people are told on stdout is no log.
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let told: HashSet<&str> = lines
        .iter()
        .filter(|line| line["fields"]["request"] == id.as_str())
        .map(|line| {
            assert_eq!(line["fields"]["trace_id"], CALLER[3..35], "{line}");
            line["fields"]["message"].as_str().unwrap()
        })
        .collect();
    let wanted = ["graded", "route decided", "another attempt", "request ended"];
    assert!(wanted.iter().all(|message| told.contains(message)), "{told:?}");
    let end = lines.iter().find(|line| line["fields"]["message"] == "request ended").unwrap();
    assert_eq!(end["fields"]["client_request_id"], "theirs-1");
    gateway.shutdown().await;
}
