//! Anthropic's endpoint: its shape on the wire, the same faults, and how strictly it takes a request.

use super::*;

fn ask(model: &str, stream: bool) -> Value {
    json!({"model": model, "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": "hello"}]})
}

fn with(model: &str, stream: bool, extra: Value) -> Value {
    let mut body = ask(model, stream);
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"name": "say", "input_schema": {"type": "object"}}, {"name": "shout", "input_schema": {"type": "object"}}])
}

impl Running {
    async fn heard(&self, body: Value) -> Seen {
        self.seen_in(Wire::Anthropic, body, Timeouts::default()).await
    }

    async fn send_raw(&self, body: &Value) -> Response {
        let asked = self.client.post(format!("{}/v1/messages", self.url)).header("anthropic-version", "2023-06-01");
        asked.json(body).send().await.unwrap()
    }
}

#[tokio::test]
async fn a_stream_has_anthropics_shape() {
    let sim = sim(SimOptions { tokens: 2, ..SimOptions::default() }).await;
    let response = sim.send_raw(&ask("claude-sonnet-4.5", true)).await;
    assert_eq!(response.headers()["x-spillway-simulated"], "true");
    let body = response.text().await.unwrap();
    let events: Vec<(&str, Value)> = body
        .split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name, serde_json::from_str(data).unwrap())
        })
        .collect();
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    assert_eq!(events[0].1["message"]["usage"]["input_tokens"], 6);
    assert_eq!(events[3].1["delta"], json!({"type": "text_delta", "text": "sim0-simulated"}));
    assert_eq!(events[6].1["delta"]["stop_reason"], "end_turn");
    assert_eq!(events[6].1["usage"]["output_tokens"], 2);
}

#[tokio::test]
async fn an_answer_says_the_same_in_both_wire_formats_streamed_and_whole() {
    let sim = default_sim().await;
    let text = sim.seen(super::ask("ok", true)).await.text;
    for stream in [true, false] {
        let seen = sim.heard(ask("ok", stream)).await;
        assert_eq!((seen.text.as_str(), seen.reason.as_deref()), (text.as_str(), Some("stop")));
        let usage = seen.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.estimated), (6, 60, false));
        assert_eq!(sim.heard(with("ok", stream, json!({"max_tokens": 3}))).await.reason.as_deref(), Some("length"));
    }
}

#[tokio::test]
async fn a_tool_is_called_until_its_result_comes() {
    let sim = sim(SimOptions { tokens: 5, ..SimOptions::default() }).await;
    for stream in [true, false] {
        let called = sim.heard(with("ok", stream, json!({"tools": tools()}))).await;
        assert_eq!((called.reason.as_deref(), called.text.as_str()), (Some("tool_calls"), ""));
        let arguments: Value = serde_json::from_str(&called.arguments).unwrap();
        assert_words(arguments["text"].as_str().unwrap(), 0, 5);
        let none = sim.heard(with("ok", stream, json!({"tools": tools(), "tool_choice": {"type": "none"}}))).await;
        assert_eq!((none.reason.as_deref(), none.arguments.as_str()), (Some("stop"), ""));
        let answered = json!({"tools": tools(), "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "say", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "said"}]}]});
        assert_words(&sim.heard(with("ok", stream, answered)).await.text, 0, 5);
    }
    let named = json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "shout"}});
    let whole: Value = sim.send_raw(&with("ok", false, named)).await.json().await.unwrap();
    assert_eq!((&whole["content"][0]["name"], &whole["stop_reason"]), (&json!("shout"), &json!("tool_use")));
}

#[tokio::test]
async fn the_same_names_choose_the_same_faults() {
    let sim = default_sim().await;
    for (model, kind, retry_after) in [
        ("error-500", ErrorKind::Upstream, None),
        ("error-529", ErrorKind::Upstream, None),
        ("429-2", ErrorKind::RateLimited, Some(2)),
        ("context-length", ErrorKind::ContextLengthExceeded, None),
        ("content-filter", ErrorKind::ContentFilter, None),
        ("401", ErrorKind::Unauthorized, None),
        ("402", ErrorKind::InsufficientQuota, None),
        ("403", ErrorKind::Forbidden, None),
        ("error-body", ErrorKind::Upstream, None),
        ("html", ErrorKind::Upstream, None),
        ("empty", ErrorKind::Upstream, None),
        ("reset", ErrorKind::Upstream, None),
    ] {
        for stream in [true, false] {
            let error = sim.heard(ask(model, stream)).await.error.unwrap();
            assert_eq!((error.kind, error.retry_after), (kind, retry_after.map(Duration::from_secs)), "{model}");
        }
    }
    for (model, tokens) in [("cut-7", 7), ("sse-error", 5), ("malformed", 5), ("truncate", 60)] {
        let seen = sim.heard(ask(model, true)).await;
        assert_words(&seen.text, 0, tokens);
        assert_eq!((seen.kind(), seen.reason), (Some(ErrorKind::Upstream), None), "{model}");
    }
    for model in ["no-done", "no-usage", "split-utf8"] {
        let seen = sim.heard(ask(model, true)).await;
        assert_words(&seen.text, 0, 60);
        assert_eq!((seen.error, seen.reason.as_deref()), (None, Some("stop")), "{model}");
        assert_eq!(seen.usage.is_none(), model == "no-usage", "{model}");
    }
}

#[tokio::test]
async fn a_prefix_is_continued() {
    let sim = default_sim().await;
    let whole = sim.heard(ask("prefix-ok", true)).await.text;
    let prefix: String = whole.split_inclusive(' ').take(40).collect::<String>().trim_end().into();
    let messages = json!([{"role": "user", "content": "hello"}, {"role": "assistant", "content": prefix}]);
    let continued = sim.heard(with("prefix-ok", true, json!({"messages": messages}))).await.text;
    assert_eq!(prefix + &continued, whole);
    let rejected = sim.heard(with("prefix-rejected", true, json!({"messages": messages}))).await;
    assert_eq!(rejected.kind(), Some(ErrorKind::InvalidRequest));
}

#[tokio::test]
async fn what_anthropic_refuses_is_refused() {
    let sim = default_sim().await;
    let user = json!({"role": "user", "content": "hello"});
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "say", "input": {}}]});
    let result = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]});
    for extra in [
        json!({"n": 1}),
        json!({"stream_options": {}}),
        json!({"max_tokens": 0}),
        json!({"temperature": 1.5}),
        json!({"temperature": 0.5, "top_p": 0.5}),
        json!({"stop_sequences": ["\n"]}),
        json!({"tool_choice": {"type": "auto"}}),
        json!({"messages": []}),
        json!({"messages": [{"role": "system", "content": "x"}]}),
        json!({"messages": [{"role": "user", "content": " "}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        json!({"messages": [user, {"role": "assistant", "content": "so "}]}),
        json!({"messages": [user, result]}),
        json!({"messages": [user, call, user]}),
    ] {
        assert_eq!(sim.heard(with("ok", true, extra.clone())).await.kind(), Some(ErrorKind::InvalidRequest), "{extra}");
    }
    let bare = sim.send(Method::POST, "/v1/messages", &ask("ok", true)).await;
    assert_eq!(bare.status(), 400, "without a version");
    let error: Value = bare.json().await.unwrap();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("invalid_request_error")));
}

#[tokio::test]
async fn the_key_is_taken_from_its_own_header_and_models_are_listed_in_the_clients_words() {
    let sim = sim(SimOptions { api_key: Some("sk-sim".into()), ..SimOptions::default() }).await;
    assert_eq!(sim.heard(ask("ok", true)).await.kind(), Some(ErrorKind::Unauthorized));
    let list = async |header: &'static str, key: &'static str| {
        let asked = sim.client.get(format!("{}/v1/models", sim.url)).header(header, key);
        asked.header("anthropic-version", "2023-06-01").send().await.unwrap()
    };
    assert_eq!(list("authorization", "Bearer sk-sim").await.status(), 401);
    let models: Value = list("x-api-key", "sk-sim").await.json().await.unwrap();
    assert_eq!((&models["data"][0]["type"], &models["data"][0]["id"]), (&json!("model"), &json!("ok")));
    assert_eq!(models["has_more"], false);
}
