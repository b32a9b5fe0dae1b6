//! Every rule of the request bodies as a table, and that nothing makes the parser panic.

use super::*;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;
use spillway_actors::{
    config::{Sources, load},
    domain::{Choices, ErrorKind, MAX_CHOICES, ModelChoice, Passage, SamplingWish},
};
use std::{io, path::PathBuf, sync::LazyLock, time::Duration};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let file = "[router.aliases]\nfast = \"local\"\n\"gpt-4o\" = \"gpt-4.1\"\nany = \"auto\"\n";
    let sources = Sources {
        file: Some((PathBuf::from("my.toml"), file.to_owned())),
        env: vec![("HOLYSHEEP_API_KEY".into(), "secret-key".into())],
        cache_dir: PathBuf::from("/cache"),
        ..Sources::default()
    };
    load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0
});

const ID: RequestId = RequestId::from_bits(7);

fn chat_of(body: &Value) -> Result<ChatRequest, GatewayError> {
    chat(ID, body.to_string().as_bytes(), &HeaderMap::new(), &CONFIG)
}

/// A chat of one message with these fields added.
fn with(extra: Value) -> Result<ChatRequest, GatewayError> {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    chat_of(&body)
}

fn accepted(extra: Value) -> ChatRequest {
    with(extra.clone()).unwrap_or_else(|error| panic!("{extra}: {error}"))
}

fn message(message: Value) -> Result<ChatRequest, GatewayError> {
    chat_of(&json!({"messages": [message]}))
}

fn text_of(request: &ChatRequest) -> &str {
    match &request.input {
        Input::Messages(messages) => &messages[0].content,
        _ => panic!("a chat"),
    }
}

fn completion_with(extra: Value) -> Result<ChatRequest, GatewayError> {
    completion(ID, extra.to_string().as_bytes(), &HeaderMap::new(), &CONFIG)
}

fn with_header(name: &'static str, value: &str, extra: Value) -> Result<ChatRequest, GatewayError> {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    chat(ID, body.to_string().as_bytes(), &headers, &CONFIG)
}

#[test]
fn the_smallest_request_leaves_everything_open() {
    let request = accepted(json!({}));
    assert_eq!((request.id, request.kind, &request.model), (ID, RequestKind::Chat, &ModelChoice::Auto));
    assert_eq!((request.sampling, request.needs), (SamplingWish::default(), Needs::default()));
    assert_eq!((request.max_tokens, &request.stop, request.max_latency), (None, &None, None));
    assert!(!(request.stream || request.include_usage || request.budget_sensitive || request.local_only));
}

#[test]
fn every_field_is_read() {
    let request = accepted(json!({
        "model": "gpt-4.1", "temperature": 2, "top_p": 1.0, "top_k": 40, "min_p": 0.05, "presence_penalty": -2,
        "frequency_penalty": 2.0, "repeat_penalty": 1.1, "seed": 42, "max_tokens": 9, "stop": ["a", "b"],
        "stream": true, "stream_options": {"include_usage": true}, "user": 5, "x_unknown": {"y": []},
        "budget_sensitive": true, "local_only": true, "max_latency_ms": 250.5
    }));
    assert_eq!(request.model, ModelChoice::Named("gpt-4.1".into()));
    let sampling = SamplingWish {
        temperature: Some(2.0),
        top_p: Some(1.0),
        top_k: Some(40),
        min_p: Some(0.05),
        presence_penalty: Some(-2.0),
        frequency_penalty: Some(2.0),
        repeat_penalty: Some(1.1),
        seed: Some(42),
    };
    assert_eq!(request.sampling, sampling);
    assert_eq!((request.max_tokens, request.stop), (Some(9), Some(vec!["a".into(), "b".into()])));
    assert!(request.stream && request.include_usage && request.budget_sensitive && request.local_only);
    assert_eq!(request.max_latency, Some(Duration::from_micros(250_500)));
    assert_eq!(request.body["x_unknown"], json!({"y": []}));
    for ours in ["budget_sensitive", "local_only", "max_latency_ms"] {
        assert!(!request.body.contains_key(ours), "{ours} is not for providers");
    }
}

#[test]
fn null_is_absent() {
    let names = ["model", "temperature", "stop", "max_tokens", "n", "tools", "response_format", "stream", "logit_bias"];
    for name in names {
        let request = accepted(json!({name: null}));
        assert_eq!((request.model, request.needs), (ModelChoice::Auto, Needs::default()), "{name}");
    }
}

#[test]
fn ranges_and_types_are_those_of_the_api() {
    let cases = [
        ("temperature", json!([-0.1, 2.1, "1", [], true])),
        ("top_p", json!([0, 1.1, -1, "x"])),
        ("top_k", json!([-2, 1.5, "x"])),
        ("min_p", json!([-0.1, 1.1])),
        ("presence_penalty", json!([-2.1, 2.1, {}])),
        ("frequency_penalty", json!([-2.1, 2.1])),
        ("repeat_penalty", json!([0, -1, 11])),
        ("repetition_penalty", json!([0])),
        ("seed", json!(["x", 1.5])),
        ("max_tokens", json!([-1, 1.5, "9", true])),
        ("max_completion_tokens", json!([-1, "9"])),
        ("n", json!([0, 129, "1"])),
        ("stop", json!([1, {}, "", ["a", ""]])),
        ("stream", json!(["true", 1])),
        ("stream_options", json!([true, "x"])),
        ("logprobs", json!([1, "x"])),
        ("top_logprobs", json!([-1, 21, "x", 2])),
        ("logit_bias", json!([[], {"1": 101}, {"1": "x"}])),
        ("tools", json!([{}, "x"])),
        ("response_format", json!(["json", []])),
        ("model", json!([1, {}, []])),
        ("budget_sensitive", json!(["true", 1])),
        ("local_only", json!(["true", 0])),
        ("max_latency_ms", json!([0, -5, "fast"])),
        ("messages", json!([{}, "x", []])),
    ];
    for (name, values) in cases {
        for value in values.as_array().unwrap() {
            let error = with(json!({name: value})).expect_err(&format!("{name}: {value}"));
            assert_eq!(
                (error.kind, error.param.as_deref()),
                (ErrorKind::InvalidRequest, Some(name)),
                "{name}: {value}"
            );
            assert!(error.message.contains(name), "{}", error.message);
        }
    }
}

#[test]
fn nested_faults_name_their_place() {
    let user = |content: Value| json!({"role": "user", "content": content});
    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": null, "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [user(json!("x")), {"role": "king", "content": "x"}]}), "messages[1].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "assistant"}]}), "messages[0].content"),
        (json!({"messages": [user(json!(null))]}), "messages[0].content"),
        (json!({"messages": [user(json!(5))]}), "messages[0].content"),
        (json!({"messages": [user(json!([]))]}), "messages[0].content"),
        (json!({"messages": [user(json!(["x"]))]}), "messages[0].content[0]"),
        (json!({"messages": [user(json!([{"text": "x"}]))]}), "messages[0].content[0].type"),
        (json!({"messages": [user(json!([{"type": 1}]))]}), "messages[0].content[0].type"),
        (json!({"messages": [user(json!([{"type": "video"}]))]}), "messages[0].content[0].type"),
        (json!({"messages": [user(json!([{"type": "text"}]))]}), "messages[0].content[0].text"),
        (json!({"messages": [user(json!([{"type": "text", "text": 1}]))]}), "messages[0].content[0].text"),
        (
            json!({"messages": [user(json!([{"type": "image_url", "image_url": "u"}]))]}),
            "messages[0].content[0].image_url",
        ),
    ] {
        let error = chat_of(&body).expect_err(&body.to_string());
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)), "{body}");
    }
    for (extra, param) in [
        (json!({"stop": ["a", 1]}), "stop[1]"),
        (json!({"stop": vec!["a"; 17]}), "stop"),
        (json!({"stop": "a".repeat(1025)}), "stop"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
        (json!({"tools": [1]}), "tools[0]"),
        (json!({"tools": [], "tool_choice": 1}), "tool_choice"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
    ] {
        assert_eq!(with(extra.clone()).expect_err("refused").param.as_deref(), Some(param), "{extra}");
    }
}

#[test]
fn content_has_three_forms_and_parts_state_needs() {
    assert_eq!(text_of(&message(json!({"role": "developer", "content": "a"})).unwrap()), "a");
    assert_eq!(text_of(&message(json!({"role": "tool", "tool_call_id": "1", "content": "a"})).unwrap()), "a");
    assert_eq!(text_of(&message(json!({"role": "user", "content": ""})).unwrap()), "");
    for silent in [
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant", "tool_calls": [{"id": "1"}]}),
        json!({"role": "function", "name": "f", "content": null}),
    ] {
        assert_eq!(text_of(&message(silent).unwrap()), "");
    }
    let request = message(json!({"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "b"}, {"type": "input_audio", "input_audio": {"data": ""}}
    ]}))
    .unwrap();
    assert_eq!(text_of(&request), "a\nb");
    assert_eq!(request.needs, Needs { images: true, audio: true, ..Needs::default() });
    let Input::Messages(messages) = &request.input else { panic!("a chat") };
    assert_eq!(messages[0].raw["content"].as_array().unwrap().len(), 4);
}

#[test]
fn what_a_target_would_have_to_fetch_is_told_apart_from_what_is_sent_along() {
    let needs = |part: Value| message(json!({"role": "user", "content": [part]})).unwrap().needs;
    for (part, links) in [
        (json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}), false),
        (json!({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}}), false),
        (json!({"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}), true),
        (json!({"type": "image_url", "image_url": {"url": "/etc/passwd"}}), true),
        (
            json!({"type": "file", "file": {"filename": "a:b.pdf", "file_data": "data:application/pdf;base64,AA"}}),
            false,
        ),
        (json!({"type": "file", "file": {"file_url": "file:///etc/passwd"}}), true),
        (json!({"type": "file", "file": {"file_id": "file-1"}}), true),
        (json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}), false),
    ] {
        assert_eq!(needs(part.clone()).links, links, "{part}");
    }
}

#[test]
fn needs_follow_the_fields() {
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let none = Needs::default();
    for (extra, needs) in [
        (json!({"tools": tool}), Needs { tools: true, ..none }),
        (json!({"tools": tool, "tool_choice": "none"}), none),
        (json!({"tools": tool, "tool_choice": "auto"}), Needs { tools: true, ..none }),
        (json!({"tools": []}), none),
        (json!({"functions": [{"name": "f"}]}), Needs { tools: true, ..none }),
        (json!({"functions": [{"name": "f"}], "function_call": "none"}), none),
        (json!({"response_format": {"type": "text"}}), none),
        (json!({"response_format": {"type": "json_object"}}), Needs { response_format: true, ..none }),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            Needs { response_format: true, ..none },
        ),
        (json!({"logprobs": true, "top_logprobs": 3}), Needs { logprobs: true, ..none }),
        (json!({"logprobs": false, "top_logprobs": 0}), none),
        (json!({"logit_bias": {"5": -100}}), Needs { logit_bias: true, ..none }),
        (json!({"logit_bias": {}}), none),
        (json!({"n": 1}), none),
        (json!({"n": 2}), Needs { several_choices: true, ..none }),
        (json!({"modalities": ["text", "audio"]}), Needs { audio: true, ..none }),
    ] {
        assert_eq!(accepted(extra.clone()).needs, needs, "{extra}");
    }
}

#[test]
fn output_limits_and_seeds_are_folded_into_range() {
    let tokens = |extra| accepted(extra).max_tokens;
    assert_eq!(tokens(json!({"max_tokens": 8, "max_completion_tokens": 9})), Some(9));
    assert_eq!(tokens(json!({"max_tokens": 8, "max_completion_tokens": null})), Some(8));
    assert_eq!(tokens(json!({"max_tokens": 8, "max_completion_tokens": 0})), Some(8));
    assert_eq!(tokens(json!({"max_tokens": 0})), None);
    let scored = completion_with(json!({"prompt": "a", "echo": true, "max_tokens": 0})).unwrap();
    assert!(scored.wants_prompt_only() && scored.output_cap(9) == 0);
    assert_eq!(completion_with(json!({"prompt": "a", "max_tokens": 0})).unwrap().max_tokens, None);
    assert_eq!((accepted(json!({})).output_cap(9), accepted(json!({})).output_cap(0)), (9, 1));
    assert_eq!(tokens(json!({"max_tokens": 5.0})), Some(5));
    assert_eq!(tokens(json!({"max_tokens": 1_u64 << 40})), Some(u32::MAX));
    let seed = |seed: Value| accepted(json!({"seed": seed})).sampling.seed;
    assert_eq!((seed(json!(0)), seed(json!(4_000_000_000_u32))), (Some(0), Some(4_000_000_000)));
    assert!(seed(json!(-5)).is_some() && seed(json!(i64::MIN)).is_some() && seed(json!(u64::MAX)).is_some());
    assert_eq!(accepted(json!({"repetition_penalty": 1.2})).sampling.repeat_penalty, Some(1.2));
    assert_eq!(accepted(json!({"top_k": -1})).sampling.top_k, Some(0));
    assert_eq!(accepted(json!({"stop": "é".repeat(1024)})).stop, Some(vec!["é".repeat(1024)]));
    assert_eq!(accepted(json!({"stop": "x"})).stop, Some(vec!["x".to_owned()]));
    assert_eq!(accepted(json!({"stop": []})).stop, Some(vec![]), "stops nothing, not even by default");
    assert!(!accepted(json!({"stream_options": {"include_usage": true}})).include_usage, "no stream, no chunk");
}

#[test]
fn models_are_resolved_by_name_and_alias() {
    for (name, choice) in [
        ("auto", ModelChoice::Auto),
        ("any", ModelChoice::Auto),
        ("local", ModelChoice::Local),
        ("fast", ModelChoice::Local),
        ("smollm2-135m", ModelChoice::Named("smollm2-135m".into())),
        ("deepseek-v3.2", ModelChoice::Named("deepseek-v3.2".into())),
        ("gpt-4o", ModelChoice::Named("gpt-4.1".into())),
    ] {
        assert_eq!(accepted(json!({"model": name})).model, choice, "{name}");
    }
    for name in ["gpt-9", "", "Auto", "../x"] {
        let error = with(json!({"model": name})).unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::ModelNotFound, Some("model")));
        assert!(error.message.contains("/v1/models"));
    }
}

#[test]
fn headers_win_over_the_body() {
    let ok = |name, value, extra| with_header(name, value, extra).unwrap();
    assert!(ok("x-spillway-local-only", "1", json!({"local_only": false})).local_only);
    assert!(ok("x-spillway-local-only", "false", json!({"local_only": true})).local_only, "never taken back");
    assert!(ok("x-spillway-budget-sensitive", "True", json!({})).budget_sensitive);
    let request = ok("x-spillway-max-latency-ms", "100", json!({"max_latency_ms": 5}));
    assert_eq!(request.max_latency, Some(Duration::from_millis(100)));
    assert_eq!(ok("x-spillway-session", " mine ", json!({})).session.as_deref(), Some("mine"));
    assert!(with_header("x-spillway-session", &"x".repeat(257), json!({})).is_err(), "a name, not a text");
    for (name, value) in [
        ("x-spillway-session", ""),
        ("x-spillway-session", "\t"),
        ("x-spillway-local-only", "yes"),
        ("x-spillway-budget-sensitive", ""),
        ("x-spillway-max-latency-ms", "0"),
        ("x-spillway-max-latency-ms", "inf"),
        ("x-spillway-max-latency-ms", "soon"),
    ] {
        let error = with_header(name, value, json!({})).unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(name)), "{value}");
    }
}

#[test]
fn prompts_have_several_forms() {
    for (prompt, input) in [
        (json!("once"), Input::Text("once".into())),
        (json!(["once"]), Input::Text("once".into())),
        (json!([1, 2]), Input::Tokens(vec![1, 2])),
        (json!([[1, 2]]), Input::Tokens(vec![1, 2])),
        (json!(["a", "b"]), Input::Several(vec![Passage::Text("a".into()), Passage::Text("b".into())])),
        (json!([[1], "b"]), Input::Several(vec![Passage::Tokens(vec![1]), Passage::Text("b".into())])),
    ] {
        let request = completion_with(json!({"prompt": prompt})).unwrap();
        assert_eq!((request.kind, request.input), (RequestKind::Completion, input));
    }
    for (prompt, place) in
        [(json!(["a", ""]), "prompt[1]"), (json!([[1], []]), "prompt[1]"), (json!(["a", 5]), "prompt[1]")]
    {
        assert_eq!(completion_with(json!({"prompt": prompt})).unwrap_err().param.as_deref(), Some(place), "{prompt}");
    }
    for prompt in [json!(null), json!(""), json!([]), json!([""]), json!([[]]), json!({}), json!(5), json!([1, "a"])] {
        let error = completion_with(json!({"prompt": prompt})).expect_err(&prompt.to_string());
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some("prompt")), "{prompt}");
    }
    for prompt in [json!([-1]), json!([1.5]), json!([4_000_000_000_u32]), json!([[null]])] {
        assert!(completion_with(json!({"prompt": prompt})).is_err(), "{prompt}");
    }
}

#[test]
fn what_only_completions_know() {
    let needs = |extra: Value| {
        let mut body = json!({"prompt": "a", "echo": false, "suffix": "", "best_of": 0});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        completion_with(body).unwrap().needs
    };
    assert_eq!(needs(json!({"logprobs": 0})), Needs { logprobs: true, ..Needs::default() });
    assert_eq!(needs(json!({"n": 3})), Needs { several_choices: true, ..Needs::default() });
    assert_eq!(needs(json!({"echo": true})), Needs { echo: true, ..Needs::default() });
    assert_eq!(needs(json!({"suffix": "x"})), Needs { suffix: true, ..Needs::default() });
    assert_eq!(needs(json!({"best_of": 3})), Needs { best_of: true, ..Needs::default() });
    let several = Needs { several_choices: true, batch: true, ..Needs::default() };
    assert_eq!(needs(json!({"prompt": ["a", "b"], "n": 2, "best_of": 2})), several);
    for (extra, param) in [
        (json!({"logprobs": true}), "logprobs"),
        (json!({"echo": 1}), "echo"),
        (json!({"suffix": 1}), "suffix"),
        (json!({"suffix": "x", "prompt": [1, 2]}), "suffix"),
        (json!({"n": 3, "best_of": 2}), "best_of"),
        (json!({"best_of": 2, "stream": true}), "best_of"),
        (json!({"best_of": 129}), "best_of"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"prompt": ["a", "b"], "n": 65}), "prompt"),
        (json!({"prompt": ["a", "b"], "best_of": 65}), "prompt"),
        (json!({"prompt": vec!["a"; 129]}), "prompt"),
    ] {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(completion_with(body).unwrap_err().param.as_deref(), Some(param), "{extra}");
    }
    let scored = completion_with(json!({"prompt": "a", "echo": true, "logprobs": 0})).unwrap();
    assert_eq!((scored.needs, scored.output.unmet), (Needs { echo: true, logprobs: true, ..Needs::default() }, None));
    let between = completion_with(json!({"prompt": "a", "echo": true, "logprobs": 0, "suffix": "b"})).unwrap();
    assert_eq!(between.output.unmet.unwrap().param, "suffix", "no local model tells, a provider may");
    let most = completion_with(json!({"prompt": ["a", "b"], "n": 64})).unwrap();
    assert_eq!((most.choices.n, most.choices.best_of), (64, 64));
    assert_eq!(
        accepted(json!({"best_of": 7, "echo": true, "suffix": "x"})).choices,
        Choices::default(),
        "a chat has none"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = "(text|image_url|user|assistant|auto|local|none|json_schema|[a-z\\PC]{0,8})";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    let keys = "(role|content|type|text|json_schema|include_usage|[a-z]{0,4})";
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const FIELDS: &str = "(model|messages|prompt|input|dimensions|encoding_format|temperature|top_p|top_k|min_p|presence_penalty|repeat_penalty|seed|n|stop|\
max_tokens|max_completion_tokens|stream|stream_options|logprobs|top_logprobs|logit_bias|tools|tool_choice|functions|\
response_format|modalities|echo|suffix|best_of|budget_sensitive|local_only|max_latency_ms|other)";

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = chat(ID, &bytes, &HeaderMap::new(), &CONFIG);
        let _ = completion(ID, &bytes, &HeaderMap::new(), &CONFIG);
    }

    #[test]
    fn arbitrary_json_never_panics_and_what_is_accepted_is_in_range(
        mut fields in prop::collection::hash_map(FIELDS, any_json(), 0..8), good in any::<bool>()
    ) {
        if good {
            fields.insert("messages".into(), json!([{"role": "user", "content": "a"}]));
            fields.insert("prompt".into(), json!("a"));
        }
        let body = Value::Object(fields.into_iter().collect()).to_string();
        for parsed in [
            chat(ID, body.as_bytes(), &HeaderMap::new(), &CONFIG),
            completion(ID, body.as_bytes(), &HeaderMap::new(), &CONFIG),
            embeddings(ID, body.as_bytes(), &HeaderMap::new(), &CONFIG),
        ] {
            match parsed {
                Ok(request) => {
                    prop_assert!((1..=MAX_CHOICES).contains(&request.choices.n));
                    prop_assert!(request.max_tokens != Some(0) || request.choices.echo);
                    prop_assert!(request.sampling.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
                    prop_assert!(request.stop.is_none_or(|stop| stop.len() <= 16 && stop.iter().all(|s| !s.is_empty())));
                }
                Err(error) => {
                    prop_assert!(matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::ModelNotFound));
                }
            }
        }
    }
}
