//! What an answer of the local model must be: a schema, a tool call, biased tokens with their likelihoods, the same text
//! for the same seed. The real engine and the real model; also when the engine dies in the middle.

use crate::support::{Ask, Gateway, Record, Setup};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

async fn local() -> Gateway {
    Setup::default().without_cloud().parallel(2).warm().await
}

fn asks(prompt: &str, more: Value) -> Ask {
    more.as_object()
        .unwrap()
        .iter()
        .fold(Ask::chat(prompt).max_tokens(300), |ask, (name, value)| ask.with(name, value.clone()))
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    let record = gateway.client.ask(&gateway.api, ask).await;
    record.assert_complete();
    assert_eq!(record.faults, Vec::<String>::new());
    record
}

/// The refusal of a request: its `param` and its message.
async fn refused(gateway: &Gateway, body: &Value) -> (String, String) {
    let url = format!("{}/v1/chat/completions", gateway.api);
    let (status, _, bytes) = gateway.client.send(Method::POST, &url, body.to_string()).await;
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status, &answer["error"]["type"]), (400, &json!("invalid_request_error")), "{body}: {answer}");
    let text = |name: &str| answer["error"][name].as_str().unwrap_or_default().to_owned();
    (text("param"), text("message"))
}

fn person() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "languages"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "languages": {"type": "array", "items": {"enum": ["en", "de", "fr"]}, "minItems": 1, "maxItems": 2},
        "mail": {"type": "string", "format": "email"},
    }})
}

fn format(schema: &Value, strict: bool) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": strict, "schema": schema}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_answer_validates_against_its_schema_streamed_or_whole() {
    let gateway = local().await;
    let shapes = json!({
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number", "minimum": -1, "maximum": 1}, "y": {"type": "number"}}, "required": ["x", "y"]}},
        "type": "object", "required": ["kind", "points"], "properties": {
            "kind": {"anyOf": [{"const": "line"}, {"const": "dot"}, {"type": "null"}]},
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2}
        }
    });
    let flat = json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "code": {"type": "string", "pattern": "^[A-Z]{2}\\d{3}$"}, "on": {"type": "string", "format": "date"}}, "required": ["ok", "code", "on"]});
    let list = json!({"type": "array", "prefixItems": [{"type": "integer", "minimum": 3, "maximum": 7}], "items": {"type": "string", "maxLength": 5}, "maxItems": 3, "minItems": 2});
    for (at, schema) in [person(), shapes, flat, list].iter().enumerate() {
        for stream in [false, true] {
            let asked = asks("Describe something as JSON.", format(schema, at % 2 == 0)).with("seed", 7 + at);
            let record = ask(&gateway, if stream { asked.stream() } else { asked }).await;
            assert_eq!(record.finish_reason.as_deref(), Some("stop"), "{record:#?}");
            let value: Value = serde_json::from_str(&record.text).expect(&record.text);
            let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
            assert!(validator.is_valid(&value), "{schema}: {value}");
        }
    }
    let any = json!({"response_format": {"type": "json_object"}, "temperature": 0});
    let record = ask(&gateway, asks("Give me one JSON object with one field.", any)).await;
    if record.finish_reason.as_deref() == Some("stop") {
        assert!(serde_json::from_str::<Value>(&record.text).expect(&record.text).is_object());
    } else {
        assert!(record.text.trim_start().starts_with('{'), "{}", record.text);
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_schemas_that_no_grammar_stands_for_are_refused_by_name_and_kill_no_engine() {
    let gateway = local().await;
    let before = gateway.until_serving().await;
    let mut deep = json!({"type": "string"});
    for _ in 0..50 {
        deep = json!({"type": "array", "items": deep});
    }
    let bad = [
        json!({"type": "string", "pattern": "^?[0-9]$"}),
        deep,
        json!({"type": "string", "pattern": "a".repeat(26_000)}),
        json!({"type": "object", "properties": {"a": {"not": {}}}}),
        json!({"$ref": "#"}),
        json!({"type": "array", "uniqueItems": true}),
        json!({"enum": (0..5000).collect::<Vec<_>>()}),
        json!({"type": "string", "maxLength": 9_999_999}),
    ];
    let base = json!({"model": "local", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8});
    for schema in &bad {
        for strict in [true, false] {
            let mut body = base.clone();
            body["response_format"] = format(schema, strict)["response_format"].clone();
            let (param, message) = refused(&gateway, &body).await;
            assert_eq!(param, "response_format", "{message}");
            assert!(message.starts_with("Invalid schema") && message.len() < 400, "{message}");
        }
        let mut body = base.clone();
        body["tools"] = json!([{"type": "function", "function": {"name": "f", "strict": true,
            "parameters": {"type": "object", "properties": {"a": {"items": schema, "type": "array"}}}}}]);
        if !schema.to_string().contains("$ref") {
            assert_eq!(refused(&gateway, &body).await.0, "tools[0].function.parameters");
        }
    }
    for (more, param) in [
        (json!({"logit_bias": {"99999999": 1}}), "logit_bias"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "tools[0].function.name"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
    ] {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(refused(&gateway, &body).await.0, param, "{more}");
    }
    let long_run = ask(&gateway, asks(&"a".repeat(1500), format(&person(), true))).await;
    assert_eq!(long_run.target(), "local");
    let after = gateway.until_serving().await;
    assert_eq!((after.epoch, after.engine_pid), (before.epoch, before.engine_pid), "no engine died");
    gateway.shutdown().await;
}

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "strict": true,
        "parameters": {"type": "object", "additionalProperties": false, "required": ["city", "days"], "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 7}}}}})
}

fn clock() -> Value {
    json!({"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}})
}

/// Name and arguments of each call of a stream, which begin with id and name.
fn streamed(record: &Record) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in &record.calls {
        let at = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
        let arguments = delta["function"]["arguments"].as_str().unwrap();
        if at == calls.len() {
            assert!(delta["id"].as_str().unwrap().starts_with("call_") && delta["type"] == "function", "{delta}");
            assert_eq!(arguments, "");
            calls.push((delta["function"]["name"].as_str().unwrap().to_owned(), String::new()));
        } else {
            assert!(delta.get("id").is_none() && at + 1 == calls.len(), "{delta}");
            calls[at].1.push_str(arguments);
        }
    }
    calls
}

fn whole(record: &Record) -> Vec<(String, String)> {
    let message = &record.body.as_ref().unwrap()["choices"][0]["message"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let calls = message["tool_calls"].as_array().unwrap_or_else(|| panic!("calls in {message}"));
    assert!(
        calls.iter().all(|call| call["type"] == "function" && call["id"].is_string() && call.get("index").is_none())
    );
    calls.iter().map(|call| (text(&call["function"]["name"]), text(&call["function"]["arguments"]))).collect()
}

fn assert_weather(calls: &[(String, String)]) {
    let tool = weather();
    let validator = jsonschema::validator_for(&tool["function"]["parameters"]).unwrap();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].0, "get_weather");
    let arguments: Value = serde_json::from_str(&calls[0].1).expect(&calls[0].1);
    assert!(validator.is_valid(&arguments), "{arguments}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_model_without_tools_in_its_template_calls_the_tool_it_must() {
    let gateway = local().await;
    let named = json!({"tools": [weather(), clock()], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}});
    let record = ask(&gateway, asks("Will it rain in Rome tomorrow?", named.clone())).await;
    assert_eq!(record.finish_reason.as_deref(), Some("tool_calls"), "{record:#?}");
    assert_eq!(record.body.as_ref().unwrap()["choices"][0]["message"]["content"], Value::Null);
    assert_weather(&whole(&record));
    let record = ask(&gateway, asks("Will it rain in Rome tomorrow?", named).stream()).await;
    assert_eq!((record.finish_reason.as_deref(), record.text.as_str()), (Some("tool_calls"), ""), "{record:#?}");
    assert_weather(&streamed(&record));

    let required = json!({"tools": [weather()], "tool_choice": "required", "parallel_tool_calls": false});
    assert_weather(&whole(&ask(&gateway, asks("Hello", required)).await));
    let several = json!({"tools": [weather(), clock()], "tool_choice": "required", "parallel_tool_calls": true, "temperature": 0});
    let record = ask(&gateway, asks("Time and weather", several).max_tokens(200).stream()).await;
    assert!(!streamed(&record).is_empty(), "{record:#?}");

    let auto = json!({"tools": [weather(), clock()], "temperature": 0});
    let record = ask(&gateway, asks("Say hello", auto).stream()).await;
    match record.finish_reason.as_deref() {
        Some("tool_calls") => assert!(record.text.is_empty() && !streamed(&record).is_empty(), "{record:#?}"),
        Some("length") => {}
        _ => assert!(record.calls.is_empty() && !record.text.contains("\"response\""), "{record:#?}"),
    }
    let none = json!({"tools": [weather()], "tool_choice": "none"});
    let record = ask(&gateway, asks("Say hello", none).max_tokens(12)).await;
    assert!(!record.text.is_empty());

    let old = json!({"functions": [weather()["function"]], "function_call": {"name": "get_weather"}});
    let record = ask(&gateway, asks("Rain in Rome?", old)).await;
    let call = &record.body.as_ref().unwrap()["choices"][0]["message"]["function_call"];
    assert_eq!((record.finish_reason.as_deref(), &call["name"]), (Some("function_call"), &json!("get_weather")));
    serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).unwrap();
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_with_calls_results_and_a_developer_is_understood() {
    let gateway = local().await;
    let messages = json!([
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\", \"days\": 1}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 24 degrees"},
    ]);
    let with_tools = Ask::chat("").with("messages", messages.clone()).with("tools", json!([weather()])).max_tokens(60);
    let record = ask(&gateway, with_tools).await;
    let without = ask(&gateway, Ask::chat("").with("messages", messages).max_tokens(20)).await;
    assert!(!without.text.is_empty());
    let tokens = |record: &Record| record.usage.as_ref().unwrap()["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&record) > tokens(&without) + 50, "the model is told what it may call");
    // The same words without the developer's: the role reaches the model.
    let plain = ask(&gateway, Ask::chat("Weather in Rome?").max_tokens(5)).await;
    let told = json!([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Weather in Rome?"}]);
    let system = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Rome?"}]);
    let (told, system) = (
        ask(&gateway, Ask::chat("").with("messages", told).max_tokens(5)).await,
        ask(&gateway, Ask::chat("").with("messages", system).max_tokens(5)).await,
    );
    assert_eq!(tokens(&told), tokens(&system));
    assert_ne!(tokens(&told), tokens(&plain));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn likelihoods_come_in_both_forms_and_say_what_was_chosen() {
    let gateway = local().await;
    let wants = json!({"logprobs": true, "top_logprobs": 3, "temperature": 0});
    let record = ask(&gateway, asks("Name a colour.", wants.clone()).max_tokens(8)).await;
    let body = record.body.as_ref().unwrap();
    let entries = body["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let streamed = ask(&gateway, asks("Name a colour.", wants).max_tokens(8).stream()).await;
    assert_eq!(streamed.text, record.text);
    for (text, entries) in [(&record.text, &entries), (&streamed.text, &streamed.logprobs)] {
        assert_eq!(entries.len() as u64, record.usage.as_ref().unwrap()["completion_tokens"].as_u64().unwrap());
        let spelled: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry["bytes"].as_array().unwrap())
            .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
            .collect();
        assert_eq!(String::from_utf8(spelled).unwrap(), **text, "the tokens are the text");
        for entry in entries {
            let top = entry["top_logprobs"].as_array().unwrap();
            assert_eq!((top.len(), &top[0]["token"]), (3, &entry["token"]), "greedy takes the most likely");
            assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        }
    }

    let completion = |more: Value| {
        let ask = Ask::completion("The capital of France is").max_tokens(6).with("temperature", 0);
        more.as_object().unwrap().iter().fold(ask, |ask, (name, value)| ask.with(name, value.clone()))
    };
    let record = ask(&gateway, completion(json!({"logprobs": 2}))).await;
    let logprobs = &record.body.as_ref().unwrap()["choices"][0]["logprobs"];
    let tokens: Vec<&str> = logprobs["tokens"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens.concat(), record.text);
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);
    assert_eq!(logprobs["text_offset"][0], 0);
    let zero = ask(&gateway, completion(json!({"logprobs": 0}))).await;
    let logprobs = &zero.body.as_ref().unwrap()["choices"][0]["logprobs"];
    assert!(logprobs["token_logprobs"][0].is_f64() && logprobs["top_logprobs"][0].is_null(), "{logprobs}");
    let without = ask(&gateway, completion(json!({}))).await;
    assert_eq!(
        (&without.body.as_ref().unwrap()["choices"][0]["logprobs"], &without.text),
        (&Value::Null, &record.text)
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bias_bans_or_forces_and_a_seed_repeats_itself() {
    let gateway = Setup::default().without_cloud().parallel(1).warm().await;
    let base = json!({"temperature": 0, "logprobs": true, "top_logprobs": 2});
    // What an id stands for is found by forcing it: it repeats. Banned, it does not come.
    let forced = asks("Name a colour.", json!({"temperature": 0, "logit_bias": {"339": 100}})).max_tokens(4);
    let record = ask(&gateway, forced.clone()).await;
    let (head, _) = record.text.split_at(record.text.len() / 4);
    assert_eq!(record.text, head.repeat(4), "one token, four times");
    let free = ask(&gateway, asks("Name a colour.", base).max_tokens(4)).await;
    assert_ne!(free.text, record.text);
    let banned = asks("Name a colour.", json!({"temperature": 0, "logit_bias": {"339": -100}})).max_tokens(4);
    let banned = ask(&gateway, banned).await.text;
    assert!(!banned.contains(head), "{head:?} in {banned:?}");
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let seeded = |seed: i64| {
            let ask = if path.contains("chat") { Ask::chat("Tell me a story") } else { Ask::completion("Once upon") };
            ask.max_tokens(24).with("seed", seed).with("temperature", 1.2)
        };
        let first = ask(&gateway, seeded(5)).await.text;
        assert_eq!(ask(&gateway, seeded(5).stream()).await.text, first, "{path}");
        assert_ne!(ask(&gateway, seeded(6)).await.text, first, "{path}");
        assert_eq!(ask(&gateway, seeded(5)).await.text, first, "{path}");
    }
    gateway.shutdown().await;
}

/// Asks for a stream, kills the engine once the client has had `pieces` of it, and gives what the client has in the end.
async fn killed_after(gateway: &Gateway, asked: Ask, pieces: usize) -> Record {
    let (tell, mut told) = mpsc::channel(512);
    let kill = async {
        for _ in 0..pieces {
            told.recv().await.expect("the stream is long enough");
        }
        gateway.kill("gpu/local", "sigkill").await;
        while told.recv().await.is_some() {}
    };
    let (record, ()) = tokio::join!(gateway.client.ask_telling(&gateway.api, asked, Some(tell)), kill);
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_in_the_middle_of_a_schema_leaves_a_valid_answer_and_nothing_doubled() {
    let gateway = local().await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["steps", "total"], "properties": {
        "steps": {"type": "array", "minItems": 14, "maxItems": 16, "items": {"type": "object", "required": ["n", "word"],
            "additionalProperties": false, "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 99}, "word": {"enum": ["alpha", "beta", "gamma"]}}}},
        "total": {"type": "integer", "minimum": 0, "maximum": 9}}});
    let more = json!({"logprobs": true, "temperature": 0.8});
    for pieces in [3, 40] {
        let before = gateway.until_serving().await.epoch;
        let asked = asks("Count the steps.", format(&schema, true));
        let asked = more.as_object().unwrap().iter().fold(asked, |ask, (name, value)| ask.with(name, value.clone()));
        let asked = asked.max_tokens(900).with("stream_options", json!({"include_usage": true})).stream();
        let record = killed_after(&gateway, asked, pieces).await;
        record.assert_complete();
        assert!(gateway.until_serving().await.epoch > before, "it died");
        assert_eq!(record.finish_reason.as_deref(), Some("stop"), "{}", record.text);
        let value: Value = serde_json::from_str(&record.text).expect(&record.text);
        assert!(jsonschema::is_valid(&schema, &value), "{value}");
        assert_eq!(record.routing.as_ref().unwrap()["resumed"], "replay");
        let bytes: usize = record.logprobs.iter().map(|entry| entry["bytes"].as_array().unwrap().len()).sum();
        assert_eq!(bytes, record.text.len(), "the likelihood of every token, once");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_in_the_middle_of_a_call_leaves_one_whole_call() {
    let gateway = local().await;
    let tool = json!({"type": "function", "function": {"name": "save", "strict": true, "parameters": {"type": "object",
        "additionalProperties": false, "required": ["rows"], "properties": {"rows": {"type": "array", "minItems": 20, "maxItems": 20,
            "items": {"type": "integer", "minimum": 100, "maximum": 999}}}}}});
    for pieces in [2, 30] {
        let before = gateway.until_serving().await.epoch;
        let asked = asks("Save the rows.", json!({"tools": [tool], "tool_choice": "required"})).max_tokens(600);
        let asked = asked.with("stream_options", json!({"include_usage": true})).stream();
        let record = killed_after(&gateway, asked, pieces).await;
        record.assert_complete();
        assert!(gateway.until_serving().await.epoch > before, "it died");
        assert_eq!(record.finish_reason.as_deref(), Some("tool_calls"), "{record:#?}");
        let calls = streamed(&record);
        assert_eq!((calls.len(), calls[0].0.as_str()), (1, "save"));
        let arguments: Value = serde_json::from_str(&calls[0].1).expect(&calls[0].1);
        assert!(jsonschema::is_valid(&tool["function"]["parameters"], &arguments), "{arguments}");
        assert_eq!(record.routing.as_ref().unwrap()["resumed"], "replay");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_stops_hold_also_for_structured_answers() {
    let gateway = local().await;
    for name in ["max_tokens", "max_completion_tokens"] {
        let mut asked = asks("Describe a person.", format(&person(), true)).with(name, 3);
        if name == "max_completion_tokens" {
            asked.body.as_object_mut().unwrap().remove("max_tokens");
        }
        let record = ask(&gateway, asked).await;
        assert_eq!(
            (record.finish_reason.as_deref(), &record.usage.as_ref().unwrap()["completion_tokens"]),
            (Some("length"), &json!(3))
        );
    }
    let stopped = asks("Describe a person.", format(&person(), true)).with("stop", json!(["\"age\""]));
    let record = ask(&gateway, stopped).await;
    assert!(record.finish_reason.as_deref() == Some("stop") && !record.text.contains("\"age\""), "{}", record.text);
    // With a cloud beside it, what no grammar stands for is the cloud's.
    gateway.shutdown().await;
    let gateway = Setup::default().warm().await;
    let record = ask(&gateway, asks("Hi", format(&json!({"type": "array", "uniqueItems": true}), false))).await;
    assert_eq!(record.target(), "sim");
    let record = ask(&gateway, asks("Hi", format(&person(), true))).await;
    assert_eq!(record.target(), "local");
    gateway.shutdown().await;
}
